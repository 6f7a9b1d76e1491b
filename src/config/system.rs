//! An external system of a tenant.

use serde::Deserialize;
use serde_json::{Value, json};

use super::SystemKinds;
use super::check::{Node, written_systems};
use crate::system_kind::SystemSettings;

/// An external system of a tenant: an item of `[[tenants.systems]]`, or a table such as `[tenants.zendesk]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Its kind.
    pub kind: String,
    /// Its name within the tenant, with which the names of its tools begin.
    pub name: String,
    /// Its path within the tenant's table.
    pub path: String,
    /// Whether only the running system knows its tools.
    pub discovers_tools: bool,
    /// The settings of its kind, with resolved secrets.
    pub settings: SystemSettings,
}

impl System {
    /// Whether a tool's name begins with the name of this system.
    pub fn owns(&self, tool: &str) -> bool {
        let rest = tool.strip_prefix(self.name.as_str());
        rest.is_some_and(|rest| rest.starts_with('_'))
    }
}

/// Brings the systems of a checked tenant's table into one form, a list of [`System`].
pub(super) fn normalize(table: &mut Value, kinds: &SystemKinds) {
    let written = written_systems(&Node::root(table));
    let systems = written.iter().map(|system| {
        let mut settings = system.node.value().cloned().unwrap_or_default();
        if let Value::Object(members) = &mut settings {
            members.shift_remove("kind");
            members.shift_remove("name");
        }
        json!({
            "kind": system.kind,
            "name": system.name,
            "path": system.node.path(),
            "discovers_tools": kinds.find(system.kind).is_some_and(|kind| kind.tools().is_none()),
            "settings": settings,
        })
    });
    let systems: Value = systems.collect();
    let tables: Vec<String> = written.iter().map(|system| system.kind.to_owned()).collect();
    if let Value::Object(members) = table {
        tables.iter().for_each(|kind| drop(members.shift_remove(kind)));
        members.insert("systems".to_owned(), systems);
    }
}
