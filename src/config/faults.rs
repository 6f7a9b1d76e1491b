//! What is wrong with a configuration: all of it at once, each fault with its path.

use std::fmt;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where: `tenants[0].copilots[1].route`, or `line 3, column 7` for what cannot be read at all.
    pub path: String,
    /// What is wrong there; never quotes a secret.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Every fault of a configuration, one a line. Never empty when it is returned as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Notes a fault at a path.
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let fault = Fault {
            path: path.into(),
            message: message.into(),
        };
        // A value that two checks dislike is named once with each reason.
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    /// Makes the error of a single fault.
    pub(super) fn one(path: impl Into<String>, message: impl Into<String>) -> Self {
        let mut faults = Self::default();
        faults.add(path, message);
        faults
    }

    /// Lists the faults.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Returns the error, or nothing when nothing was noted.
    pub(super) fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let line_break = if index > 0 { "\n" } else { "" };
            write!(f, "{line_break}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
