//! The fence: the server itself refuses an append by a former owner.
//!
//! The collection `fences` has a fixed number of documents, each with the epoch of the owner. A conversation belongs to
//! one of them by its hash. An append is one transaction: it changes its conversation's fence document, provided that
//! has the writer's epoch, and inserts the append. A new owner first writes its own epoch into every fence document,
//! and only then reads the log.
//!
//! Invariant: once [`Fence::raise`] has returned, no append of an earlier epoch is committed. A transaction that
//! changed a fence document before the new owner did is committed before it, so the new owner reads its append; a later
//! one finds another epoch, or conflicts with the new owner's write, and is aborted.
//!
//! A process that dies between two steps of a transaction leaves it open on the server, for up to a minute, and with it
//! a lock on a fence document. Therefore the lease document lists the sessions of its owner, and whoever takes over
//! ends them.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use copilotd_actors::jitter::jitter;
use copilotd_actors::ports::LogError;
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, Uuid, doc};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::collections::Collections;
use super::documents::{AppendDocument, Key};
use super::failure::Failure;

/// Fence documents. More of them mean fewer conflicts between concurrent appends, and more work at a takeover.
const FENCES: i32 = 1024;

/// Concurrent appends.
const SESSIONS: usize = 32;

/// Conflicts with other appends after which an attempt gives up; its caller tries again.
const CONFLICTS: u32 = 8;

/// Timeout for aborting a transaction. One that is not aborted in time is aborted when its session begins the next one.
const ABORT: Duration = Duration::from_secs(1);

/// Pause of a takeover before it tries a single fence document again.
const RAISE_PAUSE: Duration = Duration::from_millis(5);

/// Conflicts at single fence documents after which a takeover ends the earlier owner's sessions again.
const CONFLICTS_TO_END_SESSIONS: u32 = 64;

/// Longest time for raising the fence: longer than the server keeps an abandoned transaction.
const RAISE: Duration = Duration::from_secs(90);

/// The fence of this process.
pub(super) struct Fence {
    collections: Collections,
    epoch: i64,
    places: Semaphore,
    sessions: Mutex<Vec<ClientSession>>,
}

impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fence")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// A borrowed session; it is returned however its user ends.
struct BorrowedSession<'a> {
    fence: &'a Fence,
    session: Option<ClientSession>,
    _place: SemaphorePermit<'a>,
}

impl Drop for BorrowedSession<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.fence.lock().push(session);
        }
    }
}

impl Fence {
    /// Shuts out every earlier epoch. `earlier` are the sessions of the previous owner.
    pub(super) async fn raise(
        collections: &Collections,
        owner: &str,
        epoch: i64,
        earlier: &[Uuid],
    ) -> Result<Self, Failure> {
        create_missing(collections, epoch).await?;
        end_sessions(collections, earlier).await;
        write_epoch(collections, epoch, earlier).await?;
        let client = collections.meta.client();
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(client.start_session().await?);
        }
        // Before the first of them is used: whoever takes over must be able to end it.
        let ids: Vec<Bson> = sessions
            .iter()
            .filter_map(|session| session.id().get("id").cloned())
            .collect();
        let own = doc! { "_id": "lease", "owner": owner, "epoch": epoch };
        let set = doc! { "$set": { "sessions": ids } };
        let told = collections.call(collections.meta.update_one(own, set)).await?;
        if told.matched_count == 0 {
            return Err(lost().into());
        }
        Ok(Self {
            collections: collections.clone(),
            epoch,
            places: Semaphore::new(SESSIONS),
            sessions: Mutex::new(sessions),
        })
    }

    /// Inserts an append if this process still owns the epoch; otherwise fails with [`Failure::Fenced`].
    pub(super) async fn insert(&self, key: &Key, document: &AppendDocument) -> Result<(), Failure> {
        let mut loan = self.borrow().await?;
        let Some(session) = loan.session.as_mut() else {
            return Err(Failure::TimedOut);
        };
        let mut conflicts = 0;
        loop {
            let Err(failure) = self.try_insert(session, key, document).await else {
                return Ok(());
            };
            reset(session).await;
            conflicts += 1;
            if !failure.is_conflict() || conflicts >= CONFLICTS {
                return Err(failure);
            }
            tokio::time::sleep(jitter(Duration::from_millis(1 << conflicts))).await;
        }
    }

    async fn try_insert(
        &self,
        session: &mut ClientSession,
        key: &Key,
        document: &AppendDocument,
    ) -> Result<(), Failure> {
        let collections = &self.collections;
        collections.call(session.start_transaction()).await?;
        let own = doc! { "_id": shard(key), "epoch": self.epoch };
        // A change of its own each time: a write that changes nothing would conflict with nobody.
        let count = doc! { "$inc": { "appends": 1_i64 } };
        let passed = collections.fences.update_one(own, count).session(&mut *session);
        if collections.call(passed).await?.matched_count == 0 {
            return Err(Failure::Fenced);
        }
        let insert = collections.appends.insert_one(document).session(&mut *session);
        collections.call(insert).await?;
        collections.call(session.commit_transaction()).await
    }

    async fn borrow(&self) -> Result<BorrowedSession<'_>, Failure> {
        let place = self.places.acquire().await.map_err(|_| Failure::TimedOut)?;
        let session = self.lock().pop();
        let mut loan = BorrowedSession {
            fence: self,
            session,
            _place: place,
        };
        if let Some(session) = loan.session.as_mut() {
            // Its last user may have left in the middle of a transaction.
            reset(session).await;
        }
        Ok(loan)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ClientSession>> {
        self.sessions.lock()
    }
}

/// The error that a former owner gets.
pub(super) fn lost() -> LogError {
    LogError::Refused("this process does not hold the database's lease; another one may be writing".to_owned())
}

/// Aborts the session's open transaction, if any.
async fn reset(session: &mut ClientSession) {
    let _ = tokio::time::timeout(ABORT, session.abort_transaction().into_future()).await;
}

/// The fence document of a conversation.
fn shard(key: &Key) -> i32 {
    let mut hasher = DefaultHasher::new();
    (key.tenant.as_str(), key.conversation.uuid()).hash(&mut hasher);
    i32::try_from(hasher.finish() % u64::from(FENCES.unsigned_abs())).unwrap_or(0)
}

async fn create_missing(collections: &Collections, epoch: i64) -> Result<(), Failure> {
    let count = collections.call(collections.fences.count_documents(doc! {})).await?;
    if count >= u64::from(FENCES.unsigned_abs()) {
        return Ok(());
    }
    let all: Vec<Document> = (0..FENCES)
        .map(|n| doc! { "_id": n, "epoch": epoch, "appends": 0_i64 })
        .collect();
    match collections
        .call(collections.fences.insert_many(all).ordered(false))
        .await
    {
        Err(failure) if !failure.is_only_duplicates() => Err(failure),
        _ => Ok(()),
    }
}

/// Writes the epoch into every fence document: in one transaction, and where that collides with an append of the
/// earlier owner, in two of half the size. In transactions, because a plain write would wait on the server for an
/// append that nobody ends.
async fn write_epoch(collections: &Collections, epoch: i64, earlier: &[Uuid]) -> Result<(), Failure> {
    let deadline = Instant::now() + RAISE;
    let mut session = collections.meta.client().start_session().await?;
    let mut left = VecDeque::from([(0, FENCES)]);
    let mut conflicts = 0_u32;
    while let Some((from, to)) = left.pop_front() {
        let Err(failure) = write_range(collections, &mut session, (from, to), epoch).await else {
            continue;
        };
        reset(&mut session).await;
        if !failure.is_transient() || Instant::now() >= deadline {
            return Err(failure);
        }
        if failure.is_conflict() && to - from > 1 {
            let middle = from + (to - from) / 2;
            left.extend([(from, middle), (middle, to)]);
            continue;
        }
        left.push_back((from, to));
        conflicts += 1;
        if conflicts.is_multiple_of(CONFLICTS_TO_END_SESSIONS) {
            tracing::warn!(%failure, "takeover delayed: transactions of the previous lease holder are still open on the server; ending its sessions again");
            end_sessions(collections, earlier).await;
        }
        tokio::time::sleep(RAISE_PAUSE).await;
    }
    Ok(())
}

async fn write_range(
    collections: &Collections,
    session: &mut ClientSession,
    (from, to): (i32, i32),
    epoch: i64,
) -> Result<(), Failure> {
    collections.call(session.start_transaction()).await?;
    let earlier = doc! { "_id": { "$gte": from, "$lt": to }, "epoch": { "$lt": epoch } };
    let set = doc! { "$set": { "epoch": epoch } };
    let written = collections.fences.update_many(earlier, set).session(&mut *session);
    collections.call(written).await?;
    collections.call(session.commit_transaction()).await
}

/// Ends what the earlier owner may have left open. Otherwise the server does so by itself, later.
async fn end_sessions(collections: &Collections, sessions: &[Uuid]) {
    if sessions.is_empty() {
        return;
    }
    let sessions: Vec<Document> = sessions.iter().map(|id| doc! { "id": *id }).collect();
    let admin = collections.meta.client().database("admin");
    let ended = collections
        .call(admin.run_command(doc! { "killSessions": sessions }))
        .await;
    if let Err(error) = ended {
        tracing::warn!(%error, "cannot end the database sessions of the previous lease holder; the takeover may take a minute");
    }
}
