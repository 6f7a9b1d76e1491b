//! Facts about users in MongoDB: a document for each, and one for each turn that was learned from.
//!
//! Facts and the end of their lesson are one transaction. An erasure may come between the check of a conversation and the
//! write: the check is repeated afterwards, and what was written is deleted.

use async_trait::async_trait;
use copilotd_actors::domain::ids::{FactId, TurnId, UserId};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::facts::store::{Change, FactStore, Lesson, LessonState, MAX_ATTEMPTS, StoredFact};
use copilotd_knowledge::facts::{Attribute, Fact, MAX_STORED};
use futures::TryStreamExt;
use jiff::Timestamp;
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::MongoLog;
use super::documents::Key;
use super::failure::Failure;
use super::read::name_of;
use super::usage::{as_future, date};
use crate::adapters::store::unreadable::skip_unreadable;

/// Documents that one call of an erasure deletes.
const AT_ONCE: i64 = 500;
/// Attempts at a transaction that conflicts with another one.
const CONFLICTS: usize = 4;

#[async_trait]
impl FactStore for MongoLog {
    async fn facts(&self, scope: &TenantScope, user: &UserId) -> Result<Vec<StoredFact>, LogError> {
        let which = doc! { "tenant": scope.tenant().as_str(), "user": user.as_str() };
        let order = doc! { "said_at": -1, "_id": 1 };
        let limit = i64::try_from(MAX_STORED).unwrap_or(i64::MAX);
        let find = self.collections.facts.find(which).sort(order).limit(limit);
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { find.await?.try_collect().await }))
            .await?;
        let read = |document: &Document| skip_unreadable("fact", name_of(document), fact(document)).transpose();
        found.iter().filter_map(read).collect()
    }

    async fn open_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<LessonState, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let key = Key::new(scope, lesson.conversation);
        if !self.is_readable(&key).await? {
            return Ok(LessonState::Erased);
        }
        let id = lesson_id(scope, lesson.turn);
        let fresh = doc! { "$setOnInsert": {
            "tenant": scope.tenant().as_str(),
            "turn": lesson.turn.to_string(),
            "conversation": lesson.conversation.to_string(),
            "user": lesson.user.as_str(),
            "said_at": date(lesson.said_at),
            "attempts": 0_i64,
            "closed": false,
        } };
        let lessons = &self.collections.fact_lessons;
        let opened = lessons
            .find_one_and_update(doc! { "_id": &id }, fresh)
            .upsert(true)
            .return_document(ReturnDocument::After);
        let stored = self.collections.call(opened).await?;
        if !self.is_readable(&key).await? {
            self.collections.call(lessons.delete_one(doc! { "_id": &id })).await?;
            return Ok(LessonState::Erased);
        }
        Ok(if is_closed(stored.as_ref()) {
            LessonState::Closed
        } else {
            LessonState::Open
        })
    }

    async fn open_lessons(&self, scope: &TenantScope, user: &UserId, limit: usize) -> Result<Vec<Lesson>, LogError> {
        let which = doc! { "tenant": scope.tenant().as_str(), "user": user.as_str(), "closed": false };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let order = doc! { "said_at": 1, "turn": 1 };
        let find = self.collections.fact_lessons.find(which).sort(order).limit(limit);
        let found: Vec<Document> = self
            .collections
            .call(as_future(async { find.await?.try_collect().await }))
            .await?;
        let read = |document: &Document| {
            let lesson = lesson(document, user);
            skip_unreadable("fact_lesson", name_of(document), lesson).transpose()
        };
        found.iter().filter_map(read).collect()
    }

    async fn fail_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<bool, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let lessons = &self.collections.fact_lessons;
        let which = doc! { "_id": lesson_id(scope, lesson.turn) };
        let counted = lessons
            .find_one_and_update(which.clone(), doc! { "$inc": { "attempts": 1_i64 } })
            .return_document(ReturnDocument::After);
        let stored = self.collections.call(counted).await?;
        let attempts = stored.as_ref().and_then(|stored| stored.get_i64("attempts").ok());
        if attempts.is_some_and(|attempts| attempts >= i64::from(MAX_ATTEMPTS)) {
            let close = lessons.update_one(which, doc! { "$set": { "closed": true } });
            self.collections.call(close).await?;
            return Ok(true);
        }
        Ok(is_closed(stored.as_ref()))
    }

    async fn close_lesson(&self, scope: &TenantScope, lesson: &Lesson, change: &Change) -> Result<bool, LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        if !self.is_readable(&Key::new(scope, lesson.conversation)).await? {
            return Ok(false);
        }
        let is_done = self.write(scope, &lesson.user, change, Some(lesson.turn)).await?;
        self.delete_erased(scope, change).await?;
        Ok(is_done)
    }

    async fn withdraw(&self, scope: &TenantScope, lesson: &Lesson) -> Result<(), LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        let key = Key::new(scope, lesson.conversation);
        let id = lesson_id(scope, lesson.turn);
        let lessons = &self.collections.fact_lessons;
        // First, so that nothing is learned any more: a lesson that is being closed commits before this, or not at all.
        if self.is_readable(&key).await? {
            let close = doc! {
                "$set": { "closed": true },
                "$setOnInsert": {
                    "tenant": scope.tenant().as_str(),
                    "turn": lesson.turn.to_string(),
                    "conversation": lesson.conversation.to_string(),
                    "user": lesson.user.as_str(),
                    "said_at": date(lesson.said_at),
                    "attempts": 0_i64,
                },
            };
            let closed = lessons.update_one(doc! { "_id": &id }, close).upsert(true);
            self.collections.call(closed).await?;
            if !self.is_readable(&key).await? {
                self.collections.call(lessons.delete_one(doc! { "_id": &id })).await?;
            }
        }
        let which = doc! {
            "tenant": scope.tenant().as_str(),
            "conversation": lesson.conversation.to_string(),
            "turn": lesson.turn.to_string(),
        };
        let facts = &self.collections.facts;
        if self.collections.call(facts.find_one(which.clone())).await?.is_some() {
            // What they had superseded holds again. First: if the process dies in between, the next call does both.
            let superseded = doc! {
                "tenant": scope.tenant().as_str(),
                "user": lesson.user.as_str(),
                "valid_to": date(lesson.said_at),
            };
            let restore = doc! { "$set": { "valid_to": null } };
            self.collections.call(facts.update_many(superseded, restore)).await?;
            self.collections.call(facts.delete_many(which)).await?;
        }
        Ok(())
    }

    async fn change(&self, scope: &TenantScope, user: &UserId, change: &Change) -> Result<(), LogError> {
        self.lease.check()?;
        let _pass = self.tenant_fence.enter(scope.tenant())?;
        self.write(scope, user, change, None).await?;
        self.delete_erased(scope, change).await?;
        Ok(())
    }
}

impl MongoLog {
    /// Deletes what was learned in an erased conversation; returns the number of facts.
    pub(super) async fn erase_facts(&self, key: &Key) -> Result<u64, Failure> {
        let which = || doc! { "tenant": key.tenant.as_str(), "conversation": key.conversation.to_string() };
        let facts = self.delete_all(&self.collections.facts, which(), AT_ONCE).await?;
        self.delete_all(&self.collections.fact_lessons, which(), AT_ONCE)
            .await?;
        Ok(facts)
    }

    /// Writes a change in one transaction; with `closing`, only if that turn's lesson is open. Returns whether it did.
    async fn write(
        &self,
        scope: &TenantScope,
        user: &UserId,
        change: &Change,
        closing: Option<TurnId>,
    ) -> Result<bool, Failure> {
        // Of conversations that are erased already nothing is written at all.
        let mut readable = Vec::with_capacity(change.put.len());
        for fact in &change.put {
            if self.is_readable(&Key::new(scope, fact.conversation)).await? {
                readable.push(document(scope, user, fact));
            }
        }
        let client = self.collections.facts.client();
        let mut session = self.collections.call(client.start_session()).await?;
        let mut conflicts = 0;
        loop {
            let written = self.try_write(&mut session, scope, &readable, change, closing).await;
            let Err(failure) = written else {
                return written;
            };
            let _ = self.collections.call(session.abort_transaction()).await;
            conflicts += 1;
            if !failure.is_conflict() || conflicts >= CONFLICTS {
                return Err(failure);
            }
        }
    }

    async fn try_write(
        &self,
        session: &mut ClientSession,
        scope: &TenantScope,
        put: &[Document],
        change: &Change,
        closing: Option<TurnId>,
    ) -> Result<bool, Failure> {
        let collections = &self.collections;
        collections.call(session.start_transaction()).await?;
        if let Some(turn) = closing {
            let open = doc! { "_id": lesson_id(scope, turn), "closed": false };
            let close = doc! { "$set": { "closed": true } };
            let closed = collections.fact_lessons.update_one(open, close).session(&mut *session);
            if collections.call(closed).await?.matched_count == 0 {
                collections.call(session.abort_transaction()).await?;
                return Ok(false);
            }
        }
        for document in put {
            let which = doc! { "_id": document.get("_id").cloned().unwrap_or(Bson::Null) };
            let put = collections.facts.replace_one(which, document).upsert(true);
            collections.call(put.session(&mut *session)).await?;
        }
        if !change.delete.is_empty() {
            let ids: Vec<String> = change.delete.iter().map(|id| fact_id(scope, *id)).collect();
            let delete = collections.facts.delete_many(doc! { "_id": { "$in": ids } });
            collections.call(delete.session(&mut *session)).await?;
        }
        collections.call(session.commit_transaction()).await?;
        Ok(true)
    }

    /// Deletes facts whose conversation was erased while they were written, and perhaps cleaned already.
    async fn delete_erased(&self, scope: &TenantScope, change: &Change) -> Result<(), Failure> {
        for fact in &change.put {
            if !self.is_readable(&Key::new(scope, fact.conversation)).await? {
                let late = self
                    .collections
                    .facts
                    .delete_one(doc! { "_id": fact_id(scope, fact.id) });
                self.collections.call(late).await?;
            }
        }
        Ok(())
    }
}

/// No part can contain the slash.
fn fact_id(scope: &TenantScope, id: FactId) -> String {
    format!("{}/{id}", scope.tenant())
}

fn lesson_id(scope: &TenantScope, turn: TurnId) -> String {
    format!("{}/{turn}", scope.tenant())
}

/// Returns whether a lesson is closed; one that is gone is.
fn is_closed(lesson: Option<&Document>) -> bool {
    lesson.is_none_or(|lesson| lesson.get_bool("closed").unwrap_or(true))
}

fn document(scope: &TenantScope, user: &UserId, fact: &StoredFact) -> Document {
    let byte = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
    doc! {
        "_id": fact_id(scope, fact.id),
        "tenant": scope.tenant().as_str(),
        "user": user.as_str(),
        "id": fact.id.to_string(),
        "conversation": fact.conversation.to_string(),
        "turn": fact.turn.to_string(),
        "from_byte": byte(fact.range.start),
        "to_byte": byte(fact.range.end),
        "said_at": date(fact.fact.said_at),
        "valid_from": date(fact.fact.valid_from),
        "valid_to": fact.fact.valid_to.map_or(Bson::Null, |at| Bson::DateTime(date(at))),
        "corrected": fact.is_corrected,
        "text": &fact.fact.text,
    }
}

fn fact(document: &Document) -> Result<StoredFact, LogError> {
    let name = |name: &str| document.get_str(name).map_err(|error| corrupt(&error));
    let byte = |name: &str| {
        let at = document.get_i64(name).map_err(|error| corrupt(&error))?;
        usize::try_from(at).map_err(|error| corrupt(&error))
    };
    let valid_to = match document.get("valid_to") {
        None | Some(Bson::Null) => None,
        Some(_) => Some(time(document, "valid_to")?),
    };
    let text = name("text")?.to_owned();
    Ok(StoredFact {
        id: name("id")?.parse().map_err(|error| corrupt(&error))?,
        conversation: name("conversation")?.parse().map_err(|error| corrupt(&error))?,
        turn: name("turn")?.parse().map_err(|error| corrupt(&error))?,
        range: byte("from_byte")?..byte("to_byte")?,
        fact: Fact {
            attribute: Attribute::of(&text),
            said_at: time(document, "said_at")?,
            valid_from: time(document, "valid_from")?,
            valid_to,
            text,
        },
        is_corrected: document.get_bool("corrected").map_err(|error| corrupt(&error))?,
    })
}

fn lesson(document: &Document, user: &UserId) -> Result<Lesson, LogError> {
    let name = |name: &str| document.get_str(name).map_err(|error| corrupt(&error));
    Ok(Lesson {
        user: user.clone(),
        conversation: name("conversation")?.parse().map_err(|error| corrupt(&error))?,
        turn: name("turn")?.parse().map_err(|error| corrupt(&error))?,
        said_at: time(document, "said_at")?,
    })
}

fn time(document: &Document, name: &str) -> Result<Timestamp, LogError> {
    let at = document.get_datetime(name).map_err(|error| corrupt(&error))?;
    Timestamp::from_millisecond(at.timestamp_millis()).map_err(|error| corrupt(&error))
}

fn corrupt(error: &dyn std::fmt::Display) -> LogError {
    LogError::Corrupt(format!("a fact: {error}"))
}
