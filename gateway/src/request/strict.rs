//! Decides whether a schema is within the subset of JSON Schema that OpenAI's strict mode accepts.
//!
//! In doubt the answer is no: the request then has `strict: false`, which always works, and the conversation core
//! validates the answer in either case. A wrong yes would be a rejected request.

use std::collections::HashSet;

use serde_json::{Map, Value};

const MAX_DEPTH: usize = 10;
const MAX_PROPERTIES: usize = 5_000;
const MAX_ENUM_VALUES: usize = 1_000;
/// Names and enumerated values, in bytes.
const MAX_NAMES: usize = 120_000;

/// Keywords that strict mode accepts and that need no further check.
const PLAIN: &[&str] = &[
    "type",
    "title",
    "description",
    "const",
    "pattern",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "required",
    "additionalProperties",
    "$ref",
];
const FORMATS: &[&str] = &[
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
];

/// Returns whether strict mode accepts `schema`.
pub fn allows_strict(schema: &Value) -> bool {
    let Value::Object(root) = schema else { return false };
    if root.get("type").and_then(Value::as_str) != Some("object") || root.contains_key("anyOf") {
        return false;
    }
    Walk::default().schema(schema, 0)
}

#[derive(Default)]
struct Walk {
    properties: usize,
    enum_values: usize,
    names: usize,
}

impl Walk {
    fn schema(&mut self, schema: &Value, depth: usize) -> bool {
        let Value::Object(fields) = schema else { return false };
        if depth > MAX_DEPTH || !self.object(fields) {
            return false;
        }
        fields.iter().all(|(keyword, value)| match keyword.as_str() {
            "properties" | "$defs" | "definitions" => match value {
                Value::Object(schemas) => schemas.values().all(|schema| self.schema(schema, depth + 1)),
                _ => false,
            },
            "items" => self.schema(value, depth + 1),
            "anyOf" => match value {
                Value::Array(schemas) => schemas.iter().all(|schema| self.schema(schema, depth + 1)),
                _ => false,
            },
            "enum" => match value {
                Value::Array(values) => {
                    self.enum_values += values.len();
                    self.names += values.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
                    self.enum_values <= MAX_ENUM_VALUES && self.names <= MAX_NAMES
                }
                _ => false,
            },
            "format" => value.as_str().is_some_and(|format| FORMATS.contains(&format)),
            plain => PLAIN.contains(&plain),
        })
    }

    /// An object names all its properties as required and forbids others.
    fn object(&mut self, fields: &Map<String, Value>) -> bool {
        let is_object = match fields.get("type") {
            Some(Value::String(kind)) => kind == "object",
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
            Some(_) => return false,
            None => fields.contains_key("properties"),
        };
        if !is_object {
            return true;
        }
        let Some(Value::Object(properties)) = fields.get("properties") else {
            return false;
        };
        let Some(Value::Array(required)) = fields.get("required") else {
            return properties.is_empty() && closed(fields);
        };
        self.properties += properties.len();
        self.names += properties.keys().map(String::len).sum::<usize>();
        let names: HashSet<&str> = required.iter().filter_map(Value::as_str).collect();
        let all = properties.keys().all(|name| names.contains(name.as_str()));
        let known = required
            .iter()
            .all(|name| name.as_str().is_some_and(|name| properties.contains_key(name)));
        all && known && closed(fields) && self.properties <= MAX_PROPERTIES && self.names <= MAX_NAMES
    }
}

fn closed(fields: &Map<String, Value>) -> bool {
    fields.get("additionalProperties") == Some(&Value::Bool(false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_documented_subset_is_strict() {
        let closed = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        let text = json!({"type": "string"});
        for (strict, schema) in [
            (
                true,
                closed(
                    json!({"a": text, "b": {"type": ["integer", "null"], "minimum": 0}}),
                    json!(["a", "b"]),
                ),
            ),
            (
                true,
                closed(
                    json!({"a": {"type": "array", "items": closed(json!({"x": text}), json!(["x"]))}}),
                    json!(["a"]),
                ),
            ),
            (
                true,
                closed(json!({"a": {"anyOf": [text, {"type": "null"}]}}), json!(["a"])),
            ),
            (
                true,
                closed(
                    json!({"a": {"enum": ["x", "y"]}, "d": {"type": "string", "format": "date"}}),
                    json!(["a", "d"]),
                ),
            ),
            (
                true,
                json!({"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"],
                "additionalProperties": false, "$defs": {"n": text}}),
            ),
            (true, closed(json!({}), json!([]))),
            (false, closed(json!({"a": text, "b": text}), json!(["a"]))),
            (false, closed(json!({"a": text}), json!(["a", "b"]))),
            (
                false,
                json!({"type": "object", "properties": {"a": text}, "required": ["a"]}),
            ),
            (false, json!({"type": "object"})),
            (false, json!({"type": "array", "items": text})),
            (false, json!({"anyOf": [{"type": "object"}]})),
            (false, json!(true)),
            (false, closed(json!({"a": {"type": "object"}}), json!(["a"]))),
            (
                false,
                closed(
                    json!({"a": {"type": "array", "items": {"type": "object", "properties": {"x": text}}}}),
                    json!(["a"]),
                ),
            ),
            (
                false,
                closed(json!({"a": {"type": "string", "minLength": 1}}), json!(["a"])),
            ),
            (false, closed(json!({"a": {"allOf": [text]}}), json!(["a"]))),
            (
                false,
                closed(json!({"a": {"type": "string", "format": "uri"}}), json!(["a"])),
            ),
            (false, closed(json!({"a": true}), json!(["a"]))),
        ] {
            assert_eq!(allows_strict(&schema), strict, "{schema}");
        }
        let deep = (0..12).fold(text, |inner, _| closed(json!({"a": inner}), json!(["a"])));
        assert!(!allows_strict(&deep));
    }
}
