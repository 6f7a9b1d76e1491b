//! A place in the raw configuration, which knows its path and may be empty.

use serde_json::Value;

/// A value and its path. What is missing or of another kind than asked for is simply absent.
#[derive(Debug, Clone)]
pub(in crate::config) struct Node<'a> {
    path: String,
    value: Option<&'a Value>,
}

impl<'a> Node<'a> {
    /// Starts at the whole configuration.
    pub fn root(value: &'a Value) -> Self {
        Self {
            path: String::new(),
            value: Some(value),
        }
    }

    /// Starts at a table that stands at `path` of the whole.
    pub fn at(path: &str, value: &'a Value) -> Self {
        Self {
            path: path.to_owned(),
            value: Some(value),
        }
    }

    /// Returns the member `name` of a table.
    pub fn get(&self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self {
            path: format!("{}{dot}{name}", self.path),
            value: self.value.and_then(|value| value.get(name)),
        }
    }

    /// Lists the items of an array.
    pub fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        let items = self.value.and_then(Value::as_array);
        let path = self.path.clone();
        items.into_iter().flatten().enumerate().map(move |(index, value)| Self {
            path: format!("{path}[{index}]"),
            value: Some(value),
        })
    }

    /// Lists the names of a table's members.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let members = self.value.and_then(Value::as_object);
        members.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// Returns a string.
    pub fn text(&self) -> Option<&'a str> {
        self.value.and_then(Value::as_str)
    }

    /// Returns a whole number that is not negative.
    pub fn number(&self) -> Option<u64> {
        self.value.and_then(Value::as_u64)
    }

    /// Returns a number.
    pub fn decimal(&self) -> Option<f64> {
        self.value.and_then(Value::as_f64)
    }

    /// Whether it is `true`.
    pub fn truth(&self) -> bool {
        self.value.and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether something was written here, even if it could not be had.
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.path
    }
}
