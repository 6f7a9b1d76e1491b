//! A job store in memory, beside the other stores in memory. Of a deleted tenant it erases jobs and the tenant's
//! record; the real stores, which erase the rest, have their own tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::ports::{EventLog as _, Job, JobStore, LogError, Piece, PieceOutcome, TenantData, TenantEraser};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::tenants::MemoryTenants;

/// A job store in memory.
pub struct MemoryJobs {
    log: MemoryLog,
    tenants: Arc<MemoryTenants>,
    stored: Mutex<Stored>,
}

#[derive(Default)]
struct Stored {
    jobs: BTreeMap<JobId, Job>,
    pieces: BTreeMap<(JobId, u64), Piece>,
}

impl MemoryJobs {
    pub fn new(log: MemoryLog, tenants: Arc<MemoryTenants>) -> Self {
        Self {
            log,
            tenants,
            stored: Mutex::default(),
        }
    }

    fn jobs(&self, wanted: impl Fn(&&Job) -> bool) -> Vec<Job> {
        let stored = self.stored.lock();
        let mut found: Vec<Job> = stored.jobs.values().filter(wanted).cloned().collect();
        found.sort_by_key(|job| (job.state.created_at, job.id));
        found
    }
}

#[async_trait]
impl JobStore for MemoryJobs {
    async fn put_job(&self, job: &Job) -> Result<(), LogError> {
        self.stored.lock().jobs.insert(job.id, job.clone());
        Ok(())
    }

    async fn job(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError> {
        Ok(self.jobs(|job| job.id == id && job.scope == *scope).pop())
    }

    async fn jobs_of(&self, scope: &TenantScope, limit: usize) -> Result<Vec<Job>, LogError> {
        let found = self.jobs(|job| job.scope == *scope);
        Ok(found.into_iter().rev().take(limit).collect())
    }

    async fn open_jobs(&self) -> Result<Vec<Job>, LogError> {
        Ok(self.jobs(|job| !job.state.status.is_terminal()))
    }

    async fn expired_jobs(&self, now: Timestamp, limit: usize) -> Result<Vec<Job>, LogError> {
        let found = self.jobs(|job| job.is_expired(now));
        Ok(found.into_iter().take(limit).collect())
    }

    async fn delete_job(&self, scope: &TenantScope, id: JobId) -> Result<(), LogError> {
        self.delete_pieces(scope, id).await?;
        self.stored.lock().jobs.remove(&id);
        Ok(())
    }

    async fn put_piece(&self, scope: &TenantScope, job: JobId, piece: &Piece) -> Result<PieceOutcome, LogError> {
        let header = self.log.header(scope, piece.conversation).await?;
        if header.is_none_or(|header| header.erased) {
            return Ok(PieceOutcome::Erased);
        }
        self.stored.lock().pieces.insert((job, piece.n), piece.clone());
        Ok(PieceOutcome::Stored)
    }

    async fn next_piece(&self, _: &TenantScope, job: JobId, after: u64) -> Result<Option<Piece>, LogError> {
        let stored = self.stored.lock();
        let next = stored.pieces.range((job, after + 1)..=(job, u64::MAX)).next();
        Ok(next.map(|(_, piece)| piece.clone()))
    }

    async fn delete_pieces(&self, _: &TenantScope, job: JobId) -> Result<u64, LogError> {
        let mut stored = self.stored.lock();
        let before = stored.pieces.len();
        stored.pieces.retain(|(of, _), _| *of != job);
        Ok((before - stored.pieces.len()) as u64)
    }
}

#[async_trait]
impl TenantEraser for MemoryJobs {
    async fn close_tenant(&self, _: &TenantId) -> Result<(), LogError> {
        Ok(())
    }

    fn reopen_tenant(&self, _: &TenantId) {}

    async fn erase_tenant(&self, tenant: &TenantId, data: TenantData) -> Result<u64, LogError> {
        if data != TenantData::Jobs {
            return Ok(0);
        }
        let mut stored = self.stored.lock();
        let before = stored.jobs.len();
        stored.jobs.retain(|_, job| job.scope.tenant() != tenant);
        Ok((before - stored.jobs.len()) as u64)
    }

    async fn scrub(&self) -> Result<(), LogError> {
        Ok(())
    }

    async fn delete_tenant(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError> {
        self.tenants.delete_marked(tenant, job)
    }
}
