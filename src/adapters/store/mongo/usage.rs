//! The ledger in MongoDB: a document for each attempt, sums by aggregation. The server itself deletes old records.

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::ledger::{
    GroupBy, TenantsGroupBy, TenantsUsageQuery, TenantsUsageRow, UsageEntries, UsageQuery, UsageRecord, UsageRow,
    UsageStore, read_open,
};
use copilotd_gateway::limit::StoredStatistics;
use copilotd_gateway::meter::UnreportedAttempts;
use copilotd_gateway::spending::Spending;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use mongodb::Collection;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use uuid::Uuid;

use super::MongoLog;
use super::failure::Failure;
use crate::adapters::store::open_tenants::{entries_of_open_tenants, learned_by_open_tenants};
use crate::adapters::store::unreadable::skip_unreadable;

/// Single writes in flight at one time.
const MAX_CONCURRENT: usize = 16;

#[async_trait]
impl UsageStore for MongoLog {
    async fn add_usage(&self, entries: &Arc<UsageEntries>) -> Result<(), LogError> {
        let (entries, _passes) = entries_of_open_tenants(&self.tenant_fence, entries);
        self.record_open(&entries.begun).await?;
        let ended = entries.ended.iter().map(document).collect();
        self.insert(&self.collections.usage, ended).await?;
        // After the records: in between, an open call and its record have one id.
        Ok(self.close_calls(entries.closed.iter().map(uuid).collect()).await?)
    }

    async fn unreported_usage(&self, scope: &TenantScope, of: &UnreportedAttempts) -> Result<Vec<LostUsage>, LogError> {
        let mut which = vec![doc! { "outcome": "lost" }];
        which.extend(of.asked_at.map(|asked_at| doc! { "at": { "$gte": date(asked_at) } }));
        let filter = doc! {
            "tenant": scope.tenant().as_str(),
            "at": { "$gte": date(of.began_at) },
            "turn": of.turn.to_string(),
            "$or": which,
        };
        let found = async {
            let found = self.collections.usage.find(filter).sort(doc! { "at": 1, "_id": 1 });
            found.await?.try_collect::<Vec<Document>>().await
        };
        let found = self.collections.call(as_future(found)).await?;
        let lost = |document: &Document| LostUsage {
            model: document.get_str("model").unwrap_or_default().to_owned(),
            usage: tokens(document),
        };
        let used = found.iter().map(lost);
        Ok(used.filter(|lost| lost.usage.total_tokens() > 0).collect())
    }

    async fn save_learned(&self, learned: &[StoredStatistics], at: Timestamp) -> Result<(), LogError> {
        let (rows, _passes) = learned_by_open_tenants(&self.tenant_fence, learned);
        let save = |row: &StoredStatistics| {
            let id = doc! { "_id": { "tenant": row.tenant.as_str(), "model": &row.model } };
            let set = doc! { "$set": { "known": &row.known, "at": date(at) } };
            let update = self.collections.learned.update_one(id, set).upsert(true);
            self.collections.call(update)
        };
        let saving: Vec<_> = rows.iter().map(save).collect();
        let mut saved = stream::iter(saving).buffer_unordered(MAX_CONCURRENT);
        while saved.try_next().await?.is_some() {}
        Ok(())
    }

    async fn learned(&self, limit: usize) -> Result<Vec<StoredStatistics>, LogError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = async {
            let found = self
                .collections
                .learned
                .find(doc! {})
                .sort(doc! { "at": -1 })
                .limit(limit);
            found.await?.try_collect::<Vec<Document>>().await
        };
        let found = self.collections.call(as_future(found)).await?;
        let mut rows = Vec::new();
        for document in found {
            let id = document.get_document("_id").cloned().unwrap_or_default();
            let tenant = id.get_str("tenant").unwrap_or_default().parse();
            let tenant = tenant.map_err(|error| LogError::Corrupt(format!("a tenant: {error}")));
            let Some(tenant) = skip_unreadable("learned", "what was learned", tenant)? else {
                continue;
            };
            rows.push(StoredStatistics {
                tenant,
                model: id.get_str("model").unwrap_or_default().to_owned(),
                known: document.get_str("known").unwrap_or_default().to_owned(),
            });
        }
        Ok(rows)
    }

    async fn record_lost_usage(&self) -> Result<usize, LogError> {
        let found = async {
            let found: Vec<Document> = self.collections.open_calls.find(doc! {}).await?.try_collect().await?;
            Ok(found)
        };
        let found = self.collections.call(as_future(found)).await?;
        let text = |document: &Document| document.get_str("record").unwrap_or_default().to_owned();
        let records: Vec<UsageRecord> = found.iter().filter_map(|open| read_open(&text(open))).collect();
        self.insert(&self.collections.usage, records.iter().map(document).collect())
            .await?;
        let ids = found.iter().filter_map(|open| open.get("_id").cloned());
        self.close_calls(ids.collect()).await?;
        Ok(records.len())
    }

    async fn sum_usage(&self, scope: &TenantScope, query: &UsageQuery) -> Result<Vec<UsageRow>, LogError> {
        let key = match query.group_by {
            GroupBy::Day => "$day",
            GroupBy::User => "$user",
            GroupBy::Copilot => "$copilot",
            GroupBy::Model => "$model",
            GroupBy::Key => "$api_key",
            GroupBy::Route => "$route",
        };
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        let pipeline = [
            doc! { "$match": { "tenant": scope.tenant().as_str(), "at": { "$gte": date(query.from), "$lt": date(query.to) } } },
            doc! { "$group": sums(Bson::from(key)) },
            doc! { "$sort": { "_id": 1 } },
            doc! { "$limit": limit },
        ];
        let rows = self.aggregate(pipeline).await?;
        Ok(rows.iter().map(row).collect())
    }

    async fn sum_tenants_usage(&self, query: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, LogError> {
        let key = match query.group_by {
            TenantsGroupBy::Tenant => "$tenant",
            TenantsGroupBy::Key => "$api_key",
            TenantsGroupBy::Route => "$route",
            TenantsGroupBy::Day => "$day",
        };
        let by_tenant = query.group_by.by_tenant();
        let group = match by_tenant {
            true => doc! { "tenant": "$tenant", "key": key },
            false => doc! { "key": key },
        };
        let mut of = doc! { "at": { "$gte": date(query.from), "$lt": date(query.to) } };
        if let Some(tenant) = &query.tenant {
            of.insert("tenant", tenant.as_str());
        }
        let pipeline = [
            doc! { "$match": of },
            doc! { "$group": sums(Bson::from(group)) },
            doc! { "$sort": { "_id.tenant": 1, "_id.key": 1 } },
            doc! { "$limit": i64::try_from(query.limit).unwrap_or(i64::MAX) },
        ];
        let rows = self.aggregate(pipeline).await?;
        let read = |group: &Document| {
            let id = group.get_document("_id").cloned().unwrap_or_default();
            let text = |name: &str| id.get_str(name).unwrap_or_default().to_owned();
            TenantsUsageRow {
                tenant: by_tenant.then(|| text("tenant")),
                row: UsageRow {
                    group: text("key"),
                    ..row(group)
                },
            }
        };
        Ok(rows.iter().map(read).collect())
    }

    async fn spendings(&self, day: Timestamp, month: Timestamp) -> Result<Vec<Spending>, LogError> {
        let pipeline = [
            doc! { "$match": { "at": { "$gte": date(month) }, "cost": { "$gt": 0_i64 } } },
            doc! { "$group": {
                "_id": { "tenant": "$tenant", "user": "$user", "api_key": "$api_key" },
                "day": { "$sum": { "$cond": [{ "$gte": ["$at", date(day)] }, "$cost", 0_i64] } },
                "month": { "$sum": "$cost" },
            } },
        ];
        let mut found = Vec::new();
        for group in self.aggregate(pipeline).await? {
            let key = group.get_document("_id").cloned().unwrap_or_default();
            let text = |name: &str| key.get_str(name).unwrap_or_default().to_owned();
            let tenant = text("tenant")
                .parse()
                .map_err(|error| LogError::Corrupt(format!("a tenant: {error}")));
            let Some(tenant) = skip_unreadable("usage", "a sum", tenant)? else {
                continue;
            };
            found.push(Spending {
                tenant,
                user: text("user"),
                api_key: Some(text("api_key")).filter(|key| !key.is_empty()),
                day: number(&group, "day"),
                month: number(&group, "month"),
            });
        }
        Ok(found)
    }

    async fn prune_usage(&self, before: Timestamp) -> Result<(), LogError> {
        let old = doc! { "at": { "$lt": date(before) } };
        let usage = self.collections.usage.delete_many(old.clone());
        self.collections.call(usage).await?;
        let learned = self.collections.learned.delete_many(old);
        self.collections.call(learned).await?;
        Ok(())
    }
}

impl MongoLog {
    /// Inserts the documents that do not exist yet.
    async fn insert(&self, into: &Collection<Document>, documents: Vec<Document>) -> Result<(), Failure> {
        if documents.is_empty() {
            return Ok(());
        }
        // Unordered: one that exists already does not prevent the others.
        let insert = into.insert_many(documents).ordered(false);
        match self.collections.call(insert).await {
            Err(failure) if failure.is_only_duplicates() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Records attempts as open, replacing earlier records of them.
    async fn record_open(&self, records: &[UsageRecord]) -> Result<(), LogError> {
        let mut noting = Vec::with_capacity(records.len());
        for record in records {
            let id = doc! { "_id": uuid(&record.id) };
            let open = open_document(record)?;
            let replace = self.collections.open_calls.replace_one(id, open).upsert(true);
            noting.push(self.collections.call(replace));
        }
        let mut noted = stream::iter(noting).buffer_unordered(MAX_CONCURRENT);
        while noted.try_next().await?.is_some() {}
        Ok(())
    }

    async fn close_calls(&self, ids: Vec<Bson>) -> Result<(), Failure> {
        if ids.is_empty() {
            return Ok(());
        }
        let delete = self.collections.open_calls.delete_many(doc! { "_id": { "$in": ids } });
        self.collections.call(delete).await.map(drop)
    }

    async fn aggregate(&self, pipeline: impl IntoIterator<Item = Document>) -> Result<Vec<Document>, Failure> {
        let asked = async { self.collections.usage.aggregate(pipeline).await?.try_collect().await };
        self.collections.call(as_future(asked)).await
    }
}

/// Turns one of the driver's actions into a future.
pub(super) fn as_future<F: Future>(asked: F) -> F {
    asked
}

fn uuid(id: &Uuid) -> Bson {
    let bytes = id.as_bytes().to_vec();
    Bson::Binary(Binary {
        subtype: BinarySubtype::Uuid,
        bytes,
    })
}

fn open_document(record: &UsageRecord) -> Result<Document, LogError> {
    let text = serde_json::to_string(record).map_err(|error| LogError::Refused(error.to_string()))?;
    Ok(doc! { "_id": uuid(&record.id), "record": text })
}

fn document(record: &UsageRecord) -> Document {
    let UsageRecord { usage, .. } = record;
    let day = record.at.strftime("%Y-%m-%d").to_string();
    let optional = |text: &Option<String>| text.clone().map_or(Bson::Null, Bson::String);
    doc! {
        "_id": uuid(&record.id),
        "tenant": record.tenant.as_str(),
        "at": date(record.at),
        "day": day,
        "user": &record.user,
        "api_key": record.api_key.clone().unwrap_or_default(),
        "copilot": record.copilot.clone().unwrap_or_default(),
        "conversation": optional(&record.conversation),
        "turn": optional(&record.turn),
        "purpose": &record.purpose,
        "route": &record.route,
        "provider": &record.provider,
        "model": &record.model,
        "key": &record.key,
        "attempt": record.attempt,
        "prompt_tokens": signed(usage.prompt_tokens),
        "completion_tokens": signed(usage.completion_tokens),
        "cached_tokens": signed(usage.cached_tokens),
        "cache_write_tokens": signed(usage.cache_write_tokens),
        "reasoning_tokens": signed(usage.reasoning_tokens),
        "cost": signed(usage.cost),
        "estimated": record.is_estimated,
        "outcome": &record.outcome,
        "cache": &record.cache,
        "first_content_ms": record.first_content_ms.map_or(Bson::Null, |ms| Bson::Int64(signed(ms))),
        "took_ms": signed(record.took_ms),
    }
}

/// Sums up everything with one key.
fn sums(key: Bson) -> Document {
    doc! {
        "_id": key,
        "calls": { "$sum": { "$cond": [{ "$eq": ["$cache", "hit"] }, 0_i64, 1_i64] } },
        "cache_hits": { "$sum": { "$cond": [{ "$eq": ["$cache", "hit"] }, 1_i64, 0_i64] } },
        "prompt_tokens": { "$sum": "$prompt_tokens" },
        "completion_tokens": { "$sum": "$completion_tokens" },
        "cached_tokens": { "$sum": "$cached_tokens" },
        "cache_write_tokens": { "$sum": "$cache_write_tokens" },
        "reasoning_tokens": { "$sum": "$reasoning_tokens" },
        "cost": { "$sum": "$cost" },
        "estimated": { "$sum": { "$cond": ["$estimated", 1_i64, 0_i64] } },
    }
}

fn row(group: &Document) -> UsageRow {
    UsageRow {
        group: group.get_str("_id").unwrap_or_default().to_owned(),
        calls: number(group, "calls"),
        cache_hits: number(group, "cache_hits"),
        estimated_calls: number(group, "estimated"),
        usage: tokens(group),
    }
}

/// Reads tokens and cost.
fn tokens(of: &Document) -> Usage {
    Usage {
        prompt_tokens: number(of, "prompt_tokens"),
        completion_tokens: number(of, "completion_tokens"),
        cached_tokens: number(of, "cached_tokens"),
        cache_write_tokens: number(of, "cache_write_tokens"),
        reasoning_tokens: number(of, "reasoning_tokens"),
        cost: number(of, "cost"),
        // A record says yes or no, a sum how many.
        estimated: of.get_bool("estimated").unwrap_or_else(|_| number(of, "estimated") > 0),
    }
}

pub(super) fn date(at: Timestamp) -> DateTime {
    DateTime::from_millis(at.as_millisecond())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A sum comes in the smallest type that fits.
fn number(group: &Document, name: &str) -> u64 {
    let number = match group.get(name) {
        Some(Bson::Int32(number)) => i64::from(*number),
        Some(Bson::Int64(number)) => *number,
        _ => 0,
    };
    u64::try_from(number).unwrap_or(0)
}
