//! Validates values against our own JSON Schemas and reports each fault with its JSON Pointer.
//!
//! Invariant: a message never quotes the checked value, which may be a secret or of any size.

use copilotd_actors::domain::schema::Violation;
use jsonptr::Token;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

/// A compiled schema from `schemas/`.
#[derive(Debug)]
pub struct Shape(jsonschema::Validator);

/// The text is not a usable JSON Schema.
#[derive(Debug, thiserror::Error)]
#[error("not a usable JSON schema: {0}")]
pub struct InvalidShape(String);

/// Longest message or name in a violation, in characters.
const MAX_TEXT: usize = 200;

/// The message for a member that the schema does not have.
pub const UNKNOWN_MEMBER: &str = "unknown field";

impl Shape {
    /// Compiles the schema in `text`.
    pub fn compile(text: &str) -> Result<Self, InvalidShape> {
        let source: Value = serde_json::from_str(text).map_err(|error| InvalidShape(error.to_string()))?;
        jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(&source)
            .map(Self)
            .map_err(|error| InvalidShape(error.to_string()))
    }

    /// Lists at most `limit` faults of `value`; empty when it is valid.
    pub fn violations(&self, value: &Value, limit: usize) -> Vec<Violation> {
        self.0
            .iter_errors(value)
            .flat_map(|error| explain(&error))
            .take(limit)
            .collect()
    }
}

/// Splits a validator error into faults that each point at the missing, unknown or invalid member.
fn explain(error: &jsonschema::ValidationError<'_>) -> Vec<Violation> {
    let at = error.instance_path().to_string();
    let member = |name: &str, message: &str| Violation {
        pointer: format!("{at}/{}", Token::new(clip(name)).encoded()),
        message: message.to_owned(),
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            vec![member(property.as_str().unwrap_or_default(), "is required")]
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| member(name, UNKNOWN_MEMBER)).collect()
        }
        // The validator's own message omits everything after the second candidate.
        ValidationErrorKind::Enum { options } => vec![Violation {
            message: format!("expected one of {}", clip(options.to_string().trim_matches(['[', ']']))),
            pointer: at,
        }],
        ValidationErrorKind::FalseSchema => vec![Violation {
            pointer: at,
            message: "is not allowed here".to_owned(),
        }],
        _ => vec![Violation {
            pointer: at,
            message: clip(&error.masked().to_string()),
        }],
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fault_points_at_its_member_and_quotes_nothing() {
        let shape = Shape::compile(
            r#"{"type": "object", "required": ["a", "b/c"], "additionalProperties": false,
                "properties": {"a": {"type": "string"}, "b/c": {}, "d": {"enum": ["x", "y"]}, "e": {"maxLength": 2}}}"#,
        )
        .unwrap();
        let value = json!({ "d": "hush", "e": "hush", "f": 1, "g": 2 });
        let mut found: Vec<_> = shape
            .violations(&value, 16)
            .into_iter()
            .map(|v| format!("{} {}", v.pointer, v.message))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "/a is required",
                "/b~1c is required",
                "/d expected one of \"x\",\"y\"",
                "/e value is longer than 2 characters",
                "/f unknown field",
                "/g unknown field",
            ]
        );
        assert_eq!(shape.violations(&value, 2).len(), 2);
    }
}
