//! Handling of unreadable rows: reading continues without them, and they are logged; except those that may take access
//! away, without which nothing is read.

use std::fmt::Display;

use copilotd_actors::ports::LogError;

/// Returns what was read; `None` for an unreadable row, which is logged with its ids and counted. Any other error is
/// returned: a store that does not answer has not lost a row.
pub(crate) fn skip_unreadable<T>(
    what: &'static str,
    id: impl Display,
    read: Result<T, impl Into<LogError>>,
) -> Result<Option<T>, LogError> {
    match read.map_err(Into::into) {
        Ok(found) => Ok(Some(found)),
        Err(LogError::Corrupt(reason)) => {
            log_unreadable(what, id, &reason);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Logs and counts an unreadable row.
pub(crate) fn log_unreadable(what: &'static str, id: impl Display, reason: &str) {
    metrics::counter!("copilotd_unreadable_rows_total", "what" => what).increment(1);
    tracing::error!(what, %id, reason, "stored row unreadable; skipping it and reading the others");
}

/// The error for an unreadable record that may take access away from somebody: going on without it would give that
/// access back. `record` is its place in the store, `meaning` what it may be.
pub(crate) fn refuse_unreadable(record: impl Display, meaning: &str, error: LogError) -> LogError {
    match error {
        LogError::Corrupt(reason) => LogError::Corrupt(format!(
            "{record} is unreadable ({reason}): it may be {meaning}, so nothing is served without it; restore the \
             record, or delete it if that access may be given back"
        )),
        error => error,
    }
}

/// What an unreadable record of a tenant may be.
pub(crate) const TENANT_MEANING: &str = "the suspension or deletion of a tenant of the configuration file";
/// What an unreadable record of an API key that was not created at run time may be.
pub(crate) const KEY_MEANING: &str = "the revocation of an API key of the configuration file";

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
