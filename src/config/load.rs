//! From a TOML text to a checked [`Config`], or to everything that is wrong with it.
//!
//! The file has two parts that are checked apart: what is global, without which nothing can run, and its tenants, of which one that is
//! not fit keeps none of the others from being served.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::advice::Advice;
use super::check::{self, Node};
use super::env::Env;
use super::faults::{Faults, MAX_FAULTS};
use super::file_table::FileTable;
use super::{Config, Tenant, operator, secret};
use crate::shape::Shape;

/// The schema's text; also what `schemas/` documents.
const SCHEMA: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/schemas/config/copilotd.schema.json"
));

/// The shape of everything but tenants.
static GLOBALS_SHAPE: LazyLock<Shape> = LazyLock::new(|| {
    let mut schema = schema();
    schema["properties"]["tenants"]["items"] = true.into();
    compiled(&schema)
});

/// The shape of one tenant.
static TENANT_SHAPE: LazyLock<Shape> = LazyLock::new(|| {
    let mut schema = schema();
    let mut tenant = schema["properties"]["tenants"]["items"].take();
    tenant["$schema"] = schema["$schema"].take();
    tenant["$defs"] = schema["$defs"].take();
    compiled(&tenant)
});

/// The schema as it is written, for what it says beside the shapes.
static WRITTEN: LazyLock<Value> = LazyLock::new(schema);

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the configuration's schema is read by every test of it")
}

fn compiled(schema: &Value) -> Shape {
    Shape::compile(&schema.to_string()).expect("the configuration's schema is compiled by every test of it")
}

/// A configuration before its secrets are fetched: the file as it was written.
#[derive(Clone)]
pub struct Source {
    /// The whole text, from which the lines of faults are known.
    text: Arc<str>,
    /// Everything but the tenants' tables.
    globals: Value,
    tenants: Vec<FileTable>,
    /// Where the tables of an id stand; more than one is a fault.
    by_id: HashMap<String, Vec<usize>>,
    env: Env,
    known_tools: BTreeSet<String>,
    secrets: Secrets,
}

/// What is done about references to the environment and to files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrets {
    /// They are followed, and one that cannot be had is a fault.
    Needed,
    /// They are passed over: what stands for them is no secret, and nothing may be done with the configuration but look at it.
    Passed,
}

/// What stands for a secret that is passed over.
const NO_SECRET: &str = "not fetched";

/// What of a configuration is not a tenant's, checked. Tenants are checked within it.
#[derive(Clone)]
pub struct Globals {
    /// With its secrets.
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
    /// Reads the file at `path`. `known_tools` are the names that a copilot's `tools` may hold.
    pub fn load(path: &Path, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Faults::one("", format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text, env, known_tools)
    }

    /// Reads a configuration's text.
    pub fn parse(text: &str, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        let mut globals = read_toml(text)?;
        let tenants: Vec<FileTable> = match globals.get_mut("tenants").and_then(Value::as_array_mut) {
            // Nulls keep their number, which the shape of the whole asks for.
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
            known_tools: known_tools.clone(),
            secrets: Secrets::Needed,
        })
    }

    /// Checks everything but the secrets: those of the environment and of files need not be there.
    pub fn without_secrets(self) -> Self {
        Self {
            secrets: Secrets::Passed,
            ..self
        }
    }

    /// Returns the text of the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the environment that its references mean.
    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    /// Returns what is not a tenant's, as it was written.
    pub(super) fn written_globals(&self) -> &Value {
        &self.globals
    }

    /// Returns the table of a tenant as the file has it; of several with this id, the first.
    pub fn tenant(&self, id: &str) -> Option<&FileTable> {
        let first = self.by_id.get(id)?.first()?;
        self.tenants.get(*first)
    }

    /// Tells whether the file has several tables of one tenant: which of them is meant cannot be known.
    pub fn is_ambiguous(&self, id: &str) -> bool {
        self.by_id.get(id).is_some_and(|tables| tables.len() > 1)
    }

    /// Lists the tables of all tenants.
    pub fn tenants(&self) -> &[FileTable] {
        &self.tenants
    }

    /// Fetches the secrets and checks everything: every fault is named, of tenants too.
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

    /// Fetches the secrets that are not a tenant's and checks what is not one.
    pub fn globals(&self) -> Result<Globals, Faults> {
        let mut faults = Faults::default();
        let root = self.root(&mut faults);
        faults.into_result()?;
        let config = of_root(root.clone())?;
        Ok(Globals { root, config })
    }

    /// Fetches the secrets of a tenant of the file and checks it, within `globals`. Paths of faults begin at its table.
    pub fn file_tenant(&self, globals: &Globals, table: &FileTable) -> Result<Tenant, Faults> {
        self.one(globals, Origin::File(table))
    }

    /// Checks a tenant whose settings, `id` included, did not come from the file. Of the environment and of files it gets what the
    /// file's table of the same tenant has at the same place.
    pub fn stored_tenant(&self, globals: &Globals, table: &Value) -> Result<Tenant, Faults> {
        self.one(globals, Origin::Stored(table))
    }

    fn one(&self, globals: &Globals, table: Origin<'_>) -> Result<Tenant, Faults> {
        let mut faults = Faults::default();
        let tenant = self.examine(&globals.root, table, "", &mut faults);
        faults.into_result()?;
        tenant.ok_or_else(|| Faults::one("", "cannot be read"))
    }

    /// Tells whether a tenant's table has the shape of one, so that it can be shown with its secrets in their places.
    pub fn has_shape(table: &Value) -> bool {
        TENANT_SHAPE.violations(table, 1).is_empty()
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
            Secrets::Passed => secret::pass_over(&mut root),
            Secrets::Needed => {
                secret::resolve_of_file(&mut root, "", &self.env, faults);
                Vec::new()
            }
        };
        // The environment of a developer's shell wins over the file, as everywhere.
        if let (Some(filter), Value::Object(root)) = (self.env.get("RUST_LOG"), &mut root) {
            let telemetry = root.entry("telemetry").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(telemetry) = telemetry {
                telemetry.insert("log_level".to_owned(), filter.into());
            }
        }
        check::globals(&Node::root(&root), faults);
        secret::stand_in(&mut root, &passed, NO_SECRET);
        root
    }

    /// Notes every fault of one tenant; returns it when there is none.
    fn examine(&self, root: &Value, origin: Origin<'_>, path: &str, faults: &mut Faults) -> Option<Tenant> {
        let mut found = Faults::default();
        let mut table = match origin {
            Origin::File(table) => table.value().clone(),
            Origin::Stored(table) => table.clone(),
        };
        let advice = Advice {
            schema: &WRITTEN,
            part: &WRITTEN["properties"]["tenants"]["items"],
        };
        for violation in TENANT_SHAPE.violations(&table, MAX_FAULTS + 1) {
            found.add(path_of(path, &violation.pointer), advice.message(&table, &violation));
        }
        let mut passed = Vec::new();
        match origin {
            Origin::File(_) if self.secrets == Secrets::Passed => passed = secret::pass_over(&mut table),
            Origin::File(_) => secret::resolve_of_file(&mut table, path, &self.env, &mut found),
            Origin::Stored(stored) => {
                let file = stored["id"].as_str().and_then(|id| self.tenant(id));
                operator::keep_to_file(&mut table, file);
                secret::resolve_stored(&mut table, path, file, &self.env, &mut found);
            }
        }
        check::tenant(
            &Node::root(root),
            &Node::at(path, &table),
            &self.known_tools,
            &mut found,
        );
        secret::stand_in(&mut table, &passed, NO_SECRET);
        let tenant = if found.is_empty() {
            // Schema and structs say the same; should they ever differ, that is a fault and not a panic.
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

/// Where a tenant's settings come from, which decides what its secrets may refer to.
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
        // What is written there may be secret.
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the file at `path`. `known_tools` are the names that a copilot's `tools` may hold.
    pub fn load(path: &Path, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        Source::load(path, env, known_tools)?.config()
    }

    /// Reads a configuration's text.
    pub fn parse(text: &str, env: &Env, known_tools: &BTreeSet<String>) -> Result<Self, Faults> {
        Source::parse(text, env, known_tools)?.config()
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

/// Turns a JSON Pointer below the table at `path` into the path that a reader of TOML expects.
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
        path.push_str(&part.replace("~1", "/").replace("~0", "~"));
    }
    path
}
