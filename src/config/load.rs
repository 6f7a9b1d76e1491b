//! Turns a TOML text into a checked [`Config`], or a list of all its faults.
//!
//! The file has two parts that are checked separately: the global part, without which nothing can run, and the tenants,
//! where a fault in one does not keep the others from being served.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use jsonptr::Token;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::advice::Advice;
use super::check::{self, Node};
use super::env::Env;
use super::faults::{Faults, MAX_FAULTS};
use super::file_table::FileTable;
use super::{Config, SystemKinds, Tenant, knowledge_source, operator, secret, system};
use crate::shape::Shape;

/// The schema's text.
const SCHEMA: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/schemas/config/copilotd.schema.json"
));

/// The schema of everything but tenants.
static GLOBALS_SHAPE: LazyLock<Shape> = LazyLock::new(|| {
    let mut schema = schema();
    schema["properties"]["tenants"]["items"] = true.into();
    compiled(&schema)
});

/// The whole schema, for advice about faults.
static WRITTEN: LazyLock<Value> = LazyLock::new(schema);

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the configuration's schema is read by every test of it")
}

fn compiled(schema: &Value) -> Shape {
    Shape::compile(&schema.to_string()).expect("the configuration's schema is compiled by every test of it")
}

/// A configuration file as written, with unresolved secrets.
#[derive(Clone)]
pub struct Source {
    /// The whole text, for the line numbers of faults.
    text: Arc<str>,
    /// Everything but the tenants' tables.
    globals: Value,
    tenants: Vec<FileTable>,
    /// Indexes of the tables with an id; more than one is a fault.
    by_id: HashMap<String, Vec<usize>>,
    env: Env,
    kinds: SystemKinds,
    secrets: SecretMode,
}

/// How references to the environment and to files are treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SecretMode {
    /// They are resolved; one that cannot be is a fault.
    Resolve,
    /// They are replaced by a placeholder, so the configuration can only be inspected.
    Skip,
}

/// Placeholder for a secret that was not resolved.
const PLACEHOLDER: &str = "not fetched";

/// The checked global part of a configuration: everything but tenants, which are checked within it.
#[derive(Clone)]
pub struct Globals {
    /// The raw value, with resolved secrets.
    root: Value,
    config: Config,
}

impl Globals {
    /// Returns the configuration without tenants.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Source {
    /// Reads the file at `path`. `kinds` are the kinds of systems that tenants may have.
    pub fn load(path: &Path, env: &Env, kinds: &SystemKinds) -> Result<Self, Faults> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Faults::one("", format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text, env, kinds)
    }

    /// Parses a configuration's text.
    pub fn parse(text: &str, env: &Env, kinds: &SystemKinds) -> Result<Self, Faults> {
        let mut globals = read_toml(text)?;
        let tenants: Vec<FileTable> = match globals.get_mut("tenants").and_then(Value::as_array_mut) {
            // Nulls stay in their place, so that the schema can check the number of tenants.
            Some(tables) => tables.iter_mut().map(|table| FileTable::new(table.take())).collect(),
            None => Vec::new(),
        };
        let mut by_id: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, table) in tenants.iter().enumerate() {
            if let Some(id) = table.id() {
                by_id.entry(id.to_owned()).or_default().push(index);
            }
        }
        Ok(Self {
            text: text.into(),
            globals,
            tenants,
            by_id,
            env: env.clone(),
            kinds: kinds.clone(),
            secrets: SecretMode::Resolve,
        })
    }

    /// Returns the same file, whose secrets in the environment and in files are not resolved.
    pub fn without_secrets(self) -> Self {
        Self {
            secrets: SecretMode::Skip,
            ..self
        }
    }

    /// Returns the text of the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the environment that its references refer to.
    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    /// Returns the global part as written.
    pub(super) fn written_globals(&self) -> &Value {
        &self.globals
    }

    /// Returns a tenant's table; the first one, if several have this id.
    pub fn tenant(&self, id: &str) -> Option<&FileTable> {
        let first = self.by_id.get(id)?.first()?;
        self.tenants.get(*first)
    }

    /// Whether the file has several tables with this tenant id.
    pub fn is_ambiguous(&self, id: &str) -> bool {
        self.by_id.get(id).is_some_and(|tables| tables.len() > 1)
    }

    /// Returns the tables of all tenants.
    pub fn tenants(&self) -> &[FileTable] {
        &self.tenants
    }

    /// Resolves the secrets and checks everything; the error lists every fault, those of tenants too.
    pub fn config(&self) -> Result<Config, Faults> {
        let mut faults = Faults::default();
        let root = self.root(&mut faults);
        let mut tenants = Vec::new();
        for (index, table) in self.tenants.iter().enumerate() {
            tenants.extend(self.examine(&root, Origin::File(table), &format!("tenants[{index}]"), &mut faults));
        }
        self.ids_are_distinct(&mut faults);
        let claims: Vec<_> = self.tenants.iter().map(|table| check::claims(table.value())).collect();
        let place = |owner: usize, path: &str| format!("tenants[{owner}].{path}");
        for (index, fault) in check::conflicts(claims.iter().map(Vec::as_slice), place) {
            faults.add(format!("tenants[{index}].{}", fault.path), fault.message);
        }
        faults.into_result()?;
        let mut config = of_root(root)?;
        config.tenants = tenants;
        Ok(config)
    }

    /// Resolves the secrets of the global part and checks it.
    pub fn globals(&self) -> Result<Globals, Faults> {
        let mut faults = Faults::default();
        let root = self.root(&mut faults);
        faults.into_result()?;
        let config = of_root(root.clone())?;
        Ok(Globals { root, config })
    }

    /// Resolves the secrets of a tenant of the file and checks it within `globals`. Paths of faults are relative to its
    /// table.
    pub fn file_tenant(&self, globals: &Globals, table: &FileTable) -> Result<Tenant, Faults> {
        self.one(globals, Origin::File(table))
    }

    /// Checks a tenant whose settings, `id` included, did not come from the file. Its references to the environment and
    /// to files are resolved only where the file's table of the same tenant has the same one at the same place.
    pub fn stored_tenant(&self, globals: &Globals, table: &Value) -> Result<Tenant, Faults> {
        self.one(globals, Origin::Stored(table))
    }

    fn one(&self, globals: &Globals, table: Origin<'_>) -> Result<Tenant, Faults> {
        let mut faults = Faults::default();
        let tenant = self.examine(&globals.root, table, "", &mut faults);
        faults.into_result()?;
        tenant.ok_or_else(|| Faults::one("", "the settings cannot be read"))
    }

    /// Whether a tenant's table is valid against the schema, so that its secrets can be found and redacted.
    pub fn has_shape(&self, table: &Value) -> bool {
        self.kinds.tenant_schema(schema).shape.violations(table, 1).is_empty()
    }

    fn root(&self, faults: &mut Faults) -> Value {
        let mut root = self.globals.clone();
        let advice = Advice {
            schema: &WRITTEN,
            part: &WRITTEN,
        };
        for violation in GLOBALS_SHAPE.violations(&root, MAX_FAULTS + 1) {
            faults.add(path_of("", &violation.pointer), advice.message(&root, &violation));
        }
        if let Some(tenants) = root.get_mut("tenants") {
            *tenants = json!([]);
        }
        let passed = match self.secrets {
            SecretMode::Skip => secret::skip_secrets(&mut root),
            SecretMode::Resolve => {
                secret::resolve_of_file(&mut root, "", &self.env, faults);
                Vec::new()
            }
        };
        // RUST_LOG takes precedence over the file.
        if let (Some(filter), Value::Object(root)) = (self.env.get("RUST_LOG"), &mut root) {
            let telemetry = root.entry("telemetry").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(telemetry) = telemetry {
                telemetry.insert("log_level".to_owned(), filter.into());
            }
        }
        check::globals(&Node::root(&root), faults);
        secret::fill_placeholders(&mut root, &passed, PLACEHOLDER);
        root
    }

    /// Notes every fault of one tenant; returns it when there is none.
    fn examine(&self, root: &Value, origin: Origin<'_>, path: &str, faults: &mut Faults) -> Option<Tenant> {
        let mut found = Faults::default();
        let mut table = match origin {
            Origin::File(table) => table.value().clone(),
            Origin::Stored(table) => table.clone(),
        };
        let schema = self.kinds.tenant_schema(schema);
        let advice = Advice {
            schema: &schema.written,
            part: &schema.written,
        };
        for violation in schema.shape.violations(&table, MAX_FAULTS + 1) {
            found.add(path_of(path, &violation.pointer), advice.message(&table, &violation));
        }
        let mut passed = Vec::new();
        match origin {
            Origin::File(_) if self.secrets == SecretMode::Skip => passed = secret::skip_secrets(&mut table),
            Origin::File(_) => secret::resolve_of_file(&mut table, path, &self.env, &mut found),
            Origin::Stored(stored) => {
                let file = stored["id"].as_str().and_then(|id| self.tenant(id));
                operator::restrict_to_file(&mut table, file);
                secret::resolve_stored(&mut table, path, file, &self.env, &mut found);
            }
        }
        check::tenant(&Node::root(root), &Node::at(path, &table), &self.kinds, &mut found);
        secret::fill_placeholders(&mut table, &passed, PLACEHOLDER);
        let tenant = if found.is_empty() {
            system::normalize(&mut table, &self.kinds);
            knowledge_source::normalize(&mut table);
            // Schema and structs agree; if they ever do not, that is a fault, not a panic.
            let read = serde_json::from_value(table);
            read.map_err(|error| found.add(path, error.to_string())).ok()
        } else {
            None
        };
        for fault in found {
            faults.add_caused(fault.path, fault.message, fault.cause);
        }
        tenant
    }

    fn ids_are_distinct(&self, faults: &mut Faults) {
        for tables in self.by_id.values() {
            for index in tables.iter().skip(1) {
                faults.add(
                    format!("tenants[{index}].id"),
                    format!("is the same as tenants[{}].id", tables[0]),
                );
            }
        }
    }
}

/// Where a tenant's settings come from, which decides which references of its secrets are resolved.
#[derive(Clone, Copy)]
enum Origin<'a> {
    File(&'a FileTable),
    Stored(&'a Value),
}

fn of_root(root: Value) -> Result<Config, Faults> {
    serde_json::from_value(root).map_err(|error| Faults::one("", error.to_string()))
}

impl fmt::Debug for Globals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Globals").finish_non_exhaustive()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may contain secrets.
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the file at `path`. `kinds` are the kinds of systems that tenants may have.
    pub fn load(path: &Path, env: &Env, kinds: &SystemKinds) -> Result<Self, Faults> {
        Source::load(path, env, kinds)?.config()
    }

    /// Parses a configuration's text.
    pub fn parse(text: &str, env: &Env, kinds: &SystemKinds) -> Result<Self, Faults> {
        Source::parse(text, env, kinds)?.config()
    }
}

/// Parses TOML into JSON; the error lists every syntax error with its line.
fn read_toml(text: &str) -> Result<Value, Faults> {
    let (table, errors) = toml::de::DeTable::parse_recoverable(text);
    let mut faults = Faults::default();
    for error in errors {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = &text.as_bytes()[..start];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        // Only the message: the full error quotes the line, which may contain a secret.
        faults.add(format!("line {line}, column {column}"), error.message());
    }
    faults.into_result()?;
    let value = toml::Table::deserialize(toml::Deserializer::from(table));
    value
        .map(|table| json(toml::Value::Table(table)))
        .map_err(|error| Faults::one("", error.message()))
}

/// Converts a TOML value to JSON; dates become texts.
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

/// Converts a JSON Pointer below the table at `path` to a TOML path.
pub(super) fn path_of(path: &str, pointer: &str) -> String {
    let mut path = path.to_owned();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
            path.push_str(&format!("[{part}]"));
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        let part = Token::from_encoded(part).unwrap_or_else(|_| Token::new(part));
        path.push_str(&part.decoded());
    }
    path
}
