//! JSON Schema validation of tool arguments and structured answers.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// A compiled schema together with its text. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    source: Value,
    validator: jsonschema::Validator,
}

/// The value is not a usable JSON Schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable JSON Schema: {0}")]
pub struct InvalidSchema(pub String);

/// Where and how a value breaks a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer into the value.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// Longest schema of a caller, as JSON.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Most violations that are reported at once.
const MAX_VIOLATIONS: usize = 16;
/// Longest message of one violation; validators quote the value, which may be large.
const MAX_MESSAGE: usize = 300;

impl Schema {
    /// Compiles `source`. References to other documents are refused: nothing is fetched.
    pub fn compile(source: Value) -> Result<Self, InvalidSchema> {
        if !source.is_object() {
            return Err(InvalidSchema("a schema has to be a JSON object".into()));
        }
        if source.to_string().len() > MAX_SCHEMA_BYTES {
            return Err(InvalidSchema(format!(
                "a schema may have at most {MAX_SCHEMA_BYTES} bytes"
            )));
        }
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            // Backtracking patterns of a caller could stall a worker for ever.
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(&source)
            .map_err(|error| InvalidSchema(clip(&error.to_string())))?;
        Ok(Self(Arc::new(Compiled { source, validator })))
    }

    /// Returns the schema's text.
    pub fn source(&self) -> &Value {
        &self.0.source
    }

    /// Checks `value`; the error lists the first violations.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let violations: Vec<Violation> = self
            .0
            .validator
            .iter_errors(value)
            .take(MAX_VIOLATIONS)
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                message: clip(&error.to_string()),
            })
            .collect();
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }
}

/// Says violations in one line, fit for a model to act on.
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
    fn what_is_no_schema_is_refused() {
        for source in [
            json!("object"),
            json!(true),
            json!({ "type": "no-such-type" }),
            json!({ "properties": 3 }),
            json!({ "$ref": "https://example.com/other.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "description": "x".repeat(MAX_SCHEMA_BYTES) }),
        ] {
            assert!(Schema::compile(source.clone()).is_err(), "{source}");
        }
    }
}
