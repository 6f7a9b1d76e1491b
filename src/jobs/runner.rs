//! Starts jobs, works them off, and takes them up again after a restart.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::domain::event::Idempotency;
use copilotd_actors::domain::ids::{JobId, TenantId, UserId};
use copilotd_actors::ports::{Clock, EventLog, Ids, LogError};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::Ledger;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::record::{Job, JobStatus, Work};
use super::retention::{self, Retention};
use super::store::{JobStore, Piece, TenantEraser};
use super::{deletion, export};
use crate::audit::AuditLog;
use crate::revocations::Revocations;
use crate::tenants::{ChangeError, Requester, Roster};

/// Tenants that are erased at the same time; others wait, refused already.
const DELETIONS: usize = 2;
/// Exports that are written at the same time.
const EXPORTS: usize = 2;
/// Results of a tenant that are kept at the same time.
const MAX_RESULTS: usize = 4;
/// Jobs of a tenant that are looked through before another one is started.
const MAX_LISTED: usize = 200;
/// Life of an idempotency key.
const KEY_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Uses of one key on different days that are told apart.
const MAX_ROUNDS: u32 = 64;
/// Pause after a failure; doubles with each further one.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Expired jobs that one look deletes.
const SWEPT_AT_ONCE: usize = 100;

/// What jobs work with.
pub struct Parts {
    /// Where jobs are stored.
    pub store: Arc<dyn JobStore>,
    /// What erases tenants from the store.
    pub eraser: Arc<dyn TenantEraser>,
    /// Tenants.
    pub roster: Arc<Roster>,
    /// Audit logs.
    pub audit: Arc<AuditLog>,
    /// Revocations in memory.
    pub revocations: Arc<Revocations>,
    /// Answers and limits in memory.
    pub gateway: Arc<Gateway>,
    /// The way to conversations.
    pub directory: Directory,
    /// Conversations.
    pub log: Arc<dyn EventLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn Ids>,
    /// What writes usage records, where there is one.
    pub ledger: Option<Arc<Ledger>>,
    /// Whether requests of a tenant are being answered, or calls of it are under way.
    pub is_busy: Box<dyn Fn(&TenantId) -> bool + Send + Sync>,
}

/// See the module.
pub struct Jobs {
    pub(super) parts: Parts,
    retention: Retention,
    deletions: Semaphore,
    exports: Semaphore,
    /// Held while an export is started: one is written at a time for each tenant.
    starting: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
}

/// Why a job was not started. Nothing has happened then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Things stand otherwise.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key was used for something else.
    #[error("the key was used for another request")]
    KeyReused,
    /// The tenant's record could not be changed.
    #[error(transparent)]
    Tenant(#[from] ChangeError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] LogError),
}

/// What comes next of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultPage {
    /// The position behind it.
    pub after: u64,
    /// Whole lines; may be empty.
    pub lines: Vec<u8>,
}

impl Jobs {
    /// Makes them; nothing runs yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            retention: Retention::new(
                Arc::clone(&parts.roster),
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

    /// Keeps the tenants that are being deleted from being written to. To be called before anything is served or reconciled.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn close_deleted(&self) -> Result<(), LogError> {
        for (tenant, _) in self.parts.roster.deletions() {
            self.parts.directory.close_tenant(&tenant);
            self.parts.eraser.close_tenant(&tenant).await?;
        }
        Ok(())
    }

    /// Takes up what an earlier process left open, and looks for what has expired from now on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume(self: &Arc<Self>) -> Result<(), LogError> {
        let open = self.parts.store.open_jobs().await?;
        for (tenant, id) in self.parts.roster.deletions() {
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

    /// Goes on with a deletion whose job cannot be read: the tenant must not stay half erased.
    fn replace_lost(self: &Arc<Self>, tenant: TenantId, id: JobId) {
        let operator = self
            .parts
            .roster
            .config()
            .tenants
            .iter()
            .find(|known| known.operator)
            .map(|known| known.id.clone());
        let Some(operator) = operator else {
            tracing::error!(%tenant, job = %id, "the job that deletes a tenant is missing, and so is a tenant of an operator to run it for");
            return;
        };
        tracing::warn!(%tenant, job = %id, "the job that deletes a tenant is missing; it is begun again");
        let work = Work::TenantDeletion { tenant };
        let scope = retention::scope(&operator);
        self.spawn(Job::new(id, scope, work, self.parts.clock.now()));
    }

    /// Ends the tasks; what they were at is taken up by the next process.
    pub fn stop(&self) {
        self.tasks().abort_all();
    }

    /// Finds a job of a tenant.
    pub async fn find(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError> {
        let found = self.parts.store.job(scope, id).await?;
        let now = self.parts.clock.now();
        Ok(found.filter(|job| !job.is_expired(now)))
    }

    /// Deletes a tenant. It is not served any more once this returns; the job erases what is stored of it. Who asks again is
    /// answered with the same job.
    pub async fn delete_tenant(
        self: &Arc<Self>,
        scope: &TenantScope,
        tenant: &TenantId,
        by: &Requester,
    ) -> Result<Job, StartError> {
        if let Some(known) = self.parts.roster.deletable(tenant)? {
            return self.known(scope, known).await;
        }
        let work = Work::TenantDeletion { tenant: tenant.clone() };
        let id = JobId::new(self.parts.ids.uuid());
        let job = Job::new(id, scope.clone(), work, self.parts.clock.now());
        // Before the tenant is marked: a mark without a job would stay for ever.
        self.parts.store.put_job(&job).await?;
        let roster = &self.parts.roster;
        let begun = roster.begin_deletion(tenant, job.id, scope.tenant(), by).await;
        match begun {
            Ok(marked) if marked == job.id => {
                self.spawn(job.clone());
                Ok(job)
            }
            Ok(other) => {
                self.parts.store.delete_job(scope, job.id).await?;
                self.known(scope, other).await
            }
            // The mark may have been stored after all: the job finds out.
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

    /// A job that another request has started.
    async fn known(&self, scope: &TenantScope, id: JobId) -> Result<Job, StartError> {
        let known = self.parts.store.job(scope, id).await?;
        known.ok_or_else(|| {
            StartError::Conflict(format!(
                "the tenant is being deleted by another tenant's operator ({id})"
            ))
        })
    }

    /// Starts an export of the tenant's conversations. `record` writes the entry of the audit log for the job whose id it is given.
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
            match self.copy_of(scope, user, asked, now).await? {
                Ok(copy) => return Ok(copy),
                Err(fresh) => id = fresh,
            }
        }
        let known = self.parts.store.jobs_of(scope, MAX_LISTED).await?;
        let exports = |job: &&Job| matches!(job.state.work, Work::Export { .. });
        if let Some(open) = known.iter().filter(exports).find(|job| !job.state.status.is_terminal()) {
            let message = format!("an export of this tenant is being written already: {}", open.id);
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
                format!("{MAX_RESULTS} results of exports are kept already; the oldest is deleted at {first}");
            return Err(StartError::Conflict(message));
        }
        let mut job = Job::new(id, scope.clone(), Work::Export { from, to }, now);
        job.state.idempotency = idempotency;
        record(job.id).await?;
        self.parts.store.put_job(&job).await?;
        self.spawn(job.clone());
        Ok(job)
    }

    /// The job that an earlier copy of a request has started, or the id of the one that this copy starts.
    async fn copy_of(
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
                Some(job) if now.duration_since(job.state.created_at) >= KEY_LIFE => {}
                Some(job) if job.state.idempotency.as_ref() == Some(asked) => return Ok(Ok(job)),
                Some(_) => break,
            }
        }
        Err(StartError::KeyReused)
    }

    /// Reads on in a job's result, from behind `after`. None at the end. What belongs to a conversation that was erased meanwhile
    /// is left out.
    pub async fn result(&self, scope: &TenantScope, id: JobId, after: u64) -> Result<Option<ResultPage>, LogError> {
        let Some(Piece { n, conversation, lines }) = self.parts.store.next_piece(scope, id, after).await? else {
            return Ok(None);
        };
        // Its pieces are there until the reconciler has come by.
        let header = self.parts.log.header(scope, conversation).await?;
        let is_there = header.is_some_and(|header| !header.erased);
        let lines = if is_there { lines } else { Vec::new() };
        Ok(Some(ResultPage { after: n, lines }))
    }

    /// Erases what tenants do not want to keep any longer; see [`Retention`].
    pub async fn retain(&self) {
        self.retention.look().await;
    }

    /// Deletes jobs whose time is over, with their results.
    pub async fn forget_expired(&self) -> Result<(), LogError> {
        let store = &self.parts.store;
        for job in store.expired_jobs(self.parts.clock.now(), SWEPT_AT_ONCE).await? {
            store.delete_job(&job.scope, job.id).await?;
            tracing::info!(job = %job.id, kind = job.state.work.kind(), tenant = %job.scope.tenant(), "expired job deleted");
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, job: Job) {
        let jobs = Arc::clone(self);
        let mut tasks = self.tasks();
        // Those that have ended are put away.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move { jobs.run(job).await });
    }

    async fn run(&self, mut job: Job) {
        let slots = match job.state.work {
            Work::TenantDeletion { .. } => &self.deletions,
            Work::Export { .. } => &self.exports,
        };
        // Never closed.
        let Ok(_slot) = slots.acquire().await else { return };
        job.state.status = JobStatus::Running;
        match job.state.work.clone() {
            Work::TenantDeletion { tenant } => self.delete(job, &tenant).await,
            Work::Export { from, to } => export::run(&self.parts, job, from, to).await,
        }
    }

    /// Erases a tenant; tries again until it is done.
    async fn delete(&self, mut job: Job, tenant: &TenantId) {
        let mut pause = PAUSE;
        loop {
            let failure = match deletion::run(&self.parts, &mut job, tenant).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            tracing::warn!(job = %job.id, %tenant, error = %failure, "deleting a tenant failed; trying again");
            job.state.error = Some("a store does not answer; the deletion is tried again".to_owned());
            // Told as far as the store takes it.
            let _ = self.parts.store.put_job(&job).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks for what has expired, until the process ends.
async fn sweep(jobs: Weak<Jobs>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(jobs) = jobs.upgrade() else { return };
        if let Err(error) = jobs.forget_expired().await {
            tracing::warn!(%error, "expired jobs could not be deleted; trying again");
        }
        jobs.retain().await;
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}
