//! The one thread that writes: it takes what waits and commits it together, so that many conversations share one
//! flush of the disk.
//!
//! Invariant: nothing is answered before the commit that holds it. Each piece of work stands in its own savepoint:
//! a conflict undoes itself and nobody else.

use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::failure::Failure;
use super::lock::DirectoryLock;

/// Most pieces of work in one commit. More would only make the first one wait.
const MOST_TOGETHER: usize = 256;

/// Work that may wait for the writer.
const QUEUE: usize = 1024;

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// One piece of work. It may run twice (its commit can fail because of another one), so it must not consume itself.
trait Work: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;
    fn settle(self: Box<Self>, commit: Result<(), Failure>);
}

struct Piece<T, F> {
    work: F,
    result: Option<T>,
    reply: Reply<T>,
}

impl<T: Send, F: FnMut(&Connection) -> Result<T, Failure> + Send> Work for Piece<T, F> {
    fn run(&mut self, connection: &Connection) -> Result<(), Failure> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn settle(self: Box<Self>, commit: Result<(), Failure>) {
        let Self { result, reply, .. } = *self;
        let answer = commit.and_then(|()| result.ok_or(Failure::Ended));
        // Whoever asked may have gone away; what was written stays written.
        let _ = reply.send(answer);
    }
}

enum Job {
    /// Runs inside the common transaction.
    Together(Box<dyn Work>),
    /// Runs between transactions.
    Between(Box<dyn Work>),
}

/// Handle of the thread. Dropping it lets the thread finish what it was given, and waits for that.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Writer {
    /// Starts the thread; it keeps the directory's lock until its last commit is done.
    pub(super) fn start(connection: Connection, lock: DirectoryLock) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                give_way();
                work_off(connection, receiver);
                drop(lock);
            })?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
        })
    }

    /// Runs `work` in a transaction and returns once that is committed. It may run more than once.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.send(work, Job::Together).await
    }

    /// Runs `work` outside any transaction.
    pub(super) async fn between<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.send(work, Job::Between).await
    }

    async fn send<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
        job: fn(Box<dyn Work>) -> Job,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let piece = Piece {
            work,
            result: None,
            reply,
        };
        let jobs = self.jobs.as_ref().ok_or(Failure::Ended)?;
        jobs.send(job(Box::new(piece))).await.map_err(|_| Failure::Ended)?;
        answer.await.map_err(|_| Failure::Ended)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// How much less of a busy processor the thread gets than those that answer: a quarter of it where one thread of theirs is
/// busy too. A commit that holds many records of the ledger else takes it from answers for milliseconds.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Lets the threads that answer go first, where there are fewer processors than work.
#[cfg(target_os = "linux")]
fn give_way() {
    // On Linux a thread has a priority of its own.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "the writer keeps its priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

fn work_off(connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut together = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Together(work) => together.push(work),
                Job::Between(mut work) => {
                    commit(&connection, std::mem::take(&mut together));
                    let done = work.run(&connection);
                    work.settle(done);
                }
            }
            if together.len() < MOST_TOGETHER {
                next = jobs.try_recv().ok();
            }
        }
        commit(&connection, together);
    }
    // The last connection that closes also folds the write-ahead log back into the file.
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "the database was not closed cleanly; the next start recovers it");
    }
}

fn commit(connection: &Connection, mut batch: Vec<Box<dyn Work>>) {
    if batch.is_empty() {
        return;
    }
    let many = batch.len();
    match run_all(connection, &mut batch) {
        Ok(results) => {
            metrics::histogram!("copilotd_append_batch", "store" => "sqlite").record(many as f64);
            for (work, result) in batch.into_iter().zip(results) {
                work.settle(result);
            }
        }
        // The whole transaction is gone, perhaps because of one member (a full disk): each gets its own answer.
        Err(_) if many > 1 => batch.into_iter().for_each(|work| commit(connection, vec![work])),
        Err(error) => {
            let share = Failure::share(&error);
            batch.into_iter().for_each(|work| work.settle(Err(share())));
        }
    }
}

/// Runs all work in one transaction. An error means that the transaction did not happen.
fn run_all(connection: &Connection, batch: &mut [Box<dyn Work>]) -> Result<Vec<Result<(), Failure>>, rusqlite::Error> {
    let outcome = try_all(connection, batch);
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

fn try_all(connection: &Connection, batch: &mut [Box<dyn Work>]) -> Result<Vec<Result<(), Failure>>, rusqlite::Error> {
    let execute = |sql: &str| connection.prepare_cached(sql)?.execute([]);
    execute("BEGIN IMMEDIATE")?;
    let mut results = Vec::with_capacity(batch.len());
    for work in batch.iter_mut() {
        execute("SAVEPOINT piece")?;
        let result = work.run(connection);
        match result {
            Ok(()) => {}
            // On a full disk, lack of memory or an I/O error SQLite may have undone everything, not only this piece.
            Err(Failure::Sqlite(error)) if connection.is_autocommit() => return Err(error),
            Err(_) => {
                execute("ROLLBACK TO piece")?;
            }
        }
        execute("RELEASE piece")?;
        results.push(result);
    }
    execute("COMMIT")?;
    Ok(results)
}
