//! The embedded store: every log and every projection in one SQLite file.
//!
//! One thread writes and commits all waiting work together (`writer`); a few connections read beside it on blocking
//! threads (`readers`). Projections change in the append's own transaction, so no read ever lags. Invariant: no
//! database call runs on an async thread, and an append is acknowledged only after its commit has been flushed
//! (`synchronous = FULL`).

mod anchor;
mod append;
mod audit;
mod erase;
mod failure;
mod history;
mod jobs;
mod lock;
pub(crate) mod page_slack;
mod probe;
mod quota;
mod read;
mod readers;
mod reserve;
mod revocations;
mod rows;
mod schema;
pub mod standby;
mod tenant_erasure;
mod tenants;
mod usage;
mod writer;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::quota::StoredTotals;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TurnId, UserId};
use copilotd_actors::ports::{
    Append, ErasureReceipt, EventLog, ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords,
};
use copilotd_actors::tenancy::TenantScope;
use tokio::time::Instant;

use self::anchor::Anchor;
use self::append::EncodedAppend;
use self::failure::Failure;
use self::history::{CountTable, History};
use self::lock::DirectoryLock;
use self::readers::Readers;
use self::reserve::{Priority, Reserve};
use self::writer::{MaxPages, Writer, Writing};
use super::backoff::Backoff;
use super::sqlite::page_slack::PageSlack;
use super::tenant_fence::TenantFence;
use crate::private_files;

/// File name of the database inside the data directory.
const FILE: &str = "copilotd.db";

/// Most rounds in which an erasure clears pages that changed during the previous round.
const MAX_ROUNDS: usize = 4;

/// Options besides the directory.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Largest size of the database file; larger appends are refused as if the disk were full.
    pub max_bytes: Option<u64>,
    /// Connections that read concurrently.
    pub readers: usize,
    /// How long an append is tried before its outcome is reported as unknown.
    pub append_deadline: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_bytes: None,
            readers: 4,
            append_deadline: Duration::from_secs(30),
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be created, read or written.
    #[error("cannot read or write {path}", path = path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("{path} is in use by another copilotd{of}; one process may use a data directory at a time",
        path = path.display(), of = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        path: PathBuf,
        /// The process that uses it, if known.
        pid: Option<u32>,
    },
    /// A newer release wrote it.
    #[error("{path} has schema version {found}, and this release knows versions up to {known}; use a newer release",
        path = path.display())]
    Newer {
        path: PathBuf,
        found: i64,
        /// Newest version that this release knows.
        known: i64,
    },
    /// No space to open it.
    #[error("the disk of {path} is full and the disk reserve is used up; free some space and start again", path = path.display())]
    Full { path: PathBuf },
    /// No space to migrate it.
    #[error("the disk of {path} is full: migrating the database from schema version {found} to {known} needs more space than half of \
        the disk reserve; free some space and start again. Nothing was changed; the previous release still opens it",
        path = path.display())]
    FullMigration {
        path: PathBuf,
        found: i64,
        /// Newest version that this release knows.
        known: i64,
    },
    /// The database of another program.
    #[error("{path} is a SQLite database of another program, not of copilotd; use another data directory", path = path.display())]
    Foreign { path: PathBuf },
    #[error("cannot open the database")]
    Sqlite(#[from] rusqlite::Error),
}

/// [`EventLog`] in one SQLite file.
#[derive(Debug)]
pub struct SqliteLog {
    // Dropped first: the last writer to close folds the write-ahead log back, which readers would prevent.
    readers: Readers,
    writer: Writer,
    reserve: Arc<Reserve>,
    anchor: Arc<Anchor>,
    /// Tenants that are being deleted.
    fence: TenantFence,
    max_pages: Option<MaxPages>,
    missing_commits: u64,
    append_deadline: Duration,
    // Dropped last: it keeps the database file open, and closing that file would release SQLite's locks on it.
    slack: Arc<PageSlack>,
}

impl SqliteLog {
    /// Opens the store in `directory`, which is created if missing. Blocks briefly; call it at start.
    ///
    /// # Errors
    /// If the directory is unusable or used by another process, or if the file is not one of ours or too new.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(directory, &SqliteOptions::default())
    }

    /// Opens the store with options.
    ///
    /// # Errors
    /// As [`SqliteLog::open`].
    pub fn open_with(directory: &Path, options: &SqliteOptions) -> Result<Self, OpenError> {
        make_directory(directory)?;
        let lock = DirectoryLock::take(directory)?;
        Self::open_locked(directory, options, lock)
    }

    /// Opens the store in a directory that a standby has waited for.
    ///
    /// # Errors
    /// As [`SqliteLog::open`].
    pub fn open_free(directory: &Path, free: standby::FreeDirectory) -> Result<Self, OpenError> {
        Self::open_locked(directory, &SqliteOptions::default(), free.0)
    }

    fn open_locked(directory: &Path, options: &SqliteOptions, lock: DirectoryLock) -> Result<Self, OpenError> {
        let path = directory.join(FILE);
        private_files::tighten_directory(directory);
        // SQLite creates the files beside it (-wal, -shm) with the same mode.
        let file = private_files::open(&path).map_err(|source| OpenError::Directory {
            path: path.clone(),
            source,
        })?;
        let slack = Arc::new(PageSlack::new(file, &path));
        let reserve = Arc::new(Reserve::open(directory, &path));
        let mut connection = schema::open_writer(&path, &reserve)?;
        slack.watch(&mut connection)?;
        let max_pages = match options.max_bytes {
            Some(bytes) => Some(schema::max_pages(&connection, bytes)?),
            None => None,
        };
        let (history, missing_commits) = History::open(directory, &connection)?;
        let anchor = Arc::new(Anchor::open(directory, &audit::heads(&connection)));
        let readers = Readers::open(&path, options.readers.max(1))?;
        let writing = Writing {
            connection,
            reserve: Arc::clone(&reserve),
            history,
            slack: Arc::clone(&slack),
            max_pages,
        };
        let writer = Writer::start(writing, lock).map_err(|source| OpenError::Directory { path, source })?;
        Ok(Self {
            readers,
            writer,
            reserve,
            anchor,
            fence: TenantFence::default(),
            max_pages,
            missing_commits,
            append_deadline: options.append_deadline,
            slack,
        })
    }

    /// Waits for the last commit, folds the write-ahead log back into the file and releases the directory. Dropping
    /// does the same on the dropping thread.
    pub async fn close(self) {
        // Closing blocks, so it must not run on a runtime thread.
        let closed = tokio::task::spawn_blocking(move || drop(self)).await;
        if let Err(error) = closed {
            tracing::error!(%error, "closing the store failed; the next start recovers it");
        }
    }

    /// Overwrites every copy of deleted rows that is left in the files, in slices, so that others write meanwhile.
    async fn clear_slack(&self) -> Result<(), Failure> {
        for _ in 0..MAX_ROUNDS {
            let mut taken = self
                .slack
                .take()
                .map_err(|error| Failure::PageSlack(error.to_string()))?;
            for pages in std::mem::take(&mut taken.slices) {
                let slack = Arc::clone(&self.slack);
                self.writer.outside_transaction(move |c| slack.clear(c, &pages)).await?;
            }
            taken.done();
            if self.slack.is_nearly_clean() {
                break;
            }
        }
        // The write-ahead log still has older versions of pages: it is truncated in the same step that clears the last
        // pages.
        let mut backoff = Backoff::new(self.append_deadline);
        loop {
            let (slack, reserve) = (Arc::clone(&self.slack), Arc::clone(&self.reserve));
            if self
                .writer
                .outside_transaction(move |c| slack.finish(c, &reserve))
                .await?
            {
                return Ok(());
            }
            if !backoff.pause().await {
                let busy = "the write-ahead log cannot be truncated while readers use it";
                return Err(LogError::Unavailable(busy.to_owned()).into());
            }
        }
    }

    async fn append_until(&self, encoded: &Arc<EncodedAppend>) -> Result<(), LogError> {
        let mut backoff = Backoff::new(self.append_deadline);
        // An erasure has to work on a full disk.
        let priority = Priority::protective_if(encoded.is_erasure());
        loop {
            let work = Arc::clone(encoded);
            let written = self
                .writer
                .write_counted(CountTable::Stored, priority, move |connection| work.write(connection));
            let failure = match tokio::time::timeout_at(backoff.deadline(), written).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    return Err(LogError::Unavailable(
                        "the append was not committed in time; its outcome is unknown".to_owned(),
                    ));
                }
            };
            if !failure.is_transient() || !backoff.pause().await {
                return Err(failure.into());
            }
            tracing::warn!(error = %failure, "append to a conversation's log failed; trying again");
        }
    }
}

fn make_directory(directory: &Path) -> Result<(), OpenError> {
    let cannot = |source| OpenError::Directory {
        path: directory.to_owned(),
        source,
    };
    private_files::create_directory(directory).map_err(cannot)?;
    // The directory entry must survive a power cut as well as its content.
    if let Some(parent) = directory.canonicalize().map_err(cannot)?.parent() {
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(cannot)?;
    }
    Ok(())
}

#[async_trait]
impl EventLog for SqliteLog {
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError> {
        append.check(scope)?;
        let _pass = self.fence.enter(scope.tenant())?;
        let (cost, own) = (append.weight(), append.clone());
        let encoded = compute::run(Some(scope.tenant()), cost, move || EncodedAppend::new(&own)).await;
        let encoded = encoded.map_err(|error| LogError::Refused(error.to_string()))?;
        let encoded = Arc::new(encoded?);
        let begun = Instant::now();
        let outcome = self.append_until(&encoded).await;
        metrics::histogram!("copilotd_append_seconds", "store" => "sqlite").record(begun.elapsed());
        if outcome.is_ok() {
            encoded.count();
        }
        outcome
    }

    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &_| read::records(c, &tenant, conversation, after, limit);
        Ok(self.readers.run(query).await?)
    }

    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError> {
        let tenant = scope.tenant().clone();
        Ok(self.readers.run(move |c| read::turn(c, &tenant, turn)).await?)
    }

    async fn read_turn_and_header(
        &self,
        scope: &TenantScope,
        turn: TurnId,
    ) -> Result<Option<(TurnRecords, Header)>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &_| {
            let Some(found) = read::turn(c, &tenant, turn)? else {
                return Ok(None);
            };
            let header = erase::find_header(c, &tenant, found.conversation)?;
            Ok(header.map(|header| (found, header)))
        };
        Ok(self.readers.run(query).await?)
    }

    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &_| read::messages(c, &tenant, conversation, cursor, order, limit);
        Ok(self.readers.run(query).await?)
    }

    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &_| erase::find_header(c, &tenant, conversation);
        Ok(self.readers.run(query).await?)
    }

    async fn end(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Seq, LogError> {
        let tenant = scope.tenant().clone();
        let head = self
            .readers
            .run(move |c| append::head(c, &tenant, conversation))
            .await?;
        Ok(head.map_or(0, |head| head.last_seq))
    }

    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError> {
        let (tenant, query) = (scope.tenant().clone(), query.clone());
        Ok(self.readers.run(move |c| read::list(c, &tenant, &query)).await?)
    }

    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError> {
        let tenant = scope.tenant().clone();
        Ok(self
            .readers
            .run(move |c| read::snapshot(c, &tenant, conversation))
            .await?)
    }

    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, snapshot) = (scope.tenant().clone(), snapshot.clone());
        let work = move |c: &_| append::save_snapshot(c, &tenant, conversation, &snapshot);
        Ok(self.writer.write(work).await?)
    }

    async fn pending(
        &self,
        cursor: Option<&PendingConversation>,
        limit: usize,
    ) -> Result<Vec<PendingConversation>, LogError> {
        let after = cursor.map(|cursor| (cursor.scope.tenant().clone(), cursor.conversation));
        Ok(self.readers.run(move |c| read::pending(c, after, limit)).await?)
    }

    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError> {
        let (mut records, mut snapshots, mut exports) = (0, 0, 0);
        loop {
            let tenant = scope.tenant().clone();
            let work = move |c: &_| jobs::erase_pieces(c, &tenant, conversation);
            match self.writer.write_as(Priority::Erasing, work).await? {
                ControlFlow::Continue(some) => exports += some,
                // The tombstone is stored: no piece is added after this.
                ControlFlow::Break(_) => break,
            }
        }
        loop {
            let tenant = scope.tenant().clone();
            let work = move |c: &_| erase::erase_some(c, &tenant, conversation, tombstone);
            let step = self.writer.write_as(Priority::Erasing, work).await?;
            let (ControlFlow::Continue(erased) | ControlFlow::Break(erased)) = &step;
            records += erased.records;
            snapshots += erased.snapshots;
            if step.is_break() {
                break;
            }
        }
        self.clear_slack().await?;
        // Last: a process that dies before this resumes the erasure.
        let tenant = scope.tenant().clone();
        self.writer
            .write_protective(move |c| erase::finish(c, &tenant, conversation))
            .await?;
        Ok(ErasureReceipt {
            stores: vec![
                ("sqlite.records".to_owned(), records),
                ("sqlite.snapshots".to_owned(), snapshots),
                ("sqlite.exports".to_owned(), exports),
            ],
        })
    }

    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError> {
        let (tenant, user) = (scope.tenant().clone(), user.clone());
        Ok(self.readers.run(move |c| quota::stored(c, &tenant, &user)).await?)
    }

    async fn rebuild(&self) -> Result<u64, LogError> {
        Ok(self.writer.write(erase::rebuild).await?)
    }

    async fn ready(&self) -> Result<(), LogError> {
        // A transaction that could be neither committed nor rolled back would make every later one fail.
        let idle = self.writer.outside_transaction(|c| Ok(c.is_autocommit())).await?;
        if !idle {
            return Err(LogError::Unavailable(
                "the database writer cannot end its open transaction".to_owned(),
            ));
        }
        let query =
            |c: &rusqlite::Connection| Ok(c.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()))?);
        Ok(self.readers.run(query).await?)
    }

    async fn probe(&self) -> Result<(), LogError> {
        self.probe_write().await
    }

    fn missing_commits(&self) -> u64 {
        self.missing_commits
    }
}
