//! Why a document has no text.

/// Why the text of a document could not be extracted. The messages are read by the people who run a tenant's knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// The document needs a password.
    #[error("The document is protected by a password. Store a copy without one.")]
    Encrypted,
    /// The content is not what its format requires.
    #[error(
        "The document is damaged or not of the format it was stored as. Open it, save it again and store the copy."
    )]
    Damaged,
    /// The content was declared as text and is not.
    #[error("The content is binary data, not text. Store it with the media type that it has.")]
    NotText,
    /// There is no text in it.
    #[error("The document has no text. If it consists of scanned pages, store a version with recognised text.")]
    NoText,
    /// It has more text than may be extracted.
    #[error("The document has too much text. Split it into several documents.")]
    TooLarge,
    /// It has too many pages.
    #[error("The document has too many pages. Split it into several documents.")]
    TooManyPages,
    /// Its elements, objects or lists are nested too deeply.
    #[error("The document is nested too deeply. Store it in a flatter form.")]
    TooDeep,
    /// Reading it took too long.
    #[error("Reading the document took too long. Save it again with another program, or split it.")]
    TimedOut,
    /// Reading it took too much memory.
    #[error("Reading the document took too much memory. Save it again with another program, or split it.")]
    OutOfMemory,
    /// Text in this format cannot be extracted.
    #[error("Documents of this format cannot be read here.")]
    Unsupported,
    /// PDF documents cannot be read, because the server has no reader for them.
    #[error("This server cannot read PDF documents. Its log has the cause.")]
    PdfUnavailable,
    /// The reader could not run now. Not the document's fault: worth another attempt.
    #[error("The document could not be read at the moment.")]
    Busy,
}

impl ExtractError {
    /// Returns the stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Damaged => "damaged",
            Self::NotText => "not_text",
            Self::NoText => "no_text",
            Self::TooLarge => "too_large",
            Self::TooManyPages => "too_many_pages",
            Self::TooDeep => "too_deep",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::Unsupported => "unsupported",
            Self::PdfUnavailable => "pdf_unavailable",
            Self::Busy => "busy",
        }
    }

    /// Returns the error with this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }

    /// Returns whether the same document may be readable later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Busy)
    }

    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Encrypted,
        Self::Damaged,
        Self::NotText,
        Self::NoText,
        Self::TooLarge,
        Self::TooManyPages,
        Self::TooDeep,
        Self::TimedOut,
        Self::OutOfMemory,
        Self::Unsupported,
        Self::PdfUnavailable,
        Self::Busy,
    ];
}
