//! Extraction of documents in all formats, off the threads that serve requests.

use std::sync::Arc;

use copilotd_actors::compute;
use copilotd_actors::domain::ids::TenantId;

use super::error::ExtractError;
use super::limits::Limits;
use super::marks::Extracted;
use super::pdf::{self, PdfText};
use crate::document::Format;

/// Cost of unpacking and reading a byte of a DOCX document, in the unit of [`compute`].
const DOCX_COST_PER_BYTE: usize = 16;

/// Extracts documents in every format.
#[derive(Debug, Clone)]
pub struct Extractor {
    pdf: Arc<dyn PdfText>,
    limits: Limits,
}

impl Extractor {
    /// Creates an extractor with a reader of PDF documents.
    pub fn new(pdf: Arc<dyn PdfText>, limits: Limits) -> Self {
        Self { pdf, limits }
    }

    /// Extracts the text of a tenant's document. `charset` is the parameter of its media type, if it has one.
    pub async fn extract(
        &self,
        tenant: &TenantId,
        content: Vec<u8>,
        format: Format,
        charset: Option<&str>,
    ) -> Result<Extracted, ExtractError> {
        let cost = match format {
            Format::Docx => content.len().saturating_mul(DOCX_COST_PER_BYTE),
            _ => content.len(),
        };
        let extracted = if format == Format::Pdf {
            let pages = self.pdf.pages(tenant, &content, &self.limits).await?;
            drop(content);
            compute::run(Some(tenant), cost, move || pdf::extract(pages)).await
        } else {
            let (charset, limits) = (charset.map(str::to_owned), self.limits);
            let extract = move || super::extract(&content, format, charset.as_deref(), &limits);
            compute::run(Some(tenant), cost, extract).await
        };
        match extracted {
            Ok(extracted) => extracted,
            Err(compute::ComputeError::Full) => Err(ExtractError::Busy),
            // A bug of ours, which the same document would meet again.
            Err(compute::ComputeError::Panicked) => Err(ExtractError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdf::NoPdf;
    use super::*;

    #[tokio::test]
    async fn every_format_has_a_reader() {
        let extractor = Extractor::new(Arc::new(NoPdf), Limits::default());
        let tenant: TenantId = "acme".parse().unwrap();
        for (content, format, text) in [
            ("a", Format::Text, Ok("a")),
            ("# a", Format::Markdown, Ok("# a")),
            ("<p>a", Format::Html, Ok("a")),
            ("a\n1", Format::Csv, Ok("a: 1\n")),
            ("[1]", Format::Json, Ok("[0]: 1\n")),
            ("%PDF-", Format::Pdf, Err(ExtractError::PdfUnavailable)),
            (" \n", Format::Text, Err(ExtractError::NoText)),
            ("[]", Format::Json, Err(ExtractError::NoText)),
        ] {
            let extracted = extractor.extract(&tenant, content.into(), format, None).await;
            assert_eq!(
                extracted.map(|extracted| extracted.text).as_deref(),
                text.as_ref().copied()
            );
        }
        let latin = extractor
            .extract(
                &tenant,
                b"<meta charset=latin1><p>\xe9t\xe9".to_vec(),
                Format::Html,
                None,
            )
            .await;
        assert_eq!(latin.unwrap().text, "été");
    }
}
