//! The protocol of a worker: it reads the document until the end of its input, and writes frames of a tag, a length of
//! four bytes (little-endian) and as much UTF-8.

use std::io::{Error, Write};

/// Longest title, in bytes.
pub const LONGEST_TITLE: usize = 4 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// The title in the document's properties.
    Title,
    /// The text of the next page.
    Page,
    /// All pages have been sent. The last frame.
    Done,
    /// The code of an error. The last frame.
    Failed,
}

impl Tag {
    const ALL: [(u8, Self); 4] = [
        (b't', Self::Title),
        (b'p', Self::Page),
        (b'd', Self::Done),
        (b'f', Self::Failed),
    ];

    /// Returns the tag of a byte.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(known, _)| *known == byte)
            .map(|(_, tag)| tag)
    }

    /// Writes a frame.
    pub fn write(self, text: &str, output: &mut impl Write) -> Result<(), Error> {
        let byte = match self {
            Self::Title => b't',
            Self::Page => b'p',
            Self::Done => b'd',
            Self::Failed => b'f',
        };
        let length = u32::try_from(text.len()).map_err(Error::other)?;
        output.write_all(&[byte])?;
        output.write_all(&length.to_le_bytes())?;
        output.write_all(text.as_bytes())
    }
}
