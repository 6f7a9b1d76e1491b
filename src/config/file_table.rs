//! A tenant's table of the configuration file.

use std::fmt;

use serde_json::Value;

use super::secret_place::{SecretPlace, secrets};

/// A tenant's table of the configuration file, with unresolved secrets.
///
/// Invariant: only a [`super::Source`] creates one, from the file's text. Its references to the environment and to
/// files may therefore be resolved; settings from anywhere else are a plain [`Value`], whose references may not.
#[derive(Clone, PartialEq)]
pub struct FileTable(Value);

impl FileTable {
    pub(super) fn new(table: Value) -> Self {
        Self(table)
    }

    /// Returns the table as written.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Returns the tenant's id, if it is a text.
    pub fn id(&self) -> Option<&str> {
        self.0.get("id")?.as_str()
    }

    /// Whether the file lets the tenant's credentials grant the scope `operator`.
    pub fn is_operator(&self) -> bool {
        self.0.get("operator") == Some(&Value::Bool(true))
    }

    /// Lists the secrets, each with its place.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (SecretPlace, &Value)> {
        secrets(&self.0).into_iter().map(|(_, place, leaf)| (place, leaf))
    }
}

impl fmt::Debug for FileTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The table may contain secrets.
        f.debug_tuple("FileTable").field(&self.id()).finish()
    }
}
