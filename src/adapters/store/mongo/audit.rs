//! Audit entries in MongoDB: a document for each, unique on (tenant, n), and one per tenant for the head.
//!
//! Without transactions the head is written after its entry: a process that dies in between leaves it one behind, which
//! the next entry repairs. The head of an empty log is written before the first entry, so that entries without a head
//! are a fault.
//!
//! The newest head is also copied to `meta`, as an anchor: whoever deletes a tenant's entries and head has to know of
//! it too. There is no place outside the database.

use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};

use super::MongoLog;
use super::failure::Failure;
use super::usage::as_future;
use crate::adapters::backoff::Backoff;
use copilotd_actors::ports::{AuditStore, Head, StoredEntry};

/// How long one entry is tried; shorter than its caller waits.
const DEADLINE: Duration = Duration::from_secs(20);

#[async_trait]
impl AuditStore for MongoLog {
    async fn append_entry(
        &self,
        tenant: &TenantId,
        entry: &StoredEntry,
        head: &Head,
        genesis: &Head,
        _is_protective: bool,
    ) -> Result<(), LogError> {
        let _pass = self.tenant_fence.enter(tenant)?;
        let mut backoff = Backoff::new(DEADLINE);
        loop {
            self.lease.check()?;
            let attempt = self.append_once(tenant, entry, head, genesis);
            let failure = match tokio::time::timeout_at(backoff.deadline(), attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::TimedOut,
            };
            if !failure.is_transient() || !backoff.pause().await {
                return Err(failure.into());
            }
            tracing::warn!(%tenant, error = %failure, "appending an audit entry failed; trying again");
        }
    }

    async fn entries_after(
        &self,
        tenant: &TenantId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError> {
        let mut filter = doc! { "tenant": tenant.as_str() };
        if let Some(after) = after {
            filter.insert("n", doc! { "$gt": after });
        }
        Ok(self.find_entries(filter, doc! { "n": 1 }, limit).await?)
    }

    async fn entries_before(
        &self,
        tenant: &TenantId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError> {
        let mut filter = doc! { "tenant": tenant.as_str() };
        if let Some(before) = before {
            filter.insert("n", doc! { "$lt": before });
        }
        Ok(self.find_entries(filter, doc! { "n": -1 }, limit).await?)
    }

    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, LogError> {
        let heads = &self.collections.audit_heads;
        Ok(self.find_head(heads, tenant.as_str()).await?)
    }

    async fn audit_anchor(&self, tenant: &TenantId) -> Result<Option<Head>, LogError> {
        Ok(self.find_head(&self.collections.meta, &anchor_id(tenant)).await?)
    }
}

impl MongoLog {
    async fn append_once(
        &self,
        tenant: &TenantId,
        entry: &StoredEntry,
        head: &Head,
        genesis: &Head,
    ) -> Result<(), Failure> {
        let collections = &self.collections;
        let heads = &collections.audit_heads;
        if entry.n == 1 {
            self.raise(heads, tenant.as_str(), genesis).await?;
        }
        let document = doc! {
            "tenant": tenant.as_str(),
            "n": entry.n,
            "body": binary(&entry.body),
            "hash": binary(&entry.hash),
            "mac": binary(&entry.mac),
        };
        match collections.call(collections.audit.insert_one(document)).await {
            Ok(_) => {}
            Err(failure) if failure.is_duplicate() => {
                let filter = doc! { "tenant": tenant.as_str(), "n": entry.n };
                let stored = collections.call(collections.audit.find_one(filter)).await?;
                if stored.is_none_or(|stored| bytes(&stored, "hash") != entry.hash) {
                    return Err(LogError::Conflict(entry.n.unsigned_abs()).into());
                }
            }
            Err(failure) => return Err(failure),
        }
        self.raise(heads, tenant.as_str(), head).await?;
        // Last: the anchor may be behind the log, but never ahead of it.
        if let Err(error) = self.raise(&collections.meta, &anchor_id(tenant), head).await {
            tracing::warn!(%tenant, n = head.n, %error, "audit anchor not written; it lags behind the audit log until the next entry");
        }
        Ok(())
    }

    /// Writes a head unless a newer one is stored.
    async fn raise(&self, heads: &Collection<Document>, id: &str, head: &Head) -> Result<(), Failure> {
        let older = doc! { "_id": id, "n": { "$lt": head.n } };
        let set = doc! { "$set": { "n": head.n, "hash": binary(&head.hash), "mac": binary(&head.mac) } };
        let write = heads.update_one(older, set).upsert(true);
        match self.collections.call(write).await {
            // The filter excluded a newer head, so the upsert collided with its `_id`.
            Err(failure) if failure.is_duplicate() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn find_head(&self, heads: &Collection<Document>, id: &str) -> Result<Option<Head>, Failure> {
        let found = self.collections.call(heads.find_one(doc! { "_id": id })).await?;
        Ok(found.map(|found| Head {
            n: number(&found),
            hash: bytes(&found, "hash"),
            mac: bytes(&found, "mac"),
        }))
    }

    async fn find_entries(&self, filter: Document, order: Document, limit: usize) -> Result<Vec<StoredEntry>, Failure> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let find = self.collections.audit.find(filter).sort(order).limit(limit);
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { find.await?.try_collect().await }))
            .await?;
        let entry = |document: &Document| StoredEntry {
            n: number(document),
            body: bytes(document, "body"),
            hash: bytes(document, "hash"),
            mac: bytes(document, "mac"),
        };
        Ok(found.iter().map(entry).collect())
    }
}

/// `_id` of a tenant's anchor in `meta`.
pub(super) fn anchor_id(tenant: &TenantId) -> String {
    format!("audit/{tenant}")
}

fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

/// Bytes of a field, or empty: finding damage is the verification's task.
fn bytes(document: &Document, name: &str) -> Vec<u8> {
    document.get_binary_generic(name).cloned().unwrap_or_default()
}

/// The entry's number, or one that no entry has.
fn number(document: &Document) -> i64 {
    match document.get("n") {
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Int32(n)) => i64::from(*n),
        _ => 0,
    }
}
