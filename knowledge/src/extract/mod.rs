//! Extraction: turns a document's content into text with the structure that chunks follow.
//!
//! Nothing here starts a process, reads a clock or recurses over its input: all functions take time and memory that are
//! linear in the content, within the bounds of [`Limits`]. PDF is the exception, so it has a port, [`PdfText`].

mod csv;
mod docx;
mod error;
mod extractor;
mod html;
mod json;
mod limits;
mod markdown;
mod marks;
mod pdf;
mod text;

pub use error::ExtractError;
pub use extractor::Extractor;
pub use limits::Limits;
pub use marks::{Extracted, Heading, Marks, Page};
pub use pdf::{NoPdf, PdfPages, PdfText};

use crate::document::Format;

/// Extracts the text of content in any format but PDF. `charset` is the parameter of its media type, if it has one.
pub fn extract(
    content: &[u8],
    format: Format,
    charset: Option<&str>,
    limits: &Limits,
) -> Result<Extracted, ExtractError> {
    if format == Format::Docx {
        let extracted = docx::extract(content, limits)?;
        return match extracted.text.trim().is_empty() {
            true => Err(ExtractError::NoText),
            false => Ok(extracted),
        };
    }
    let declared = match (format, charset) {
        (Format::Html, None) => html::declared_charset(content),
        _ => charset.map(str::to_owned),
    };
    let text = text::decode(content, declared.as_deref(), limits)?;
    let extracted = match format {
        Format::Text => Extracted {
            text,
            ..Extracted::default()
        },
        Format::Markdown => markdown::extract(text),
        Format::Html => html::extract(&text, limits)?,
        Format::Csv => csv::extract(&text, limits)?,
        Format::Json => json::extract(&text, limits)?,
        Format::Docx | Format::Pdf => return Err(ExtractError::Unsupported),
    };
    if extracted.text.trim().is_empty() {
        return Err(ExtractError::NoText);
    }
    Ok(extracted)
}
