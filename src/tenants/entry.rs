//! One tenant, from the file or the store, checked without regard to other tenants.

use copilotd_actors::domain::ids::{JobId, TenantId};
use serde_json::{Value, json};

use super::cipher::Cipher;
use super::error::SettingsFault;
use super::patch;
use super::view::{Origin, ShownStatus, TenantView};
use crate::config::{Claim, Faults, FileTable, Globals, Source, Tenant, claims};
use copilotd_actors::domain::tenant::{StoredTenant, TenantStatus};

/// What is needed to check a tenant.
#[derive(Clone, Copy)]
pub(super) struct CheckContext<'a> {
    pub globals: &'a Globals,
    pub source: &'a Source,
    pub seal: &'a Cipher,
}

/// A tenant, checked by itself. Conflicts with other tenants are found when all are assembled.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its table, with unresolved secrets.
    table: Value,
    pub origin: Origin,
    pub stored: Option<StoredTenant>,
    /// Issuers and keys that no other tenant may have, even if this one is left out.
    pub claims: Vec<Claim>,
    /// Its configuration, or its faults.
    pub checked: Result<Box<Tenant>, Vec<SettingsFault>>,
    /// The operating system's errors behind the faults; only for the log.
    pub causes: Vec<String>,
    /// Whether the table is valid against the schema and may be shown; otherwise secrets could be anywhere in it.
    has_shape: bool,
}

impl Entry {
    /// Checks a tenant's table of the file.
    pub(super) fn of_file(check_context: CheckContext<'_>, id: &TenantId, table: &FileTable) -> Self {
        let checked = if check_context.source.is_ambiguous(id.as_str()) {
            // It is unknown which of them is meant.
            Err(Faults::of(
                "",
                format!("the configuration file has several tenants with the id {id}"),
            ))
        } else {
            check_context.source.file_tenant(check_context.globals, table)
        };
        Self::new(check_context, table.value().clone(), Origin::File, None, checked)
    }

    /// Checks a stored tenant. `file` is the file's table of the same tenant, if there is one.
    pub(super) fn stored(check_context: CheckContext<'_>, file: Option<&FileTable>, record: StoredTenant) -> Self {
        let Some(sealed) = &record.sealed else {
            let mut entry = match file {
                Some(table) => Self::of_file(check_context, &record.id, table),
                None => {
                    let table = json!({ "id": record.id });
                    let checked = check_context.source.stored_tenant(check_context.globals, &table);
                    Self::new(check_context, table, Origin::File, None, checked)
                }
            };
            entry.stored = Some(record);
            return entry.with_status_of_record();
        };
        let opened = check_context
            .seal
            .decrypt(record.id.as_str(), sealed)
            .map_err(|error| error.to_string())
            .and_then(|plain| {
                let settings: Value = serde_json::from_slice(&plain).map_err(|_| "the stored settings are not JSON")?;
                if settings.is_object() {
                    Ok(settings)
                } else {
                    Err("the stored settings are not an object".to_owned())
                }
            });
        let entry = match opened {
            Ok(mut table) => {
                if let Value::Object(members) = &mut table {
                    // The record and the file decide these; the settings have no say.
                    members.shift_remove("suspended");
                    members.shift_remove("operator");
                }
                table["id"] = json!(record.id);
                let checked = check_context.source.stored_tenant(check_context.globals, &table);
                Self::new(check_context, table, Origin::Stored, Some(record), checked)
            }
            Err(message) => {
                let table = file.map_or_else(|| json!({ "id": record.id }), |file| file.value().clone());
                Self::new(
                    check_context,
                    table,
                    Origin::Stored,
                    Some(record),
                    Err(Faults::of("", message)),
                )
            }
        };
        entry.with_status_of_record()
    }

    fn new(
        check_context: CheckContext<'_>,
        table: Value,
        origin: Origin,
        stored: Option<StoredTenant>,
        checked: Result<Tenant, Faults>,
    ) -> Self {
        let mut causes = Vec::new();
        let checked = checked.map(Box::new).map_err(|faults| {
            let faults = faults.into_iter();
            let fault = |fault: crate::config::Fault| {
                causes.extend(
                    fault
                        .cause
                        .as_ref()
                        .map(|cause| format!("{}: {}: {cause}", fault.path, fault.message)),
                );
                SettingsFault::from(fault)
            };
            faults.map(fault).collect()
        });
        Self {
            claims: claims(&table),
            has_shape: check_context.source.has_shape(&table),
            table,
            origin,
            stored,
            checked,
            causes,
        }
    }

    /// Returns the same tenant with a new record of its status.
    pub(super) fn with_record(&self, record: StoredTenant) -> Self {
        let mut entry = self.clone();
        entry.stored = Some(record);
        entry.with_status_of_record()
    }

    fn with_status_of_record(mut self) -> Self {
        let suspended = self.status() == TenantStatus::Suspended;
        if let Ok(tenant) = &mut self.checked {
            tenant.suspended = suspended;
        }
        self
    }

    pub(super) fn status(&self) -> TenantStatus {
        match &self.stored {
            Some(record) if record.deletion.is_some() => TenantStatus::Suspended,
            Some(record) => record.status,
            None if self.table["suspended"] == true => TenantStatus::Suspended,
            None => TenantStatus::Active,
        }
    }

    /// Returns the job that is deleting it, if there is one.
    pub(super) fn deletion(&self) -> Option<JobId> {
        self.stored.as_ref()?.deletion
    }

    /// Returns the settings: the table without the members in [`RESERVED_MEMBERS`].
    pub(super) fn settings(&self) -> Value {
        let mut settings = self.table.clone();
        if let Value::Object(members) = &mut settings {
            for name in RESERVED_MEMBERS {
                members.shift_remove(name);
            }
        }
        settings
    }

    /// Returns the API keys in its table, whether it is served or not.
    pub(super) fn table_keys(&self) -> impl Iterator<Item = crate::config::ApiKey> + '_ {
        let keys = self.table["api_keys"].as_array().into_iter().flatten();
        keys.filter_map(|key| serde_json::from_value(key.clone()).ok())
    }

    pub(super) fn view(
        &self,
        id: &TenantId,
        faults: &[SettingsFault],
        warnings: &[SettingsFault],
        seal: &Cipher,
    ) -> TenantView {
        let mut settings = if self.has_shape { self.settings() } else { json!({}) };
        patch::redact(&mut settings, seal);
        TenantView {
            id: id.clone(),
            status: match self.deletion() {
                Some(_) => ShownStatus::Deleting,
                None => self.status().into(),
            },
            deletion: self.deletion(),
            origin: self.origin,
            operator: self.checked.as_ref().is_ok_and(|tenant| tenant.operator),
            settings,
            faults: faults.iter().map(ToString::to_string).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            created_at: self.stored.as_ref().map(|stored| stored.created_at),
            updated_at: self.stored.as_ref().map(|stored| stored.updated_at),
        }
    }
}

/// Members of a table that are not settings, so that requests cannot change them there.
pub(super) const RESERVED_MEMBERS: [&str; 3] = ["id", "suspended", "operator"];
