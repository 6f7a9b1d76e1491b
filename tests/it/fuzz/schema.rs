//! Callers' schemas, and values validated against them.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::schema_check::{SchemaPool, Settings};
use copilotd_actors::domain::schema::budget::{MAX_COMBINATORS, MAX_DEPTH, MAX_NODES, measure};
use copilotd_actors::ports::{SchemaChecker as _, SchemaError};
use copilotd_actors::tenancy::TenantScope;
use serde_json::{Map, Value, json};

use super::text::{self, Choices};

const TYPES: &[&str] = &[
    "object",
    "array",
    "string",
    "integer",
    "number",
    "boolean",
    "null",
    "no-such-type",
];
const PATTERNS: &[&str] = &[
    "^a+$",
    "(a|b)*c",
    "\\p{L}{80}",
    "[",
    "(?:a{1,50}){1,50}",
    "^$",
    "\\d{1,3}",
    "(?i)x",
];
const REFERENCES: &[&str] = &[
    "#",
    "#/$defs/a",
    "#/$defs/b",
    "#a",
    "#/properties/a",
    "https://example.com/",
    "#/$defs/none",
];

/// Grows a schema from the keywords that make validation expensive.
fn schema(choices: &mut Choices<'_>, depth: usize) -> Value {
    if depth == 0 || choices.is_empty() {
        let leaf = choices.of(&["true", "{}", "{\"type\":\"string\"}", "false"]);
        return serde_json::from_str(leaf).unwrap();
    }
    let mut fields = Map::new();
    for _ in 0..=choices.byte() % 3 {
        let name = choices.of(&[
            "type",
            "properties",
            "items",
            "anyOf",
            "oneOf",
            "allOf",
            "not",
            "$ref",
            "pattern",
            "patternProperties",
            "enum",
            "uniqueItems",
            "contains",
            "minItems",
            "$defs",
            "required",
            "multipleOf",
            "unevaluatedProperties",
            "dependentSchemas",
            "propertyNames",
            "$anchor",
            "const",
            "if",
            "maxLength",
        ]);
        let list = |choices: &mut Choices<'_>| (0..choices.byte() % 4).map(|_| schema(choices, depth - 1)).collect();
        let named = |choices: &mut Choices<'_>, names: &[&str]| {
            let mut named = Map::new();
            for name in names {
                named.insert((*name).to_owned(), schema(choices, depth - 1));
            }
            Value::Object(named)
        };
        let value = match name {
            "type" => choices.of(TYPES).into(),
            "properties" | "$defs" | "dependentSchemas" => named(choices, &["a", "b"]),
            "patternProperties" => {
                let pattern = choices.of(PATTERNS);
                named(choices, &[pattern])
            }
            "anyOf" | "oneOf" | "allOf" => Value::Array(list(choices)),
            "$ref" => choices.of(REFERENCES).into(),
            "pattern" => choices.of(PATTERNS).into(),
            "enum" | "const" => serde_json::from_str(&text::json(choices.take(12))).unwrap_or(json!([1, "a"])),
            "uniqueItems" => true.into(),
            "minItems" | "maxLength" => choices.byte().into(),
            "required" => json!(["a", "b"]),
            "multipleOf" => json!(choices.of(&[1.0, 0.01, 1e-300, 1e300, 0.0])),
            "$anchor" => "a".into(),
            _ => schema(choices, depth - 1),
        };
        fields.insert(name.to_owned(), value);
    }
    Value::Object(fields)
}

/// Schemas that pass the budget stay within it, and every validation against such a schema ends.
#[test]
fn fuzz_schema() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let settings = Settings {
        deadline: Duration::from_millis(500),
        ..Settings::default()
    };
    let pool = SchemaPool::new(env!("CARGO_BIN_EXE_copilotd").into(), settings);
    let scope = TenantScope::from_verified("acme".parse().unwrap());
    super::fuzz(1024, |input| {
        let (grown, answer) = input.split_at(input.len() / 2);
        let depth = usize::from(input.first().copied().unwrap_or(0)) % 12;
        let schema = Arc::new(schema(&mut Choices::new(grown), depth));
        let Ok(cost) = measure(&schema) else { return };
        assert!(
            cost.nodes <= MAX_NODES && cost.combinators <= MAX_COMBINATORS && cost.depth <= MAX_DEPTH,
            "{schema}"
        );
        let answer = text::json(answer);
        let checked = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), pool.check(&scope, &schema, &answer)).await
        });
        let checked = checked.expect("every check ends");
        assert!(
            !matches!(checked, Err(SchemaError::Unavailable(_) | SchemaError::Busy)),
            "{checked:?} {schema} {answer}"
        );
    });
}
