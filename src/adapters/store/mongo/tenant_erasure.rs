//! Erases a tenant from MongoDB: the documents of each collection, in bounded steps.

use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::ports::LogError;
use copilotd_gateway::ledger::read_open;
use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};

use super::MongoLog;
use super::audit::anchor_id;
use super::failure::Failure;
use super::usage::as_future;
use copilotd_actors::ports::{TenantData, TenantEraser};

/// Short documents that one call deletes.
const AT_ONCE: i64 = 1_000;
/// Long documents that one call deletes.
const LONG_AT_ONCE: i64 = 50;
/// How long to wait for headers that are being written.
const SETTLE: Duration = Duration::from_secs(10);

#[async_trait]
impl TenantEraser for MongoLog {
    async fn close_tenant(&self, tenant: &TenantId) -> Result<(), LogError> {
        self.tenant_fence.close(tenant).await?;
        // A header written after its records were deleted would stay.
        self.projector.settle(SETTLE).await;
        Ok(())
    }

    fn reopen_tenant(&self, tenant: &TenantId) {
        self.tenant_fence.open(tenant);
    }

    async fn erase_tenant(&self, tenant: &TenantId, data: TenantData) -> Result<u64, LogError> {
        self.lease.check()?;
        Ok(self.erase_data(tenant, data).await?)
    }

    async fn scrub(&self) -> Result<(), LogError> {
        // What deleted documents leave in the server's files is up to the server.
        Ok(())
    }

    async fn delete_tenant(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError> {
        self.lease.check()?;
        let which = doc! { "_id": tenant.as_str(), "deletion": job.to_string() };
        let deleted = self
            .collections
            .call(self.collections.tenants.delete_one(which))
            .await?;
        Ok(deleted.deleted_count > 0)
    }
}

impl MongoLog {
    async fn erase_data(&self, tenant: &TenantId, data: TenantData) -> Result<u64, Failure> {
        let all = &self.collections;
        let of_tenant = || doc! { "tenant": tenant.as_str() };
        match data {
            TenantData::Records => {
                let appends = all.appends.clone_with_type::<Document>();
                let deleted = self.delete_all(&appends, of_tenant(), LONG_AT_ONCE).await?;
                self.heads.forget_tenant(tenant);
                Ok(deleted)
            }
            TenantData::Snapshots => {
                let snapshots = all.snapshots.clone_with_type::<Document>();
                self.delete_all(&snapshots, doc! { "_id": below(tenant) }, LONG_AT_ONCE)
                    .await
            }
            TenantData::Projections => {
                self.projector.settle(SETTLE).await;
                let headers = all.conversations.clone_with_type::<Document>();
                let deleted = self.delete_all(&headers, of_tenant(), AT_ONCE).await?;
                let counters = doc! { "$or": [{ "_id": tenant.as_str() }, { "_id": below(tenant) }] };
                Ok(deleted + self.delete_all(&all.stored, counters, AT_ONCE).await?)
            }
            TenantData::Usage => {
                let deleted = self.delete_all(&all.usage, of_tenant(), AT_ONCE).await?;
                let learned = doc! { "_id.tenant": tenant.as_str() };
                let learned = all.call(all.learned.delete_many(learned)).await?.deleted_count;
                Ok(deleted + learned + self.erase_open_calls(tenant).await?)
            }
            TenantData::Revocations => self.delete_all(&all.revocations, of_tenant(), AT_ONCE).await,
            TenantData::ApiKeys => {
                let hashes = self.ids(&all.api_keys, of_tenant(), i64::MAX).await?;
                // The uses first: without the key nobody could tell whose they are.
                let uses = doc! { "_id": { "$in": hashes } };
                all.call(all.key_uses.delete_many(uses)).await?;
                self.delete_all(&all.api_keys, of_tenant(), AT_ONCE).await
            }
            TenantData::Jobs => {
                let pieces = self.delete_all(&all.job_pieces, of_tenant(), LONG_AT_ONCE).await?;
                Ok(pieces + self.delete_all(&all.jobs, of_tenant(), AT_ONCE).await?)
            }
            TenantData::Facts => {
                let marks = self.delete_all(&all.fact_lessons, of_tenant(), AT_ONCE).await?;
                Ok(marks + self.delete_all(&all.facts, of_tenant(), AT_ONCE).await?)
            }
            TenantData::Files => {
                let pieces = self.delete_all(&all.file_pieces, of_tenant(), LONG_AT_ONCE).await?;
                Ok(pieces + self.delete_all(&all.files, of_tenant(), AT_ONCE).await?)
            }
            TenantData::Audit => {
                let deleted = self.delete_all(&all.audit, of_tenant(), AT_ONCE).await?;
                // The anchor first: a head without an anchor is not a fault, an anchor without a head is.
                all.call(all.meta.delete_one(doc! { "_id": anchor_id(tenant) })).await?;
                all.call(all.audit_heads.delete_one(doc! { "_id": tenant.as_str() }))
                    .await?;
                Ok(deleted)
            }
        }
    }

    /// Deletes the open calls; only their text says whose they are.
    async fn erase_open_calls(&self, tenant: &TenantId) -> Result<u64, Failure> {
        let open = &self.collections.open_calls;
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { open.find(doc! {}).await?.try_collect().await }))
            .await?;
        let is_own = |document: &&Document| {
            let record = document.get_str("record").ok().and_then(read_open);
            record.is_some_and(|record| record.tenant == *tenant)
        };
        let ids: Vec<Bson> = found
            .iter()
            .filter(is_own)
            .filter_map(|document| document.get("_id").cloned())
            .collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let deleted = open.delete_many(doc! { "_id": { "$in": ids } });
        Ok(self.collections.call(deleted).await?.deleted_count)
    }

    /// Deletes all matching documents, a limited number per call.
    pub(super) async fn delete_all(
        &self,
        from: &Collection<Document>,
        which: Document,
        at_once: i64,
    ) -> Result<u64, Failure> {
        let mut deleted = 0;
        loop {
            let ids = self.ids(from, which.clone(), at_once).await?;
            if ids.is_empty() {
                return Ok(deleted);
            }
            let some = from.delete_many(doc! { "_id": { "$in": ids } });
            deleted += self.collections.call(some).await?.deleted_count;
        }
    }

    pub(super) async fn ids(
        &self,
        of: &Collection<Document>,
        which: Document,
        limit: i64,
    ) -> Result<Vec<Bson>, Failure> {
        // 0 means no limit.
        let limit = if limit == i64::MAX { 0 } else { limit };
        let find = of.find(which).projection(doc! { "_id": 1 }).limit(limit);
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { find.await?.try_collect().await }))
            .await?;
        Ok(found
            .iter()
            .filter_map(|document| document.get("_id").cloned())
            .collect())
    }
}

/// Filter for ids that begin with the tenant and a slash, which no tenant's id contains: `0` is the character after it.
fn below(tenant: &TenantId) -> Document {
    doc! { "$gte": format!("{tenant}/"), "$lt": format!("{tenant}0") }
}
