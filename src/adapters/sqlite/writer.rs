//! The only thread that writes: it commits all waiting work together, so that many conversations share one flush of the
//! disk.
//!
//! Invariant: nothing is acknowledged before the commit that contains it. Each piece of work has its own savepoint: a
//! conflict rolls back that piece and no other.

use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::failure::{Failure, is_full_or_io};
use super::history::{CountTable, History};
use super::lock::DirectoryLock;
use super::page_slack::PageSlack;
use super::reserve::{Priority, Reserve};

/// Most pieces of work in one commit. More would only delay the first one.
const MAX_BATCH: usize = 256;

/// Most pieces of work that may wait for the writer.
const QUEUE: usize = 1024;

type Reply<T> = oneshot::Sender<Result<T, Failure>>;
type Answer<T> = oneshot::Receiver<Result<T, Failure>>;

/// One piece of work. It may run twice (its commit can fail because of another piece), so it must not consume itself.
trait Work: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;
    fn settle(self: Box<Self>, commit: Result<(), Failure>);
    fn priority(&self) -> Priority;
    fn count_table(&self) -> CountTable;
}

struct Piece<T, F> {
    work: F,
    priority: Priority,
    count_table: CountTable,
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
        // The caller may have gone; the write stays committed.
        let _ = reply.send(answer);
    }

    fn priority(&self) -> Priority {
        self.priority
    }

    fn count_table(&self) -> CountTable {
        self.count_table
    }
}

enum Job {
    /// Runs inside the common transaction.
    InTransaction(Box<dyn Work>),
    /// Runs inside the next transaction of other work, or of [`Job::CommitJoining`].
    Joining(Box<dyn Work>),
    /// Somebody's time to wait for other work is over.
    CommitJoining,
    /// Runs outside any transaction.
    OutsideTransaction(Box<dyn Work>),
}

/// Handle of the thread. Dropping it waits until the thread has finished all queued work.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Writer {
    /// Starts the thread; it holds the directory's lock until its last commit is done.
    pub(crate) fn start(writing: Writing, lock: DirectoryLock) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                lower_priority();
                run_jobs(writing, receiver);
                drop(lock);
            })?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
        })
    }

    /// Runs `work` in a transaction and returns once that is committed. May run it more than once. Refused on a full
    /// disk.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.write_as(Priority::Ordinary, work).await
    }

    /// Like [`Writer::write`], for work that has to succeed on a full disk too: it may use the reserve. Keep it small.
    pub(crate) async fn write_protective<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.write_as(Priority::Protective, work).await
    }

    /// Like [`Writer::write`], with a priority.
    pub(crate) async fn write_as<T: Send + 'static>(
        &self,
        priority: Priority,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.write_counted(CountTable::Meta, priority, work).await
    }

    /// Like [`Writer::write_as`], for work that changes the table in which its commit is then counted.
    pub(crate) async fn write_counted<T: Send + 'static>(
        &self,
        count_table: CountTable,
        priority: Priority,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.send(work, priority, count_table, Job::InTransaction).await
    }

    /// Like [`Writer::write_counted`], but waits until `deadline` for other work to share a transaction and its flush
    /// with. Dropped before, the work is done in the next transaction.
    pub(crate) async fn write_joining<T: Send + 'static>(
        &self,
        deadline: Instant,
        count_table: CountTable,
        priority: Priority,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut answer = self.enqueue(work, priority, count_table, Job::Joining).await?;
        match tokio::time::timeout_at(deadline, &mut answer).await {
            Ok(done) => done.map_err(|_| Failure::Ended)?,
            Err(_) => {
                let jobs = self.jobs.as_ref().ok_or(Failure::Ended)?;
                jobs.send(Job::CommitJoining).await.map_err(|_| Failure::Ended)?;
                answer.await.map_err(|_| Failure::Ended)?
            }
        }
    }

    /// Runs `work` outside any transaction.
    pub(crate) async fn outside_transaction<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.send(work, Priority::Ordinary, CountTable::Meta, Job::OutsideTransaction)
            .await
    }

    async fn send<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
        priority: Priority,
        count_table: CountTable,
        job: fn(Box<dyn Work>) -> Job,
    ) -> Result<T, Failure> {
        let answer = self.enqueue(work, priority, count_table, job).await?;
        answer.await.map_err(|_| Failure::Ended)?
    }

    /// Queues work; returns where its outcome arrives.
    async fn enqueue<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
        priority: Priority,
        count_table: CountTable,
        job: fn(Box<dyn Work>) -> Job,
    ) -> Result<Answer<T>, Failure> {
        let (reply, answer) = oneshot::channel();
        let piece = Piece {
            work,
            priority,
            count_table,
            result: None,
            reply,
        };
        let jobs = self.jobs.as_ref().ok_or(Failure::Ended)?;
        jobs.send(job(Box::new(piece))).await.map_err(|_| Failure::Ended)?;
        Ok(answer)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

/// How much less processor time the thread gets than those that answer requests: a quarter, where one of theirs is busy
/// too. Otherwise a commit with many ledger records delays answers by milliseconds.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Lowers this thread's priority, so that threads that answer requests go first.
#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux each thread has its own priority.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "cannot lower the priority of the database writer thread");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

/// What the thread writes with.
pub(crate) struct Writing {
    pub(crate) connection: Connection,
    /// What metrics call the database.
    pub(crate) label: &'static str,
    pub(crate) reserve: Arc<Reserve>,
    /// Counts the commits, if missing ones shall be noticed.
    pub(crate) history: Option<History>,
    pub(crate) slack: Arc<PageSlack>,
    /// Page limits for ordinary and for protective work, if the file's size is limited.
    pub(crate) max_pages: Option<MaxPages>,
}

/// See [`Writing::max_pages`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxPages {
    pub(crate) ordinary: i64,
    pub(crate) protective: i64,
}

fn run_jobs(mut writing: Writing, mut jobs: mpsc::Receiver<Job>) {
    let mut joining = Vec::new();
    while let Some(first) = jobs.blocking_recv() {
        let mut together = Vec::new();
        let mut is_joining_due = false;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::InTransaction(work) => together.push(work),
                Job::Joining(work) => joining.push(work),
                Job::CommitJoining => is_joining_due = true,
                Job::OutsideTransaction(mut work) => {
                    writing.commit(std::mem::take(&mut together));
                    let done = work.run(&writing.connection);
                    work.settle(done);
                }
            }
            if together.len() < MAX_BATCH {
                next = jobs.try_recv().ok();
            }
        }
        if is_joining_due || !together.is_empty() || joining.len() >= MAX_BATCH {
            together.append(&mut joining);
        }
        writing.commit(together);
        writing.checkpoint_if_due();
    }
    writing.commit(joining);
    // The last connection that closes also folds the write-ahead log back into the file.
    if let Err(error) = writing.reserve.prepare_close(&writing.connection) {
        tracing::warn!(%error, "cannot disable the checkpoint at close; closing the database may fail on a full disk");
    }
    if let Err((_, error)) = writing.connection.close() {
        tracing::warn!(%error, "closing the database failed; the next start recovers it");
    }
}

impl Writing {
    fn commit(&mut self, batch: Vec<Box<dyn Work>>) {
        let mut batch = self.refuse_ordinary(batch);
        if batch.is_empty() {
            return;
        }
        let many = batch.len();
        match self.run_all(&mut batch) {
            Ok(results) => {
                metrics::histogram!("copilotd_append_batch", "store" => self.label).record(many as f64);
                for (work, result) in batch.into_iter().zip(results) {
                    self.settle(work, result);
                }
            }
            // The whole transaction was rolled back, perhaps because of one member (a full disk): retry each alone.
            Err(_) if many > 1 => batch.into_iter().for_each(|work| self.commit(vec![work])),
            Err(error) => {
                let share = Failure::share(&error);
                batch.into_iter().for_each(|work| self.settle(work, Err(share())));
            }
        }
    }

    /// Refuses ordinary work while there is no space for it; returns the rest.
    fn refuse_ordinary(&self, batch: Vec<Box<dyn Work>>) -> Vec<Box<dyn Work>> {
        let is_ordinary = |work: &dyn Work| work.priority() == Priority::Ordinary;
        if !batch.iter().any(|work| is_ordinary(work.as_ref())) || self.reserve.admits_ordinary() {
            return batch;
        }
        let (refused, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|work| is_ordinary(work.as_ref()));
        refused.into_iter().for_each(|work| work.settle(Err(Failure::Full)));
        rest
    }

    /// Answers, unless the disk is full and the reserve can help: then the work is run again.
    fn settle(&mut self, work: Box<dyn Work>, result: Result<(), Failure>) {
        match result {
            Err(failure) if self.is_full(&failure) => match work.priority() {
                Priority::Ordinary => {
                    self.reserve.count_refused();
                    work.settle(Err(Failure::Full));
                }
                Priority::Booking | Priority::Erasing | Priority::Protective => self.commit_with_reserve(work),
            },
            result => work.settle(result),
        }
    }

    fn is_full(&self, failure: &Failure) -> bool {
        failure.is_full() || is_full_or_io(failure.code(), || self.reserve.is_disk_full())
    }

    /// Commits work for which the disk was too full, with as much of the reserve as it needs.
    fn commit_with_reserve(&mut self, work: Box<dyn Work>) {
        // The file's own size limit may be reached, not the disk's: more space on the disk would not help.
        if self.max_pages.is_some() && !self.reserve.is_disk_full() {
            return work.settle(Err(Failure::Full));
        }
        let priority = work.priority();
        let mut batch = vec![work];
        // A checkpoint may free enough space in the write-ahead log.
        self.checkpoint();
        let reserve = Arc::clone(&self.reserve);
        let attempt = || match self.run_all(&mut batch) {
            Ok(results) => results.into_iter().next().unwrap_or(Err(Failure::Ended)),
            Err(error) => Err(Failure::Sqlite(error)),
        };
        let is_full = |failure: &Failure| failure.is_full() || is_full_or_io(failure.code(), || reserve.is_disk_full());
        let result = reserve.make_room(priority, attempt, is_full);
        let result = result.map_err(|failure| if is_full(&failure) { Failure::Full } else { failure });
        if let Some(work) = batch.pop() {
            work.settle(result);
        }
    }

    /// Checkpoints the write-ahead log when it has grown enough.
    fn checkpoint_if_due(&mut self) {
        if self.slack.logged_bytes() >= self.reserve.checkpoint_bytes() {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        self.slack.record_log_pages();
        self.reserve.checkpoint(&self.connection);
    }

    /// Runs all work in one transaction. An error means that nothing of it was committed.
    fn run_all(&mut self, batch: &mut [Box<dyn Work>]) -> Result<Vec<Result<(), Failure>>, rusqlite::Error> {
        let outcome = self.try_all(batch);
        match &outcome {
            Ok(results) if results.iter().any(Result::is_ok) => {
                self.history.iter_mut().for_each(History::committed);
            }
            _ if !self.connection.is_autocommit() => self.connection.execute_batch("ROLLBACK")?,
            _ => {}
        }
        outcome
    }

    /// Leaves the transaction open if it returns an error, or if all work failed.
    fn try_all(&self, batch: &mut [Box<dyn Work>]) -> Result<Vec<Result<(), Failure>>, rusqlite::Error> {
        let connection = &self.connection;
        let execute = |sql: &str| connection.prepare_cached(sql)?.execute([]);
        execute("BEGIN IMMEDIATE")?;
        let mut results = Vec::with_capacity(batch.len());
        // What is alone needs no savepoint, for which SQLite would copy every page before it is changed: if it fails,
        // the transaction is rolled back.
        let has_savepoints = batch.len() > 1;
        let mut count_table = CountTable::Meta;
        for work in batch.iter_mut() {
            self.limit_pages(work.priority())?;
            if has_savepoints {
                execute("SAVEPOINT piece")?;
            }
            let result = work.run(connection);
            match result {
                Ok(()) => count_table = count_table.max(work.count_table()),
                // On a full disk, lack of memory or an I/O error SQLite may have rolled back everything, not only this
                // piece.
                Err(Failure::Sqlite(error)) if connection.is_autocommit() => return Err(error),
                Err(_) if has_savepoints => {
                    execute("ROLLBACK TO piece")?;
                }
                Err(_) => {}
            }
            if has_savepoints {
                execute("RELEASE piece")?;
            }
            results.push(result);
        }
        if results.iter().all(Result::is_err) {
            return Ok(results);
        }
        self.limit_pages(Priority::Protective)?;
        if let Some(history) = &self.history {
            history.count(connection, count_table)?;
        }
        execute("COMMIT")?;
        Ok(results)
    }

    /// Sets how large the file may become by the next piece.
    fn limit_pages(&self, priority: Priority) -> rusqlite::Result<()> {
        let Some(max) = self.max_pages else { return Ok(()) };
        let pages = match priority {
            Priority::Ordinary | Priority::Booking => max.ordinary,
            Priority::Erasing | Priority::Protective => max.protective,
        };
        self.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
    }
}
