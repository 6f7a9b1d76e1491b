//! What a failure of SQLite means to a caller.

use copilotd_actors::ports::{DISK_FULL, LogError};
use rusqlite::ErrorCode;

/// Why work on the database did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// An answer: nothing is wrong with the database.
    #[error(transparent)]
    Answer(#[from] LogError),
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// One commit failed for many; its cause was told to the first of them only by its text.
    #[error("{text}")]
    Shared {
        /// SQLite's class.
        code: Option<ErrorCode>,
        /// SQLite's text.
        text: String,
    },
    /// The unused parts of the file's pages could not be overwritten.
    #[error("the unused parts of pages could not be overwritten: {0}")]
    Slack(String),
    /// There is no space for it.
    #[error("{DISK_FULL}")]
    Full,
    /// The writer has ended.
    #[error("the writer has ended")]
    Ended,
}

impl Failure {
    /// Makes a copy for each of those whose commit failed together.
    pub(super) fn share(error: &rusqlite::Error) -> impl Fn() -> Self {
        let (code, text) = (error.sqlite_error_code(), error.to_string());
        move || Self::Shared {
            code,
            text: text.clone(),
        }
    }

    /// Whether SQLite found no space.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full) || self.code() == Some(ErrorCode::DiskFull)
    }

    /// SQLite's class, if it failed.
    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Shared { code, .. } => *code,
            Self::Answer(_) | Self::Slack(_) | Self::Full | Self::Ended => None,
        }
    }

    /// Whether asking again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Answer(_) | Self::Slack(_) | Self::Full | Self::Ended => false,
            Self::Sqlite(error) => class(error.sqlite_error_code()) == Class::Transient,
            Self::Shared { code, .. } => class(*code) == Class::Transient,
        }
    }
}

/// Whether an error says that there is no space, or fails for whatever cause on a disk that is full.
pub(super) fn is_full_or_io(code: Option<ErrorCode>, is_disk_full: impl FnOnce() -> bool) -> bool {
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
        // SQLite has rolled back whenever it reports one of these: nothing was written, and asking again changes nothing.
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
        // A value that has not the type its column promises has no code.
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
            Failure::Slack(_) => Self::Unavailable(failure.to_string()),
            Failure::Ended => Self::Unavailable("the writer has ended".to_owned()),
        }
    }
}
