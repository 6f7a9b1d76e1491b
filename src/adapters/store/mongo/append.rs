//! The append: one document behind the fence, one unique index, and retries until a deadline.

use std::collections::HashMap;
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use mongodb::bson::{Document, Uuid};
use parking_lot::{Mutex, MutexGuard};

use super::collections::Collections;
use super::documents::{AppendDocument, Head, Key, seq};
use super::failure::Failure;
use super::fence::Fence;
use super::fold;
use super::lease::Lease;
use crate::adapters::backoff::Backoff;

/// Log heads that are remembered. When there are more, all are forgotten: reading one again costs one query.
const MAX_HEADS: usize = 50_000;

/// Heads of logs as this process last saw them. Sound because only one process writes; the unique index decides in any
/// case.
#[derive(Debug, Default)]
pub(super) struct Heads {
    known: Mutex<HashMap<Key, Head>>,
}

impl Heads {
    pub(super) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    pub(super) fn forget_tenant(&self, tenant: &TenantId) {
        self.lock().retain(|key, _| key.tenant != *tenant);
    }

    pub(super) fn learn(&self, key: &Key, head: Head) {
        let mut known = self.lock();
        if known.len() >= MAX_HEADS {
            known.clear();
        }
        match known.get(key) {
            Some(newer) if newer.last_seq > head.last_seq => {}
            _ => {
                known.insert(key.clone(), head);
            }
        }
    }

    fn get(&self, key: &Key) -> Option<Head> {
        self.lock().get(key).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Head>> {
        self.known.lock()
    }
}

/// Appends a document to its log, retrying on an unknown outcome until the deadline.
pub(super) async fn append(
    collections: &Collections,
    heads: &Heads,
    (lease, fence): (&Lease, &Fence),
    key: &Key,
    document: &AppendDocument,
    deadline: Duration,
) -> Result<(), LogError> {
    let mut backoff = Backoff::new(deadline);
    let mut outcome_unknown = false;
    loop {
        if let Err(refusal) = lease.check() {
            if outcome_unknown {
                return Err(LogError::Unavailable(format!(
                    "the outcome of the append is unknown, and {refusal}"
                )));
            }
            return Err(refusal);
        }
        let attempt = tokio::time::timeout_at(backoff.deadline(), attempt(collections, heads, fence, key, document));
        let failure = match attempt.await {
            // The server confirmed that it is in the log, whoever holds the lease by now. But what follows from it is
            // the lease holder's.
            Ok(Ok(())) => {
                let held = lease.check();
                return held.map_err(|refusal| LogError::Unavailable(format!("the append is stored, but {refusal}")));
            }
            Ok(Err(Failure::Fenced)) => {
                lease.lose("another process took the lease");
                heads.forget(key);
                // An earlier attempt may have been committed.
                return Err(match lease.check() {
                    Err(refusal) if outcome_unknown => {
                        LogError::Unavailable(format!("the outcome of the append is unknown, and {refusal}"))
                    }
                    _ => Failure::Fenced.into(),
                });
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::TimedOut,
        };
        if !failure.is_transient() {
            // An earlier attempt may be stored, unless this failure says whose append is at that number.
            return Err(match LogError::from(failure) {
                LogError::Refused(reason) if outcome_unknown => LogError::Unavailable(reason),
                answer => answer,
            });
        }
        outcome_unknown |= failure.leaves_outcome_unknown();
        heads.forget(key);
        if !backoff.pause().await {
            return Err(failure.into());
        }
        tracing::warn!(
            tenant = %key.tenant, conversation = %key.conversation, error = %failure,
            "append to a conversation's log failed; trying again"
        );
    }
}

async fn attempt(
    collections: &Collections,
    heads: &Heads,
    fence: &Fence,
    key: &Key,
    document: &AppendDocument,
) -> Result<(), Failure> {
    let own = document.append_id;
    let mut head = heads.get(key);
    let expected = |head: &Option<Head>| head.as_ref().map_or(0, |head| head.last_seq) + 1 == document.first_seq;
    if !expected(&head) || head.is_none() || head.is_some_and(|head| head.tombstone.is_some()) {
        // Unknown, or not what the writer expects: one of the two is out of date.
        head = fold::head(collections, key).await?;
        if let Some(head) = head {
            heads.learn(key, head);
        }
    }
    if head.is_some_and(|head| head.append_id == own) {
        return Ok(());
    }
    let behind = head.is_some_and(|head| head.last_seq >= document.first_seq);
    if behind && stored_append_id(collections, key, document).await? == Some(own) {
        return Ok(());
    }
    if head.is_some_and(|head| head.tombstone.is_some()) {
        return Err(LogError::Erased.into());
    }
    let conflict = Failure::from(LogError::Conflict(seq(document.first_seq)?));
    if !expected(&head) {
        return Err(conflict);
    }
    match fence.insert(key, document).await {
        Ok(()) => {
            heads.learn(key, Head::of(document));
            Ok(())
        }
        Err(failure) if failure.is_duplicate() => {
            heads.forget(key);
            if stored_append_id(collections, key, document).await? == Some(own) {
                return Ok(());
            }
            Err(conflict)
        }
        Err(failure) => Err(failure),
    }
}

/// Returns the append id stored at the sequence number of `document`.
async fn stored_append_id(
    collections: &Collections,
    key: &Key,
    document: &AppendDocument,
) -> Result<Option<Uuid>, Failure> {
    let mut filter = key.filter();
    filter.insert("first_seq", document.first_seq);
    let appends = collections.appends.clone_with_type::<Document>();
    let found = appends.find_one(filter).projection(Head::projection());
    let found = collections.call(found).await?;
    Ok(found
        .map(|found| Head::read(&found))
        .transpose()?
        .map(|found| found.append_id))
}

/// Returns the end of a log, from memory if known.
pub(super) async fn head(collections: &Collections, heads: &Heads, key: &Key) -> Result<Option<Head>, Failure> {
    if let Some(head) = heads.get(key) {
        return Ok(Some(head));
    }
    let head = fold::head(collections, key).await?;
    if let Some(head) = head {
        heads.learn(key, head);
    }
    Ok(head)
}
