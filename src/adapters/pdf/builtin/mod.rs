//! The reader that is part of the program: lopdf, for servers without PDFium.
//!
//! It finds less than PDFium: no text of fonts whose encoding it does not know, and fewer documents that are damaged.
//! Only a worker process calls it: it is safe Rust, and a document may still make it take any time or memory.

mod text;

use copilotd_knowledge::extract::ExtractError;
use lopdf::{Object, ObjectId};

use super::readable::Readable;

/// An open document.
pub struct Document {
    document: lopdf::Document,
    pages: Vec<ObjectId>,
}

impl Document {
    /// Opens a document.
    pub fn open(content: &[u8]) -> Result<Self, ExtractError> {
        let document = lopdf::Document::load_mem(content).map_err(|error| match error {
            lopdf::Error::Decryption(_)
            | lopdf::Error::InvalidPassword
            | lopdf::Error::UnsupportedSecurityHandler(_) => ExtractError::Encrypted,
            _ => ExtractError::Damaged,
        })?;
        // Loaded without its objects, because no password is known.
        if document.trailer.has(b"Encrypt") && !document.was_encrypted() {
            return Err(ExtractError::Encrypted);
        }
        let pages: Vec<_> = document.page_iter().collect();
        if pages.is_empty() {
            return Err(ExtractError::Damaged);
        }
        Ok(Self { document, pages })
    }
}

impl Readable for Document {
    fn pages(&self) -> u32 {
        u32::try_from(self.pages.len()).unwrap_or(u32::MAX)
    }

    fn title(&self, most: usize) -> Option<String> {
        let info = self.document.trailer.get(b"Info").ok()?;
        let (_, info) = self.document.dereference(info).ok()?;
        let title = info.as_dict().ok()?.get(b"Title").ok()?;
        let (_, title) = self.document.dereference(title).ok()?;
        match title {
            Object::String(bytes, _) if bytes.len() <= most => lopdf::decode_text_string(title).ok(),
            _ => None,
        }
    }

    fn text(&self, number: u32) -> Option<String> {
        text::of_page(&self.document, *self.pages.get(usize::try_from(number).ok()?)?)
    }
}
