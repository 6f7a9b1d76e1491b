//! Bounds of an extraction.

/// What the extraction of one document may produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of extracted text. Some formats repeat parts of the content, such as column names.
    pub text_bytes: usize,
    /// Nested elements, objects or lists.
    pub depth: usize,
    /// Pages.
    pub pages: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            text_bytes: 32 * 1024 * 1024,
            depth: 256,
            pages: 5_000,
        }
    }
}
