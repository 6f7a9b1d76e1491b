//! Converts a schema to the subset of JSON Schema that Anthropic enforces.
//!
//! In that subset every object is closed. An object that is left open here is closed: what satisfies the closed schema
//! satisfies the open one too. A constraint that the provider does not accept is omitted only if the caller asks for
//! best effort (`strict` is not true): otherwise answers could violate it, and such a schema is for another target.

use serde_json::{Map, Value};

/// Deeper schemas are refused.
const MAX_DEPTH: usize = 32;
/// Keywords that are accepted and need no further check.
const PLAIN: &[&str] = &[
    "$ref",
    "$schema",
    "const",
    "default",
    "description",
    "enum",
    "examples",
    "pattern",
    "required",
    "title",
    "type",
];
/// Keywords that only narrow a value; without them a schema still has its shape.
const BOUNDS: &[&str] = &[
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
    "multipleOf",
    "uniqueItems",
];
const FORMATS: &[&str] = &[
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "time",
    "uri",
    "uuid",
];

/// Returns the closed form of `schema`, or why the provider does not accept it. `strict`: with every constraint.
pub(super) fn closed(schema: &Value, strict: bool) -> Result<Value, &'static str> {
    let root = walk(schema, strict, 0)?;
    if root.get("type").is_some_and(|kind| kind == "object")
        || root.get("anyOf").is_some()
        || root.get("$ref").is_some()
    {
        return Ok(root);
    }
    Err("the schema's root must be an object")
}

fn walk(schema: &Value, strict: bool, depth: usize) -> Result<Value, &'static str> {
    let Value::Object(fields) = schema else {
        return Err("a schema must be an object");
    };
    if depth > MAX_DEPTH {
        return Err("the schema is nested too deeply");
    }
    let mut out = Map::new();
    for (keyword, value) in fields {
        let value = match keyword.as_str() {
            "properties" | "$defs" | "definitions" => {
                let Value::Object(schemas) = value else {
                    return Err("properties must be an object");
                };
                let mut walked = Map::new();
                for (name, schema) in schemas {
                    walked.insert(name.clone(), walk(schema, strict, depth + 1)?);
                }
                Value::Object(walked)
            }
            "items" => walk(value, strict, depth + 1)?,
            "anyOf" | "allOf" => {
                let Value::Array(schemas) = value else {
                    return Err("alternatives must be an array");
                };
                schemas
                    .iter()
                    .map(|schema| walk(schema, strict, depth + 1))
                    .collect::<Result<_, _>>()?
            }
            "minItems" if value.as_u64().is_some_and(|least| least <= 1) => value.clone(),
            "format" if value.as_str().is_some_and(|format| FORMATS.contains(&format)) => value.clone(),
            "additionalProperties" if value == &Value::Bool(false) => value.clone(),
            "additionalProperties" => return Err("objects that allow additional properties are not supported"),
            plain if PLAIN.contains(&plain) => value.clone(),
            bound if !strict && BOUNDS.contains(&bound) => continue,
            _ => return Err("the schema has an unsupported keyword"),
        };
        out.insert(keyword.clone(), value);
    }
    let is_object = match fields.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        Some(kind) => kind == "object",
        None => fields.contains_key("properties"),
    };
    if is_object {
        // Closing it would leave no allowed members.
        if !fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
            return Err("objects that allow additional properties are not supported");
        }
        out.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Ok(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn open_objects_are_closed_and_what_cannot_be_promised_is_refused() {
        let text = json!({"type": "string"});
        let object = |properties: Value| json!({"type": "object", "properties": properties});
        let shut =
            |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
        for (schema, expected) in [
            (object(json!({"a": text})), Some(shut(json!({"a": text})))),
            (
                object(json!({"a": {"type": "array", "minItems": 1, "items": object(json!({"b": text}))}})),
                Some(shut(
                    json!({"a": {"type": "array", "minItems": 1, "items": shut(json!({"b": text}))}}),
                )),
            ),
            (
                json!({"anyOf": [object(json!({"a": text})), {"$ref": "#/$defs/b"}], "$defs": {"b": object(json!({}))}}),
                Some(
                    json!({"anyOf": [shut(json!({"a": text})), {"$ref": "#/$defs/b"}], "$defs": {"b": shut(json!({}))}}),
                ),
            ),
            (
                object(json!({"minimum": {"type": "string", "format": "date"}})),
                Some(shut(json!({"minimum": {"type": "string", "format": "date"}}))),
            ),
            (object(json!({"a": {"type": "integer", "minimum": 1}})), None),
            (object(json!({"a": {"type": "string", "minLength": 1}})), None),
            (object(json!({"a": {"type": "string", "format": "regex"}})), None),
            (object(json!({"a": {"type": "array", "minItems": 2}})), None),
            (object(json!({"a": {"type": "object"}})), None),
            (
                json!({"type": "object", "properties": {}, "additionalProperties": true}),
                None,
            ),
            (json!({"type": "object", "oneOf": []}), None),
            (json!({"type": "array", "items": text}), None),
            (json!(true), None),
            (Value::Null, None),
        ] {
            assert_eq!(closed(&schema, true).ok(), expected, "{schema}");
        }
        let deep = (0..40).fold(text, |inner, _| object(json!({"a": inner})));
        assert!(closed(&deep, true).is_err() && closed(&deep, false).is_err());
        let bounded = object(json!({"a": {"type": "integer", "minimum": 1}}));
        let expected = shut(json!({"a": {"type": "integer"}}));
        assert_eq!(closed(&bounded, false), Ok(expected));
        for open in [
            json!({"type": "object"}),
            object(json!({"a": {"oneOf": []}})),
            json!({"type": "object", "additionalProperties": true}),
        ] {
            assert!(closed(&open, false).is_err(), "{open}");
        }
    }
}
