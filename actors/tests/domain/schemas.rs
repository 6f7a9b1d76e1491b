//! The budget of a caller's schema: hostile schemas are rejected with a pointer, without being expanded.

use copilotd_actors::domain::schema::budget::{Cost, measure};
use serde_json::{Map, Value, json};

/// `n` members, made by `member`.
fn members(n: usize, member: impl Fn(usize) -> Value) -> Value {
    Value::Object((0..n).map(|i| (format!("p{i}"), member(i))).collect::<Map<_, _>>())
}

/// Definitions d0 to d`n`, each of which contains its successor as built by `hold`.
fn chain(n: usize, hold: impl Fn(Value) -> Value) -> Value {
    let mut definitions: Map<String, Value> = (0..n)
        .map(|i| (format!("d{i}"), hold(json!({ "$ref": format!("#/$defs/d{}", i + 1) }))))
        .collect();
    definitions.insert(format!("d{n}"), json!({ "type": "string" }));
    Value::Object(definitions)
}

/// A schema nested this deeply.
fn nested(levels: usize, key: &str) -> Value {
    (0..levels).fold(json!({ "type": "string" }), |inner, _| match key {
        "properties" => json!({ "properties": { "a": inner } }),
        "allOf" | "prefixItems" => json!({ key: [inner] }),
        key => json!({ key: inner }),
    })
}

#[test]
fn hostile_schemas_are_refused_with_their_place() {
    let twice = |inner: Value| json!({ "allOf": [inner.clone(), inner] });
    let pair = |inner: Value| json!({ "properties": { "a": inner.clone(), "b": inner } });
    let long = "x".repeat(300);
    let table: Vec<(&str, Value, &str, &str)> = vec![
        ("no object", json!(true), "", "must be a JSON object"),
        (
            "too long",
            json!({ "description": "x".repeat(70_000) }),
            "",
            "at most 65536 bytes",
        ),
        (
            "2^30 by allOf",
            json!({ "$ref": "#/$defs/d0", "$defs": chain(30, twice) }),
            "/$defs/d",
            "combining keywords",
        ),
        (
            "2^30 by properties",
            json!({ "$ref": "#/$defs/d0", "$defs": chain(30, pair) }),
            "/$defs/d",
            "subschemas",
        ),
        (
            "2^30 unreferenced",
            json!({ "$defs": chain(30, pair) }),
            "/$defs/d",
            "subschemas",
        ),
        (
            "2^30 by items",
            json!({ "$defs": chain(30, |r| json!({ "prefixItems": [r.clone(), r] })) }),
            "/$defs/d",
            "subschemas",
        ),
        (
            "2^30 in definitions",
            json!({ "$ref": "#/definitions/d0", "definitions": chain_in("definitions", 30) }),
            "/definitions/d",
            "subschemas",
        ),
        (
            "by anchors",
            json!({ "$defs": anchored(25), "$ref": "#a0" }),
            "/$defs/d",
            "subschemas",
        ),
        (
            "by $dynamicRef",
            json!({ "$defs": dynamic(25), "$dynamicRef": "#a0" }),
            "/$defs/d",
            "subschemas",
        ),
        (
            "by escaped pointers",
            json!({ "$defs": { "a/b": { "properties": members(1_000, |_| json!({})) } }, "properties": members(20, |_| json!({ "$ref": "#/%24defs/a~1b" })) }),
            "",
            "subschemas",
        ),
        (
            "wide",
            json!({ "properties": { "w": { "properties": members(10_001, |_| json!({})) } } }),
            "",
            "at most 65536 bytes",
        ),
        (
            "wide by reuse",
            json!({ "$defs": { "w": { "properties": members(200, |_| json!({})) } }, "properties": members(60, |_| json!({ "$ref": "#/$defs/w" })) }),
            "",
            "subschemas",
        ),
        (
            "wide by an array of items",
            json!({ "$defs": { "w": { "items": [ {}, {}, {}, {}, {}, {}, {}, {} ] } }, "properties": members(1200, |_| json!({ "$ref": "#/$defs/w" })) }),
            "",
            "subschemas",
        ),
        (
            "reused required",
            json!({ "$defs": { "r": { "required": (0..400).map(|i| format!("k{i}")).collect::<Vec<_>>() } }, "properties": members(30, |_| json!({ "$ref": "#/$defs/r" })) }),
            "",
            "required names",
        ),
        (
            "reused enum",
            json!({ "$defs": { "e": { "enum": (0..900).collect::<Vec<_>>() } }, "properties": members(12, |_| json!({ "$ref": "#/$defs/e" })) }),
            "",
            "enumerated values",
        ),
        (
            "reused patterns",
            json!({ "$defs": { "e": { "pattern": "^a+$" } }, "properties": members(257, |_| json!({ "$ref": "#/$defs/e" })) }),
            "",
            "regular expressions",
        ),
        (
            "a reference into data",
            json!({ "enum": [{ "allOf": [{ "$ref": "#/enum/0" }] }], "properties": { "a": { "$ref": "#/enum/0" } } }),
            "/enum/0",
            "refers to itself",
        ),
        (
            "101 anyOf",
            json!({ "properties": members(101, |_| json!({ "anyOf": [{}, {}] })) }),
            "",
            "combining keywords",
        ),
        (
            "101 not",
            json!({ "properties": members(101, |_| json!({ "not": {} })) }),
            "",
            "combining keywords",
        ),
        (
            "101 if",
            json!({ "properties": members(101, |_| json!({ "if": {}, "then": {} })) }),
            "",
            "combining keywords",
        ),
        (
            "101 oneOf by reuse",
            json!({ "$defs": { "o": { "oneOf": [{}, {}] } }, "prefixItems": vec![json!({ "$ref": "#/$defs/o" }); 101] }),
            "",
            "combining keywords",
        ),
        (
            "101 contains",
            json!({ "allOf": vec![json!({ "contains": {} }); 101] }),
            "",
            "combining keywords",
        ),
        (
            "101 dependentSchemas",
            json!({ "properties": members(101, |_| json!({ "dependentSchemas": { "a": {} } })) }),
            "",
            "combining keywords",
        ),
        (
            "101 unevaluated",
            json!({ "properties": members(101, |_| json!({ "unevaluatedProperties": false })) }),
            "",
            "combining keywords",
        ),
        (
            "101 propertyNames",
            json!({ "properties": members(101, |_| json!({ "propertyNames": {} })) }),
            "",
            "combining keywords",
        ),
        (
            "deep properties",
            nested(65, "properties"),
            "/properties/a/properties/a",
            "nested deeper",
        ),
        ("deep items", nested(65, "items"), "/items/items", "nested deeper"),
        ("deep not", nested(65, "not"), "/not/not", "nested deeper"),
        ("deep allOf", nested(65, "allOf"), "/allOf/0/allOf/0", "nested deeper"),
        (
            "deep additionalProperties",
            nested(65, "additionalProperties"),
            "/additionalProperties",
            "nested deeper",
        ),
        (
            "deep by references",
            json!({ "$ref": "#/$defs/d0", "$defs": chain(2_00, |r| json!({ "items": r })) }),
            "/$defs/d",
            "nested deeper",
        ),
        (
            "deep by plain references",
            json!({ "$ref": "#/$defs/d0", "$defs": chain(200, |r| r) }),
            "/$defs/d",
            "nested deeper",
        ),
        (
            "33 patterns",
            json!({ "properties": members(33, |_| json!({ "pattern": "a" })) }),
            "/properties/p32/pattern",
            "regular expression too many",
        ),
        (
            "33 patternProperties",
            json!({ "patternProperties": members(33, |_| json!({})) }),
            "/patternProperties/p32",
            "regular expression too many",
        ),
        (
            "33 mixed",
            json!({ "patternProperties": members(20, |_| json!({ "pattern": "x" })) }),
            "/patternProperties",
            "regular expression too many",
        ),
        (
            "J05",
            json!({ "properties": members(400, |i| json!({ "pattern": format!("^\\p{{L}}{{80}}<{i}>$") })) }),
            "/properties/p32/pattern",
            "regular expression too many",
        ),
        (
            "a long pattern",
            json!({ "pattern": "a".repeat(1025) }),
            "/pattern",
            "more than 1024 bytes",
        ),
        (
            "a long patternProperties",
            json!({ "patternProperties": { "a".repeat(1025): {} } }),
            "/patternProperties/aaa",
            "more than 1024 bytes",
        ),
        (
            "a long enum",
            json!({ "properties": { "a": { "enum": (0..1001).collect::<Vec<_>>() } } }),
            "/properties/a/enum",
            "1001 values",
        ),
        (
            "a large enum",
            json!({ "enum": ["x".repeat(40_000)] }),
            "/enum",
            "32768 bytes",
        ),
        (
            "a large const",
            json!({ "const": "x".repeat(40_000) }),
            "/const",
            "32768 bytes",
        ),
        (
            "a long required",
            json!({ "required": (0..1001).map(|i| format!("k{i}")).collect::<Vec<_>>() }),
            "/required",
            "1001 names",
        ),
        (
            "a long dependentRequired",
            json!({ "dependentRequired": { "a": (0..1001).map(|i| format!("k{i}")).collect::<Vec<_>>() } }),
            "/dependentRequired/a",
            "1001 names",
        ),
        (
            "a long name",
            json!({ "properties": { long.clone(): {} } }),
            "/properties",
            "longer than 256",
        ),
        (
            "a long required name",
            json!({ "required": [long.clone()] }),
            "/required",
            "longer than 256",
        ),
        (
            "a huge multipleOf",
            json!({ "multipleOf": 1e308 }),
            "/multipleOf",
            "must be between",
        ),
        (
            "a tiny multipleOf",
            json!({ "properties": { "n": { "multipleOf": 1e-300 } } }),
            "/properties/n/multipleOf",
            "must be between",
        ),
        (
            "a zero multipleOf",
            json!({ "multipleOf": 0 }),
            "/multipleOf",
            "must be between",
        ),
        ("itself", json!({ "$ref": "#" }), "", "refers to itself"),
        (
            "itself by allOf",
            json!({ "properties": { "x": { "allOf": [{ "$ref": "#/properties/x" }] } } }),
            "/properties/x",
            "refers to itself",
        ),
        (
            "itself by two",
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "anyOf": [{ "$ref": "#/$defs/a" }] } } }),
            "/$defs/",
            "refers to itself",
        ),
        (
            "itself by not",
            json!({ "not": { "$ref": "#" } }),
            "",
            "refers to itself",
        ),
        (
            "itself by a dependent schema",
            json!({ "dependentSchemas": { "a": { "$ref": "#" } } }),
            "",
            "refers to itself",
        ),
        (
            "itself by an anchor",
            json!({ "$anchor": "me", "if": { "$ref": "#me" } }),
            "",
            "refers to itself",
        ),
        (
            "itself by $recursiveRef",
            json!({ "else": { "$recursiveRef": "#" } }),
            "",
            "refers to itself",
        ),
        (
            "elsewhere",
            json!({ "$ref": "https://example.com/a.json" }),
            "/$ref",
            "does not resolve",
        ),
        (
            "a file",
            json!({ "properties": { "a": { "$ref": "file:///etc/passwd" } } }),
            "/properties/a/$ref",
            "does not resolve",
        ),
        (
            "nowhere",
            json!({ "$ref": "#/$defs/none" }),
            "/$ref",
            "does not resolve",
        ),
        (
            "an unknown anchor",
            json!({ "items": { "$dynamicRef": "#none" } }),
            "/items/$dynamicRef",
            "does not resolve",
        ),
        (
            "a broken escape",
            json!({ "$ref": "#/%4" }),
            "/$ref",
            "does not resolve",
        ),
        (
            "a nested $id",
            json!({ "items": { "$id": "https://example.com/b", "$ref": "#" } }),
            "/items/$id",
            "only supported at the root of the schema",
        ),
        (
            "a nested $schema",
            json!({ "items": { "$schema": "http://json-schema.org/draft-04/schema#" } }),
            "/items/$schema",
            "only supported at the root of the schema",
        ),
        (
            "an anchor twice",
            json!({ "$anchor": "a", "items": { "$anchor": "a" } }),
            "/items/$anchor",
            "another part",
        ),
    ];
    for (name, schema, pointer, message) in table {
        let violation = measure(&schema).expect_err(name);
        assert!(violation.message.contains(message), "{name}: {violation:?}");
        assert!(violation.pointer.starts_with(pointer), "{name}: {violation:?}");
        let place = schema.pointer(&violation.pointer);
        assert!(place.is_some(), "{name}: the pointer resolves: {violation:?}");
    }
}

fn chain_in(place: &str, n: usize) -> Value {
    let text = chain(n, |r| json!({ "properties": { "a": r.clone(), "b": r } })).to_string();
    serde_json::from_str(&text.replace("$defs", place)).expect("it is still JSON")
}

fn anchored(n: usize) -> Value {
    let link = |i: usize| json!({ "$ref": format!("#a{}", i + 1) });
    let part = |i: usize| {
        (
            format!("d{i}"),
            json!({ "$anchor": format!("a{i}"), "items": link(i), "contains": link(i) }),
        )
    };
    let mut all: Map<String, Value> = (0..n).map(part).collect();
    all.insert(
        "end".into(),
        json!({ "$anchor": format!("a{n}"), "properties": members(40, |_| json!({})) }),
    );
    // Fewer combinators than parts, so that the parts exceed the limit.
    for part in all.values_mut().filter_map(Value::as_object_mut) {
        if let Some(contains) = part.remove("contains") {
            part.insert("additionalProperties".into(), contains);
        }
    }
    Value::Object(all)
}

fn dynamic(n: usize) -> Value {
    let text = anchored(n).to_string();
    let text = text.replace("$anchor", "$dynamicAnchor").replace("$ref", "$dynamicRef");
    serde_json::from_str(&text).expect("it is still JSON")
}

#[test]
fn ordinary_schemas_are_within_the_budget() {
    let tree = json!({ "$defs": { "node": { "type": "object", "required": ["name"], "properties": {
        "name": { "type": "string" }, "children": { "type": "array", "items": { "$ref": "#/$defs/node" } } } } },
        "$ref": "#/$defs/node" });
    let optional = members(90, |_| json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }));
    for schema in [
        json!({}),
        tree,
        json!({ "properties": optional }),
        json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/s", "items": { "$ref": "https://example.com/s#" } }),
        json!({ "$id": "https://example.com/s#", "$defs": { "a": {} }, "items": { "$ref": "https://example.com/s#/$defs/a" } }),
        // Data is not a schema.
        json!({ "enum": [{ "$ref": "nowhere" }, { "pattern": "x".repeat(2000) }], "default": { "$id": "x" }, "examples": [{ "anyOf": 1 }] }),
        json!({ "properties": { "anyOf": { "type": "string" }, "$ref": { "type": "string" }, "enum": {} } }),
        json!({ "minLength": 1e18, "maxItems": 9007199254740993_u64, "minimum": 1e308 }),
        json!({ "multipleOf": 0.01 }),
        nested(60, "properties"),
        json!({ "properties": members(32, |_| json!({ "pattern": "^a+$" })) }),
        json!({ "items": true, "additionalProperties": false, "not": false }),
    ] {
        measure(&schema).unwrap_or_else(|violation| panic!("{violation:?}: {schema}"));
    }
    // The schema of J02 is small: its cost depends on the value.
    let recursive = json!({ "$ref": "#/$defs/n", "$defs": { "n": { "anyOf": [
        { "type": "array", "items": { "$ref": "#/$defs/n" }, "minItems": 0 },
        { "type": "array", "items": { "$ref": "#/$defs/n" }, "maxItems": 99 } ] } } });
    let cost = measure(&recursive).expect("it is small");
    assert!(cost.nodes < 30 && cost.depth < 10, "{cost:?}");
}

#[test]
fn every_part_is_counted_as_often_as_it_is_used() {
    let schema = json!({ "$defs": { "a": { "enum": [1, 2, 3], "pattern": "x" } },
        "prefixItems": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/a" }], "not": { "const": 1 } });
    // The root; `a` with its three values, once as it stands and twice by reference; both items; `not` with its value.
    let expected = Cost {
        nodes: 1 + 3 * 4 + 2 + 2,
        combinators: 1,
        patterns: 3,
        depth: 2,
    };
    assert_eq!(measure(&schema), Ok(expected));
}
