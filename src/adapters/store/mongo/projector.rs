//! Writes headers of appended logs into `conversations`, in the background and for several appends at a time.
//!
//! Invariant: `projected` in `meta` names a stamp up to which everything is projected. A process that dies leaves at
//! most later stamps unprojected, and the next process projects them when it starts ([`Projector::catch_up`]).
//!
//! A process that lost its lease may have an insert in flight that the server executes afterwards. Its stamp lies
//! between what its process had projected and the first stamp of the next process. These gaps are remembered and
//! checked periodically ([`Projector::find_late`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::Seq;
use copilotd_actors::ports::{Append, LogError};
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Bson, Document, Uuid, doc};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::collections::Collections;
use super::documents::{Key, Projected, key};
use super::failure::Failure;
use super::read::{name_of, typed};
use super::{fold, quota};
use crate::adapters::store::unreadable::skip_unreadable;

/// Conversations that may wait; more than that slows appends down.
const MAX_WAITING: usize = 4096;

/// Headers written concurrently.
const MAX_CONCURRENT: usize = 8;

/// Headers compared with appends in one query.
const COMPARE_BATCH: usize = 500;

/// How often the stamp is stored.
const STAMP_PACE: Duration = Duration::from_secs(1);

/// Tenures whose late appends are looked for.
const MAX_GAPS: usize = 16;

/// Appends in all gaps above which older gaps are forgotten.
const MAX_IN_GAPS: usize = 10_000;

/// Late appends that are remembered; if there are more, they are projected again, which changes nothing.
const MAX_SEEN: usize = 50_000;

/// Stamps below the mark that are checked too. Appends found there at the start are projected; later ones are late.
const OVERLAP: i64 = 256;

/// Pause after a failure.
const RETRY_PACE: Duration = Duration::from_millis(200);

/// The queue, and the task that works it off.
#[derive(Debug)]
pub(super) struct Projector {
    collections: Collections,
    state: Mutex<State>,
    wake: Notify,
    done: watch::Sender<u64>,
    gaps: Mutex<Gaps>,
}

/// Stamps that earlier processes assigned and did not project.
#[derive(Debug, Default)]
struct Gaps {
    /// Each after the first and up to the second stamp, oldest tenure first.
    ranges: Vec<(i64, i64)>,
    /// Appends in the gaps that are projected.
    seen: HashSet<Uuid>,
}

impl Gaps {
    fn contain(&self, stamp: i64) -> bool {
        self.ranges.iter().any(|(from, to)| (*from + 1..=*to).contains(&stamp))
    }

    /// Filter for all appends in the gaps; `None` if there is no gap.
    fn filter(&self) -> Option<Document> {
        let ranges = self.ranges.iter();
        let ranges: Vec<Document> = ranges
            .map(|(from, to)| doc! { "stamp": { "$gt": from, "$lte": to } })
            .collect();
        (!ranges.is_empty()).then(|| doc! { "$or": ranges })
    }

    fn note(&mut self, append: Uuid) {
        if self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert(append);
    }
}

#[derive(Debug)]
struct State {
    next_stamp: i64,
    /// Stamps assigned whose appends are not projected yet.
    open: BTreeSet<i64>,
    waiting: HashMap<Key, QueuedChange>,
    /// Increases with everything that is queued.
    version: u64,
}

#[derive(Debug)]
struct QueuedChange {
    stamps: Vec<i64>,
    change: Change,
}

#[derive(Debug)]
enum Change {
    /// Headers of consecutive appends.
    Header {
        before: Seq,
        projected: Box<Projected>,
        counters_only: bool,
    },
    /// Something was missed: read the log.
    Fold,
}

/// An append in progress. If dropped without an outcome, the outcome is unknown and the log is read.
pub(super) struct PendingAppend {
    projector: Arc<Projector>,
    key: Option<Key>,
    pub(super) stamp: i64,
}

impl PendingAppend {
    /// The append is in the log.
    pub(super) fn appended(mut self, append: &Append) {
        if let Some(key) = self.key.take() {
            self.projector.enqueue(key, vec![self.stamp], Change::of(append));
        }
    }

    /// The append is not in the log, and never will be.
    pub(super) fn refused(mut self) {
        self.key = None;
        self.projector.state().open.remove(&self.stamp);
    }
}

impl Drop for PendingAppend {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.projector.enqueue(key, vec![self.stamp], Change::Fold);
        }
    }
}

impl Change {
    fn of(append: &Append) -> Self {
        let counters_only = !append.records.iter().any(|record| {
            matches!(
                record.event,
                Event::ConversationCreated { .. }
                    | Event::ConversationUpdated { .. }
                    | Event::ConversationTitled { .. }
                    | Event::ConversationErased { .. }
            )
        });
        Self::Header {
            before: append.first_seq() - 1,
            projected: Box::new(Projected {
                header: append.header.clone(),
                tombstone: append.tombstone(),
                cleaned: false,
            }),
            counters_only,
        }
    }

    /// Joins a later change to this one.
    fn join(self, later: Self) -> Self {
        match (self, later) {
            (
                Self::Header {
                    before,
                    projected,
                    counters_only,
                },
                Self::Header {
                    before: middle,
                    projected: later,
                    counters_only: later_only,
                },
            ) if projected.header.last_seq == middle => Self::Header {
                before,
                projected: later,
                counters_only: counters_only && later_only,
            },
            _ => Self::Fold,
        }
    }
}

impl Projector {
    pub(super) fn new(collections: Collections, epoch: i64) -> Arc<Self> {
        Arc::new(Self {
            collections,
            state: Mutex::new(State {
                // Stamps of a later tenure are higher than all of an earlier one.
                next_stamp: (epoch << 40) + 1,
                open: BTreeSet::new(),
                waiting: HashMap::new(),
                version: 0,
            }),
            wake: Notify::new(),
            done: watch::Sender::new(0),
            gaps: Mutex::default(),
        })
    }

    /// Assigns a stamp to an append. Waits, within limits, while the queue is full.
    pub(super) async fn pending_append(
        self: &Arc<Self>,
        key: Key,
        longest: Duration,
    ) -> Result<PendingAppend, LogError> {
        let mut done = self.done.subscribe();
        let room = async { while self.state().waiting.len() >= MAX_WAITING && done.changed().await.is_ok() {} };
        if tokio::time::timeout(longest, room).await.is_err() {
            let behind =
                format!("{MAX_WAITING} conversation headers are waiting to be written; the database is too slow");
            return Err(LogError::Unavailable(behind));
        }
        let mut state = self.state();
        let stamp = state.next_stamp;
        state.next_stamp += 1;
        state.open.insert(stamp);
        Ok(PendingAppend {
            projector: Arc::clone(self),
            key: Some(key),
            stamp,
        })
    }

    /// Waits, within limits, until all earlier appends are projected.
    pub(super) async fn settle(&self, longest: Duration) {
        let mut done = self.done.subscribe();
        let version = self.state().version;
        // A list that lags is better than none: the store may be struggling.
        let _ = tokio::time::timeout(longest, done.wait_for(|done| *done >= version)).await;
    }

    /// Projects what earlier processes left behind.
    pub(super) async fn catch_up(&self) -> Result<(), Failure> {
        let collections = &self.collections;
        let marked = collections
            .call(collections.meta.find_one(doc! { "_id": "projected" }))
            .await?
            .unwrap_or_default();
        let stamp = marked.get_i64("stamp").unwrap_or(0);
        let mut ranges: Vec<(i64, i64)> = marked
            .get_array("gaps")
            .map_or_else(|_| Vec::new(), |gaps| read_gaps(gaps));
        let first = self.state().next_stamp;
        if stamp < first - 1 {
            ranges.push(((stamp - OVERLAP).max(0), first - 1));
        }
        ranges.drain(..ranges.len().saturating_sub(MAX_GAPS));
        self.gaps().ranges = ranges;
        let mut keys = self.project(doc! { "stamp": { "$gt": stamp } }, SkipRule::Seen).await?;
        let gaps = self.gaps().filter();
        if let Some(filter) = gaps {
            keys.extend(self.project(filter, SkipRule::Projected).await?);
        }
        if !keys.is_empty() {
            tracing::info!(
                conversations = keys.len(),
                "projecting appends that the previous process left unprojected"
            );
        }
        let gaps: Vec<Document> = {
            let mut gaps = self.gaps();
            if gaps.seen.len() > MAX_IN_GAPS {
                // Too many to check periodically: only the last owner's are.
                let older = gaps.ranges.len().saturating_sub(1);
                gaps.ranges.drain(..older);
            }
            let ranges = gaps.ranges.iter();
            ranges.map(|(from, to)| doc! { "from": from, "to": to }).collect()
        };
        let set = doc! { "$set": { "gaps": gaps } };
        let kept = collections
            .meta
            .update_one(doc! { "_id": "projected" }, set)
            .upsert(true);
        collections.call(kept).await?;
        self.mark().await
    }

    /// Projects appends of processes that had lost their lease when the server executed them, so that a turn they left
    /// open is resumed. Returns their conversations.
    pub(super) async fn find_late(&self) -> Result<HashSet<Key>, Failure> {
        let Some(filter) = self.gaps().filter() else {
            return Ok(HashSet::new());
        };
        let late = self.project(filter, SkipRule::Projected).await?;
        for key in &late {
            tracing::warn!(
                tenant = %key.tenant, conversation = %key.conversation,
                "found a late append by a process that no longer held the lease; replaying the conversation"
            );
        }
        Ok(late)
    }

    /// Projects the conversations of some appends, unless that was done for all of these appends before; returns those
    /// that it projected.
    async fn project(&self, appends: Document, unless: SkipRule) -> Result<HashSet<Key>, Failure> {
        let collections = &self.collections;
        let found = collections.appends.clone_with_type::<Document>();
        let found = found
            .find(appends)
            .projection(doc! { "tenant": 1, "conversation": 1, "stamp": 1, "last_seq": 1 });
        let mut found = collections.call(found).await?;
        let mut keys: HashMap<Key, i64> = HashMap::new();
        let mut appends = Vec::new();
        while let Some(found) = collections.call(found.try_next()).await? {
            let id = name_of(&found);
            let place = typed::<Place>(found);
            if place
                .as_ref()
                .is_ok_and(|place| self.gaps().seen.contains(&place.append_id))
            {
                continue;
            }
            let read = place.and_then(|place| Ok((key(&place.tenant, place.conversation)?, place)));
            if let Some((key, place)) = skip_unreadable("append", id, read)? {
                let last = keys.entry(key).or_default();
                *last = place.last_seq.max(*last);
                appends.extend(self.gaps().contain(place.stamp).then_some(place.append_id));
            }
        }
        if unless == SkipRule::Projected {
            self.leave_out_projected(&mut keys).await?;
        }
        let keys: HashSet<Key> = keys.into_keys().collect();
        let mut users = BTreeSet::new();
        for key in &keys {
            // One broken log must not prevent the process from starting.
            let refreshed = fold::refresh(collections, key).await;
            users.extend(skip_unreadable("conversation", key.id(), refreshed)?.flatten());
        }
        quota::recount(collections, &users).await?;
        appends.into_iter().for_each(|append| self.gaps().note(append));
        Ok(keys)
    }

    /// Removes conversations whose headers already include the appends that were found.
    async fn leave_out_projected(&self, keys: &mut HashMap<Key, i64>) -> Result<(), Failure> {
        let ids: Vec<(String, Key)> = keys.keys().map(|key| (key.id(), key.clone())).collect();
        for part in ids.chunks(COMPARE_BATCH) {
            let wanted: Vec<&str> = part.iter().map(|(id, _)| id.as_str()).collect();
            let headers = self.collections.conversations.clone_with_type::<Document>();
            let headers = headers
                .find(doc! { "_id": { "$in": wanted } })
                .projection(doc! { "applied_seq": 1 });
            let mut headers = self.collections.call(headers).await?;
            let mut applied: HashMap<String, i64> = HashMap::new();
            while let Some(header) = self.collections.call(headers.try_next()).await? {
                if let (Ok(id), Ok(seq)) = (header.get_str("_id"), header.get_i64("applied_seq")) {
                    applied.insert(id.to_owned(), seq);
                }
            }
            for (id, key) in part {
                let is_projected = |last: &i64| applied.get(id).is_some_and(|applied| applied >= last);
                if keys.get(key).is_some_and(is_projected) {
                    keys.remove(key);
                }
            }
        }
        Ok(())
    }

    /// Works until the task is aborted. Failures are tried again.
    pub(super) async fn run(self: Arc<Self>) {
        let mut marked = 0;
        let mut mark_at = Instant::now();
        loop {
            let undone = self.projected_up_to() != marked;
            let mark_due = tokio::time::sleep_until(mark_at);
            tokio::select! {
                () = self.wake.notified() => {}
                () = mark_due, if undone => {}
            }
            while !self.work().await {
                tokio::time::sleep(RETRY_PACE).await;
            }
            let projected_up_to = self.projected_up_to();
            if projected_up_to != marked && Instant::now() >= mark_at {
                match self.mark().await {
                    Ok(()) => marked = projected_up_to,
                    Err(error) => tracing::warn!(%error, "cannot store projection progress; trying again later"),
                }
                mark_at = Instant::now() + STAMP_PACE;
            }
        }
    }

    /// Works off the queue once; returns false if some of it has to be repeated.
    pub(super) async fn work(&self) -> bool {
        let (batch, version) = {
            let mut state = self.state();
            (std::mem::take(&mut state.waiting), state.version)
        };
        let mut writes = stream::iter(batch)
            .map(|(key, waiting)| async move {
                let outcome = self.write(&key, &waiting.change).await;
                (key, waiting, outcome)
            })
            .buffer_unordered(MAX_CONCURRENT);
        let mut failed = Vec::new();
        while let Some((key, waiting, outcome)) = writes.next().await {
            match outcome {
                Ok(()) => {
                    let mut state = self.state();
                    waiting.stamps.iter().for_each(|stamp| {
                        state.open.remove(stamp);
                    });
                }
                Err(error) => {
                    self.enqueue(key, waiting.stamps, Change::Fold);
                    failed.push(error);
                }
            }
        }
        if let Some(error) = failed.first() {
            tracing::warn!(%error, headers = failed.len(), "writing conversation headers failed; trying again later");
        }
        let complete = failed.is_empty();
        if complete {
            self.done.send_replace(version);
        }
        complete
    }

    /// Stores the stamp up to which everything is projected.
    pub(super) async fn mark(&self) -> Result<(), Failure> {
        // Never backwards: a process that is not the owner any more must not undo what the owner wrote.
        let set = doc! { "$max": { "stamp": self.projected_up_to() } };
        let meta = &self.collections.meta;
        let marked = meta.update_one(doc! { "_id": "projected" }, set).upsert(true);
        self.collections.call(marked).await.map(drop)
    }

    async fn write(&self, key: &Key, change: &Change) -> Result<(), Failure> {
        match change {
            Change::Header {
                before,
                projected,
                counters_only,
            } => {
                // Counters alone are correct only on top of the header just before; otherwise its title could be lost.
                if *counters_only && fold::write_counters(&self.collections, key, *before, projected).await? {
                    return Ok(());
                }
                fold::write_whole_header(&self.collections, key, projected).await
            }
            // A broken log stays broken: retrying would only delay the others.
            Change::Fold => {
                let refreshed = fold::refresh(&self.collections, key).await;
                let user = skip_unreadable("conversation", key.id(), refreshed)?.flatten();
                quota::recount(&self.collections, &user.into_iter().collect()).await
            }
        }
    }

    fn enqueue(&self, key: Key, stamps: Vec<i64>, change: Change) {
        {
            let mut state = self.state();
            state.version += 1;
            let joined = match state.waiting.remove(&key) {
                None => QueuedChange { stamps, change },
                Some(mut earlier) => {
                    earlier.stamps.extend(stamps);
                    QueuedChange {
                        stamps: earlier.stamps,
                        change: earlier.change.join(change),
                    }
                }
            };
            state.waiting.insert(key, joined);
        }
        self.wake.notify_one();
    }

    /// The stamp up to which nothing is open.
    fn projected_up_to(&self) -> i64 {
        let state = self.state();
        state.open.first().map_or(state.next_stamp, |first| *first) - 1
    }

    fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn read_gaps(gaps: &[Bson]) -> Vec<(i64, i64)> {
    let gaps = gaps.iter().filter_map(Bson::as_document);
    gaps.filter_map(|gap| Some((gap.get_i64("from").ok()?, gap.get_i64("to").ok()?)))
        .collect()
}

#[derive(serde::Deserialize)]
struct Place {
    #[serde(rename = "_id")]
    append_id: Uuid,
    stamp: i64,
    tenant: String,
    conversation: Uuid,
    #[serde(default)]
    last_seq: i64,
}

/// Which conversations need not be projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SkipRule {
    /// Those of which every append was checked before.
    Seen,
    /// Also those whose headers include the appends already.
    Projected,
}
