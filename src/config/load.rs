//! From a TOML text to a checked [`Config`], or to everything that is wrong with it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::check::{self, Node};
use super::env::Env;
use super::faults::Faults;
use super::{Config, secret};
use crate::shape::Shape;

/// The schema's text; also what `schemas/` documents.
const SCHEMA: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/schemas/config/copilotd.schema.json"
));

static SHAPE: LazyLock<Shape> =
    LazyLock::new(|| Shape::compile(SCHEMA).expect("the configuration's schema is compiled by every test of it"));

/// A configuration before its secrets are fetched: the file as it was written, to which tenants may be added, or changed in.
#[derive(Clone)]
pub struct Source {
    value: Value,
    env: Env,
    known_tools: BTreeSet<String>,
}

impl Source {
    /// Reads the file at `path`. `known_tools` are the names that a copilot's `tools` may hold.
    pub fn load(path: &Path, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Faults::one("", format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text, env, known_tools)
    }

    /// Reads a configuration's text.
    pub fn parse(text: &str, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        Ok(Self {
            value: read_toml(text)?,
            env: env.clone(),
            known_tools: known_tools.clone(),
        })
    }

    /// Returns the table of a tenant as the file has it.
    pub fn tenant(&self, id: &str) -> Option<&Value> {
        self.tenants().find(|tenant| tenant["id"] == id)
    }

    /// Lists the tables of all tenants.
    pub fn tenants(&self) -> impl Iterator<Item = &Value> {
        self.value["tenants"].as_array().into_iter().flatten()
    }

    /// Tells whether two configurations are the same but for their tenants.
    pub fn differs_in_tenants_only(&self, other: &Self) -> bool {
        let rest = |source: &Self| {
            let mut rest = source.value.clone();
            if let Value::Object(rest) = &mut rest {
                rest.remove("tenants");
            }
            rest
        };
        rest(self) == rest(other)
    }

    /// Fetches the secrets and checks everything. Each of `tenants`, a whole table, stands in the place of the file's tenant of
    /// its id, or is added.
    pub fn config(&self, tenants: &[Value]) -> Result<Config, Faults> {
        let mut value = self.value.clone();
        if let Some(known) = value.get_mut("tenants").and_then(Value::as_array_mut) {
            for tenant in tenants {
                match known.iter_mut().find(|table| table["id"] == tenant["id"]) {
                    Some(table) => table.clone_from(tenant),
                    None => known.push(tenant.clone()),
                }
            }
        }
        let mut faults = Faults::default();
        for violation in SHAPE.violations(&value, usize::MAX) {
            faults.add(path_of(&violation.pointer), violation.message);
        }
        secret::resolve(&mut value, "", &self.env, &mut faults);
        // The environment of a developer's shell wins over the file, as everywhere.
        if let (Some(filter), Value::Object(root)) = (self.env.get("RUST_LOG"), &mut value) {
            let telemetry = root.entry("telemetry").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(telemetry) = telemetry {
                telemetry.insert("log_level".to_owned(), filter.into());
            }
        }
        check::run(&Node::root(&value), &self.known_tools, &mut faults);
        faults.into_result()?;
        // Schema and structs say the same; should they ever differ, that is a fault and not a panic.
        serde_json::from_value(value).map_err(|error| Faults::one("", error.to_string()))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is written there may be secret.
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the file at `path`. `known_tools` are the names that a copilot's `tools` may hold.
    pub fn load(path: &Path, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        Source::load(path, env, known_tools)?.config(&[])
    }

    /// Reads a configuration's text.
    pub fn parse(text: &str, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        Source::parse(text, env, known_tools)?.config(&[])
    }
}

/// Reads TOML as JSON; the error lists every syntax error with its line.
fn read_toml(text: &str) -> Result<Value, Faults> {
    let (table, errors) = toml::de::DeTable::parse_recoverable(text);
    let mut faults = Faults::default();
    for error in errors {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = &text.as_bytes()[..start];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        // Only the message: the error's full form quotes the line, which may hold a secret.
        faults.add(format!("line {line}, column {column}"), error.message());
    }
    faults.into_result()?;
    let value = toml::Table::deserialize(toml::Deserializer::from(table));
    value
        .map(|table| json(toml::Value::Table(table)))
        .map_err(|error| Faults::one("", error.message()))
}

/// Turns a TOML value into JSON, which has no dates: they become texts.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, json(value))).collect())
        }
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
    }
}

/// Turns a JSON Pointer into the path that a reader of TOML expects.
fn path_of(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
            path.push_str(&format!("[{part}]"));
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&part.replace("~1", "/").replace("~0", "~"));
    }
    path
}
