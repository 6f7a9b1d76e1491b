//! The child process: `copilotd schema-worker`. Reads jobs from standard input until it is closed, one at a time.
//!
//! It limits itself before it reads the first byte, and does nothing but compute: whatever happens to it, its parent
//! reads either a reply or the end of the pipe.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use copilotd_actors::domain::schema::check::Checker;
use rustix::process::getppid;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use super::super::child::limits::{self, mapped};
use super::super::child::{READY, UNLIMITED};
use super::frame::{self, Job, Reply};

/// First argument of such a process. Not a command for people, so it is not in the help.
pub const ARGUMENT: &str = "schema-worker";

/// Memory that a check may use, beyond what the program itself takes.
const MEMORY: u64 = 256 * 1024 * 1024;
/// Compiled schemas are dropped before the next check once the process has grown by this much.
const CACHE_MEMORY: u64 = 64 * 1024 * 1024;
/// Most compiled schemas that are cached.
const CACHED: usize = 16;
/// Interval, during a check, of testing whether the parent is still alive.
const PARENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a worker.
pub fn run() -> ExitCode {
    limits::close_inherited();
    let Ok(own) = limits::apply(MEMORY) else {
        // The parent refuses to work with it, whether this arrives or not.
        let _ = std::io::stdout().write_all(&[UNLIMITED]);
        return ExitCode::FAILURE;
    };
    if outlive_signals().is_err() {
        return ExitCode::FAILURE;
    }
    let (jobs, watched) = mpsc::channel();
    let watch = std::thread::Builder::new().stack_size(64 * 1024);
    if watch.spawn(move || end_orphans(&watched)).is_err() {
        return ExitCode::FAILURE;
    }
    match work(&jobs, own) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Signals to a whole service or terminal are for the server: while it drains, checks continue. It ends its workers
/// itself.
fn outlive_signals() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        // A handler that was registered once replaces the default action, which is to exit, for the life of the
        // process.
        drop(signal(kind)?);
    }
    Ok(())
}

/// Ends the process if its parent dies during a check: then nobody is there to kill it at the deadline.
fn end_orphans(jobs: &mpsc::Receiver<bool>) {
    let parent = getppid();
    while let Ok(true) = jobs.recv() {
        while jobs.recv_timeout(PARENT_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if getppid() != parent {
                std::process::abort();
            }
        }
    }
}

fn work(jobs: &mpsc::Sender<bool>, own: u64) -> std::io::Result<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    output.write_all(&[READY])?;
    output.flush()?;
    let mut cache = Cache::default();
    while let Some(frame) = frame::read(&mut input)? {
        if mapped().is_some_and(|mapped| mapped > own.saturating_add(CACHE_MEMORY)) {
            cache.0.clear();
        }
        // The watch outlives this loop.
        let _ = jobs.send(true);
        let job: Job = serde_json::from_slice(&frame)?;
        drop(frame);
        let reply = frame::encode(&reply(&job, &mut cache))?;
        let _ = jobs.send(false);
        output.write_all(&reply)?;
        output.flush()?;
    }
    Ok(())
}

fn reply(job: &Job, cache: &mut Cache) -> Reply {
    let checker = match cache.checker(job) {
        Ok(checker) => checker,
        Err(violation) => return violation,
    };
    match &job.answer {
        None => Reply::Fine,
        Some(answer) => checker.check(answer).map_or_else(Reply::Invalid, |()| Reply::Fine),
    }
}

/// Compiled schemas by the hash of their text, the last used one at the end.
#[derive(Default)]
struct Cache(Vec<([u8; 32], Checker)>);

impl Cache {
    fn checker(&mut self, job: &Job) -> Result<&Checker, Reply> {
        let hash: [u8; 32] = Sha256::digest(job.schema.to_string()).into();
        let entry = match self.0.iter().position(|(known, _)| *known == hash) {
            Some(index) => self.0.remove(index),
            None => {
                let checker = Checker::compile(&job.schema).map_err(|violation| Reply::Unusable(violation.into()))?;
                if self.0.len() >= CACHED {
                    self.0.remove(0);
                }
                (hash, checker)
            }
        };
        self.0.push(entry);
        let (_, checker) = self
            .0
            .last()
            .ok_or_else(|| Reply::Invalid("nothing was compiled".into()))?;
        Ok(checker)
    }
}
