//! The start and the end of a tenant's deletion; the job (`jobs::deletion`) does everything in between.
//!
//! Invariant: a tenant's record contains the id of the job that deletes it until nothing else of the tenant is left.
//! Only that job removes the record. So a resumed job can tell whether anything is left to do, and never touches a
//! tenant that was created later with the same id.

use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::domain::tenant::{Requester, TenantStatus};
use copilotd_actors::ports::LogError;

use super::current::LiveTenants;
use super::error::ChangeError;
use super::registry::TenantRegistry;
use crate::audit::{Action, Entry as AuditEntry};

impl TenantRegistry {
    /// Checks that the tenant may be deleted now. Returns the job that is already deleting it, if there is one.
    pub fn deletable(&self, id: &TenantId) -> Result<Option<JobId>, ChangeError> {
        let current = self.live.current();
        let entry = current.tenants.get(id).ok_or(ChangeError::Missing)?;
        if let Some(job) = entry.deletion() {
            return Ok(Some(job));
        }
        if current.is_of_file(id) {
            let message =
                "the tenant is in the configuration file: remove it there and reload, then delete its stored data";
            return Err(ChangeError::Conflict(message.to_owned()));
        }
        Ok(None)
    }

    /// Marks a tenant as being deleted by `job`. Once this returns, its credentials are refused, its streams end and
    /// its open turns are cancelled. Recorded in the audit log of `recorded_in`, the requester's tenant, because the
    /// tenant's own log is erased. Returns the job that deletes it: another one, if that came first.
    pub async fn begin_deletion(
        &self,
        id: &TenantId,
        job: JobId,
        recorded_in: &TenantId,
        by: &Requester,
    ) -> Result<JobId, ChangeError> {
        let source = self.live.source.lock().await;
        let current = self.live.read_or_cached(&source).await;
        let entry = current.tenants.get(id).ok_or(ChangeError::Missing)?;
        if let Some(other) = entry.deletion() {
            return Ok(other);
        }
        if source.tenant(id.as_str()).is_some() || current.is_of_file(id) {
            let message =
                "the tenant is in the configuration file: remove it there and reload, then delete its stored data";
            return Err(ChangeError::Conflict(message.to_owned()));
        }
        let mut record = self.record_of(id, entry);
        (record.status, record.deletion) = (TenantStatus::Suspended, Some(job));
        tracing::info!(
            tenant = %id, %job, actor = by.actor, credential = by.credential, request_id = by.request_id,
            "tenant deletion requested; its credentials are refused from now on"
        );
        let recorded = AuditEntry {
            actor: by.actor.clone(),
            credential: by.credential.clone(),
            request_id: by.request_id.clone(),
            action: Action::TenantDeleted,
            target: id.to_string(),
            changed: Vec::new(),
            reason: None,
        };
        self.live.audit.record(recorded_in, recorded).await?;
        self.live.store.put_tenant(&record).await?;
        let after = current.with_status(&self.live.globals, record, self.live.clock.now());
        self.live.apply_despite_failures(after);
        Ok(job)
    }

    /// Lists the tenants that are being deleted, with their deletion jobs.
    pub fn deletions(&self) -> Vec<(TenantId, JobId)> {
        let current = self.live.current();
        let marked = current.tenants.iter();
        marked
            .filter_map(|(id, entry)| Some((id.clone(), entry.deletion()?)))
            .collect()
    }

    /// Whether the store has marked the tenant as being deleted by `job`. Updates the state in memory from the store,
    /// whose earlier answer may have been lost.
    pub async fn is_marked(&self, id: &TenantId, job: JobId) -> Result<bool, ChangeError> {
        let source = self.live.source.lock().await;
        let tenants = self.live.store.tenants().await?;
        let stored = tenants.iter().find(|record| record.id == *id);
        let marked = stored.is_some_and(|record| record.deletion == Some(job));
        let remembered = self.live.current().tenants.get(id).and_then(|entry| entry.deletion()) == Some(job);
        if marked != remembered {
            let keys = self.live.store.keys().await?;
            let after = LiveTenants::build(self.live.check_context(&source), tenants, keys, self.live.clock.now());
            self.live.apply_despite_failures(after);
        }
        Ok(marked)
    }

    /// Forgets a tenant whose data is erased. `removed` deletes its record from the store; `before` is called after
    /// that and before a tenant with this id can be created again. If the configuration file has the tenant by now, it
    /// is served from that.
    pub async fn finish_deletion(
        &self,
        id: &TenantId,
        removed: impl Future<Output = Result<(), LogError>>,
        before: impl FnOnce(),
    ) -> Result<(), ChangeError> {
        let source = self.live.source.lock().await;
        let current = self.live.current();
        if let Some(entry) = current.tenants.get(id) {
            self.api_keys.forget_uses(id, entry, &current.keys).await?;
        }
        removed.await?;
        let (tenants, keys) = (self.live.store.tenants().await?, self.live.store.keys().await?);
        let after = LiveTenants::build(self.live.check_context(&source), tenants, keys, self.live.clock.now());
        before();
        self.live.apply_despite_failures(after);
        self.api_keys.forget_turn(id);
        Ok(())
    }
}
