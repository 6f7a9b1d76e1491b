//! Starts jobs, runs them, and resumes them after a restart.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::domain::event::Idempotency;
use copilotd_actors::domain::ids::{JobId, TenantId, UserId};
use copilotd_actors::domain::tenant::Requester;
use copilotd_actors::ports::{
    Clock, EventLog, FileStore, Ids, Job, JobStatus, JobStore, LogError, Piece, Recollection, ServingState,
    TenantEraser, Work,
};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::Ledger;
use copilotd_knowledge::index::KnowledgeIndex;
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::retention::{self, RetentionSweeper};
use super::{deletion, export};
use crate::audit::AuditLog;
use crate::revocations::Revocations;
use crate::tenants::{ChangeError, TenantRegistry};

/// Most tenants that are erased at the same time. Others wait; they are already refused.
const DELETIONS: usize = 2;
/// Most exports that are written at the same time.
const EXPORTS: usize = 2;
/// Most stored results per tenant.
const MAX_RESULTS: usize = 4;
/// Most jobs of a tenant that are checked before another one is started.
const MAX_LISTED: usize = 200;
/// Lifetime of an idempotency key.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// Most reuses of one idempotency key after it has expired.
const MAX_ROUNDS: u32 = 64;
/// Pause after a failure; doubled with each further one.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Interval of the sweep for expired jobs and conversations.
const SWEEP: Duration = Duration::from_secs(60);
/// Age at which a file to which no prompt refers is deleted.
const UNREFERENCED: SignedDuration = SignedDuration::from_hours(24);
/// Most expired jobs, and most files of a tenant, that one sweep deletes.
const SWEPT_AT_ONCE: usize = 100;

/// What jobs need.
pub struct Dependencies {
    /// Store of jobs.
    pub store: Arc<dyn JobStore>,
    /// Erases tenants from the store.
    pub eraser: Arc<dyn TenantEraser>,
    /// The tenants.
    pub registry: Arc<TenantRegistry>,
    /// The audit logs.
    pub audit: Arc<AuditLog>,
    /// The revocations in memory.
    pub revocations: Arc<Revocations>,
    /// The gateway, for its cached answers and limits.
    pub gateway: Arc<Gateway>,
    /// Directory of conversations.
    pub directory: Directory,
    /// The conversations' log.
    pub log: Arc<dyn EventLog>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Source of new ids.
    pub ids: Arc<dyn Ids>,
    /// The index of documents.
    pub index: Arc<dyn KnowledgeIndex>,
    /// What is kept of conversations beside their logs, if anything is.
    pub recollection: Option<Arc<dyn Recollection>>,
    /// Attached files.
    pub files: Arc<dyn FileStore>,
    /// Writes usage records, if there is one.
    pub ledger: Option<Arc<Ledger>>,
    /// Whether requests or model calls of a tenant are in flight.
    pub is_busy: Box<dyn Fn(&TenantScope) -> bool + Send + Sync>,
}

/// Runs jobs; see the module.
pub struct Jobs {
    pub(super) parts: Dependencies,
    retention: RetentionSweeper,
    deletions: Semaphore,
    exports: Semaphore,
    /// Held while an export is started, because each tenant may have one at a time.
    starting: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
}

/// Why a job was not started. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The current state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used for a different request")]
    KeyReused,
    /// The tenant's record could not be changed.
    #[error(transparent)]
    Tenant(#[from] ChangeError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] LogError),
}

/// The next piece of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultPage {
    /// Position after it, to continue from.
    pub after: u64,
    /// Whole lines; may be empty.
    pub lines: Vec<u8>,
}

impl Jobs {
    /// Creates the runner; nothing runs yet.
    pub fn new(parts: Dependencies) -> Arc<Self> {
        Arc::new(Self {
            retention: RetentionSweeper::new(
                Arc::clone(&parts.registry),
                Arc::clone(&parts.audit),
                Arc::clone(&parts.log),
                parts.directory.clone(),
                Arc::clone(&parts.clock),
            ),
            parts,
            deletions: Semaphore::new(DELETIONS),
            exports: Semaphore::new(EXPORTS),
            starting: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    /// Refuses writes for tenants that are being deleted. Call it before anything is served or reconciled.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn close_deleted(&self) -> Result<(), LogError> {
        for (tenant, _) in self.parts.registry.deletions() {
            self.parts.directory.close_tenant(&tenant);
            self.parts.eraser.close_tenant(&tenant).await?;
        }
        Ok(())
    }

    /// Resumes the jobs that an earlier process left open, and starts the periodic sweep.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume(self: &Arc<Self>) -> Result<(), LogError> {
        let open = self.parts.store.open_jobs().await?;
        for (tenant, id) in self.parts.registry.deletions() {
            if !open.iter().any(|job| job.id == id) {
                self.replace_lost(tenant, id);
            }
        }
        for job in open {
            tracing::info!(job = %job.id, kind = job.state.work.kind(), tenant = %job.scope.tenant(), "job resumed");
            self.spawn(job);
        }
        let jobs = Arc::downgrade(self);
        self.tasks().spawn(sweep(jobs));
        Ok(())
    }

    /// Continues a deletion whose job record is missing: the tenant must not stay half erased.
    fn replace_lost(self: &Arc<Self>, tenant: TenantId, id: JobId) {
        let operator = self
            .parts
            .registry
            .config()
            .tenants
            .iter()
            .find(|known| known.operator)
            .map(|known| known.id.clone());
        let Some(operator) = operator else {
            tracing::error!(
                %tenant, job = %id,
                "a tenant's deletion job is missing and cannot be recreated without an operator tenant; set operator = true \
                 on one and restart"
            );
            return;
        };
        tracing::warn!(%tenant, job = %id, "the deletion job of a tenant is missing; recreating it");
        let work = Work::TenantDeletion { tenant };
        let scope = retention::scope(&operator);
        self.spawn(Job::new(id, scope, work, self.parts.clock.now()));
    }

    /// Stops all tasks; the next process resumes them.
    pub fn stop(&self) {
        self.tasks().abort_all();
    }

    /// Finds a job of a tenant, unless it has expired.
    pub async fn find(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError> {
        let found = self.parts.store.job(scope, id).await?;
        let now = self.parts.clock.now();
        Ok(found.filter(|job| !job.is_expired(now)))
    }

    /// Deletes a tenant. Once this returns it is no longer served; the job erases its data. Repeated requests get the
    /// same job.
    pub async fn delete_tenant(
        self: &Arc<Self>,
        scope: &TenantScope,
        tenant: &TenantId,
        by: &Requester,
    ) -> Result<Job, StartError> {
        if let Some(known) = self.parts.registry.deletable(tenant)? {
            return self.known(scope, known).await;
        }
        let work = Work::TenantDeletion { tenant: tenant.clone() };
        let id = JobId::new(self.parts.ids.uuid());
        let job = Job::new(id, scope.clone(), work, self.parts.clock.now());
        // Before the tenant is marked: a mark without a job would stay forever.
        self.parts.store.put_job(&job).await?;
        let registry = &self.parts.registry;
        let begun = registry.begin_deletion(tenant, job.id, scope.tenant(), by).await;
        match begun {
            Ok(marked) if marked == job.id => {
                self.spawn(job.clone());
                Ok(job)
            }
            Ok(other) => {
                self.parts.store.delete_job(scope, job.id).await?;
                self.known(scope, other).await
            }
            // The mark may have been stored after all: the job will find out.
            Err(error @ ChangeError::Store(_)) => {
                self.spawn(job);
                Err(error.into())
            }
            Err(error) => {
                self.parts.store.delete_job(scope, job.id).await?;
                Err(error.into())
            }
        }
    }

    /// Returns a job that another request started.
    async fn known(&self, scope: &TenantScope, id: JobId) -> Result<Job, StartError> {
        let known = self.parts.store.job(scope, id).await?;
        known.ok_or_else(|| {
            StartError::Conflict(format!(
                "the tenant is already being deleted, by another tenant's operator (job {id})"
            ))
        })
    }

    /// Starts an export of the tenant's conversations. `record` writes the audit entry for the job id it is given.
    pub async fn export<F: Future<Output = Result<(), LogError>>>(
        self: &Arc<Self>,
        scope: &TenantScope,
        user: &UserId,
        (from, to): (Option<Timestamp>, Option<Timestamp>),
        idempotency: Option<Idempotency>,
        record: impl FnOnce(JobId) -> F,
    ) -> Result<Job, StartError> {
        let _starting = self.starting.lock().await;
        let now = self.parts.clock.now();
        let mut id = JobId::new(self.parts.ids.uuid());
        if let Some(asked) = &idempotency {
            match self.find_duplicate(scope, user, asked, now).await? {
                Ok(copy) => return Ok(copy),
                Err(fresh) => id = fresh,
            }
        }
        let known = self.parts.store.jobs_of(scope, MAX_LISTED).await?;
        let exports = |job: &&Job| matches!(job.state.work, Work::Export { .. });
        if let Some(open) = known.iter().filter(exports).find(|job| !job.state.status.is_terminal()) {
            let message = format!("an export of this tenant is already running: {}", open.id);
            return Err(StartError::Conflict(message));
        }
        let kept: Vec<Timestamp> = known
            .iter()
            .filter(|job| job.has_result(now))
            .filter_map(Job::expires_at)
            .collect();
        if kept.len() >= MAX_RESULTS {
            let first = kept.iter().min().map(ToString::to_string).unwrap_or_default();
            let message =
                format!("{MAX_RESULTS} export results are stored already, the limit; the oldest is deleted at {first}");
            return Err(StartError::Conflict(message));
        }
        let mut job = Job::new(id, scope.clone(), Work::Export { from, to }, now);
        job.state.idempotency = idempotency;
        record(job.id).await?;
        self.parts.store.put_job(&job).await?;
        self.spawn(job.clone());
        Ok(job)
    }

    /// Returns the job that an earlier copy of the request started, or else the id for the job of this one.
    async fn find_duplicate(
        &self,
        scope: &TenantScope,
        user: &UserId,
        asked: &Idempotency,
        now: Timestamp,
    ) -> Result<Result<Job, JobId>, StartError> {
        for round in 0..MAX_ROUNDS {
            let id = JobId::derived(scope.tenant(), user, "exports", &asked.key, round);
            match self.parts.store.job(scope, id).await? {
                None => return Ok(Err(id)),
                Some(job) if now.duration_since(job.state.created_at) >= KEY_LIFETIME => {}
                Some(job) if job.state.idempotency.as_ref() == Some(asked) => return Ok(Ok(job)),
                Some(_) => break,
            }
        }
        Err(StartError::KeyReused)
    }

    /// Reads the piece of a job's result after position `after`; none at the end. Lines of conversations that were
    /// erased meanwhile are omitted.
    pub async fn result(&self, scope: &TenantScope, id: JobId, after: u64) -> Result<Option<ResultPage>, LogError> {
        let Some(Piece { n, conversation, lines }) = self.parts.store.next_piece(scope, id, after).await? else {
            return Ok(None);
        };
        // Pieces of an erased conversation exist until the reconciler deletes them.
        let header = self.parts.log.header(scope, conversation).await?;
        let is_there = header.is_some_and(|header| !header.erased);
        let lines = if is_there { lines } else { Vec::new() };
        Ok(Some(ResultPage { after: n, lines }))
    }

    /// Erases conversations whose retention has ended; see [`RetentionSweeper`].
    pub async fn retain(&self) {
        self.retention.run_round().await;
    }

    /// Deletes expired jobs and their results.
    pub async fn forget_expired(&self) -> Result<(), LogError> {
        let store = &self.parts.store;
        for job in store.expired_jobs(self.parts.clock.now(), SWEPT_AT_ONCE).await? {
            store.delete_job(&job.scope, job.id).await?;
            tracing::info!(job = %job.id, kind = job.state.work.kind(), tenant = %job.scope.tenant(), "expired job deleted");
        }
        Ok(())
    }

    /// Deletes the files to which no prompt referred within a day, and uploads that never ended.
    pub async fn sweep_files(&self) {
        let Ok(before) = self.parts.clock.now().checked_sub(UNREFERENCED) else {
            return;
        };
        for tenant in &self.parts.registry.config().tenants {
            // Nothing of a suspended tenant is deleted.
            if tenant.standing() == ServingState::Suspended {
                continue;
            }
            let scope = retention::scope(&tenant.id);
            match self.parts.files.sweep_files(&scope, before, SWEPT_AT_ONCE).await {
                Ok(0) => {}
                Ok(swept) => {
                    counter!("copilotd_reconciled_total", "what" => "file").increment(swept);
                    tracing::info!(tenant = %tenant.id, files = swept, "unreferenced files and unfinished uploads deleted");
                }
                Err(error) => {
                    tracing::warn!(tenant = %tenant.id, %error, "could not delete unreferenced files; trying again in a minute");
                }
            }
        }
    }

    fn spawn(self: &Arc<Self>, job: Job) {
        let jobs = Arc::clone(self);
        let mut tasks = self.tasks();
        // Remove finished tasks from the set.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move { jobs.run(job).await });
    }

    async fn run(&self, mut job: Job) {
        let slots = match job.state.work {
            Work::TenantDeletion { .. } => &self.deletions,
            Work::Export { .. } => &self.exports,
        };
        // The semaphore is never closed.
        let Ok(_slot) = slots.acquire().await else { return };
        job.state.status = JobStatus::Running;
        match job.state.work.clone() {
            Work::TenantDeletion { tenant } => self.delete(job, &tenant).await,
            Work::Export { from, to } => export::run(&self.parts, job, from, to).await,
        }
    }

    /// Erases a tenant; retries until it is done.
    async fn delete(&self, mut job: Job, tenant: &TenantId) {
        let mut pause = PAUSE;
        loop {
            let failure = match deletion::run(&self.parts, &mut job, tenant).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            let error = format!("{failure:#}");
            tracing::warn!(job = %job.id, %tenant, error, "tenant deletion attempt failed; trying again");
            job.state.error = Some("the last attempt failed; the deletion is being retried".to_owned());
            // Best effort: the store may be unavailable.
            let _ = self.parts.store.put_job(&job).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock()
    }
}

/// Sweeps periodically, until the process ends.
async fn sweep(jobs: Weak<Jobs>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(jobs) = jobs.upgrade() else { return };
        if let Err(error) = jobs.forget_expired().await {
            tracing::warn!(%error, "could not delete expired jobs; trying again in a minute");
        }
        jobs.retain().await;
        jobs.sweep_files().await;
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}
