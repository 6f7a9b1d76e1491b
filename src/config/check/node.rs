//! A place in the raw configuration, with its path; it may be empty.

use serde_json::Value;

/// A value and its path. A missing value, or one of another type than requested, reads as none.
#[derive(Debug, Clone)]
pub(in crate::config) struct Node<'a> {
    path: String,
    value: Option<&'a Value>,
}

impl<'a> Node<'a> {
    /// The root of the configuration.
    pub fn root(value: &'a Value) -> Self {
        Self {
            path: String::new(),
            value: Some(value),
        }
    }

    /// A table at `path` of the configuration.
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

    /// Returns the value as written.
    pub fn value(&self) -> Option<&'a Value> {
        self.value
    }

    /// Returns the value as a string.
    pub fn text(&self) -> Option<&'a str> {
        self.value.and_then(Value::as_str)
    }

    /// Returns the value as a non-negative integer.
    pub fn number(&self) -> Option<u64> {
        self.value.and_then(Value::as_u64)
    }

    /// Returns the value as a floating-point number.
    pub fn decimal(&self) -> Option<f64> {
        self.value.and_then(Value::as_f64)
    }

    /// Whether the value is `true`.
    pub fn truth(&self) -> bool {
        self.value.and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether a value was written here, even a secret that could not be resolved.
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.path
    }
}
