//! Documents: how they are read and stored.

use std::path::PathBuf;

use secrecy::SecretString;
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
    /// Where documents and what searches need of them are stored.
    pub index: IndexStore,
    /// URL of PostgreSQL; may contain a password. There is one in a checked configuration whose index is there.
    pub url: Option<SecretString>,
    /// Schema of the tables in PostgreSQL.
    pub schema: String,
    /// Most connections to PostgreSQL.
    pub connections: usize,
}

/// Where documents are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexStore {
    /// In a file of the data directory.
    #[default]
    Sqlite,
    /// In PostgreSQL, shared by all machines that use the same one.
    Postgres,
}

impl Default for Knowledge {
    fn default() -> Self {
        Self {
            max_document_bytes: 20 * 1024 * 1024,
            workers: 2,
            pdfium: None,
            index: IndexStore::Sqlite,
            url: None,
            schema: "copilotd".to_owned(),
            connections: 8,
        }
    }
}
