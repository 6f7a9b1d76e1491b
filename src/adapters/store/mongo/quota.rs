//! What tenants and users have stored: one counter document for each, changed by the difference between the header in
//! `conversations` and the one that replaces it.
//!
//! The header is written first. A process that dies before the counters change leaves a stamp beyond the mark, and the
//! next start recounts the users of those conversations; so does the worker after a failure of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::quota::{StoredAmount, StoredTotals};
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::collections::Collections;
use super::documents::number;
use super::failure::Failure;

/// Longest time for one call while everybody is counted for the first time.
const BEGIN: Duration = Duration::from_secs(3_600);

/// The part of a header that counts.
#[derive(Debug, Deserialize)]
pub(super) struct CountedHeader {
    erased: bool,
    #[serde(default)]
    log_bytes: i64,
}

impl CountedHeader {
    /// Fields to fetch.
    pub(super) fn projection() -> Document {
        doc! { "_id": 0, "erased": 1, "log_bytes": 1 }
    }

    fn sums(&self) -> (i64, i64) {
        if self.erased { (0, 0) } else { (1, self.log_bytes) }
    }
}

/// A counter as stored.
#[derive(Debug, Default, Deserialize)]
struct Counter {
    #[serde(rename = "_id")]
    id: String,
    conversations: i64,
    bytes: i64,
}

impl Counter {
    fn stored(&self) -> StoredAmount {
        // Below zero only between the two halves of a count.
        let natural = |sum: i64| u64::try_from(sum).unwrap_or(0);
        StoredAmount {
            conversations: natural(self.conversations),
            bytes: natural(self.bytes),
        }
    }
}

/// `_id` of a user's counter. A tenant's id has no slash.
fn of_user(tenant: &str, user: &str) -> String {
    format!("{tenant}/{user}")
}

/// Changes the counters from the previous header, if any, to the current one.
pub(super) async fn moved(
    collections: &Collections,
    before: Option<CountedHeader>,
    after: &Header,
) -> Result<(), Failure> {
    let old = before.map_or((0, 0), |before| before.sums());
    let stored = after.stored();
    let new = (number(stored.conversations)?, number(stored.bytes)?);
    let (conversations, bytes) = (new.0 - old.0, new.1 - old.1);
    if (conversations, bytes) == (0, 0) {
        return Ok(());
    }
    let tenant = after.tenant.as_str();
    for (id, user) in [
        (tenant.to_owned(), None),
        (of_user(tenant, after.user.as_str()), Some(after.user.as_str())),
    ] {
        let change = doc! {
            "$inc": { "conversations": conversations, "bytes": bytes },
            "$setOnInsert": { "tenant": tenant, "user": user },
        };
        let counter = doc! { "_id": id };
        collections
            .call(collections.stored.update_one(counter, change).upsert(true))
            .await?;
    }
    Ok(())
}

/// Reads the counters of a tenant and one of its users.
pub(super) async fn stored(collections: &Collections, tenant: &str, user: &str) -> Result<StoredTotals, Failure> {
    let ids = vec![tenant.to_owned(), of_user(tenant, user)];
    let counters = collections.stored.clone_with_type::<Counter>();
    let found = counters.find(doc! { "_id": { "$in": ids } });
    let mut found = collections.call(found).await?;
    let mut totals = StoredTotals::default();
    while let Some(counter) = collections.call(found.try_next()).await? {
        if counter.id == tenant {
            totals.tenant = counter.stored();
        } else {
            totals.user = counter.stored();
        }
    }
    Ok(totals)
}

/// Counts everybody once, in a database whose headers are older than the counters. The bytes of a conversation that
/// gets no more appends are counted by a rebuild of the projections.
pub(super) async fn begin(collections: &Collections) -> Result<(), Failure> {
    // As with new indexes: there may be many.
    let collections = &Collections {
        call_timeout: BEGIN,
        ..collections.clone()
    };
    let done = doc! { "_id": "stored" };
    if collections
        .call(collections.meta.find_one(done.clone()))
        .await?
        .is_some()
    {
        return Ok(());
    }
    #[derive(Deserialize)]
    struct Owner {
        tenant: String,
        user: String,
    }
    let headers = collections.conversations.clone_with_type::<Owner>();
    let owners = headers
        .find(Document::new())
        .sort(doc! { "tenant": 1, "user": 1 })
        .projection(doc! { "_id": 0, "tenant": 1, "user": 1 });
    let mut owners = collections.call(owners).await?;
    let mut users = BTreeSet::new();
    while let Some(owner) = collections.call(owners.try_next()).await? {
        users.insert((owner.tenant, owner.user));
    }
    recount(collections, &users).await?;
    let mark = collections.meta.update_one(done, doc! { "$set": { "counted": true } });
    collections.call(mark.upsert(true)).await.map(drop)
}

/// Recounts the conversations of these users, and then their tenants by the counters of all their users.
pub(super) async fn recount(collections: &Collections, users: &BTreeSet<(String, String)>) -> Result<(), Failure> {
    if users.is_empty() {
        return Ok(());
    }
    let _alone = collections.counting.write().await;
    for (tenant, user) in users {
        let filter = doc! { "tenant": tenant, "user": user };
        let headers = collections.conversations.clone_with_type::<CountedHeader>();
        let found = headers.find(filter).projection(CountedHeader::projection());
        let mut found = collections.call(found).await?;
        let (mut conversations, mut bytes) = (0, 0);
        while let Some(header) = collections.call(found.try_next()).await? {
            let sums = header.sums();
            (conversations, bytes) = (conversations + sums.0, bytes + sums.1);
        }
        set(collections, tenant, Some(user), conversations, bytes).await?;
    }
    let tenants: BTreeSet<&String> = users.iter().map(|(tenant, _)| tenant).collect();
    for tenant in tenants {
        let of_users = doc! { "tenant": tenant, "user": { "$ne": null } };
        let counters = collections.stored.clone_with_type::<Counter>();
        let mut found = collections.call(counters.find(of_users)).await?;
        let (mut conversations, mut bytes) = (0, 0);
        while let Some(counter) = collections.call(found.try_next()).await? {
            (conversations, bytes) = (conversations + counter.conversations, bytes + counter.bytes);
        }
        set(collections, tenant, None, conversations, bytes).await?;
    }
    Ok(())
}

async fn set(
    collections: &Collections,
    tenant: &str,
    user: Option<&str>,
    conversations: i64,
    bytes: i64,
) -> Result<(), Failure> {
    let id = user.map_or_else(|| tenant.to_owned(), |user| of_user(tenant, user));
    let counter = doc! { "tenant": tenant, "user": user, "conversations": conversations, "bytes": bytes };
    let set = collections
        .stored
        .update_one(doc! { "_id": id }, doc! { "$set": counter });
    collections.call(set.upsert(true)).await.map(drop)
}
