//! Maps failures of the driver or the server to what they mean for the caller.

use copilotd_actors::ports::{DISK_FULL, LogError};
use mongodb::error::{ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure};

/// The server's code for a second document with the same unique key.
const DUPLICATE_KEY: i32 = 11000;

/// The server's code for two transactions that write the same document.
const WRITE_CONFLICT: i32 = 112;

/// Codes after which nothing was written and trying again changes nothing: BadValue, FailedToParse, Unauthorized,
/// AuthenticationFailed, IllegalOperation, DocumentValidationFailure, BSONObjectTooLarge, OutOfDiskSpace, KeyTooLong.
const REFUSALS: &[i32] = &[2, 9, 13, 18, 20, 121, 10334, 14031, 17280];

/// The server's code for a full disk.
const OUT_OF_DISK_SPACE: i32 = 14031;

/// Why work on the database failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A business answer: nothing is wrong with the database.
    #[error(transparent)]
    Answer(#[from] LogError),
    /// The driver or the server failed.
    #[error(transparent)]
    Mongo(#[from] mongodb::error::Error),
    #[error("the database did not answer in time")]
    TimedOut,
    /// Another process holds the lease by now; nothing was written.
    #[error("another process holds the database's lease")]
    Fenced,
}

impl Failure {
    /// Returns whether another document has the same unique key.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Mongo(error) if code(error) == Some(DUPLICATE_KEY))
    }

    /// Returns whether the only failures were documents that existed already.
    pub(super) fn is_only_duplicates(&self) -> bool {
        let Self::Mongo(error) = self else { return false };
        let ErrorKind::InsertMany(failed) = error.kind.as_ref() else {
            return false;
        };
        let errors = failed.write_errors.as_deref().unwrap_or_default();
        failed.write_concern_error.is_none() && errors.iter().all(|error| error.code == DUPLICATE_KEY)
    }

    /// Returns whether a transaction collided with another one: nothing was written, and it can be repeated at once.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Mongo(error) if code(error) == Some(WRITE_CONFLICT))
    }

    /// Returns whether something may have been written nevertheless.
    pub(super) fn leaves_outcome_unknown(&self) -> bool {
        match self {
            Self::Answer(_) | Self::Fenced => false,
            Self::TimedOut => true,
            // The label says that the transaction did not commit.
            Self::Mongo(error) => !error.contains_label(TRANSIENT_TRANSACTION_ERROR),
        }
    }

    /// Returns whether a document does not have the expected form.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Mongo(error) if is_unreadable(error))
    }

    /// Returns whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Answer(_) | Self::Fenced => false,
            Self::TimedOut => true,
            Self::Mongo(error) => !is_refusal(error) && !is_unreadable(error),
        }
    }
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}

fn is_refusal(error: &mongodb::error::Error) -> bool {
    let own_fault = matches!(
        error.kind.as_ref(),
        ErrorKind::InvalidArgument { .. } | ErrorKind::Authentication { .. } | ErrorKind::IncompatibleServer { .. }
    );
    own_fault || code(error).is_some_and(|code| REFUSALS.contains(&code))
}

fn is_unreadable(error: &mongodb::error::Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Bson(_) | ErrorKind::BsonDeserialization(_) | ErrorKind::BsonSerialization(_)
    )
}

impl From<Failure> for LogError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Answer(answer) => answer,
            Failure::TimedOut => Self::Unavailable(failure.to_string()),
            Failure::Fenced => super::fence::lost(),
            Failure::Mongo(error) if code(&error) == Some(OUT_OF_DISK_SPACE) => Self::Refused(DISK_FULL.to_owned()),
            Failure::Mongo(error) if is_refusal(&error) => Self::Refused(error.to_string()),
            // The driver's message quotes the value, which may be content.
            Failure::Mongo(error) if is_unreadable(&error) => {
                Self::Corrupt("a document does not have the expected form".to_owned())
            }
            Failure::Mongo(error) => Self::Unavailable(error.to_string()),
        }
    }
}
