//! [`KnowledgeIndex`] in memory: the naive implementation that the contract suite compares the others with.

mod search;
mod tenant;

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, JobId};
use copilotd_actors::ports::{ErasureReceipt, LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use parking_lot::Mutex;

use self::tenant::Tenant;
use crate::chunk::Chunk;
use crate::document::{AttributeChanges, Document, DocumentKey, IngestFailure, Reader, Version};
use crate::index::{
    Candidates, Contents, IngestJob, KnowledgeIndex, NewChunk, Pending, Published, Quota, Search, Submission,
    Submitted, Totals, Unembedded,
};

/// The index of all tenants, in memory.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantScope, Tenant>,
    /// Number of the next submission, over all tenants: the order in which versions wait.
    submissions: u64,
    is_down: bool,
}

impl MemoryIndex {
    /// Creates an empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every call fails as if the store did not answer, or no longer does.
    pub fn set_down(&self, is_down: bool) {
        self.state.lock().is_down = is_down;
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut state = self.state.lock();
        if state.is_down {
            return Err(LogError::Unavailable("the index is down".to_owned()));
        }
        act(&mut state)
    }

    fn of<T>(&self, scope: &TenantScope, act: impl FnOnce(&mut Tenant) -> Result<T, LogError>) -> Result<T, LogError> {
        self.with(|state| act(state.tenants.entry(scope.clone()).or_default()))
    }
}

#[async_trait]
impl KnowledgeIndex for MemoryIndex {
    async fn submit(&self, scope: &TenantScope, submission: Submission, quota: &Quota) -> Result<Submitted, LogError> {
        self.with(|state| {
            state.submissions += 1;
            let number = state.submissions;
            let tenant = state.tenants.entry(scope.clone()).or_default();
            Ok(tenant.submit(submission.key.id(scope.tenant()), submission, quota, number))
        })
    }

    async fn change_attributes(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        changes: &AttributeChanges,
        at: Timestamp,
    ) -> Result<Option<Document>, LogError> {
        self.of(scope, |tenant| Ok(tenant.change_attributes(key, changes, at)))
    }

    async fn document(&self, scope: &TenantScope, key: &DocumentKey) -> Result<Option<Document>, LogError> {
        self.of(scope, |tenant| Ok(tenant.document(key)))
    }

    async fn documents(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        after: Option<&ExternalId>,
        limit: usize,
    ) -> Result<Vec<Document>, LogError> {
        self.of(scope, |tenant| Ok(tenant.documents(collection, after, limit)))
    }

    async fn chunks(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        from: u32,
        limit: usize,
    ) -> Result<Option<Vec<Chunk>>, LogError> {
        self.of(scope, |tenant| Ok(tenant.current_chunks(key, from, limit)))
    }

    async fn delete(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        at: Timestamp,
    ) -> Result<Option<ErasureReceipt>, LogError> {
        self.of(scope, |tenant| Ok(tenant.delete(key, at)))
    }

    async fn totals(&self, scope: &TenantScope) -> Result<Totals, LogError> {
        self.of(scope, |tenant| Ok(tenant.totals()))
    }

    async fn job(&self, scope: &TenantScope, job: JobId) -> Result<Option<IngestJob>, LogError> {
        self.of(scope, |tenant| Ok(tenant.job(job)))
    }

    async fn pending(&self, busy: &[TenantScope], limit: usize) -> Result<Vec<Pending>, LogError> {
        self.with(|state| {
            let idle = state.tenants.iter().filter(|(scope, _)| !busy.contains(scope));
            let mut oldest: Vec<_> = idle
                .filter_map(|(scope, tenant)| Some((scope, tenant.oldest_waiting()?)))
                .collect();
            oldest.sort_by_key(|(_, (number, ..))| *number);
            let pending = oldest.into_iter().take(limit);
            Ok(pending
                .map(|(scope, (_, document, content, attempts))| Pending {
                    scope: scope.clone(),
                    document: document.clone(),
                    content: content.to_vec(),
                    attempts,
                })
                .collect())
        })
    }

    async fn begin(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
    ) -> Result<Option<u32>, LogError> {
        self.of(scope, |tenant| Ok(tenant.begin(document, version)))
    }

    async fn start(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        total: u64,
    ) -> Result<bool, LogError> {
        self.of(scope, |tenant| Ok(tenant.start(document, version, total)))
    }

    async fn known_chunks(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        chunks: &[ChunkId],
        space: Option<&Space>,
    ) -> Result<Vec<ChunkId>, LogError> {
        self.of(scope, |tenant| Ok(tenant.known_chunks(document, chunks, space)))
    }

    async fn stage(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        chunks: Vec<NewChunk>,
        vectors: Vec<Vector>,
    ) -> Result<bool, LogError> {
        self.of(scope, |tenant| tenant.stage(document, version, chunks, vectors))
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
        self.of(scope, |tenant| tenant.publish(document, version, contents, quota, at))
    }

    async fn fail(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        failure: IngestFailure,
        at: Timestamp,
    ) -> Result<bool, LogError> {
        self.of(scope, |tenant| Ok(tenant.fail(document, version, failure, at)))
    }

    async fn unembedded(&self, space: &Space, skip: &[TenantScope], limit: usize) -> Result<Vec<Unembedded>, LogError> {
        self.with(|state| {
            let mut scopes: Vec<&TenantScope> = state.tenants.keys().filter(|scope| !skip.contains(scope)).collect();
            scopes.sort_by(|a, b| a.tenant().cmp(b.tenant()));
            let of_each: Vec<Vec<Unembedded>> = scopes
                .into_iter()
                .filter_map(|scope| Some(state.tenants.get(scope)?.unembedded(scope, space, limit)))
                .collect();
            // One of each tenant after another.
            let rounds = (0..limit).flat_map(|n| of_each.iter().filter_map(move |some| some.get(n)));
            Ok(rounds.take(limit).cloned().collect())
        })
    }

    async fn missing_vectors(&self, scope: Option<&TenantScope>, space: &Space, most: u64) -> Result<u64, LogError> {
        self.with(|state| {
            let asked = |known: &TenantScope| scope.is_none_or(|scope| scope == known);
            let tenants = state.tenants.iter().filter(|(known, _)| asked(known));
            let missing = tenants.map(|(scope, tenant)| tenant.unembedded(scope, space, usize::MAX).len() as u64);
            Ok(missing.sum::<u64>().min(most))
        })
    }

    async fn put_vectors(&self, scope: &TenantScope, vectors: Vec<(ChunkId, Vector)>) -> Result<(), LogError> {
        self.of(scope, |tenant| {
            tenant.put_vectors(vectors);
            Ok(())
        })
    }

    async fn spaces(&self) -> Result<Vec<Space>, LogError> {
        self.with(|state| {
            let spaces: BTreeSet<Space> = state.tenants.values().flat_map(Tenant::spaces).collect();
            Ok(spaces.into_iter().collect())
        })
    }

    async fn drop_spaces(&self, keep: &[Space]) -> Result<(), LogError> {
        self.with(|state| {
            state.tenants.values_mut().for_each(|tenant| tenant.drop_spaces(keep));
            Ok(())
        })
    }

    async fn search(&self, scope: &TenantScope, search: &Search) -> Result<Candidates, LogError> {
        self.of(scope, |tenant| Ok(tenant.search(search)))
    }

    async fn read(&self, scope: &TenantScope, reader: &Reader, chunks: &[ChunkId]) -> Result<Vec<Chunk>, LogError> {
        self.of(scope, |tenant| Ok(tenant.read(reader, chunks)))
    }

    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), LogError> {
        self.of(scope, |tenant| {
            tenant.cite(chunks);
            Ok(())
        })
    }

    async fn forget_jobs(&self, ended_before: Timestamp) -> Result<u64, LogError> {
        self.with(|state| {
            let tenants = state.tenants.values_mut();
            Ok(tenants.map(|tenant| tenant.forget_jobs(ended_before)).sum())
        })
    }

    async fn source_position(&self, scope: &TenantScope, name: &str) -> Result<Option<String>, LogError> {
        self.of(scope, |tenant| Ok(tenant.positions.get(name).cloned()))
    }

    async fn put_source_position(&self, scope: &TenantScope, name: &str, position: &str) -> Result<(), LogError> {
        self.of(scope, |tenant| {
            tenant.positions.insert(name.to_owned(), position.to_owned());
            Ok(())
        })
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<ErasureReceipt, LogError> {
        self.with(|state| Ok(state.tenants.remove(scope).unwrap_or_default().receipt()))
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.with(|_| Ok(()))
    }
}
