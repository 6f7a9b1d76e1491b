//! Documents: how they are read and stored.

use std::path::PathBuf;

use serde::Deserialize;

/// How documents are read and stored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knowledge {
    /// Largest document, in bytes.
    pub max_document_bytes: usize,
    /// Documents that are ingested at the same time, of all tenants.
    pub workers: usize,
    /// The PDFium library; without it PDF documents cannot be read.
    pub pdfium: Option<PathBuf>,
}

impl Default for Knowledge {
    fn default() -> Self {
        Self {
            max_document_bytes: 20 * 1024 * 1024,
            workers: 2,
            pdfium: None,
        }
    }
}
