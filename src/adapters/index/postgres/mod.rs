//! The index on PostgreSQL with pgvector, which several machines share.
//!
//! Both searches agree with the embedded index: BM25 is computed from postings and statistics of the tenant alone, and
//! scores of vectors from the stored numbers. Every call is a transaction, or a few, of one tenant: `session` sets the
//! tenant from the scope, and the server shows rows of that tenant only, whatever the statement says (`tables`). Changes
//! of one tenant run one after the other; those of different tenants beside each other.
//!
//! A connection that breaks or does not answer makes the call fail with `LogError::Unavailable`: whether it was done is
//! unknown, and repeating it is safe.

mod connect;
mod erase;
mod publish;
mod read;
mod rows;
mod search;
mod session;
mod spaces;
mod staging;
mod statistics;
mod submit;
mod tables;
mod tls;
mod turn_vectors;
mod work;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, JobId};
use copilotd_actors::ports::{ErasureReceipt, LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Chunk;
use copilotd_knowledge::document::{AttributeChanges, Document, DocumentKey, IngestFailure, Reader, Version};
use copilotd_knowledge::index::{
    Candidates, Contents, IngestJob, KnowledgeIndex, NewChunk, Pending, Published, Quota, Search, Submission,
    Submitted, Totals, Unembedded,
};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use self::connect::open;
pub use self::connect::{OpenError, PostgresOptions, probe};
use self::erase::Erased;
pub use self::session::Timeouts;
use self::session::{Database, Mode, Tx};
use super::turns::Turns;

/// [`KnowledgeIndex`] in a schema of a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresIndex {
    database: Database,
    /// Turns of searches, and of vectors of messages.
    turns: Turns,
    /// Turns of changes. They wait here, not in the server, where each would hold one of the connections.
    changes: Turns,
    exact: u64,
}

/// Runs a call in one transaction of a tenant.
macro_rules! transaction {
    ($index:expr, $scope:expr, $mode:expr, |$tx:ident| $call:expr) => {{
        let (index, mode) = ($index, $mode);
        let call = async {
            let _turn = match mode {
                Mode::Write => Some(index.turn(&index.changes, $scope, mode).await?),
                Mode::Read | Mode::Work => None,
            };
            let mut client = index.database.client().await?;
            let $tx = Tx::begin(&mut client, &index.database, Some($scope), mode).await?;
            let answer = $call.await?;
            $tx.commit().await?;
            Ok(answer)
        };
        index.database.within(mode, call).await
    }};
}
use transaction;

impl PostgresIndex {
    /// Connects, checks the server, and creates or updates the tables.
    ///
    /// # Errors
    /// If the server does not answer or must not be used; the error says what to do.
    pub async fn open(options: &PostgresOptions) -> Result<Self, OpenError> {
        Ok(Self {
            database: open(options).await?,
            turns: Turns::new((options.connections / 2).max(1)),
            changes: Turns::new(1),
            exact: options.exact,
        })
    }

    /// Waits for the tenant's next turn, at most as long as a statement of that kind may take.
    async fn turn(&self, turns: &Turns, scope: &TenantScope, mode: Mode) -> Result<OwnedSemaphorePermit, LogError> {
        let turn = tokio::time::timeout(self.database.longest(mode), turns.take(scope.tenant()));
        let turn = turn.await.ok().flatten();
        turn.ok_or_else(|| LogError::Unavailable("the tenant's other calls to PostgreSQL take too long".to_owned()))
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
impl KnowledgeIndex for PostgresIndex {
    async fn submit(&self, scope: &TenantScope, submission: Submission, quota: &Quota) -> Result<Submitted, LogError> {
        transaction!(self, scope, Mode::Write, |tx| submit::submit(
            &tx, scope, submission, quota
        ))
    }

    async fn change_attributes(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        changes: &AttributeChanges,
        at: Timestamp,
    ) -> Result<Option<Document>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| submit::change_attributes(
            &tx, tenant, key, changes, at
        ))
    }

    async fn document(&self, scope: &TenantScope, key: &DocumentKey) -> Result<Option<Document>, LogError> {
        let tenant = scope.tenant().as_str();
        let found = transaction!(self, scope, Mode::Read, |tx| rows::find_document(&tx, tenant, key));
        Ok(found?.map(|found| found.document))
    }

    async fn documents(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        after: Option<&ExternalId>,
        limit: usize,
    ) -> Result<Vec<Document>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| read::documents(
            &tx, tenant, collection, after, limit
        ))
    }

    async fn chunks(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        from: u32,
        limit: usize,
    ) -> Result<Option<Vec<Chunk>>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| read::current_chunks(
            &tx, tenant, key, from, limit
        ))
    }

    async fn delete(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        at: Timestamp,
    ) -> Result<Option<ErasureReceipt>, LogError> {
        let tenant = scope.tenant().as_str();
        let deleted = transaction!(self, scope, Mode::Write, |tx| erase::delete(&tx, tenant, key, at));
        Ok(deleted?.map(receipt))
    }

    async fn totals(&self, scope: &TenantScope) -> Result<Totals, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| submit::totals(&tx, tenant))
    }

    async fn job(&self, scope: &TenantScope, job: JobId) -> Result<Option<IngestJob>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| rows::find_job(&tx, tenant, job))
    }

    async fn pending(&self, busy: &[TenantScope], limit: usize) -> Result<Vec<Pending>, LogError> {
        let pending = work::pending(&self.database, busy, limit);
        self.database.within(Mode::Work, pending).await
    }

    async fn begin(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
    ) -> Result<Option<u32>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| staging::begin(
            &tx, tenant, document, version
        ))
    }

    async fn start(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        total: u64,
    ) -> Result<bool, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| staging::start(
            &tx, tenant, document, version, total
        ))
    }

    async fn known_chunks(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        chunks: &[ChunkId],
        space: Option<&Space>,
    ) -> Result<Vec<ChunkId>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| staging::known_chunks(
            &tx, tenant, document, chunks, space
        ))
    }

    async fn stage(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        chunks: Vec<NewChunk>,
        vectors: Vec<Vector>,
    ) -> Result<bool, LogError> {
        if !vectors.is_empty() && vectors.len() != chunks.len() {
            return Err(LogError::Refused("chunks and vectors differ in number".to_owned()));
        }
        let ensure = spaces::ensure(&self.database, &vectors);
        self.database.within(Mode::Work, ensure).await?;
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| staging::stage(
            &tx, tenant, document, version, &chunks, &vectors
        ))
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
        let (tenant, version) = (scope.tenant().as_str(), (document, version));
        transaction!(self, scope, Mode::Write, |tx| publish::publish(
            &tx, tenant, version, &contents, quota, at
        ))
    }

    async fn fail(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        failure: IngestFailure,
        at: Timestamp,
    ) -> Result<bool, LogError> {
        let (tenant, version) = (scope.tenant().as_str(), (document, version));
        transaction!(self, scope, Mode::Write, |tx| publish::fail(
            &tx, tenant, version, &failure, at
        ))
    }

    async fn unembedded(&self, space: &Space, skip: &[TenantScope], limit: usize) -> Result<Vec<Unembedded>, LogError> {
        let unembedded = work::unembedded(&self.database, space, skip, limit);
        self.database.within(Mode::Work, unembedded).await
    }

    async fn missing_vectors(&self, scope: Option<&TenantScope>, space: &Space, most: u64) -> Result<u64, LogError> {
        let missing = work::missing_vectors(&self.database, scope, space, most);
        self.database.within(Mode::Work, missing).await
    }

    async fn put_vectors(&self, scope: &TenantScope, vectors: Vec<(ChunkId, Vector)>) -> Result<(), LogError> {
        let of: Vec<Vector> = vectors.iter().map(|(_, vector)| vector.clone()).collect();
        self.database
            .within(Mode::Work, spaces::ensure(&self.database, &of))
            .await?;
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| work::put_vectors(&tx, tenant, &vectors))
    }

    async fn spaces(&self) -> Result<Vec<Space>, LogError> {
        self.database.within(Mode::Read, spaces::names(&self.database)).await
    }

    async fn drop_spaces(&self, keep: &[Space]) -> Result<(), LogError> {
        let dropped = spaces::drop_others(&self.database, keep);
        self.database.within(Mode::Work, dropped).await
    }

    async fn search(&self, scope: &TenantScope, search: &Search) -> Result<Candidates, LogError> {
        let tenant = scope.tenant().as_str();
        let _turn = self.turn(&self.turns, scope, Mode::Read).await?;
        transaction!(self, scope, Mode::Read, |tx| search::search(
            &tx, tenant, search, self.exact
        ))
    }

    async fn read(&self, scope: &TenantScope, reader: &Reader, chunks: &[ChunkId]) -> Result<Vec<Chunk>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| read::read(&tx, tenant, reader, chunks))
    }

    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| read::cite(&tx, tenant, chunks))
    }

    async fn forget_jobs(&self, ended_before: Timestamp) -> Result<u64, LogError> {
        let forgotten = work::forget_jobs(&self.database, ended_before);
        self.database.within(Mode::Work, forgotten).await
    }

    async fn source_position(&self, scope: &TenantScope, name: &str) -> Result<Option<String>, LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Read, |tx| read::source_position(&tx, tenant, name))
    }

    async fn put_source_position(&self, scope: &TenantScope, name: &str, position: &str) -> Result<(), LogError> {
        let tenant = scope.tenant().as_str();
        transaction!(self, scope, Mode::Write, |tx| read::put_source_position(
            &tx, tenant, name, position
        ))
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<ErasureReceipt, LogError> {
        let tenant = scope.tenant().as_str();
        let mut erased = Erased::default();
        loop {
            let some = transaction!(self, scope, Mode::Write, |tx| erase::erase_some(&tx, tenant));
            let (some, is_more) = some?;
            erased.documents += some.documents;
            erased.chunks += some.chunks;
            erased.vectors += some.vectors;
            if !is_more {
                return Ok(receipt(erased));
            }
        }
    }

    async fn ready(&self) -> Result<(), LogError> {
        let ready = async {
            let mut client = self.database.client().await?;
            let tx = Tx::begin(&mut client, &self.database, None, Mode::Read).await?;
            tx.query("SELECT max(version) FROM versions", &[]).await?;
            tx.commit().await
        };
        self.database.within(Mode::Read, ready).await
    }
}
