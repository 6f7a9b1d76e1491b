//! The faults of a configuration: all of them at once, each with its path.

use std::fmt;

use jsonptr::Token;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where: `tenants[0].copilots[1].route`, or `line 3, column 7` for syntax errors.
    pub path: String,
    /// What is wrong there. Never quotes a secret, nor anything about this machine that is not in the configuration
    /// file.
    pub message: String,
    /// The operating system's error, if that is the cause. For the log and the terminal; never in an HTTP answer.
    pub cause: Option<String>,
}

impl Fault {
    /// A fault at `path` without a message.
    pub(super) fn at(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            message: String::new(),
            cause: None,
        }
    }

    /// Returns the path as a JSON Pointer, for settings given as JSON.
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for part in self.path.split(['.', '[']).filter(|part| !part.is_empty()) {
            pointer.push('/');
            pointer.push_str(Token::new(part.trim_end_matches(']')).encoded());
        }
        pointer
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

/// Most faults that are listed; one more says that there are others.
pub(super) const MAX_FAULTS: usize = 100;

fn more() -> Fault {
    Fault {
        path: String::new(),
        message: format!("more than {MAX_FAULTS} errors; fix these and check again"),
        cause: None,
    }
}

/// All faults of a configuration; displayed one per line. Never empty when returned as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds a fault at a path.
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.add_caused(path, message, None);
    }

    /// Adds a fault at a path, with the operating system's error.
    pub(super) fn add_caused(&mut self, path: impl Into<String>, message: impl Into<String>, cause: Option<String>) {
        let fault = Fault {
            path: path.into(),
            message: message.into(),
            cause,
        };
        // A value that fails two checks is listed once with each message.
        if self.0.len() <= MAX_FAULTS && !self.0.contains(&fault) {
            self.0.push(if self.0.len() < MAX_FAULTS { fault } else { more() });
        }
    }

    /// A single fault, for checks outside this module.
    pub(crate) fn of(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::one(path, message)
    }

    /// A single fault.
    pub(super) fn one(path: impl Into<String>, message: impl Into<String>) -> Self {
        let mut faults = Self::default();
        faults.add(path, message);
        faults
    }

    /// Iterates over the faults.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Whether there are no faults.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns an error if there are faults.
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

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_faults_as_pointers() {
        for (path, pointer) in [
            ("copilots[0].route", "/copilots/0/route"),
            ("issuers[12]", "/issuers/12"),
            ("id", "/id"),
            ("providers[0].headers.x/y~z", "/providers/0/headers/x~1y~0z"),
            ("", ""),
        ] {
            let faults = Faults::one(path, "x");
            assert_eq!(faults.iter().next().map(Fault::pointer).as_deref(), Some(pointer));
        }
    }
}
