//! PDF: the port to a reader, and what becomes of its pages.

use std::fmt;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;

use super::error::ExtractError;
use super::limits::Limits;
use super::markdown::clean;
use super::marks::{Extracted, Marks, Page};

/// The text of a PDF document as a reader finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PdfPages {
    /// The title in its properties.
    pub title: Option<String>,
    /// The text of each page; empty for one without text.
    pub pages: Vec<String>,
}

/// Reads PDF documents.
///
/// Contract: whatever the document does to its reader, the call returns within a bounded time and the process uses a bounded
/// amount of memory for it. One tenant's documents delay those of another by a bounded time.
#[async_trait]
pub trait PdfText: Send + Sync + fmt::Debug {
    /// Returns the text of a document's pages.
    async fn pages(&self, tenant: &TenantId, content: &[u8], limits: &Limits) -> Result<PdfPages, ExtractError>;
}

/// Reads no document: for servers without a PDF library.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPdf;

#[async_trait]
impl PdfText for NoPdf {
    async fn pages(&self, _: &TenantId, _: &[u8], _: &Limits) -> Result<PdfPages, ExtractError> {
        Err(ExtractError::PdfUnavailable)
    }
}

/// Joins the pages of a document.
pub fn extract(pages: PdfPages) -> Result<Extracted, ExtractError> {
    let mut text = String::with_capacity(pages.pages.iter().map(|page| page.len() + 2).sum());
    let mut marks = Marks::default();
    for (number, page) in (1..).zip(&pages.pages) {
        if !text.is_empty() && !text.ends_with("\n\n") {
            text.push_str("\n\n");
        }
        let offset = text.len();
        marks.pages.push(Page { number, offset });
        tidy(page, &mut text);
        text.truncate(text.trim_end().len().max(offset));
    }
    if text.trim().is_empty() {
        return Err(ExtractError::NoText);
    }
    // Programs put the name of a file or nothing useful there as often as a title.
    let title = pages.title.map(|title| clean(&title));
    let is_title = |title: &String| title.contains(' ') && !title.starts_with("Microsoft ");
    Ok(Extracted {
        title: title.filter(is_title),
        text,
        marks,
    })
}

/// Appends a page. Lines end with `\n`, words that were hyphenated at the end of a line are whole, and there are no control
/// characters.
fn tidy(page: &str, text: &mut String) {
    let mut chars = page.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            // How PDFium reports a hyphen at the end of a line.
            '\u{2}' | '\u{fffe}' => while chars.next_if(|next| matches!(next, '\r' | '\n')).is_some() {},
            '\r' => {
                chars.next_if_eq(&'\n');
                text.push('\n');
            }
            '\u{c}' => text.push('\n'),
            '\n' | '\t' => text.push(char),
            control if control.is_control() => {}
            _ => text.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_and_marked() {
        let pages = ["One\r\ntwo exam\u{2}\r\nple. \0\n", "", "Three"].map(str::to_owned);
        let extracted = extract(PdfPages {
            title: Some("The  Handbook".into()),
            pages: pages.into(),
        })
        .unwrap();
        assert_eq!(extracted.text, "One\ntwo example.\n\nThree");
        assert_eq!(extracted.title.as_deref(), Some("The Handbook"));
        let offsets: Vec<_> = extracted
            .marks
            .pages
            .iter()
            .map(|page| (page.number, page.offset))
            .collect();
        assert_eq!(offsets[0], (1, 0));
        assert_eq!(&extracted.text[offsets[2].1..], "Three");
    }

    #[test]
    fn pages_without_text_are_an_error() {
        for pages in [vec![], vec![String::new(), " \r\n".into()]] {
            let pages = PdfPages { title: None, pages };
            assert_eq!(extract(pages), Err(ExtractError::NoText));
        }
    }
}
