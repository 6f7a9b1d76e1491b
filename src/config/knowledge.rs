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
    /// What embeds documents.
    pub embeddings: DocumentEmbeddings,
    /// What embedded them before: searched too, until all documents are embedded again.
    pub previous_embeddings: Option<RouteEmbeddings>,
}

/// What embeds documents and the questions that search them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum DocumentEmbeddings {
    /// The model of this process, if there is one.
    Local(Local),
    /// A provider's model.
    Route(RouteEmbeddings),
}

/// The word for the model of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Local {
    /// The only one.
    Local,
}

/// A provider's embedding model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEmbeddings {
    /// Name of a route with one target.
    pub route: String,
    /// Numbers of a vector.
    pub dimensions: usize,
    /// Whether the model is asked for vectors of that many numbers.
    #[serde(default)]
    pub shorten: bool,
    /// What stands before a question.
    #[serde(default)]
    pub query_prefix: String,
    /// What stands before a passage.
    #[serde(default)]
    pub passage_prefix: String,
    /// `input_type` of requests for questions.
    pub query_input_type: Option<String>,
    /// `input_type` of requests for passages.
    pub passage_input_type: Option<String>,
    /// Most texts of one request.
    #[serde(default = "batch")]
    pub batch: usize,
}

/// Few enough for servers with low limits, and for questions not to wait long behind one.
fn batch() -> usize {
    16
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
            embeddings: DocumentEmbeddings::Local(Local::Local),
            previous_embeddings: None,
        }
    }
}
