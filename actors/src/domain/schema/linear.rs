//! The subset of JSON Schema whose check is linear in the value, so that it may run anywhere.

use serde_json::Value;

use super::budget::MAX_PATTERN_BYTES;

/// Keywords that visit a value at most once, or that say nothing about it.
const PLAIN: &[&str] = &[
    "$comment",
    "$schema",
    "const",
    "default",
    "description",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "required",
    "title",
    "type",
];
/// Maximum number of values that a value is compared with.
const MAX_COMPARED: usize = 100;
/// Maximum nesting.
const MAX_DEPTH: usize = 16;

/// Returns why a schema is not linear; none if it is.
pub(super) fn obstacle(schema: &Value) -> Option<String> {
    within(schema, 0)
}

fn within(schema: &Value, depth: usize) -> Option<String> {
    let Value::Object(fields) = schema else { return None };
    if depth > MAX_DEPTH {
        return Some("it is nested too deeply".to_owned());
    }
    fields.iter().find_map(|(keyword, value)| {
        let linear = match (keyword.as_str(), value) {
            ("properties", Value::Object(schemas)) => {
                return schemas.values().find_map(|schema| within(schema, depth + 1));
            }
            ("items" | "additionalProperties", schema) if !schema.is_array() => return within(schema, depth + 1),
            ("enum", Value::Array(values)) => {
                values.len() <= MAX_COMPARED && !values.iter().any(|value| value.is_array() || value.is_object())
            }
            ("pattern", Value::String(pattern)) => pattern.len() <= MAX_PATTERN_BYTES,
            // Every item may be compared with every other one.
            ("uniqueItems", Value::Bool(unique)) => {
                let most = fields.get("maxItems").and_then(Value::as_u64);
                !unique || most.is_some_and(|most| most <= MAX_COMPARED as u64)
            }
            (keyword, _) => PLAIN.contains(&keyword),
        };
        (!linear).then(|| format!("the check of {keyword:?} is not linear in the value"))
    })
}
