//! Checks of callers' schemas in child processes: `SchemaChecker` for the product.
//!
//! Checking a value against a schema can take time and memory that are exponential in both, and a thread that does it
//! cannot be stopped. So a small pool of processes of this same program does it (`copilotd schema-worker`), each with a
//! limit on its memory, and one that exceeds the deadline is killed and replaced.
//!
//! Invariant: a check occupies one worker for at most the deadline, and one tenant occupies at most half of the
//! workers. Dropping a check kills its worker: nothing continues for a turn that was cancelled.

mod frame;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::weight;
use copilotd_actors::ports::{SchemaChecker, SchemaError, SchemaVerdict};
use copilotd_actors::tenancy::TenantScope;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::child::permits::Permits;
use super::child::{self, READY};
use frame::{MAX_REPLY, Reply, Request};
pub use worker::{ARGUMENT, run as run_worker};

/// Limits of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Processes that check concurrently.
    pub workers: usize,
    /// Longest time of one check; then its process is killed.
    pub deadline: Duration,
    /// Schemas of one tenant that may wait to be compiled; one more is refused.
    pub tenant_queue: usize,
    /// Longest time that a schema waits to be compiled.
    pub compile_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            workers: cores.clamp(2, 8),
            deadline: Duration::from_secs(2),
            tenant_queue: 64,
            compile_wait: Duration::from_secs(5),
        }
    }
}

/// Checks after which a process is replaced, whatever its memory use.
const MAX_JOBS: u32 = 1_000;

/// The pool. Starts a process when one is needed and none is idle.
pub struct SchemaPool {
    program: PathBuf,
    settings: Settings,
    permits: Arc<Permits>,
    idle: Mutex<Vec<Worker>>,
}

impl SchemaPool {
    /// Creates a pool of processes of `program`, which has to be this one.
    pub fn new(program: PathBuf, settings: Settings) -> Self {
        Self {
            program,
            settings,
            permits: Permits::new(settings.workers, (settings.workers / 2).max(1)),
            idle: Mutex::default(),
        }
    }

    /// Compiles or checks in a child process, once there is one for this tenant.
    async fn ask(&self, scope: &TenantScope, schema: &Arc<Value>, answer: Option<&str>) -> Result<Reply, SchemaError> {
        let tenant = scope.tenant();
        let place = if answer.is_some() {
            let waiting = self.permits.permit(tenant).map_err(|_full| SchemaError::Busy)?;
            waiting.await
        } else {
            let waiting = self.permits.permit_first(tenant, self.settings.tenant_queue);
            let waited = timeout(self.settings.compile_wait, waiting.map_err(|_full| SchemaError::Busy)?).await;
            waited.map_err(|_elapsed| SchemaError::Busy)?
        };
        let frame = encode(tenant, schema, answer).await?;
        let begun = Instant::now();
        let asked = self.ask_now(scope, &frame).await;
        histogram!("copilotd_schema_check_seconds").record(begun.elapsed().as_secs_f64());
        drop(place);
        asked
    }

    async fn ask_now(&self, scope: &TenantScope, frame: &[u8]) -> Result<Reply, SchemaError> {
        let mut take_idle = self.take_idle();
        loop {
            let used = take_idle.is_some();
            let mut worker = match take_idle.take() {
                Some(worker) => worker,
                None => Worker::start(&self.program).await.map_err(unavailable)?,
            };
            let why = match timeout(self.settings.deadline, worker.exchange(frame)).await {
                Ok(Ok(reply)) => {
                    let reply = serde_json::from_slice(&reply);
                    let reply = reply.map_err(|error| SchemaError::Unavailable(error.to_string()))?;
                    self.keep(worker);
                    return Ok(reply);
                }
                // Memory left over from earlier checks is not this one's fault: a fresh process decides.
                Ok(Err(_)) if used => continue,
                Ok(Err(_)) => "memory",
                Err(_elapsed) => "time",
            };
            counter!("copilotd_schema_workers_killed_total", "limit" => why).increment(1);
            tracing::warn!(
                tenant = %scope.tenant(),
                limit = why,
                "schema check exceeded its limit; killed its worker process and refused the schema or answer as too expensive"
            );
            // Dropping it kills it.
            drop(worker);
            return Err(SchemaError::TooExpensive);
        }
    }

    /// Takes an idle worker that is still alive.
    fn take_idle(&self) -> Option<Worker> {
        let mut idle = self.idle.lock();
        std::iter::from_fn(|| idle.pop()).find_map(Worker::if_alive)
    }

    fn keep(&self, worker: Worker) {
        let mut idle = self.idle.lock();
        if worker.jobs < MAX_JOBS && idle.len() < self.settings.workers {
            idle.push(worker);
        }
    }
}

#[async_trait]
impl SchemaChecker for SchemaPool {
    async fn compile(&self, scope: &TenantScope, schema: &Arc<Value>) -> Result<(), SchemaError> {
        let outcome = match self.ask(scope, schema, None).await {
            Ok(Reply::Fine) => Ok(()),
            Ok(Reply::Unusable(violation)) => Err(SchemaError::Unusable(violation.into())),
            Ok(Reply::Invalid(why)) => Err(SchemaError::Unavailable(why)),
            Err(error) => Err(error),
        };
        count("compile", outcome.as_ref().err());
        outcome
    }

    async fn check(
        &self,
        scope: &TenantScope,
        schema: &Arc<Value>,
        answer: &str,
    ) -> Result<SchemaVerdict, SchemaError> {
        let outcome = match self.ask(scope, schema, Some(answer)).await {
            Ok(Reply::Fine) => Ok(SchemaVerdict::Valid),
            Ok(Reply::Invalid(why)) => Ok(SchemaVerdict::Invalid(why)),
            Ok(Reply::Unusable(violation)) => Err(SchemaError::Unusable(violation.into())),
            Err(error) => Err(error),
        };
        count("check", outcome.as_ref().err());
        outcome
    }
}

fn unavailable(error: std::io::Error) -> SchemaError {
    SchemaError::Unavailable(error.to_string())
}

/// Encodes the request to a worker; a long one on the compute pool.
async fn encode(tenant: &TenantId, schema: &Arc<Value>, answer: Option<&str>) -> Result<Vec<u8>, SchemaError> {
    let cost = weight::of(schema) + answer.map_or(0, str::len);
    let (schema, answer) = (Arc::clone(schema), answer.map(str::to_owned));
    let write = move || {
        frame::encode(&Request {
            schema: &schema,
            answer: answer.as_deref(),
        })
    };
    let written = compute::run(Some(tenant), cost, write).await;
    written
        .map_err(|error| SchemaError::Unavailable(error.to_string()))?
        .map_err(unavailable)
}

fn count(what: &'static str, error: Option<&SchemaError>) {
    let outcome = match error {
        None => "done",
        Some(SchemaError::Unusable(_)) => "unusable",
        Some(SchemaError::TooExpensive) => "too_expensive",
        Some(SchemaError::Busy) => "busy",
        Some(SchemaError::Unavailable(_)) => "unavailable",
    };
    counter!("copilotd_schema_checks_total", "what" => what, "outcome" => outcome).increment(1);
}

/// One child process, idle or checking. Killed when dropped.
struct Worker {
    process: child::Process,
    jobs: u32,
}

impl Worker {
    async fn start(program: &Path) -> std::io::Result<Self> {
        let process = child::start(program, [ARGUMENT.into()]).await?;
        match process.first {
            READY => Ok(Self { process, jobs: 0 }),
            _ => Err(std::io::Error::other("the worker process is another program")),
        }
    }

    fn if_alive(mut self) -> Option<Self> {
        matches!(self.process.child.try_wait(), Ok(None)).then_some(self)
    }

    async fn exchange(&mut self, frame: &[u8]) -> std::io::Result<Vec<u8>> {
        self.jobs += 1;
        let child::Process { to, from, .. } = &mut self.process;
        to.write_all(frame).await?;
        to.flush().await?;
        let length = usize::try_from(from.read_u32_le().await?).unwrap_or(usize::MAX);
        if length > MAX_REPLY {
            return Err(std::io::Error::other("the worker's reply is too long"));
        }
        let mut reply = vec![0; length];
        from.read_exact(&mut reply).await?;
        Ok(reply)
    }
}
