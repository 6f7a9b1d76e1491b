//! JSON Schema validation of tool arguments and structured answers.
//!
//! There are two kinds of schema. The product's own, for tools, are a [`Schema`]: its check is linear in the value and
//! may run anywhere. A caller's is an [`AcceptedSchema`]: it is within the [`budget`] and was compiled once, and its
//! checks run behind the port [`SchemaChecker`](crate::ports::SchemaChecker), in a process that can be killed.

pub mod budget;
pub mod check;
mod linear;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// A compiled schema with its source, whose check is linear in the value. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<CompiledSchema>);

struct CompiledSchema {
    source: Value,
    validator: jsonschema::Validator,
}

/// The value is not a usable JSON Schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable JSON Schema: {0}")]
pub struct InvalidSchema(pub String);

/// Where and how a value violates a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer into the value.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// A caller's schema that [`accept`](crate::ports::accept) accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedSchema(Arc<Value>);

impl AcceptedSchema {
    /// Only for a schema that is within its budget and was compiled by a checker.
    pub(crate) fn new(source: Arc<Value>) -> Self {
        Self(source)
    }

    /// Creates an accepted schema for tests of what comes afterwards.
    #[cfg(feature = "fakes")]
    pub fn unchecked(source: Value) -> Self {
        Self(Arc::new(source))
    }

    /// Returns the schema's source.
    pub fn source(&self) -> &Value {
        &self.0
    }

    /// Returns the schema's source.
    pub fn into_source(self) -> Value {
        Arc::unwrap_or_clone(self.0)
    }
}

/// Maximum number of violations that are reported at once.
const MAX_VIOLATIONS: usize = 16;
/// Maximum length of a violation's message in characters; validators quote the value, which may be large.
const MAX_MESSAGE: usize = 300;

impl Schema {
    /// Compiles `source`, whose check must be linear: no references and no keywords that combine schemas.
    pub fn compile(source: Value) -> Result<Self, InvalidSchema> {
        if let Err(over) = budget::measure(&source) {
            return Err(InvalidSchema(describe(&[over])));
        }
        if let Some(obstacle) = linear::obstacle(&source) {
            return Err(InvalidSchema(obstacle));
        }
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .offline()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(&source)
            .map_err(|error| InvalidSchema(clip(&error.to_string())))?;
        Ok(Self(Arc::new(CompiledSchema { source, validator })))
    }

    /// Returns the schema's source.
    pub fn source(&self) -> &Value {
        &self.0.source
    }

    /// Checks `value`; the error lists the first violations.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let violations = violations(&self.0.validator, value);
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }
}

fn violations(validator: &jsonschema::Validator, value: &Value) -> Vec<Violation> {
    let violations = validator.iter_errors(value).take(MAX_VIOLATIONS);
    violations.map(violation).collect()
}

fn violation(error: jsonschema::ValidationError<'_>) -> Violation {
    Violation {
        pointer: error.instance_path().to_string(),
        message: clip(&error.to_string()),
    }
}

/// Describes violations in one line, for a model to act on.
pub fn describe(violations: &[Violation]) -> String {
    let lines: Vec<String> = violations
        .iter()
        .map(|v| {
            if v.pointer.is_empty() {
                v.message.clone()
            } else {
                format!("{}: {}", v.pointer, v.message)
            }
        })
        .collect();
    lines.join("; ")
}

fn clip(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.0.source).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn violations_name_their_place() {
        let schema = Schema::compile(json!({
            "type": "object",
            "required": ["a"],
            "properties": { "a": {}, "b": { "type": "array", "items": { "type": "integer" } } },
            "additionalProperties": false
        }))
        .unwrap();
        assert_eq!(schema.check(&json!({ "a": 1, "b": [1] })), Ok(()));
        let violations = schema.check(&json!({ "b": [1, "x"], "c": 1 })).unwrap_err();
        let text = describe(&violations);
        assert!(text.contains("/b/1: \"x\" is not of type \"integer\""), "{text}");
        assert!(text.contains("\"a\" is a required property"), "{text}");
    }

    #[test]
    fn unusable_schemas_are_rejected() {
        for source in [
            json!("object"),
            json!(true),
            json!({ "type": "no-such-type" }),
            json!({ "properties": 3 }),
            json!({ "$ref": "https://example.com/other.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "description": "x".repeat(budget::MAX_BYTES) }),
            json!({ "anyOf": [{}] }),
            json!({ "properties": { "a": { "items": { "$ref": "#" } } } }),
            json!({ "uniqueItems": true, "maxItems": 1000 }),
            json!({ "additionalProperties": { "enum": (0..101).collect::<Vec<_>>() } }),
        ] {
            assert!(Schema::compile(source.clone()).is_err(), "{source}");
        }
    }
}
