//! Jobs and their results in SQLite: a row for each job and for each piece of a result.

use std::ops::ControlFlow;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, JobId, TenantId};
use copilotd_actors::ports::{Job, JobStore, LogError, Piece, PieceOutcome};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::append::{Head, head};
use super::{SqliteLog, rows};
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::reserve::Priority;
use crate::adapters::store::text::stored_scope;
use crate::adapters::store::unreadable::skip_unreadable;

/// The tables, and the mark of a tenant that is being deleted. Times are milliseconds since 1970; `state` is JSON.
pub(super) const SCHEMA: &str = "
CREATE TABLE jobs (
    id          BLOB    NOT NULL PRIMARY KEY,
    tenant      TEXT    NOT NULL,
    is_open     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    state       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_by_tenant ON jobs (tenant, created_at);
CREATE TABLE job_pieces (
    tenant       TEXT    NOT NULL,
    job          BLOB    NOT NULL,
    n            INTEGER NOT NULL,
    conversation BLOB    NOT NULL,
    lines        BLOB    NOT NULL,
    PRIMARY KEY (tenant, job, n)
) STRICT;
CREATE INDEX job_pieces_by_conversation ON job_pieces (tenant, conversation);
-- The job that deletes the tenant.
ALTER TABLE tenants ADD COLUMN deletion BLOB;
";

/// Most pieces that one transaction deletes.
pub(super) const PIECES_AT_ONCE: i64 = 4;

const COLUMNS: &str = "id, tenant, state";

#[async_trait]
impl JobStore for SqliteLog {
    async fn put_job(&self, job: &Job) -> Result<(), LogError> {
        let _pass = self.fence.enter(job.scope.tenant())?;
        let state = serde_json::to_string(&job.state)
            .map_err(|error| LogError::Refused(format!("a job cannot be written as JSON: {error}")))?;
        let job = job.clone();
        let work = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO jobs (id, tenant, is_open, created_at, expires_at, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    job.id.uuid(),
                    job.scope.tenant().as_str(),
                    !job.state.status.is_terminal(),
                    job.state.created_at.as_millisecond(),
                    job.expires_at().map(Timestamp::as_millisecond),
                    state,
                ],
            )?;
            Ok(())
        };
        // Jobs are few and short, and deleting a tenant has to work on a full disk.
        Ok(self.database.writer.write_protective(work).await?)
    }

    async fn job(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |connection: &Connection| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1 AND tenant = ?2");
            let found = connection
                .prepare_cached(&sql)?
                .query_row(params![id.uuid(), tenant.as_str()], |row| Ok(job(row)))
                .optional()?;
            found.transpose()
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn jobs_of(&self, scope: &TenantScope, limit: usize) -> Result<Vec<Job>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |connection: &Connection| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE tenant = ?1 ORDER BY created_at DESC, id LIMIT ?2");
            jobs(connection, &sql, params![tenant.as_str(), bound(limit)])
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn open_jobs(&self) -> Result<Vec<Job>, LogError> {
        let query = |connection: &Connection| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE is_open = 1 ORDER BY created_at, id");
            jobs(connection, &sql, [])
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn expired_jobs(&self, now: Timestamp, limit: usize) -> Result<Vec<Job>, LogError> {
        let now = now.as_millisecond();
        let query = move |connection: &Connection| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2");
            jobs(connection, &sql, params![now, bound(limit)])
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn delete_job(&self, scope: &TenantScope, id: JobId) -> Result<(), LogError> {
        self.delete_pieces(scope, id).await?;
        let tenant = scope.tenant().clone();
        let work = move |connection: &Connection| {
            connection.execute(
                "DELETE FROM jobs WHERE id = ?1 AND tenant = ?2",
                params![id.uuid(), tenant.as_str()],
            )?;
            Ok(())
        };
        Ok(self.database.writer.write_as(Priority::Erasing, work).await?)
    }

    async fn put_piece(&self, scope: &TenantScope, job: JobId, piece: &Piece) -> Result<PieceOutcome, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, piece) = (scope.tenant().clone(), piece.clone());
        let work = move |connection: &Connection| {
            // In the same transaction as the check: an erasure either comes before it or finds the piece.
            let head = head(connection, &tenant, piece.conversation)?;
            if !matches!(head, Some(Head { tombstone: None, .. })) {
                return Ok(PieceOutcome::Erased);
            }
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO job_pieces (tenant, job, n, conversation, lines) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    tenant.as_str(),
                    job.uuid(),
                    piece.n,
                    rows::key(piece.conversation),
                    piece.lines
                ])?;
            Ok(PieceOutcome::Stored)
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn next_piece(&self, scope: &TenantScope, job: JobId, after: u64) -> Result<Option<Piece>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |connection: &Connection| {
            let found = connection
                .prepare_cached(
                    "SELECT n, conversation, lines FROM job_pieces WHERE tenant = ?1 AND job = ?2 AND n > ?3
                     ORDER BY n LIMIT 1",
                )?
                .query_row(params![tenant.as_str(), job.uuid(), after], |row| {
                    Ok(Piece {
                        n: row.get(0)?,
                        conversation: rows::conversation(row.get(1)?),
                        lines: row.get(2)?,
                    })
                })
                .optional()?;
            Ok(found)
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn delete_pieces(&self, scope: &TenantScope, job: JobId) -> Result<u64, LogError> {
        let mut deleted = 0;
        loop {
            let tenant = scope.tenant().clone();
            let work = move |connection: &Connection| {
                let sql = "DELETE FROM job_pieces WHERE rowid IN
                           (SELECT rowid FROM job_pieces WHERE tenant = ?1 AND job = ?2 LIMIT ?3)";
                Ok(connection
                    .prepare_cached(sql)?
                    .execute(params![tenant.as_str(), job.uuid(), PIECES_AT_ONCE])?)
            };
            match self.database.writer.write_as(Priority::Erasing, work).await? {
                0 => return Ok(deleted),
                some => deleted += some as u64,
            }
        }
    }
}

/// Deletes some of the pieces about an erased conversation; breaks when none is left.
pub(super) fn erase_pieces(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<ControlFlow<u64, u64>, Failure> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM job_pieces WHERE rowid IN
             (SELECT rowid FROM job_pieces WHERE tenant = ?1 AND conversation = ?2 LIMIT ?3)",
        )?
        .execute(params![tenant.as_str(), rows::key(conversation), PIECES_AT_ONCE])?;
    Ok(match deleted as u64 {
        0 => ControlFlow::Break(0),
        some => ControlFlow::Continue(some),
    })
}

/// Reads jobs one by one, so that an unreadable one does not hide the others.
fn jobs(connection: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Job>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id: Uuid = row.get(0)?;
        found.extend(skip_unreadable("job", JobId::new(id), job(row))?);
    }
    Ok(found)
}

fn job(row: &Row<'_>) -> Result<Job, Failure> {
    let (tenant, state): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(Job {
        id: JobId::new(row.get(0)?),
        scope: stored_scope(&tenant)?,
        state: rows::json(&state)?,
    })
}

fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
