//! The tenants as they stand: what the file says, what is stored, and the configuration that both make.

use std::collections::BTreeMap;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::error::SettingsFault;
use super::patch;
use super::record::{StoredKey, StoredTenant, TenantStatus};
use super::seal::Seal;
use crate::config::{ApiKey, Config, Faults, Source};

/// Where a tenant's settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    File,
    /// The store: made or changed at run time.
    Stored,
}

/// A tenant as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct TenantView {
    /// Its id.
    pub id: TenantId,
    /// Whether it is served.
    pub status: TenantStatus,
    /// Where its settings come from.
    pub origin: Origin,
    /// Its settings; secrets are named, not shown.
    pub settings: Value,
    /// Why it is left out, if it is.
    pub faults: Vec<String>,
    /// When it was made or first changed at run time.
    pub created_at: Option<Timestamp>,
    /// When it was changed last at run time.
    pub updated_at: Option<Timestamp>,
}

/// A tenant as it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its table in the configuration, secrets included.
    pub table: Value,
    pub origin: Origin,
    pub stored: Option<StoredTenant>,
    /// Why it is left out, if it is.
    pub faults: Vec<SettingsFault>,
}

impl Entry {
    pub(super) fn status(&self) -> TenantStatus {
        if self.table["suspended"] == true {
            TenantStatus::Suspended
        } else {
            TenantStatus::Active
        }
    }

    /// Returns the settings: the table without what stands beside them.
    pub(super) fn settings(&self) -> Value {
        let mut settings = self.table.clone();
        if let Value::Object(members) = &mut settings {
            members.shift_remove("id");
            members.shift_remove("suspended");
        }
        settings
    }

    pub(super) fn view(&self, id: &TenantId, seal: &Seal) -> TenantView {
        let mut settings = self.settings();
        patch::redact(&mut settings, seal);
        TenantView {
            id: id.clone(),
            status: self.status(),
            origin: self.origin,
            settings,
            faults: self.faults.iter().map(shown).collect(),
            created_at: self.stored.as_ref().map(|stored| stored.created_at),
            updated_at: self.stored.as_ref().map(|stored| stored.updated_at),
        }
    }
}

fn shown(fault: &SettingsFault) -> String {
    if fault.pointer.is_empty() {
        fault.message.clone()
    } else {
        format!("{}: {}", fault.pointer, fault.message)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Present {
    pub config: Arc<Config>,
    pub tenants: BTreeMap<TenantId, Entry>,
    pub keys: Vec<StoredKey>,
}

impl Present {
    /// Puts the file and what is stored together. A stored tenant that does not fit is left out; faults that remain are the
    /// file's own.
    pub(super) fn build(
        source: &Source,
        stored: Vec<StoredTenant>,
        keys: Vec<StoredKey>,
        seal: &Seal,
        now: Timestamp,
    ) -> Result<Self, Faults> {
        let mut tenants = BTreeMap::new();
        for table in source.tenants() {
            // A table without an id is a fault that the check names.
            if let Some(id) = table["id"].as_str().and_then(|id| id.parse::<TenantId>().ok()) {
                let entry = Entry {
                    table: table.clone(),
                    origin: Origin::File,
                    stored: None,
                    faults: Vec::new(),
                };
                tenants.insert(id, entry);
            }
        }
        for record in stored {
            let id = record.id.clone();
            let entry = overlay(tenants.remove(&id), record, seal);
            tenants.insert(id, entry);
        }
        let mut config = fit(source, &mut tenants)?;
        for key in &keys {
            let Some(tenant) = config.tenants.iter_mut().find(|tenant| tenant.id == key.tenant) else {
                continue;
            };
            let ended = key.revoked_at.is_some() || key.expires_at.is_some_and(|end| end <= now);
            tenant.api_keys.retain(|known| known.hash != key.hash);
            if !ended {
                tenant.api_keys.push(ApiKey {
                    name: key.name.clone(),
                    hash: key.hash,
                    scopes: key.scopes,
                    expires_at: key.expires_at,
                });
            }
        }
        Ok(Self {
            config: Arc::new(config),
            tenants,
            keys,
        })
    }
}

/// Puts what is stored in the place of what the file says.
fn overlay(file: Option<Entry>, record: StoredTenant, seal: &Seal) -> Entry {
    let mut faults = Vec::new();
    let mut origin = Origin::File;
    let mut table = file.map_or_else(|| json!({ "id": record.id }), |entry| entry.table);
    if let Some(sealed) = &record.sealed {
        origin = Origin::Stored;
        let opened = seal
            .open(record.id.as_str(), sealed)
            .map_err(|error| error.to_string())
            .and_then(|plain| serde_json::from_slice::<Value>(&plain).map_err(|error| error.to_string()));
        match opened {
            Ok(settings) => {
                table = settings;
                table["id"] = json!(record.id);
            }
            Err(message) => faults.push(SettingsFault {
                pointer: String::new(),
                message,
            }),
        }
    }
    let suspended = record.status == TenantStatus::Suspended;
    if let Value::Object(members) = &mut table {
        members.shift_remove("suspended");
        if suspended {
            members.insert("suspended".to_owned(), true.into());
        }
    }
    Entry {
        table,
        origin,
        stored: Some(record),
        faults,
    }
}

/// Makes the configuration, without the stored tenants that do not fit.
fn fit(source: &Source, tenants: &mut BTreeMap<TenantId, Entry>) -> Result<Config, Faults> {
    let faults = match source.config(&tables(tenants)) {
        Ok(config) => return Ok(config),
        Err(faults) => faults,
    };
    let order = order(source, tenants);
    let mut found = false;
    for fault in faults.iter() {
        let Some((index, rest)) = indexed(&fault.path) else {
            continue;
        };
        if let Some(entry) = order.get(index).and_then(|id| tenants.get_mut(id))
            && entry.stored.is_some()
        {
            entry.faults.push(SettingsFault {
                pointer: rest,
                message: fault.message.clone(),
            });
            found = true;
        }
    }
    if found {
        source.config(&tables(tenants))
    } else {
        Err(faults)
    }
}

/// Lists the tables of all tenants that are stored. Of one that is left out nothing but its id remains, so that neither it nor
/// what the file once said of it is served.
fn tables(tenants: &BTreeMap<TenantId, Entry>) -> Vec<Value> {
    let table = |(id, entry): (&TenantId, &Entry)| {
        if entry.faults.is_empty() {
            entry.table.clone()
        } else {
            json!({ "id": id, "suspended": true })
        }
    };
    let stored = tenants.iter().filter(|(_, entry)| entry.stored.is_some());
    stored.map(table).collect()
}

/// Lists the tenants as the configuration numbers them: those of the file, then those that are added.
fn order(source: &Source, tenants: &BTreeMap<TenantId, Entry>) -> Vec<TenantId> {
    let of_file = source.tenants().map(|table| table["id"].as_str().unwrap_or_default());
    let mut order: Vec<TenantId> = Vec::new();
    for id in of_file {
        // What has no valid id keeps its place, so that the numbers stay right.
        order.push(id.parse().unwrap_or_else(|_| nobody()));
    }
    for (id, entry) in tenants {
        if entry.stored.is_some() && !order.contains(id) {
            order.push(id.clone());
        }
    }
    order
}

fn nobody() -> TenantId {
    "-".parse().expect("a dash is an id")
}

/// Takes `tenants[3].copilots[0].route` apart: the tenant's number, and the pointer within it.
fn indexed(path: &str) -> Option<(usize, String)> {
    let rest = path.strip_prefix("tenants[")?;
    let (index, rest) = rest.split_once(']')?;
    let index = index.parse().ok()?;
    let mut pointer = String::new();
    for part in rest.split(['.', '[']).filter(|part| !part.is_empty()) {
        pointer.push('/');
        pointer.push_str(part.trim_end_matches(']'));
    }
    Some((index, pointer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_faults() {
        for (path, expected) in [
            ("tenants[3].copilots[0].route", Some((3, "/copilots/0/route"))),
            ("tenants[0]", Some((0, ""))),
            ("tenants[12].id", Some((12, "/id"))),
            ("tenants", None),
            ("routes[0].name", None),
        ] {
            let found = indexed(path);
            assert_eq!(
                found.as_ref().map(|(index, pointer)| (*index, pointer.as_str())),
                expected,
                "{path}"
            );
        }
    }
}
