//! What becomes of a row that cannot be read: it is left out of what is read together with others, and told.

use std::fmt::Display;

use copilotd_actors::ports::LogError;

/// Returns what was read; nothing of a row that is unreadable, which is logged with its ids and counted. Any other error stays
/// one: a store that does not answer has not lost a row.
pub(super) fn skip_unreadable<T>(
    what: &'static str,
    id: impl Display,
    read: Result<T, impl Into<LogError>>,
) -> Result<Option<T>, LogError> {
    match read.map_err(Into::into) {
        Ok(found) => Ok(Some(found)),
        Err(LogError::Corrupt(reason)) => {
            note_unreadable(what, id, &reason);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Logs and counts an unreadable row.
pub(super) fn note_unreadable(what: &'static str, id: impl Display, reason: &str) {
    metrics::counter!("copilotd_unreadable_rows_total", "what" => what).increment(1);
    tracing::error!(what, %id, reason, "a stored row is unreadable and is left out; the others are read");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unreadable_is_left_out() {
        let read = |result: Result<u8, LogError>| skip_unreadable("test", "1", result);
        assert_eq!(read(Ok(1)).unwrap(), Some(1));
        assert_eq!(read(Err(LogError::Corrupt("x".to_owned()))).unwrap(), None);
        assert!(read(Err(LogError::Unavailable("x".to_owned()))).is_err());
        assert!(read(Err(LogError::Refused("x".to_owned()))).is_err());
    }
}
