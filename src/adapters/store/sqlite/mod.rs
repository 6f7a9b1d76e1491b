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
mod facts;
mod files;
mod jobs;
mod probe;
mod quota;
mod read;
mod revocations;
mod rows;
pub mod standby;
mod tables;
mod tenant_erasure;
mod tenants;
mod usage;

use std::ops::ControlFlow;
use std::path::Path;
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
use super::tenant_fence::TenantFence;
use crate::adapters::backoff::Backoff;
pub use crate::adapters::sqlite::OpenError;
use crate::adapters::sqlite::history::{CountTable, History};
use crate::adapters::sqlite::lock::DirectoryLock;
use crate::adapters::sqlite::reserve::Priority;
use crate::adapters::sqlite::{Database, Opening, make_directory};

/// Name of the database's files inside the data directory.
const NAME: &str = "copilotd";

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

/// [`EventLog`] in one SQLite file.
#[derive(Debug)]
pub struct SqliteLog {
    database: Database,
    anchor: Arc<Anchor>,
    /// Tenants that are being deleted.
    fence: TenantFence,
    missing_commits: u64,
    append_deadline: Duration,
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
        let lock = DirectoryLock::take(directory, NAME)?;
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
        let opening = Opening::new(directory, NAME, &tables::SCHEMA, options.max_bytes)?;
        let (history, missing_commits) = History::open(directory, &opening.connection)?;
        let anchor = Arc::new(Anchor::open(directory, &audit::heads(&opening.connection)));
        let database = opening.start(options.readers, Some(history), lock)?;
        Ok(Self {
            database,
            anchor,
            fence: TenantFence::default(),
            missing_commits,
            append_deadline: options.append_deadline,
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

    async fn append_until(&self, encoded: &Arc<EncodedAppend>) -> Result<(), LogError> {
        let mut backoff = Backoff::new(self.append_deadline);
        // An erasure has to work on a full disk.
        let priority = Priority::protective_if(encoded.is_erasure());
        loop {
            let work = Arc::clone(encoded);
            let written = self
                .database
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
        Ok(self.database.readers.run(query).await?)
    }

    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError> {
        let tenant = scope.tenant().clone();
        Ok(self.database.readers.run(move |c| read::turn(c, &tenant, turn)).await?)
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
        Ok(self.database.readers.run(query).await?)
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
        Ok(self.database.readers.run(query).await?)
    }

    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &_| erase::find_header(c, &tenant, conversation);
        Ok(self.database.readers.run(query).await?)
    }

    async fn end(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Seq, LogError> {
        let tenant = scope.tenant().clone();
        let head = self
            .database
            .readers
            .run(move |c| append::head(c, &tenant, conversation))
            .await?;
        Ok(head.map_or(0, |head| head.last_seq))
    }

    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError> {
        let (tenant, query) = (scope.tenant().clone(), query.clone());
        Ok(self
            .database
            .readers
            .run(move |c| read::list(c, &tenant, &query))
            .await?)
    }

    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError> {
        let tenant = scope.tenant().clone();
        Ok(self
            .database
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
        Ok(self.database.writer.write(work).await?)
    }

    async fn pending(
        &self,
        cursor: Option<&PendingConversation>,
        limit: usize,
    ) -> Result<Vec<PendingConversation>, LogError> {
        let after = cursor.map(|cursor| (cursor.scope.tenant().clone(), cursor.conversation));
        Ok(self
            .database
            .readers
            .run(move |c| read::pending(c, after, limit))
            .await?)
    }

    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError> {
        let (mut records, mut snapshots, mut exports, mut facts, mut files) = (0, 0, 0, 0, 0);
        loop {
            let tenant = scope.tenant().clone();
            let work = move |c: &_| jobs::erase_pieces(c, &tenant, conversation);
            match self.database.writer.write_as(Priority::Erasing, work).await? {
                ControlFlow::Continue(some) => exports += some,
                // The tombstone is stored: no piece is added after this.
                ControlFlow::Break(_) => break,
            }
        }
        loop {
            let tenant = scope.tenant().clone();
            let work = move |c: &_| facts::erase_facts(c, &tenant, conversation);
            match self.database.writer.write_as(Priority::Erasing, work).await? {
                ControlFlow::Continue(some) => facts += some,
                ControlFlow::Break(_) => break,
            }
        }
        loop {
            let tenant = scope.tenant().clone();
            let work = move |c: &_| files::erase_files(c, &tenant, conversation);
            match self.database.writer.write_as(Priority::Erasing, work).await? {
                ControlFlow::Continue(some) => files += some,
                ControlFlow::Break(_) => break,
            }
        }
        loop {
            let tenant = scope.tenant().clone();
            let work = move |c: &_| erase::erase_some(c, &tenant, conversation, tombstone);
            let step = self.database.writer.write_as(Priority::Erasing, work).await?;
            let (ControlFlow::Continue(erased) | ControlFlow::Break(erased)) = &step;
            records += erased.records;
            snapshots += erased.snapshots;
            if step.is_break() {
                break;
            }
        }
        self.database.clear_slack(self.append_deadline).await?;
        // Last: a process that dies before this resumes the erasure.
        let tenant = scope.tenant().clone();
        self.database
            .writer
            .write_protective(move |c| erase::finish(c, &tenant, conversation))
            .await?;
        Ok(ErasureReceipt {
            stores: vec![
                ("sqlite.records".to_owned(), records),
                ("sqlite.snapshots".to_owned(), snapshots),
                ("sqlite.exports".to_owned(), exports),
                ("sqlite.facts".to_owned(), facts),
                ("sqlite.files".to_owned(), files),
            ],
        })
    }

    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError> {
        let (tenant, user) = (scope.tenant().clone(), user.clone());
        Ok(self
            .database
            .readers
            .run(move |c| quota::stored(c, &tenant, &user))
            .await?)
    }

    async fn rebuild(&self) -> Result<u64, LogError> {
        Ok(self.database.writer.write(erase::rebuild).await?)
    }

    async fn ready(&self) -> Result<(), LogError> {
        // A transaction that could be neither committed nor rolled back would make every later one fail.
        let idle = self
            .database
            .writer
            .outside_transaction(|c| Ok(c.is_autocommit()))
            .await?;
        if !idle {
            return Err(LogError::Unavailable(
                "the database writer cannot end its open transaction".to_owned(),
            ));
        }
        let query =
            |c: &rusqlite::Connection| Ok(c.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()))?);
        Ok(self.database.readers.run(query).await?)
    }

    async fn probe(&self) -> Result<(), LogError> {
        self.probe_write().await
    }

    fn missing_commits(&self) -> u64 {
        self.missing_commits
    }
}
