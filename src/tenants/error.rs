//! Why a change of a tenant or a key was not made.

use std::fmt;

use copilotd_actors::ports::LogError;

use crate::config::Fault;

/// What is wrong with settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFault {
    /// Where in the settings, as a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong there; never quotes a secret.
    pub message: String,
}

impl From<Fault> for SettingsFault {
    /// The operating system's words stay behind.
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

/// Why a change was not made. Nothing has happened then, but for an error of the store, whose outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is one already.
    #[error("{0} exists already")]
    Exists(String),
    /// There is none.
    #[error("there is no such thing")]
    Missing,
    /// It cannot be done as things stand.
    #[error("{0}")]
    Conflict(String),
    /// The settings do not fit the configuration.
    #[error("the settings are not valid")]
    Invalid(Vec<SettingsFault>),
    /// The store does not answer.
    #[error("the store failed")]
    Store(#[from] LogError),
    /// A part of the process could not take the change.
    #[error("a part of the process cannot take the change: {0:#}")]
    Part(anyhow::Error),
}
