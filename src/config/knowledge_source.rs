//! A source of documents of a tenant.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::system_kind::SystemSettings;

/// Pause between two runs unless another one is configured, in seconds.
const INTERVAL_S: u64 = 300;

/// A system whose documents are kept up to date: an item of `[[tenants.sources]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnowledgeSource {
    /// The kind of the system.
    pub kind: String,
    /// Its name within the tenant.
    pub name: String,
    /// Name of the tenant's system whose address and credentials are used.
    pub system: String,
    interval_s: u64,
    /// What is read, as its kind understands it.
    pub settings: SystemSettings,
}

impl KnowledgeSource {
    /// Returns the pause between two runs.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }
}

/// Brings the sources of a checked tenant's table into the form of [`KnowledgeSource`].
pub(super) fn normalize(table: &mut Value) {
    let Some(Value::Array(sources)) = table.get_mut("sources") else {
        return;
    };
    for source in sources {
        let Value::Object(members) = source else { continue };
        let kind = members.shift_remove("kind").unwrap_or_default();
        let name = members.shift_remove("name").unwrap_or_else(|| kind.clone());
        let system = members.shift_remove("system").unwrap_or_else(|| kind.clone());
        let interval = members.shift_remove("interval_s").unwrap_or_else(|| INTERVAL_S.into());
        let settings = Value::Object(std::mem::take(members));
        *source = json!({ "kind": kind, "name": name, "system": system, "interval_s": interval, "settings": settings });
    }
}
