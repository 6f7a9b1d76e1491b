//! Maps SQLite failures to what they mean for the caller.

use copilotd_actors::ports::{DISK_FULL, LogError};
use rusqlite::ErrorCode;

/// Why work on the database failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A business answer: nothing is wrong with the database.
    #[error(transparent)]
    Answer(#[from] LogError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A commit that failed for several callers; the error itself cannot be cloned.
    #[error("{text}")]
    Shared { code: Option<ErrorCode>, text: String },
    #[error("unused parts of database pages not overwritten: {0}")]
    PageSlack(String),
    /// The disk, or the size limit of the file, is full.
    #[error("{DISK_FULL}")]
    Full,
    #[error("the database writer thread has ended")]
    Ended,
}

impl Failure {
    /// Returns a function that copies an error for each caller whose commit failed.
    pub(crate) fn share(error: &rusqlite::Error) -> impl Fn() -> Self {
        let (code, text) = (error.sqlite_error_code(), error.to_string());
        move || Self::Shared {
            code,
            text: text.clone(),
        }
    }

    /// Returns whether SQLite found no space.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Full) || self.code() == Some(ErrorCode::DiskFull)
    }

    /// Returns SQLite's error class, if SQLite failed.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Shared { code, .. } => *code,
            Self::Answer(_) | Self::PageSlack(_) | Self::Full | Self::Ended => None,
        }
    }

    /// Returns whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Answer(_) | Self::PageSlack(_) | Self::Full | Self::Ended => false,
            Self::Sqlite(error) => class(error.sqlite_error_code()) == Class::Transient,
            Self::Shared { code, .. } => class(*code) == Class::Transient,
        }
    }
}

/// Returns whether an error says that there is no space, or is an I/O error on a disk that is full.
pub(crate) fn is_full_or_io(code: Option<ErrorCode>, is_disk_full: impl FnOnce() -> bool) -> bool {
    match code {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => is_disk_full(),
        _ => false,
    }
}

#[derive(PartialEq, Eq)]
enum Class {
    Refused,
    Corrupt,
    Transient,
}

fn class(code: Option<ErrorCode>) -> Class {
    match code {
        // Whenever SQLite reports one of these it has rolled back: nothing was written, and trying again changes
        // nothing.
        Some(
            ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::TooBig
            | ErrorCode::PermissionDenied
            | ErrorCode::CannotOpen
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::ApiMisuse,
        ) => Class::Refused,
        // A value whose type does not match its column has no error code.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => Class::Corrupt,
        Some(_) => Class::Transient,
    }
}

impl From<Failure> for LogError {
    fn from(failure: Failure) -> Self {
        let of = |code, text: String| match class(code) {
            Class::Refused => Self::Refused(text),
            Class::Corrupt => Self::Corrupt(text),
            Class::Transient => Self::Unavailable(text),
        };
        match failure {
            _ if failure.is_full() => Self::Refused(DISK_FULL.to_owned()),
            Failure::Full => Self::Refused(DISK_FULL.to_owned()),
            Failure::Answer(answer) => answer,
            Failure::Sqlite(error) => of(error.sqlite_error_code(), error.to_string()),
            Failure::Shared { code, text } => of(code, text),
            Failure::PageSlack(_) => Self::Unavailable(failure.to_string()),
            Failure::Ended => Self::Unavailable("the database writer thread has ended".to_owned()),
        }
    }
}
