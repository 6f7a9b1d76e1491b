//! Chunks: the passages of documents that are searched and cited.

use copilotd_actors::domain::ids::{ChunkId, DocumentId};

use crate::document::{DocumentKey, Version};

/// A chunk cut from a document's text, before it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkDraft {
    /// Its text: exactly the bytes `start..end` of the extracted text.
    pub text: String,
    /// The headings above it, outermost first, joined by " > "; empty if there is none.
    pub heading: String,
    /// The page on which it begins, from 1; none for formats without pages.
    pub page: Option<u32>,
    /// Offset of its first byte in the extracted text.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
}

impl ChunkDraft {
    /// Returns what is embedded and indexed: the title and the headings give the passage its context.
    pub fn context_text(&self, title: Option<&str>) -> String {
        let mut text = String::with_capacity(self.text.len() + self.heading.len() + 64);
        for part in [title.unwrap_or_default(), &self.heading] {
            if !part.is_empty() {
                text.push_str(part);
                text.push('\n');
            }
        }
        text.push_str(&self.text);
        text
    }
}

/// A stored chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Its id: derived from the document and the text, so a chunk that an update does not change keeps it.
    pub id: ChunkId,
    /// Its document.
    pub document: DocumentId,
    /// Key of its document.
    pub key: DocumentKey,
    /// Title of its document.
    pub title: Option<String>,
    /// Address of its document.
    pub uri: Option<String>,
    /// The version in which it first occurred.
    pub since: Version,
    /// Whether it is part of the searchable version. A cited chunk stays readable after an update removed it.
    pub is_current: bool,
    /// Its position among the chunks of its version, from 0.
    pub ordinal: u32,
    /// The passage.
    pub draft: ChunkDraft,
}
