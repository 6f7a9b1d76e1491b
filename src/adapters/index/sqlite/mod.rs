//! The embedded index: documents, chunks, postings and vectors in one SQLite file beside the store's.
//!
//! Both searches are ours: BM25 from postings and statistics of the tenant alone, and an exact search over the tenant's
//! vectors. Keys begin with the tenant (`keys`), so that a search reads rows of its tenant only and its time does not
//! depend on the others. One thread writes; a few connections read beside it.
//!
//! Not sqlite-vec: its tables leave the slots of deleted vectors unused until all vectors of a block are deleted, take
//! one table per number of dimensions, return at most 4,096 neighbours, and order ties by their place. Every vector of
//! the tenant is compared here as there.

mod erase;
mod keys;
mod positions;
mod publish;
mod read;
mod rows;
mod search;
mod staging;
mod submit;
mod tables;
mod turn_vectors;
mod vectors;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, JobId, TenantId};
use copilotd_actors::ports::{ErasureReceipt, LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Chunk;
use copilotd_knowledge::document::{AttributeChanges, Document, DocumentKey, IngestFailure, Reader, Version};
use copilotd_knowledge::index::{
    Candidates, Contents, IngestJob, KnowledgeIndex, NewChunk, Pending, Published, Quota, Search, Submission,
    Submitted, Totals, Unembedded,
};
use jiff::Timestamp;
use rusqlite::Connection;

use self::erase::Erased;
use super::turns::Turns;
pub use crate::adapters::sqlite::OpenError;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::lock::DirectoryLock;
use crate::adapters::sqlite::reserve::Priority;
use crate::adapters::sqlite::{Database, Opening, make_directory};

/// Name of the database's files inside the data directory.
const NAME: &str = "knowledge";
/// Connections that read concurrently.
const READERS: usize = 4;
/// Searches of one tenant that run at a time.
const SEARCHES_PER_TENANT: usize = READERS / 2;
/// How long an erasure waits for searches that prevent it from truncating the write-ahead log.
const ERASURE_DEADLINE: Duration = Duration::from_secs(30);

/// [`KnowledgeIndex`] in one SQLite file.
#[derive(Debug)]
pub struct SqliteIndex {
    database: Database,
    turns: Turns,
    /// Whether the files may hold bytes of what was deleted: a deletion was interrupted, or could not clear them.
    is_unclean: Arc<AtomicBool>,
}

impl SqliteIndex {
    /// Opens the index in `directory`, which is created if missing, and finishes deletions that an earlier process
    /// began. Blocks; call it at start.
    ///
    /// # Errors
    /// If the directory is unusable, or the file is used by another process, not one of ours, or too new.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        make_directory(directory)?;
        let lock = DirectoryLock::take(directory, NAME)?;
        let opening = Opening::new(directory, NAME, &tables::SCHEMA, None)?;
        if let Err(error) = finish_deletions(&opening.connection) {
            tracing::warn!(%error, "cannot finish deletions that an earlier process began; the next one tries again");
        }
        let database = opening.start(READERS, None, lock)?;
        let turns = Turns::new(SEARCHES_PER_TENANT);
        Ok(Self {
            database,
            turns,
            // An earlier process may have been killed before it had cleared them.
            is_unclean: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Returns the file of an index in `directory`, if there is one.
    pub fn file_in(directory: &Path) -> Option<PathBuf> {
        let file = directory.join(format!("{NAME}.db"));
        file.exists().then_some(file)
    }

    /// Waits for the last commit, folds the write-ahead log back into the file and releases it. Dropping does the same
    /// on the dropping thread.
    pub async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || drop(self)).await;
        if let Err(error) = closed {
            tracing::error!(%error, "closing the index failed; the next start recovers it");
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LogError> {
        Ok(self.database.writer.write(work).await?)
    }

    /// For work that has to succeed on a full disk too.
    async fn write_erasing<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LogError> {
        Ok(self.database.writer.write_as(Priority::Erasing, work).await?)
    }

    async fn read_with<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LogError> {
        Ok(self.database.readers.run(query).await?)
    }

    /// Overwrites what deletions left in the files.
    async fn clear(&self) -> Result<(), LogError> {
        // Before, so that a deletion that ends meanwhile is not forgotten.
        self.is_unclean.store(false, Ordering::Relaxed);
        let cleared = self.database.clear_slack(ERASURE_DEADLINE).await;
        if cleared.is_err() {
            self.is_unclean.store(true, Ordering::Relaxed);
        }
        Ok(cleared?)
    }

    /// Deletes what is marked, in bounded steps with others' writes in between.
    async fn purge(&self, tenant: &TenantId) -> Result<(), LogError> {
        loop {
            let tenant = tenant.clone();
            if self.write_erasing(move |c| erase::purge(c, Some(&tenant))).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// Deletes the chunks that are marked, of all tenants.
fn finish_deletions(connection: &Connection) -> Result<(), Failure> {
    loop {
        let transaction = connection.unchecked_transaction()?;
        let purged = erase::purge(&transaction, None)?;
        transaction.commit()?;
        if purged == 0 {
            return Ok(());
        }
    }
}

fn receipt(erased: Erased) -> ErasureReceipt {
    let stores = [
        ("knowledge_documents", erased.documents),
        ("knowledge_chunks", erased.chunks),
        ("knowledge_vectors", erased.vectors),
    ];
    ErasureReceipt {
        stores: stores.map(|(name, count)| (name.to_owned(), count)).to_vec(),
    }
}

#[async_trait]
impl KnowledgeIndex for SqliteIndex {
    async fn submit(&self, scope: &TenantScope, submission: Submission, quota: &Quota) -> Result<Submitted, LogError> {
        let (tenant, quota) = (scope.tenant().clone(), *quota);
        self.write(move |c| submit::submit(c, &tenant, &submission, &quota))
            .await
    }

    async fn change_attributes(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        changes: &AttributeChanges,
        at: Timestamp,
    ) -> Result<Option<Document>, LogError> {
        let (tenant, key, changes) = (scope.tenant().clone(), key.clone(), changes.clone());
        self.write(move |c| submit::change_attributes(c, &tenant, &key, &changes, at))
            .await
    }

    async fn document(&self, scope: &TenantScope, key: &DocumentKey) -> Result<Option<Document>, LogError> {
        let (tenant, key) = (scope.tenant().clone(), key.clone());
        let query = move |c: &Connection| {
            let Some(tenant) = rows::find_tenant(c, &tenant)? else {
                return Ok(None);
            };
            Ok(rows::find_document(c, tenant, &key)?.map(|found| found.document))
        };
        self.read_with(query).await
    }

    async fn documents(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        after: Option<&ExternalId>,
        limit: usize,
    ) -> Result<Vec<Document>, LogError> {
        let (tenant, collection, after) = (scope.tenant().clone(), collection.clone(), after.cloned());
        self.read_with(move |c| read::documents(c, &tenant, &collection, after.as_ref(), limit))
            .await
    }

    async fn chunks(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        from: u32,
        limit: usize,
    ) -> Result<Option<Vec<Chunk>>, LogError> {
        let (tenant, key) = (scope.tenant().clone(), key.clone());
        self.read_with(move |c| read::current_chunks(c, &tenant, &key, from, limit))
            .await
    }

    async fn delete(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        at: Timestamp,
    ) -> Result<Option<ErasureReceipt>, LogError> {
        let (tenant, key) = (scope.tenant().clone(), key.clone());
        let is_unclean = Arc::clone(&self.is_unclean);
        let delete = move |c: &Connection| {
            let deleted = erase::delete(c, &tenant, &key, at)?;
            // Here, since the caller may be gone.
            if deleted.is_some() {
                is_unclean.store(true, Ordering::Relaxed);
            }
            Ok(deleted)
        };
        let deleted = self.write_erasing(delete).await?;
        // Also when it is gone already: the call that deleted it may not have come to the end.
        if self.is_unclean.load(Ordering::Relaxed) {
            self.purge(scope.tenant()).await?;
            self.clear().await?;
        }
        Ok(deleted.map(receipt))
    }

    async fn totals(&self, scope: &TenantScope) -> Result<Totals, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &Connection| match rows::find_tenant(c, &tenant)? {
            Some(tenant) => submit::totals(c, tenant),
            None => Ok(Totals::default()),
        };
        self.read_with(query).await
    }

    async fn job(&self, scope: &TenantScope, job: JobId) -> Result<Option<IngestJob>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |c: &Connection| match rows::find_tenant(c, &tenant)? {
            Some(tenant) => rows::find_job(c, tenant, job),
            None => Ok(None),
        };
        self.read_with(query).await
    }

    async fn pending(&self, busy: &[TenantScope], limit: usize) -> Result<Vec<Pending>, LogError> {
        let busy = busy.to_vec();
        self.read_with(move |c| {
            let moment = c.unchecked_transaction()?;
            read::pending(&moment, &busy, limit)
        })
        .await
    }

    async fn begin(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
    ) -> Result<Option<u32>, LogError> {
        let tenant = scope.tenant().clone();
        self.write(move |c| staging::begin(c, &tenant, document, version)).await
    }

    async fn start(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        total: u64,
    ) -> Result<bool, LogError> {
        let tenant = scope.tenant().clone();
        self.write(move |c| staging::start(c, &tenant, document, version, total))
            .await
    }

    async fn known_chunks(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        chunks: &[ChunkId],
        space: Option<&Space>,
    ) -> Result<Vec<ChunkId>, LogError> {
        let (tenant, chunks, space) = (scope.tenant().clone(), chunks.to_vec(), space.cloned());
        self.read_with(move |c| staging::known_chunks(c, &tenant, document, &chunks, space.as_ref()))
            .await
    }

    async fn stage(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        chunks: Vec<NewChunk>,
        vectors: Vec<Vector>,
    ) -> Result<bool, LogError> {
        let tenant = scope.tenant().clone();
        self.write(move |c| staging::stage(c, &tenant, document, version, &chunks, &vectors))
            .await
    }

    async fn publish(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        contents: Contents,
        quota: &Quota,
        at: Timestamp,
    ) -> Result<Published, LogError> {
        let (tenant, quota) = (scope.tenant().clone(), *quota);
        let published = self
            .write(move |c| publish::publish(c, &tenant, (document, version), &contents, &quota, at))
            .await?;
        if published == Published::Done {
            self.purge(scope.tenant()).await?;
        }
        Ok(published)
    }

    async fn fail(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        failure: IngestFailure,
        at: Timestamp,
    ) -> Result<bool, LogError> {
        let tenant = scope.tenant().clone();
        let failed = self
            .write_erasing(move |c| publish::fail(c, &tenant, (document, version), &failure, at))
            .await?;
        if failed {
            self.purge(scope.tenant()).await?;
        }
        Ok(failed)
    }

    async fn unembedded(&self, space: &Space, skip: &[TenantScope], limit: usize) -> Result<Vec<Unembedded>, LogError> {
        let (space, skip) = (Arc::clone(space), skip.to_vec());
        self.read_with(move |c| {
            let moment = c.unchecked_transaction()?;
            vectors::unembedded(&moment, &space, &skip, limit)
        })
        .await
    }

    async fn missing_vectors(&self, scope: Option<&TenantScope>, space: &Space, most: u64) -> Result<u64, LogError> {
        let (tenant, space) = (scope.map(|scope| scope.tenant().clone()), Arc::clone(space));
        self.read_with(move |c| {
            let moment = c.unchecked_transaction()?;
            vectors::missing(&moment, tenant.as_ref(), &space, most)
        })
        .await
    }

    async fn put_vectors(&self, scope: &TenantScope, vectors: Vec<(ChunkId, Vector)>) -> Result<(), LogError> {
        let tenant = scope.tenant().clone();
        self.write(move |c| vectors::put_vectors(c, &tenant, &vectors)).await
    }

    async fn spaces(&self) -> Result<Vec<Space>, LogError> {
        self.read_with(rows::space_names).await
    }

    async fn drop_spaces(&self, keep: &[Space]) -> Result<(), LogError> {
        loop {
            let keep = keep.to_vec();
            if !self.write_erasing(move |c| vectors::drop_some(c, &keep)).await? {
                return Ok(());
            }
        }
    }

    async fn search(&self, scope: &TenantScope, search: &Search) -> Result<Candidates, LogError> {
        let (tenant, search) = (scope.tenant().clone(), search.clone());
        let turn = self.turns.take(&tenant).await;
        let found = self.read_with(move |c| {
            // Also when the caller is gone, the search goes on.
            let _turn = turn;
            search::search(c, &tenant, &search)
        });
        found.await
    }

    async fn read(&self, scope: &TenantScope, reader: &Reader, chunks: &[ChunkId]) -> Result<Vec<Chunk>, LogError> {
        let (tenant, reader, chunks) = (scope.tenant().clone(), reader.clone(), chunks.to_vec());
        self.read_with(move |c| read::read(c, &tenant, &reader, &chunks)).await
    }

    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), LogError> {
        let (tenant, chunks) = (scope.tenant().clone(), chunks.to_vec());
        self.write(move |c| read::cite(c, &tenant, &chunks)).await
    }

    async fn forget_jobs(&self, ended_before: Timestamp) -> Result<u64, LogError> {
        let mut forgotten = 0;
        loop {
            match self.write_erasing(move |c| erase::forget_jobs(c, ended_before)).await? {
                0 => return Ok(forgotten),
                some => forgotten += some,
            }
        }
    }

    async fn source_position(&self, scope: &TenantScope, name: &str) -> Result<Option<String>, LogError> {
        let (tenant, name) = (scope.tenant().clone(), name.to_owned());
        self.read_with(move |c| positions::get(c, &tenant, &name)).await
    }

    async fn put_source_position(&self, scope: &TenantScope, name: &str, position: &str) -> Result<(), LogError> {
        let (tenant, name, position) = (scope.tenant().clone(), name.to_owned(), position.to_owned());
        self.write(move |c| positions::put(c, &tenant, &name, &position)).await
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<ErasureReceipt, LogError> {
        let mut erased = Erased::default();
        loop {
            let tenant = scope.tenant().clone();
            let (some, is_more) = self.write_erasing(move |c| erase::erase_some(c, &tenant)).await?;
            erased.documents += some.documents;
            erased.chunks += some.chunks;
            erased.vectors += some.vectors;
            if !is_more {
                break;
            }
        }
        self.clear().await?;
        Ok(receipt(erased))
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.database.restore_reserve().await?;
        self.read_with(|c| Ok(c.query_row("SELECT count(*) FROM spaces", [], |_| Ok(()))?))
            .await
    }
}
