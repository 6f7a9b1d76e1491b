//! One process per database: a lease document with an epoch, whose expiry is set by the server's clock and renewed
//! after every third of its life.
//!
//! Invariant: this process trusts its lease for a shorter time than the server grants it: its own deadline is measured
//! on a monotonic clock from before the renewal was sent, less a margin. The next process can only take the lease after
//! this one has stopped writing.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::ports::LogError;
use mongodb::bson::{DateTime, Document, Uuid, doc};
use mongodb::options::ReturnDocument;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::collections::Collections;
use super::failure::Failure;
use super::{ConnectError, fence};

/// The lease of this process.
#[derive(Debug)]
pub(super) struct Lease {
    collections: Collections,
    /// Tells this process from all others, including earlier runs of itself.
    owner: String,
    epoch: i64,
    life: Duration,
    until: Mutex<Instant>,
    lost: watch::Sender<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeaseDocument {
    pub(super) owner: String,
    epoch: i64,
    expires_at: DateTime,
    /// Sessions in which the owner appends.
    #[serde(default)]
    sessions: Vec<Uuid>,
}

impl LeaseDocument {
    /// Returns whether its owner released it.
    pub(super) fn is_released(&self) -> bool {
        self.expires_at == RELEASED
    }
}

/// What to do about a lease document without a readable owner, epoch and expiry.
const UNREADABLE: &str = "the lease document (collection meta, _id lease) is unreadable, so another process may hold the \
                          lease: make sure that none runs, then write its owner, a higher epoch and a past expires_at";

/// Expiry of a released lease.
const RELEASED: DateTime = DateTime::from_millis(0);

/// A lease that was just taken, and what has to be ended before anything is read.
pub(super) struct AcquiredLease {
    pub(super) lease: Arc<Lease>,
    /// Sessions of the previous owner, in which a transaction may still be open.
    pub(super) earlier_sessions: Vec<Uuid>,
}

impl Lease {
    /// Takes the lease. While another process holds it, waits for it to expire, but gives up as soon as that process
    /// renews it: then it is alive, and there must not be two.
    pub(super) async fn acquire(
        collections: &Collections,
        name: &str,
        life: Duration,
    ) -> Result<AcquiredLease, ConnectError> {
        let owner = owner(name);
        let mut seen: Option<LeaseDocument> = None;
        loop {
            let found = match try_take(collections, &owner, life).await? {
                Ok(taken) => return Ok(taken),
                Err(found) => found,
            };
            let renewed = seen.as_ref().is_some_and(|seen| seen.expires_at != found.expires_at);
            if renewed {
                return Err(ConnectError::Held {
                    owner: found.owner,
                    epoch: found.epoch,
                });
            }
            if seen.is_none() {
                tracing::info!(
                    owner = found.owner,
                    "another process holds the database lease; waiting for it to expire, giving up if it is renewed"
                );
            }
            seen = Some(found);
            tokio::time::sleep(life / 12).await;
        }
    }

    /// Name of the owner, as in the lease document.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// Number of this tenure; higher than any before.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Fails once the lease is lost or may be.
    pub(super) fn check(&self) -> Result<(), LogError> {
        if Instant::now() >= self.until() {
            self.lose("not renewed in time");
        }
        if *self.lost.borrow() {
            return Err(fence::lost());
        }
        Ok(())
    }

    /// Completes when the lease is lost; never otherwise.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut lost = self.lost.subscribe();
        async move {
            if lost.wait_for(|lost| *lost).await.is_err() {
                // The store was closed: its lease was released, not lost.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Renews the lease until it is lost.
    pub(super) async fn renew_until_lost(self: Arc<Self>) {
        let pace = self.life / 3;
        let mut wake = Instant::now() + pace;
        loop {
            tokio::time::sleep_until(wake.min(self.until())).await;
            if self.check().is_err() {
                return;
            }
            let sent = Instant::now();
            // An answer after the deadline is of no use any more.
            let renewed = tokio::time::timeout_at(
                self.until(),
                renew(&self.collections, &self.owner, self.epoch, self.life),
            );
            match renewed.await {
                Ok(Ok(true)) => {
                    *self.lock() = sent + self.life - margin(self.life);
                    wake = sent + pace;
                }
                Ok(Ok(false)) => return self.lose("another process took the lease"),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot renew the database lease; trying again");
                    wake = Instant::now() + pace / 10;
                }
                Err(_) => {}
            }
        }
    }

    /// Releases the lease, so that the next process need not wait for it to expire.
    pub(super) async fn release(&self) -> Result<(), Failure> {
        let own = doc! { "_id": "lease", "owner": &self.owner, "epoch": self.epoch };
        let ended = doc! { "$set": { "expires_at": RELEASED } };
        self.collections
            .call(self.collections.meta.update_one(own, ended))
            .await?;
        // Released, not lost: nobody has to be notified.
        self.lost.send_replace(true);
        Ok(())
    }

    /// Records that the lease is lost, and notifies everybody.
    pub(super) fn lose(&self, why: &str) {
        let first = !self.lost.send_replace(true);
        if first {
            tracing::error!(
                owner = self.owner,
                epoch = self.epoch,
                why,
                "database lease lost; refusing all further writes, the server shuts down"
            );
        }
    }

    fn until(&self) -> Instant {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.until.lock()
    }
}

/// Time between our deadline and the server's.
fn margin(life: Duration) -> Duration {
    life / 10
}

fn millis(life: Duration) -> i64 {
    i64::try_from(life.as_millis()).unwrap_or(i64::MAX)
}

/// Expiry of a lease that begins now, by the server's clock.
pub(super) fn end(life: Duration) -> Document {
    doc! { "$dateAdd": { "startDate": "$$NOW", "unit": "millisecond", "amount": millis(life) } }
}

/// A unique name for the owner, also unlike any earlier one.
pub(super) fn owner(name: &str) -> String {
    format!("{name} {}", Uuid::new())
}

/// Takes the lease if it is free; otherwise returns whose it is.
pub(super) async fn try_take(
    collections: &Collections,
    owner: &str,
    life: Duration,
) -> Result<Result<AcquiredLease, LeaseDocument>, Failure> {
    let sent = Instant::now();
    let found = take(collections, owner, life).await?;
    if found.owner != owner {
        return Ok(Err(found));
    }
    let lease = Lease {
        collections: collections.clone(),
        owner: found.owner,
        epoch: found.epoch,
        life,
        until: Mutex::new(sent + life - margin(life)),
        lost: watch::Sender::new(false),
    };
    Ok(Ok(AcquiredLease {
        lease: Arc::new(lease),
        earlier_sessions: found.sessions,
    }))
}

/// Reads the lease without changing it.
pub(super) async fn look(collections: &Collections) -> Result<Option<LeaseDocument>, Failure> {
    let meta = collections.meta.clone_with_type::<LeaseDocument>();
    collections.call(meta.find_one(doc! { "_id": "lease" })).await
}

/// Takes the lease if it is free, in one atomic step, and returns it as it is afterwards. It is free if there is none, or
/// if it has expired; one whose expiry or epoch is unreadable may be another process's, and is not taken.
async fn take(collections: &Collections, owner: &str, life: Duration) -> Result<LeaseDocument, Failure> {
    let is_missing = |name: &str| doc! { "$eq": [{ "$type": name }, "missing"] };
    let is_new = doc! { "$and": [is_missing("$owner"), is_missing("$epoch"), is_missing("$expires_at")] };
    let has_expired = doc! { "$and": [
        { "$eq": [{ "$type": "$expires_at" }, "date"] },
        { "$in": [{ "$type": "$epoch" }, ["int", "long"]] },
        { "$lte": ["$expires_at", "$$NOW"] },
    ] };
    let free = doc! { "$or": [is_new, has_expired] };
    let either = |ours: mongodb::bson::Bson, theirs: &str| doc! { "$cond": [free.clone(), ours, theirs] };
    let next = doc! { "$add": [{ "$ifNull": ["$epoch", 0_i64] }, 1_i64] };
    let set = doc! { "$set": {
        "owner": either(owner.into(), "$owner"),
        "epoch": either(next.into(), "$epoch"),
        "expires_at": either(end(life).into(), "$expires_at"),
    } };
    let meta = collections.meta.clone_with_type::<LeaseDocument>();
    let taken = meta
        .find_one_and_update(doc! { "_id": "lease" }, vec![set])
        .upsert(true)
        .return_document(ReturnDocument::After);
    let taken = collections.call(taken).await.map_err(|failure| {
        if failure.is_unreadable() {
            return LogError::Corrupt(UNREADABLE.to_owned()).into();
        }
        failure
    })?;
    taken.ok_or_else(|| {
        LogError::Corrupt("the lease document disappeared while the lease was being taken".to_owned()).into()
    })
}

async fn renew(collections: &Collections, owner: &str, epoch: i64, life: Duration) -> Result<bool, Failure> {
    let own = doc! { "_id": "lease", "owner": owner, "epoch": epoch };
    let set = doc! { "$set": { "expires_at": end(life) } };
    let updated = collections.call(collections.meta.update_one(own, vec![set])).await?;
    Ok(updated.matched_count == 1)
}
