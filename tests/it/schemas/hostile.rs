//! Schemas and answers designed to be expensive: each is refused, or its validation ends within its limits, and this
//! process's memory does not grow.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{check, deep, doubling, pool};

/// Returns the resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn members(n: usize, member: impl Fn(usize) -> Value) -> Value {
    Value::Object((0..n).map(|i| (format!("p{i}"), member(i))).collect::<Map<_, _>>())
}

/// A value nested so deeply, with `width` copies at each of its last levels.
fn arrays(levels: usize, leaf: &str) -> String {
    format!("{}{leaf}{}", "[".repeat(levels), "]".repeat(levels))
}

fn list(n: usize, item: impl Fn(usize) -> String) -> String {
    let items: Vec<String> = (0..n).map(item).collect();
    format!("[{}]", items.join(","))
}

/// A recursive schema that validates the parts of a value in several ways at every level.
fn recursive(combine: &str, ways: usize) -> Value {
    let way = |i: usize| json!({ "type": "array", "items": { "$ref": "#/$defs/n" }, "maxItems": 1_000 + i });
    let ways: Vec<Value> = (0..ways).map(way).collect();
    json!({ "$ref": "#/$defs/n", "$defs": { "n": { combine: ways } } })
}

fn cases() -> Vec<(&'static str, Value, String)> {
    let reference = || json!({ "$ref": "#/$defs/n" });
    let rec = |n: Value| json!({ "$ref": "#/$defs/n", "$defs": { "n": n } });
    let nest =
        |key: &str, levels: usize| format!("{}\"x\"{}", format!("{{\"{key}\":").repeat(levels), "}".repeat(levels));
    let text = "a".repeat(200_000);
    let quoted = json!(text).to_string();
    let mut cases = vec![
        ("J02", (*doubling()).clone(), arrays(24, "\"x\"")),
        ("J02, deeper", (*doubling()).clone(), deep()),
        ("anyOf, three ways", recursive("anyOf", 3), arrays(50, "1")),
        ("anyOf, fifty ways", recursive("anyOf", 50), arrays(50, "1")),
        ("oneOf", recursive("oneOf", 2), arrays(50, "[]")),
        ("oneOf, failing", recursive("oneOf", 3), arrays(50, "1")),
        ("allOf", recursive("allOf", 2), arrays(50, "[]")),
        ("allOf, wide and deep", recursive("allOf", 40), arrays(60, "[]")),
        (
            "not",
            rec(json!({ "not": { "anyOf": [{ "items": reference() }, { "items": { "not": reference() } }] } })),
            arrays(50, "1"),
        ),
        (
            "if",
            rec(
                json!({ "if": { "items": reference() }, "then": { "items": reference() }, "else": { "items": reference() } }),
            ),
            arrays(50, "1"),
        ),
        (
            "contains",
            rec(json!({ "type": "array", "contains": reference(), "items": reference() })),
            arrays(50, "1"),
        ),
        (
            "prefixItems",
            rec(
                json!({ "type": "array", "anyOf": [{ "prefixItems": [reference()] }, { "prefixItems": [reference()], "minItems": 0 }] }),
            ),
            arrays(50, "1"),
        ),
        (
            "unevaluatedItems",
            rec(
                json!({ "anyOf": [{ "contains": reference() }, { "prefixItems": [reference()] }], "unevaluatedItems": reference() }),
            ),
            arrays(50, "1"),
        ),
        (
            "unevaluatedProperties",
            rec(
                json!({ "anyOf": [{ "properties": { "a": reference() } }, { "patternProperties": { "a": reference() } }], "unevaluatedProperties": reference(), "type": "object" }),
            ),
            nest("a", 50),
        ),
        (
            "properties",
            rec(
                json!({ "type": "object", "anyOf": [{ "properties": { "a": reference() } }, { "additionalProperties": reference() }] }),
            ),
            nest("a", 50),
        ),
        (
            "patternProperties",
            rec(
                json!({ "type": "object", "patternProperties": { "a": reference(), "^a": reference(), "a$": reference() } }),
            ),
            nest("a", 50),
        ),
        (
            "dependentSchemas",
            rec(
                json!({ "type": "object", "dependentSchemas": { "a": { "properties": { "a": reference() } } }, "properties": { "a": reference() } }),
            ),
            nest("a", 50),
        ),
        (
            "propertyNames",
            rec(json!({ "propertyNames": { "not": { "pattern": "^(a|aa)+$" } }, "additionalProperties": reference() })),
            nest("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 50),
        ),
        (
            "$dynamicRef",
            json!({ "$dynamicAnchor": "n", "anyOf": [{ "type": "array", "items": { "$dynamicRef": "#n" } }, { "type": "array", "minItems": 0, "items": { "$dynamicRef": "#n" } }] }),
            arrays(50, "1"),
        ),
        (
            "$dynamicRef and unevaluatedItems",
            json!({ "$dynamicAnchor": "n", "type": "array", "unevaluatedItems": { "$dynamicRef": "#n" }, "anyOf": [{ "items": { "$dynamicRef": "#n" }, "maxItems": 0 }, { "minItems": 1, "contains": { "$dynamicRef": "#n" } }] }),
            arrays(50, "1"),
        ),
        (
            "by anchor",
            json!({ "$defs": { "n": { "$anchor": "n", "oneOf": [{ "type": "array", "items": { "$ref": "#n" } }, { "type": "array", "minItems": 9, "items": { "$ref": "#n" } }] } }, "$ref": "#n" }),
            arrays(50, "1"),
        ),
        (
            "two that call each other",
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "array", "anyOf": [{ "items": { "$ref": "#/$defs/b" } }, { "items": { "$ref": "#/$defs/a" } }] }, "b": { "type": "array", "anyOf": [{ "items": { "$ref": "#/$defs/a" } }, { "items": { "$ref": "#/$defs/b" } }] } } }),
            arrays(60, "1"),
        ),
        (
            "many errors",
            json!({ "items": { "type": "string", "pattern": "^x$", "minLength": 9 } }),
            list(100_000, |_| "1".into()),
        ),
        (
            "many errors that quote much",
            json!({ "items": false, "maxItems": 0, "not": {}, "const": 1, "enum": [1, 2] }),
            list(50_000, |i| format!("\"{i}\"")),
        ),
        (
            "many errors in branches",
            json!({ "items": { "anyOf": vec![json!({ "type": "string", "minLength": 5 }); 50] } }),
            list(30_000, |_| "1".into()),
        ),
        (
            "uniqueItems",
            json!({ "uniqueItems": true }),
            list(60_000, |i| format!("[{i}]")),
        ),
        (
            "uniqueItems of objects",
            json!({ "uniqueItems": true }),
            list(15_000, |i| format!("{{\"a\":{{\"b\":{i}}}}}")),
        ),
        (
            "uniqueItems of the same number",
            json!({ "uniqueItems": true }),
            list(60_000, |i| format!("{i}.0")),
        ),
        (
            "enum of much",
            json!({ "items": { "enum": (0..1000).collect::<Vec<_>>() } }),
            list(60_000, |_| "1001".into()),
        ),
        (
            "enum of objects",
            json!({ "items": { "enum": (0..500).map(|i| json!({ "aaaaaaaaaa": { "b": i } })).collect::<Vec<_>>() } }),
            list(10_000, |_| "{\"aaaaaaaaaa\":{\"b\":501}}".into()),
        ),
        (
            "contains in much",
            json!({ "contains": { "const": 1 }, "minContains": 1_000_000 }),
            list(100_000, |_| "2".into()),
        ),
        (
            "multipleOf",
            json!({ "items": { "multipleOf": 0.000_001 } }),
            list(30_000, |_| "1.7976931348623157e308".into()),
        ),
        (
            "multipleOf of tiny",
            json!({ "items": { "multipleOf": 999_999_999_999_999_u64 } }),
            list(30_000, |_| "5e-324".into()),
        ),
        (
            "huge numbers",
            json!({ "minimum": 1e308, "maxLength": 1e18, "minItems": 9_007_199_254_740_993_u64, "multipleOf": 3 }),
            "1e400".into(),
        ),
        (
            "long numbers",
            json!({ "type": "integer", "multipleOf": 7 }),
            "9".repeat(200_000),
        ),
        (
            "a long text against patterns",
            json!({ "allOf": (0..32).map(|i| json!({ "pattern": format!("(a|aa|aaa){{1,{}}}b", 5 + i) })).collect::<Vec<_>>() }),
            quoted.clone(),
        ),
        (
            "nested repetition",
            json!({ "pattern": "^(((a+)+)+)+$" }),
            json!(format!("{text}!")).to_string(),
        ),
        (
            "counted repetition",
            json!({ "pattern": "^(a{1,50}){1,50}$" }),
            json!(format!("{text}!")).to_string(),
        ),
        (
            "unicode classes",
            json!({ "pattern": "^[\\p{L}\\p{N}]{1,40}$" }),
            quoted.clone(),
        ),
        (
            "a pattern of words",
            json!({ "items": { "pattern": "(x+x+)+y" } }),
            list(2_000, |_| format!("\"{}\"", "x".repeat(100))),
        ),
        (
            "a look-behind",
            json!({ "pattern": "(?<=a)(?=b)(?!c)\\1" }),
            quoted.clone(),
        ),
        ("a back-reference", json!({ "pattern": "^(a*)*\\1$" }), quoted.clone()),
        (
            "a regex as format",
            json!({ "format": "regex" }),
            json!("(".repeat(50_000)).to_string(),
        ),
        (
            "formats",
            json!({ "items": { "anyOf": [{ "format": "email" }, { "format": "uri" }, { "format": "hostname" }, { "format": "date-time" }] } }),
            list(1_000, |_| format!("\"{}\"", "a.".repeat(100))),
        ),
        (
            "content",
            json!({ "contentEncoding": "base64", "contentMediaType": "application/json", "contentSchema": { "$ref": "#" } }),
            quoted.clone(),
        ),
        (
            "wide and required",
            json!({ "required": (0..1000).map(|i| format!("k{i}")).collect::<Vec<_>>(), "properties": members(900, |_| json!({ "type": "string" })) }),
            "{}".into(),
        ),
        (
            "many properties",
            json!({ "additionalProperties": { "type": "string" }, "patternProperties": { "^k1": {}, "^k2": {}, "9$": false } }),
            format!(
                "{{{}}}",
                (0..20_000)
                    .map(|i| format!("\"k{i}\":{i}"))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        ),
        (
            "deep answers",
            json!({ "items": { "items": true } }),
            arrays(2_000, "1"),
        ),
        ("answers of brackets", json!({ "type": "array" }), "[".repeat(250_000)),
        (
            "a hundred combinators over a large answer",
            json!({ "items": { "allOf": vec![json!({ "not": { "const": 5 } }); 49] } }),
            list(100_000, |_| "1".into()),
        ),
        (
            "boolean schemas",
            json!({ "allOf": vec![json!(true); 9_000] }),
            list(100_000, |_| "1".into()),
        ),
    ];
    // Over the budget: the worker itself refuses it, even if nothing was measured before.
    cases.extend([
        (
            "J05",
            json!({ "properties": members(400, |i| json!({ "pattern": format!("^\\p{{L}}{{80}}<{i}>$") })) }),
            "{}".into(),
        ),
        (
            "32 of J05",
            json!({ "properties": members(32, |i| json!({ "pattern": format!("^\\p{{L}}{{80}}<{i}>$") })) }),
            "{}".into(),
        ),
        (
            "1,000 of J05",
            json!({ "properties": members(1_000, |i| json!({ "pattern": format!("^\\p{{L}}{{80}}<{i}>$") })) }),
            "{}".into(),
        ),
        (
            "large classes",
            json!({ "properties": members(32, |_| json!({ "pattern": "^[\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}]{1,200}$" })) }),
            "{}".into(),
        ),
        ("itself", json!({ "$ref": "#" }), "1".into()),
        ("itself by allOf", json!({ "allOf": [{ "$ref": "#" }] }), "1".into()),
    ]);
    cases
}

#[tokio::test]
async fn every_check_ends_within_its_bounds_and_costs_this_process_nothing() {
    let pool = pool(2, Duration::from_millis(700));
    let before = resident();
    for (name, schema, answer) in cases() {
        // Whatever the result, it comes in time.
        let outcome = check(&pool, &schema, &answer).await;
        println!("{name}: {outcome:.120?}");
    }
    let after = resident();
    assert!(after < before + 96 * 1024 * 1024, "{before} grew to {after}");
}
