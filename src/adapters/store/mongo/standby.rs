//! A process that waits for the lease while another one serves.
//!
//! It announces itself in the document `standby`, so that the owner knows when it stops that a standby takes over at
//! once, and takes the lease as soon as it is released or has expired. The announcement is short-lived: a killed
//! standby counts as present for a few seconds at most.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;
use tokio::time::Instant;

use super::collections::Collections;
use super::failure::Failure;
use super::lease::{self, AcquiredLease};

/// How often a standby checks whether the lease was released.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often it announces itself.
const ANNOUNCE: Duration = Duration::from_secs(1);
/// How long an announcement is valid.
const ANNOUNCED_FOR: Duration = Duration::from_secs(3);
/// Pause after a failure of the store, which does not end a standby.
const RETRY: Duration = Duration::from_secs(1);

/// Waits until the lease is free, and takes it.
pub(super) async fn wait(collections: &Collections, name: &str, life: Duration) -> AcquiredLease {
    let owner = lease::owner(name);
    let mut standby = Standby {
        collections,
        owner: &owner,
        life,
        announced_at: None,
        tried_at: None,
    };
    let mut failing = false;
    loop {
        let pause = match standby.step().await {
            Ok(Some(taken)) => {
                standby.withdraw().await;
                return taken;
            }
            Ok(None) => {
                if failing {
                    tracing::info!("standing by: the database answers again; waiting for its lease");
                }
                failing = false;
                POLL_INTERVAL
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "standing by: cannot reach the database; trying again");
                }
                failing = true;
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct Standby<'a> {
    collections: &'a Collections,
    owner: &'a str,
    life: Duration,
    announced_at: Option<Instant>,
    tried_at: Option<Instant>,
}

impl Standby<'_> {
    async fn step(&mut self) -> Result<Option<AcquiredLease>, Failure> {
        if self.announced_at.is_none_or(|at| at.elapsed() >= ANNOUNCE) {
            let begun = Instant::now();
            self.announce().await?;
            self.announced_at = Some(begun);
        }
        let is_released = lease::look(self.collections)
            .await?
            .is_none_or(|lease| lease.is_released());
        // Only the server's clock can tell whether it has expired.
        let is_due = self.tried_at.is_none_or(|at| at.elapsed() >= self.life / 12);
        if !is_released && !is_due {
            return Ok(None);
        }
        let first = self.tried_at.replace(Instant::now()).is_none();
        match lease::try_take(self.collections, self.owner, self.life).await? {
            Ok(taken) => Ok(Some(taken)),
            Err(held) => {
                if first {
                    tracing::info!(
                        owner = held.owner,
                        "standing by: another process holds the database lease"
                    );
                }
                Ok(None)
            }
        }
    }

    async fn announce(&self) -> Result<(), Failure> {
        let set = doc! { "$set": { "owner": self.owner, "expires_at": lease::end(ANNOUNCED_FOR) } };
        let announced = self
            .collections
            .meta
            .update_one(doc! { "_id": "standby" }, vec![set])
            .upsert(true);
        self.collections.call(announced).await.map(drop)
    }

    /// Deletes the announcement. Another standby announces itself again within a second.
    async fn withdraw(&self) {
        let own = doc! { "_id": "standby", "owner": self.owner };
        if let Err(error) = self.collections.call(self.collections.meta.delete_one(own)).await {
            tracing::debug!(%error, "cannot delete the standby announcement; it expires by itself");
        }
    }
}

/// Returns whether a standby has announced itself within the last seconds, by the server's clock.
pub(super) async fn is_waiting(collections: &Collections) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Announcement {
        expires_at: DateTime,
        asked_at: DateTime,
    }
    let meta = collections.meta.clone_with_type::<Announcement>();
    let asked = meta
        .find_one_and_update(
            doc! { "_id": "standby" },
            vec![doc! { "$set": { "asked_at": "$$NOW" } }],
        )
        .return_document(ReturnDocument::After);
    let found = collections.call(asked).await?;
    Ok(found.is_some_and(|found| found.asked_at < found.expires_at))
}
