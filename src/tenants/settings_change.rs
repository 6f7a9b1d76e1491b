//! Creates tenants, and changes their settings and their status.

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::{Requester, StoredTenant, TenantStatus};
use serde_json::{Value, json};

use super::current::LiveTenants;
use super::entry::{Entry, RESERVED_MEMBERS};
use super::error::{ChangeError, SettingsFault};
use super::live::prepare;
use super::registry::TenantRegistry;
use super::view::TenantView;
use super::{changes, patch};
use crate::audit::Action;
use crate::config::{Source, restrict_operator_to_file};

/// Most tenants of a process.
const MAX_TENANTS: usize = 10_000;

/// A change of a tenant's settings.
#[derive(Debug, Clone, PartialEq)]
pub enum SettingsChange {
    /// Apply a merge patch.
    Patch(Value),
    /// Go back to the settings of the file.
    Reset,
}

/// A change of a tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Change of its settings, if any.
    pub settings: Option<SettingsChange>,
    /// New status, if any.
    pub status: Option<TenantStatus>,
}

impl TenantRegistry {
    /// Replaces a tenant's settings, or creates it. Returns it and whether it was created. Without `status`, it keeps
    /// its status, or is active if new.
    pub async fn put(
        &self,
        id: TenantId,
        settings: Value,
        status: Option<TenantStatus>,
        only_new: bool,
        by: &Requester,
    ) -> Result<(TenantView, bool), ChangeError> {
        let source = self.live.source.lock().await;
        let current = self.live.read(&source).await?;
        let known = current.tenants.get(&id);
        not_deleting(known.map(AsRef::as_ref))?;
        if known.is_some() && only_new {
            return Err(ChangeError::Exists(format!("a tenant {id}")));
        }
        if known.is_none() && current.tenants.len() >= MAX_TENANTS {
            return Err(ChangeError::Conflict(format!(
                "there are already {MAX_TENANTS} tenants, the limit of one process"
            )));
        }
        let mut faults = reserved_faults(&settings);
        let old = known.map_or(Value::Null, |entry| entry.settings());
        let settings = patch::replaced(&old, settings, source.tenant(id.as_str()), &self.live.seal);
        let settings = settings.unwrap_or_else(|found| {
            faults.extend(found);
            Value::Null
        });
        if !faults.is_empty() {
            return Err(ChangeError::Invalid(faults));
        }
        let now = self.live.clock.now();
        let record = StoredTenant {
            status: status.unwrap_or(known.map_or(TenantStatus::Active, |entry| entry.status())),
            sealed: Some(self.sealed_of(&id, &settings)),
            created_at: known
                .and_then(|entry| entry.stored.as_ref())
                .map_or(now, |stored| stored.created_at),
            updated_at: now,
            deletion: None,
            id,
        };
        let is_new = known.is_none();
        let view = self.check_and_apply(&source, &current, record, &settings, by).await?;
        Ok((view, is_new))
    }

    /// Changes a tenant.
    pub async fn change(&self, id: &TenantId, change: Change, by: &Requester) -> Result<TenantView, ChangeError> {
        let source = self.live.source.lock().await;
        let Some(settings_change) = change.settings else {
            return self.set_status(&source, id, change.status, by).await;
        };
        let current = self.live.read(&source).await?;
        let entry = current.tenants.get(id).ok_or(ChangeError::Missing)?;
        not_deleting(Some(entry))?;
        let file = source.tenant(id.as_str());
        let mut record = self.record_of(id, entry);
        record.status = change.status.unwrap_or(record.status);
        let settings = match settings_change {
            SettingsChange::Reset => {
                let message =
                    "the configuration file does not have this tenant, so its settings cannot be reset to the file's";
                let file = file.ok_or_else(|| ChangeError::Conflict(message.to_owned()))?;
                record.sealed = None;
                file.value().clone()
            }
            SettingsChange::Patch(patch) => {
                let mut faults = reserved_faults(&patch);
                let settings = patch::patched(&entry.settings(), &patch, file, &self.live.seal);
                let settings = settings.unwrap_or_else(|found| {
                    faults.extend(found);
                    Value::Null
                });
                if !faults.is_empty() {
                    return Err(ChangeError::Invalid(faults));
                }
                record.sealed = Some(self.sealed_of(id, &settings));
                settings
            }
        };
        self.check_and_apply(&source, &current, record, &settings, by).await
    }

    /// Sets only a tenant's status. Works even if settings of this or other tenants have faults.
    async fn set_status(
        &self,
        source: &Source,
        id: &TenantId,
        status: Option<TenantStatus>,
        by: &Requester,
    ) -> Result<TenantView, ChangeError> {
        let current = self.live.read_or_cached(source).await;
        let entry = current.tenants.get(id).ok_or(ChangeError::Missing)?;
        not_deleting(Some(entry))?;
        let mut record = self.record_of(id, entry);
        let Some(status) = status.filter(|status| *status != entry.status()) else {
            return current.view(id, &self.live.seal).ok_or(ChangeError::Missing);
        };
        record.status = status;
        let action = match status {
            TenantStatus::Active => Action::TenantResumed,
            TenantStatus::Suspended => Action::TenantSuspended,
        };
        self.live
            .record(id, action, id.to_string(), vec!["/status".to_owned()], by)
            .await?;
        self.live.store.put_tenant(&record).await?;
        let after = current.with_status(&self.live.globals, record, self.live.clock.now());
        let view = after.view(id, &self.live.seal);
        self.live.apply_despite_failures(after);
        view.ok_or(ChangeError::Missing)
    }

    /// Checks a tenant's new settings together with all others, then records, stores and applies the change.
    async fn check_and_apply(
        &self,
        source: &Source,
        before: &LiveTenants,
        record: StoredTenant,
        settings: &Value,
        by: &Requester,
    ) -> Result<TenantView, ChangeError> {
        let id = record.id.clone();
        let mut faults = operator_faults(source, &id, &record, settings);
        let after = before.with_tenant(self.live.check_context(source), record.clone(), self.live.clock.now());
        faults.extend(new_faults(&id, before, &after));
        if !faults.is_empty() {
            return Err(ChangeError::Invalid(faults));
        }
        let parts = self.live.parts();
        let commits = prepare(&parts, &after.config)?;
        let (was, is) = (
            before.tenants.get(&id),
            after.tenants.get(&id).ok_or(ChangeError::Missing)?,
        );
        let mut changed = changes::changed(&was.map_or(json!({}), |entry| entry.settings()), &is.settings());
        if was.is_some_and(|was| was.status() != is.status()) {
            changed.push("/status".to_owned());
        }
        let action = if was.is_some() {
            Action::TenantUpdated
        } else {
            Action::TenantCreated
        };
        self.live.record(&id, action, id.to_string(), changed, by).await?;
        self.live.store.put_tenant(&record).await?;
        let view = after.view(&id, &self.live.seal);
        for warning in after.warnings.get(&id).into_iter().flatten() {
            tracing::warn!(tenant = %id, %warning, "tenant settings accepted with a warning");
        }
        self.live.apply(after, commits);
        view.ok_or(ChangeError::Missing)
    }

    fn sealed_of(&self, id: &TenantId, settings: &Value) -> Vec<u8> {
        self.live.seal.seal(id.as_str(), settings.to_string().as_bytes())
    }
}

/// Refuses to change a tenant that is being deleted.
fn not_deleting(entry: Option<&Entry>) -> Result<(), ChangeError> {
    match entry.and_then(Entry::deletion) {
        Some(job) => Err(ChangeError::Conflict(format!(
            "the tenant is being deleted (job {job}); its id can be used again once that job has completed"
        ))),
        None => Ok(()),
    }
}

/// Returns a fault for each member that is not a setting.
fn reserved_faults(settings: &Value) -> Vec<SettingsFault> {
    let members = RESERVED_MEMBERS.into_iter().filter(|name| settings.get(name).is_some());
    let fault = |name: &str| SettingsFault {
        pointer: format!("/{name}"),
        message: match name {
            "operator" => "cannot be set here: only the configuration file can mark a tenant as operator".to_owned(),
            _ => "is not a setting".to_owned(),
        },
    };
    members.map(fault).collect()
}

/// Returns a fault for each place where new settings grant the scope `operator` and the file does not.
fn operator_faults(source: &Source, id: &TenantId, record: &StoredTenant, settings: &Value) -> Vec<SettingsFault> {
    if record.sealed.is_none() {
        return Vec::new();
    }
    let taken = restrict_operator_to_file(&mut settings.clone(), source.tenant(id.as_str()));
    let fault = |pointer| SettingsFault {
        pointer,
        message: "only the configuration file can grant the scope operator".to_owned(),
    };
    taken.into_iter().map(fault).collect()
}

/// Returns the faults that a change would cause: those of the changed tenant, and new ones of others.
fn new_faults(id: &TenantId, before: &LiveTenants, after: &LiveTenants) -> Vec<SettingsFault> {
    let mut found = Vec::new();
    for (other, faults) in &after.faults {
        if other == id {
            found.extend(faults.iter().cloned());
            continue;
        }
        let known = before.faults.get(other).map_or(&[][..], Vec::as_slice);
        let new = faults.iter().filter(|fault| !known.contains(fault));
        found.extend(new.map(|fault| SettingsFault {
            pointer: String::new(),
            message: format!("this would break tenant {other}: {fault}"),
        }));
    }
    found
}
