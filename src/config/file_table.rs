//! A tenant's table as the configuration file has it.

use std::fmt;

use serde_json::Value;

use super::place::{Place, secrets};

/// A tenant's table of the configuration file, its secrets not yet resolved.
///
/// Invariant: only a [`super::Source`] makes one, out of the file's text. Whoever holds one may therefore resolve its references to
/// the environment and to files; settings from anywhere else are a plain [`Value`] and may not.
#[derive(Clone, PartialEq)]
pub struct FileTable(Value);

impl FileTable {
    pub(super) fn new(table: Value) -> Self {
        Self(table)
    }

    /// The table as it was written.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The tenant's id, if the table has a text there.
    pub fn id(&self) -> Option<&str> {
        self.0.get("id")?.as_str()
    }

    /// Whether the file marks the tenant as one whose credentials may grant the scope `operator`.
    pub fn is_operator(&self) -> bool {
        self.0.get("operator") == Some(&Value::Bool(true))
    }

    /// Lists the secrets with the place that each is for.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (Place, &Value)> {
        secrets(&self.0).into_iter().map(|(_, place, leaf)| (place, leaf))
    }
}

impl fmt::Debug for FileTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may hold secrets.
        f.debug_tuple("FileTable").field(&self.id()).finish()
    }
}
