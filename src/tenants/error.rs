//! Why a change of a tenant or key failed.

use std::fmt;

use copilotd_actors::ports::LogError;

use crate::config::Fault;

/// A fault in settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFault {
    /// Place in the settings, as a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong; never quotes a secret.
    pub message: String,
}

impl From<Fault> for SettingsFault {
    /// Drops the operating system's error.
    fn from(fault: Fault) -> Self {
        Self {
            pointer: fault.pointer(),
            message: fault.message,
        }
    }
}

impl fmt::Display for SettingsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a change failed. Nothing was changed, except after a store error, whose outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It already exists.
    #[error("{0} already exists")]
    Exists(String),
    /// It does not exist.
    #[error("not found")]
    Missing,
    /// The current state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The settings have faults.
    #[error("the settings are not valid")]
    Invalid(Vec<SettingsFault>),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] LogError),
    /// A part of the process could not apply the change.
    #[error("a component cannot apply the change: {0:#}")]
    Reload(anyhow::Error),
}
