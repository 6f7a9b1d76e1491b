//! Facts about users in SQLite: a row for each, and one for each turn that was learned from.
//!
//! Invariant: a row belongs to a conversation that has no tombstone when it is written, in the transaction that writes it.

use std::ops::ControlFlow;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, FactId, TenantId, TurnId, UserId};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::facts::store::{Change, FactStore, Lesson, LessonState, MAX_ATTEMPTS, StoredFact};
use copilotd_knowledge::facts::{Attribute, Fact, MAX_STORED};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::append::is_readable;
use super::{SqliteLog, rows};
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::reserve::Priority;
use crate::adapters::store::unreadable::skip_unreadable;

/// The tables. Times are milliseconds since 1970.
pub(super) const SCHEMA: &str = "
CREATE TABLE facts (
    tenant       TEXT    NOT NULL,
    user         TEXT    NOT NULL,
    id           BLOB    NOT NULL,
    conversation BLOB    NOT NULL,
    turn         BLOB    NOT NULL,
    from_byte    INTEGER NOT NULL,
    to_byte      INTEGER NOT NULL,
    said_at      INTEGER NOT NULL,
    valid_from   INTEGER NOT NULL,
    valid_to     INTEGER,
    is_corrected INTEGER NOT NULL,
    text         TEXT    NOT NULL,
    PRIMARY KEY (tenant, user, id)
) STRICT;
CREATE INDEX facts_by_conversation ON facts (tenant, conversation);
-- No content: only which turns were learned from.
CREATE TABLE fact_lessons (
    tenant       TEXT    NOT NULL,
    turn         BLOB    NOT NULL,
    conversation BLOB    NOT NULL,
    user         TEXT    NOT NULL,
    said_at      INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    is_closed    INTEGER NOT NULL,
    PRIMARY KEY (tenant, turn)
) STRICT;
CREATE INDEX fact_lessons_by_conversation ON fact_lessons (tenant, conversation);
CREATE INDEX fact_lessons_open ON fact_lessons (tenant, user, said_at) WHERE is_closed = 0;
";

/// Rows that one transaction of an erasure deletes.
const ROWS_AT_ONCE: i64 = 500;

const COLUMNS: &str = "id, conversation, turn, from_byte, to_byte, said_at, valid_from, valid_to, is_corrected, text";

#[async_trait]
impl FactStore for SqliteLog {
    async fn facts(&self, scope: &TenantScope, user: &UserId) -> Result<Vec<StoredFact>, LogError> {
        let (tenant, user) = (scope.tenant().clone(), user.clone());
        let query = move |connection: &Connection| facts(connection, &tenant, &user);
        Ok(self.database.readers.run(query).await?)
    }

    async fn open_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<LessonState, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, lesson) = (scope.tenant().clone(), lesson.clone());
        let work = move |connection: &Connection| {
            if !is_readable(connection, &tenant, lesson.conversation)? {
                return Ok(LessonState::Erased);
            }
            connection
                .prepare_cached(
                    "INSERT INTO fact_lessons (tenant, turn, conversation, user, said_at, attempts, is_closed)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, 0) ON CONFLICT (tenant, turn) DO NOTHING",
                )?
                .execute(params![
                    tenant.as_str(),
                    lesson.turn.uuid(),
                    rows::key(lesson.conversation),
                    lesson.user.as_str(),
                    lesson.said_at.as_millisecond(),
                ])?;
            Ok(match is_closed(connection, &tenant, lesson.turn)? {
                Some(false) => LessonState::Open,
                _ => LessonState::Closed,
            })
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn open_lessons(&self, scope: &TenantScope, user: &UserId, limit: usize) -> Result<Vec<Lesson>, LogError> {
        let (tenant, user) = (scope.tenant().clone(), user.clone());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT turn, conversation, said_at FROM fact_lessons
                 WHERE tenant = ?1 AND user = ?2 AND is_closed = 0 ORDER BY said_at, turn LIMIT ?3",
            )?;
            let lesson = |row: &Row<'_>| {
                Ok(Lesson {
                    user: user.clone(),
                    turn: TurnId::new(row.get(0)?),
                    conversation: rows::conversation(row.get(1)?),
                    said_at: Timestamp::from_millisecond(row.get(2)?).unwrap_or(Timestamp::UNIX_EPOCH),
                })
            };
            let found = statement.query_map(params![tenant.as_str(), user.as_str(), limit], lesson)?;
            Ok(found.collect::<Result<Vec<_>, _>>()?)
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn fail_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<bool, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, turn) = (scope.tenant().clone(), lesson.turn);
        let work = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE fact_lessons SET attempts = attempts + 1, is_closed = is_closed OR attempts + 1 >= ?3
                     WHERE tenant = ?1 AND turn = ?2",
                )?
                .execute(params![tenant.as_str(), turn.uuid(), MAX_ATTEMPTS])?;
            Ok(is_closed(connection, &tenant, turn)? != Some(false))
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn close_lesson(&self, scope: &TenantScope, lesson: &Lesson, change: &Change) -> Result<bool, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, lesson, change) = (scope.tenant().clone(), lesson.clone(), change.clone());
        let work = move |connection: &Connection| {
            if !is_readable(connection, &tenant, lesson.conversation)? {
                return Ok(false);
            }
            let closed = connection
                .prepare_cached(
                    "UPDATE fact_lessons SET is_closed = 1 WHERE tenant = ?1 AND turn = ?2 AND is_closed = 0",
                )?
                .execute(params![tenant.as_str(), lesson.turn.uuid()])?;
            if closed == 0 {
                return Ok(false);
            }
            apply(connection, &tenant, &lesson.user, &change)?;
            Ok(true)
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn withdraw(&self, scope: &TenantScope, lesson: &Lesson) -> Result<(), LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, lesson) = (scope.tenant().clone(), lesson.clone());
        let work = move |connection: &Connection| {
            let deleted = connection
                .prepare_cached("DELETE FROM facts WHERE tenant = ?1 AND conversation = ?2 AND turn = ?3")?
                .execute(params![
                    tenant.as_str(),
                    rows::key(lesson.conversation),
                    lesson.turn.uuid()
                ])?;
            if deleted > 0 {
                // What they had superseded holds again.
                connection
                    .prepare_cached(
                        "UPDATE facts SET valid_to = NULL WHERE tenant = ?1 AND user = ?2 AND valid_to = ?3",
                    )?
                    .execute(params![
                        tenant.as_str(),
                        lesson.user.as_str(),
                        lesson.said_at.as_millisecond(),
                    ])?;
            }
            if !is_readable(connection, &tenant, lesson.conversation)? {
                return Ok(());
            }
            connection
                .prepare_cached(
                    "INSERT INTO fact_lessons (tenant, turn, conversation, user, said_at, attempts, is_closed)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, 1) ON CONFLICT (tenant, turn) DO UPDATE SET is_closed = 1",
                )?
                .execute(params![
                    tenant.as_str(),
                    lesson.turn.uuid(),
                    rows::key(lesson.conversation),
                    lesson.user.as_str(),
                    lesson.said_at.as_millisecond(),
                ])?;
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn change(&self, scope: &TenantScope, user: &UserId, change: &Change) -> Result<(), LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        // A deletion has to work on a full disk.
        let priority = if change.put.is_empty() {
            Priority::Erasing
        } else {
            Priority::protective_if(false)
        };
        let (tenant, user, change) = (scope.tenant().clone(), user.clone(), change.clone());
        let work = move |connection: &Connection| apply(connection, &tenant, &user, &change);
        self.database.writer.write_as(priority, work).await?;
        // A person replaced or deleted a text: no copy of it stays in the files.
        Ok(self.database.clear_slack(self.append_deadline).await?)
    }
}

fn is_closed(connection: &Connection, tenant: &TenantId, turn: TurnId) -> Result<Option<bool>, Failure> {
    let closed = connection
        .prepare_cached("SELECT is_closed FROM fact_lessons WHERE tenant = ?1 AND turn = ?2")?
        .query_row(params![tenant.as_str(), turn.uuid()], |row| row.get(0))
        .optional()?;
    Ok(closed)
}

fn apply(connection: &Connection, tenant: &TenantId, user: &UserId, change: &Change) -> Result<(), Failure> {
    for fact in &change.put {
        // In the same transaction as the check: an erasure either comes before it or finds the fact.
        if !is_readable(connection, tenant, fact.conversation)? {
            continue;
        }
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO facts (tenant, user, id, conversation, turn, from_byte, to_byte, said_at, valid_from,
                     valid_to, is_corrected, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                tenant.as_str(),
                user.as_str(),
                fact.id.uuid(),
                rows::key(fact.conversation),
                fact.turn.uuid(),
                fact.range.start,
                fact.range.end,
                fact.fact.said_at.as_millisecond(),
                fact.fact.valid_from.as_millisecond(),
                fact.fact.valid_to.map(Timestamp::as_millisecond),
                fact.is_corrected,
                fact.fact.text,
            ])?;
    }
    for id in &change.delete {
        connection
            .prepare_cached("DELETE FROM facts WHERE tenant = ?1 AND user = ?2 AND id = ?3")?
            .execute(params![tenant.as_str(), user.as_str(), id.uuid()])?;
    }
    Ok(())
}

/// Deletes some of what was learned in an erased conversation; breaks when none is left. Counts facts, not marks.
pub(super) fn erase_facts(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<ControlFlow<u64, u64>, Failure> {
    let delete = |table: &str| -> Result<u64, Failure> {
        let sql = format!(
            "DELETE FROM {table} WHERE rowid IN
             (SELECT rowid FROM {table} WHERE tenant = ?1 AND conversation = ?2 LIMIT ?3)"
        );
        let deleted = connection.prepare_cached(&sql)?.execute(params![
            tenant.as_str(),
            rows::key(conversation),
            ROWS_AT_ONCE
        ])?;
        Ok(deleted as u64)
    };
    let facts = delete("facts")?;
    let marks = delete("fact_lessons")?;
    Ok(match facts + marks {
        0 => ControlFlow::Break(0),
        _ => ControlFlow::Continue(facts),
    })
}

/// Reads facts one by one, so that an unreadable one does not hide the others.
fn facts(connection: &Connection, tenant: &TenantId, user: &UserId) -> Result<Vec<StoredFact>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM facts WHERE tenant = ?1 AND user = ?2 ORDER BY said_at DESC, id LIMIT {MAX_STORED}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params![tenant.as_str(), user.as_str()])?;
    let mut facts = Vec::new();
    while let Some(row) = found.next()? {
        let id: Uuid = row.get(0)?;
        facts.extend(skip_unreadable("fact", FactId::new(id), fact(row, id))?);
    }
    Ok(facts)
}

fn fact(row: &Row<'_>, id: Uuid) -> Result<StoredFact, Failure> {
    let time = |at: i64| {
        let time = Timestamp::from_millisecond(at);
        time.map_err(|error| LogError::Corrupt(format!("a fact: {error}")))
    };
    let text: String = row.get(9)?;
    Ok(StoredFact {
        id: FactId::new(id),
        conversation: rows::conversation(row.get(1)?),
        turn: TurnId::new(row.get(2)?),
        range: row.get(3)?..row.get(4)?,
        fact: Fact {
            attribute: Attribute::of(&text),
            said_at: time(row.get(5)?)?,
            valid_from: time(row.get(6)?)?,
            valid_to: row.get::<_, Option<i64>>(7)?.map(time).transpose()?,
            text,
        },
        is_corrected: row.get(8)?,
    })
}
