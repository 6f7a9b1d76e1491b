//! The store for production: MongoDB, one document per append.
//!
//! The unique index on (tenant, conversation, first_seq) is the fence; a majority of the replica set has written an
//! append to its journal before it is acknowledged. Headers follow a moment later (`projector`) and carry
//! `applied_seq`, so that a reader of one conversation folds the rest (`fold`). Only one process writes at a time
//! (`lease`), and the server refuses the appends of any other (`fence`). No document grows with its conversation.

mod append;
mod audit;
mod collections;
mod documents;
mod erase;
mod facts;
mod failure;
mod fence;
mod files;
mod fold;
mod jobs;
mod lease;
pub(crate) mod online_check;
mod projector;
mod quota;
mod read;
mod revocations;
mod standby;
mod tenant_erasure;
mod tenants;
mod usage;

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
use mongodb::Client;
use mongodb::bson::doc;
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, SelectionCriteria, WriteConcern};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::append::Heads;
use self::collections::Collections;
use self::documents::{AppendDocument, Key};
use self::failure::Failure;
use self::fence::Fence;
use self::lease::{AcquiredLease, Lease};
use self::projector::Projector;
use super::tenant_fence::TenantFence;

/// Version of the collections' layout.
const SCHEMA: i64 = 1;

/// How long a list waits for headers of earlier appends.
const SETTLE: Duration = Duration::from_secs(1);

/// Options besides the address.
#[derive(Debug, Clone)]
pub struct MongoOptions {
    /// Name of this process in messages to whoever finds the database in use, such as its host name.
    pub owner: String,
    /// Life of the lease; also how long a new process waits after another one was killed.
    pub lease_life: Duration,
    /// How long an append is tried before its outcome is reported as unknown.
    pub append_deadline: Duration,
    /// Longest time for one call to the server.
    pub call_timeout: Duration,
    /// Waits for the lease as long as another process holds it, instead of giving up.
    pub standby: bool,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            owner: format!("process {}", std::process::id()),
            lease_life: Duration::from_secs(30),
            append_deadline: Duration::from_secs(30),
            call_timeout: Duration::from_secs(10),
            standby: false,
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the address of MongoDB is invalid")]
    Address(#[source] mongodb::error::Error),
    /// The server does not answer, or refuses.
    #[error("cannot prepare the database: {0}")]
    Store(LogError),
    /// Another process is alive and holds the lease.
    #[error(
        "the database is in use by another copilotd ({owner}, epoch {epoch}); one process may use a database at a time"
    )]
    Held { owner: String, epoch: i64 },
    /// A newer release wrote it.
    #[error(
        "the database has schema version {found}, and this release knows versions up to {known}; use a newer release"
    )]
    Newer {
        found: i64,
        /// Newest version that this release knows.
        known: i64,
    },
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        Self::Store(failure.into())
    }
}

/// [`EventLog`] in a MongoDB database.
#[derive(Debug)]
pub struct MongoLog {
    collections: Collections,
    heads: Heads,
    lease: Arc<Lease>,
    fence: Fence,
    projector: Arc<Projector>,
    /// Tenants that are being deleted.
    tenant_fence: TenantFence,
    append_deadline: Duration,
    finishing_files: files::TenantLocks,
    lease_renewal: Task,
    worker: Task,
}

impl MongoLog {
    /// Connects, takes the lease, creates missing indexes and projects what an earlier process left behind.
    ///
    /// # Errors
    /// If the address is wrong, the server does not answer, another process holds the lease of this database, or a
    /// newer release wrote it.
    pub async fn connect(url: &str, database: &str, options: MongoOptions) -> Result<Self, ConnectError> {
        let mut settings = ClientOptions::parse(url).await.map_err(ConnectError::Address)?;
        settings.app_name.get_or_insert_with(|| "copilotd".to_owned());
        settings.connect_timeout.get_or_insert(Duration::from_secs(5));
        settings.server_selection_timeout.get_or_insert(Duration::from_secs(5));
        // Set here whatever the address says: acknowledged means written to the journal by a majority, and we read from
        // the primary.
        settings.write_concern = Some(
            WriteConcern::builder()
                .w(Acknowledgment::Majority)
                .journal(true)
                .build(),
        );
        settings.read_concern = Some(ReadConcern::majority());
        settings.selection_criteria = Some(SelectionCriteria::ReadPreference(
            mongodb::options::ReadPreference::Primary,
        ));
        settings.retry_writes = Some(true);
        let client = Client::with_options(settings).map_err(ConnectError::Address)?;
        let collections = Collections::new(&client.database(database), options.call_timeout);
        check_schema(&collections).await?;
        let AcquiredLease {
            lease,
            earlier_sessions,
        } = if options.standby {
            standby::wait(&collections, &options.owner, options.lease_life).await
        } else {
            Lease::acquire(&collections, &options.owner, options.lease_life).await?
        };
        // From here on it is renewed, so that long preparations do not lose it.
        let lease_renewal = Task(tokio::spawn(Arc::clone(&lease).renew_until_lost()));
        let fence = Fence::raise(&collections, lease.owner(), lease.epoch(), &earlier_sessions).await?;
        collections.create_indexes().await?;
        let projector = Projector::new(collections.clone(), lease.epoch());
        projector.catch_up().await?;
        quota::begin(&collections).await?;
        let worker = Task(tokio::spawn(Arc::clone(&projector).run()));
        Ok(Self {
            collections,
            heads: Heads::default(),
            lease,
            fence,
            projector,
            tenant_fence: TenantFence::default(),
            append_deadline: options.append_deadline,
            finishing_files: files::TenantLocks::default(),
            lease_renewal,
            worker,
        })
    }

    /// Completes when this process has lost the database lease, or cannot know that it still has it. All work on
    /// conversations must stop then; appends are refused already.
    pub fn lease_lost(&self) -> impl Future<Output = ()> + Send + 'static {
        self.lease.lost()
    }

    /// Returns whether a standby waits for the lease and takes over as soon as it is released.
    pub async fn has_standby(&self) -> bool {
        match standby::is_waiting(&self.collections).await {
            Ok(is_waiting) => is_waiting,
            Err(error) => {
                tracing::warn!(%error, "cannot check whether a standby waits; stopping as if there were none");
                false
            }
        }
    }

    /// Projects what is waiting and releases the lease, so that the next process can start at once. Later writes are
    /// refused.
    pub async fn close(&self) {
        self.worker.0.abort();
        self.projector.work().await;
        let marked = self.projector.mark().await;
        self.lease_renewal.0.abort();
        let released = self.lease.release().await;
        if let Err(error) = marked.and(released) {
            tracing::warn!(%error, "cannot finish projections or release the lease before stopping; the next start takes longer");
        }
    }
}

/// A task that is aborted when dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn check_schema(collections: &Collections) -> Result<(), ConnectError> {
    let fresh = doc! { "$setOnInsert": { "version": SCHEMA } };
    let schema = doc! { "_id": "schema" };
    let opened = collections.meta.update_one(schema.clone(), fresh).upsert(true);
    collections.call(opened).await?;
    let found = collections.call(collections.meta.find_one(schema)).await?;
    let found = found.and_then(|found| found.get_i64("version").ok()).unwrap_or(0);
    if found > SCHEMA {
        return Err(ConnectError::Newer { found, known: SCHEMA });
    }
    Ok(())
}

#[async_trait]
impl EventLog for MongoLog {
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError> {
        append.check(scope)?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let begun = Instant::now();
        let key = Key::new(scope, append.conversation);
        let pending_append = self.projector.pending_append(key.clone(), self.append_deadline).await?;
        let (cost, own, of, stamp) = (append.weight(), append.clone(), scope.clone(), pending_append.stamp);
        let write = move || AppendDocument::new(&of, &own, stamp);
        let document = compute::run(Some(scope.tenant()), cost, write).await;
        // Refused, not unavailable: nothing of it was sent.
        let outcome = match document.unwrap_or_else(|error| Err(LogError::Refused(error.to_string()))) {
            Ok(document) => {
                let deadline = self.append_deadline;
                append::append(
                    &self.collections,
                    &self.heads,
                    (&self.lease, &self.fence),
                    &key,
                    &document,
                    deadline,
                )
                .await
            }
            Err(refusal) => Err(refusal),
        };
        match &outcome {
            Ok(()) => {
                pending_append.appended(append);
                if append.tombstone().is_some() {
                    // The header of a damaged log may be further ahead than its tombstone; nothing is then read beyond
                    // it.
                    self.projector.settle(SETTLE).await;
                }
            }
            Err(LogError::Unavailable(_)) => drop(pending_append),
            Err(_) => pending_append.refused(),
        }
        metrics::histogram!("copilotd_append_seconds", "store" => "mongodb").record(begun.elapsed());
        outcome
    }

    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let key = Key::new(scope, conversation);
        Ok(read::records(&self.collections, &key, after, limit).await?)
    }

    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError> {
        Ok(read::turn(&self.collections, scope, turn).await?)
    }

    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let key = Key::new(scope, conversation);
        Ok(read::messages(&self.collections, &key, cursor, order, limit).await?)
    }

    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError> {
        let key = Key::new(scope, conversation);
        let projected = fold::projected(&self.collections, &key).await?;
        Ok(projected.map(|projected| projected.header))
    }

    async fn end(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Seq, LogError> {
        let key = Key::new(scope, conversation);
        let head = fold::head(&self.collections, &key).await?;
        head.map_or(Ok(0), |head| documents::seq(head.last_seq))
    }

    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError> {
        self.projector.settle(SETTLE).await;
        Ok(read::list(&self.collections, scope, query).await?)
    }

    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError> {
        let key = Key::new(scope, conversation);
        Ok(read::snapshot(&self.collections, &key).await?)
    }

    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let key = Key::new(scope, conversation);
        Ok(erase::save_snapshot(&self.collections, &self.heads, &key, snapshot).await?)
    }

    async fn pending(
        &self,
        cursor: Option<&PendingConversation>,
        limit: usize,
    ) -> Result<Vec<PendingConversation>, LogError> {
        if cursor.is_none() {
            let late = self.projector.find_late().await?;
            late.iter().for_each(|key| self.heads.forget(key));
        }
        self.projector.settle(SETTLE).await;
        Ok(read::pending(&self.collections, cursor, limit).await?)
    }

    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError> {
        self.lease.check()?;
        // Headers waiting to be written would collide with the last one.
        self.projector.settle(SETTLE).await;
        let key = Key::new(scope, conversation);
        // The tombstone is stored: no piece of an export is added after this. Before the rest, which ends by recording
        // that nothing is left.
        let exports = self.erase_pieces(&key).await?;
        let facts = self.erase_facts(&key).await?;
        let files = self.erase_files(&key).await?;
        let mut receipt = erase::erase(&self.collections, &self.heads, &key, tombstone).await?;
        receipt.stores.push(("mongodb.exports".to_owned(), exports));
        receipt.stores.push(("mongodb.facts".to_owned(), facts));
        receipt.stores.push(("mongodb.files".to_owned(), files));
        Ok(receipt)
    }

    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError> {
        Ok(quota::stored(&self.collections, scope.tenant().as_str(), user.as_str()).await?)
    }

    async fn rebuild(&self) -> Result<u64, LogError> {
        self.lease.check()?;
        Ok(fold::rebuild(&self.collections).await?)
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.lease.check()?;
        self.collections
            .call(self.collections.meta.find_one(doc! { "_id": "lease" }))
            .await?;
        Ok(())
    }

    async fn probe(&self) -> Result<(), LogError> {
        self.lease.check()?;
        let probe = doc! { "_id": "probe" };
        let set = doc! { "$set": { "value": i64::from(rand::random::<u32>()) } };
        let write = self.collections.meta.update_one(probe, set).upsert(true);
        self.collections.call(write).await?;
        Ok(())
    }
}
