//! Attached files in SQLite: a row for each, and one for each piece of its content.
//!
//! Invariants: a piece belongs to a file's row, so that whatever deletes the row finds it; a row belongs to a conversation that
//! has no tombstone when it is written, in the transaction that writes it.

use std::ops::ControlFlow;

use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::domain::file::{FileInfo, FileQuota};
use copilotd_actors::domain::ids::{ConversationId, FileId, TenantId, UserId};
use copilotd_actors::ports::{FileStore, FileUpload, Finished, LogError, StoredFile, UploadStep};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::append::is_readable;
use super::{SqliteLog, rows};
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::reserve::Priority;

/// The tables. Times are milliseconds since 1970. `content` is the id under which the pieces were uploaded, which no other file
/// ever has; `id` is the file's own from the end of the upload until it is deleted. `state` is -1 for what is being deleted, 0
/// for what is being uploaded, and 1 for a file; each prompt that refers to it adds one.
pub(super) const SCHEMA: &str = "
CREATE TABLE files (
    tenant       TEXT    NOT NULL,
    id           BLOB    NOT NULL,
    content      BLOB    NOT NULL,
    conversation BLOB    NOT NULL,
    user         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    state        INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    media_type   TEXT    NOT NULL,
    sha256       TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX files_by_conversation ON files (tenant, conversation);
CREATE INDEX files_by_state ON files (tenant, state, created_at, bytes);
CREATE TABLE file_pieces (
    tenant  TEXT    NOT NULL,
    content BLOB    NOT NULL,
    n       INTEGER NOT NULL,
    bytes   BLOB    NOT NULL,
    PRIMARY KEY (tenant, content, n)
) STRICT;
";

/// What files count for in quotas, of each user, and under the empty name of the whole tenant. Kept by triggers, so that no
/// deletion can forget it.
pub(super) const TOTALS: &str = "
CREATE TABLE file_totals (
    tenant TEXT    NOT NULL,
    user   TEXT    NOT NULL,
    bytes  INTEGER NOT NULL,
    PRIMARY KEY (tenant, user)
) STRICT, WITHOUT ROWID;
INSERT INTO file_totals SELECT tenant, user, sum(max(bytes, 4096)) FROM files WHERE state > 0 GROUP BY tenant, user;
INSERT INTO file_totals SELECT tenant, '', sum(max(bytes, 4096)) FROM files WHERE state > 0 GROUP BY tenant;
CREATE TRIGGER file_counted AFTER UPDATE OF state ON files WHEN old.state <= 0 AND new.state > 0 BEGIN
    INSERT INTO file_totals VALUES (new.tenant, new.user, max(new.bytes, 4096)), (new.tenant, '', max(new.bytes, 4096))
    ON CONFLICT (tenant, user) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER file_hidden AFTER UPDATE OF state ON files WHEN old.state > 0 AND new.state <= 0 BEGIN
    UPDATE file_totals SET bytes = bytes - max(old.bytes, 4096) WHERE tenant = old.tenant AND user IN (old.user, '');
    DELETE FROM file_totals WHERE tenant = old.tenant AND user IN (old.user, '') AND bytes <= 0;
END;
CREATE TRIGGER file_deleted AFTER DELETE ON files WHEN old.state > 0 BEGIN
    UPDATE file_totals SET bytes = bytes - max(old.bytes, 4096) WHERE tenant = old.tenant AND user IN (old.user, '');
    DELETE FROM file_totals WHERE tenant = old.tenant AND user IN (old.user, '') AND bytes <= 0;
END;
";

/// Pieces that one transaction deletes: deleted rows are overwritten, which takes as much of the write-ahead log.
const PIECES_AT_ONCE: i64 = 4;

const COLUMNS: &str = "id, conversation, user, created_at, bytes, name, media_type, sha256";

#[async_trait]
impl FileStore for SqliteLog {
    async fn begin_file(&self, scope: &TenantScope, upload: &FileUpload) -> Result<UploadStep, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, upload) = (scope.tenant().clone(), upload.clone());
        let work = move |connection: &Connection| {
            if !is_readable(connection, &tenant, upload.conversation)? {
                return Ok(UploadStep::Erased);
            }
            connection
                .prepare_cached(
                    "INSERT INTO files (tenant, id, content, conversation, user, created_at, state, bytes, name, media_type,
                         sha256) VALUES (?1, ?2, ?2, ?3, ?4, ?5, 0, 0, '', '', '') ON CONFLICT (tenant, id) DO NOTHING",
                )?
                .execute(params![
                    tenant.as_str(),
                    upload.id.uuid(),
                    rows::key(upload.conversation),
                    upload.user.as_str(),
                    upload.begun_at.as_millisecond(),
                ])?;
            Ok(UploadStep::Stored)
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn put_file_piece(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        number: u32,
        bytes: Bytes,
    ) -> Result<UploadStep, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, upload) = (scope.tenant().clone(), upload.clone());
        let work = move |connection: &Connection| {
            if !is_readable(connection, &tenant, upload.conversation)? {
                return Ok(UploadStep::Erased);
            }
            // Without its row, it was swept or erased meanwhile.
            let stored = connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO file_pieces (tenant, content, n, bytes)
                     SELECT ?1, ?2, ?3, ?4 FROM files WHERE tenant = ?1 AND id = ?2 AND state = 0",
                )?
                .execute(params![tenant.as_str(), upload.id.uuid(), number, &bytes[..]])?;
            Ok(if stored == 0 {
                UploadStep::Erased
            } else {
                UploadStep::Stored
            })
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn finish_file(
        &self,
        scope: &TenantScope,
        upload: &FileUpload,
        file: &StoredFile,
        quota: FileQuota,
    ) -> Result<Finished, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, upload, file) = (scope.tenant().clone(), upload.clone(), file.clone());
        let work = move |connection: &Connection| {
            if let Some(known) = find(connection, &tenant, file.id)? {
                return Ok(Finished::Exists(Box::new(known)));
            }
            if !is_readable(connection, &tenant, upload.conversation)? {
                return Ok(Finished::Erased);
            }
            let stored = |user: &str| -> Result<u64, Failure> {
                let bytes: Option<u64> = connection
                    .prepare_cached("SELECT bytes FROM file_totals WHERE tenant = ?1 AND user = ?2")?
                    .query_row(params![tenant.as_str(), user], |row| row.get(0))
                    .optional()?;
                Ok(bytes.unwrap_or(0))
            };
            let (of_tenant, of_user) = (stored("")?, stored(upload.user.as_str())?);
            if let Some(exceeded) = quota.exceeded(of_tenant, of_user, file.info.bytes) {
                return Ok(Finished::Full(exceeded));
            }
            let FileInfo {
                name,
                media_type,
                bytes,
                sha256,
            } = &file.info;
            let finished = connection
                .prepare_cached(
                    "UPDATE files SET id = ?3, state = 1, bytes = ?4, name = ?5, media_type = ?6, sha256 = ?7
                     WHERE tenant = ?1 AND id = ?2 AND state = 0",
                )?
                .execute(params![
                    tenant.as_str(),
                    upload.id.uuid(),
                    file.id.uuid(),
                    bytes,
                    name,
                    media_type.as_str(),
                    sha256,
                ])?;
            Ok(if finished == 0 {
                Finished::Erased
            } else {
                Finished::Stored
            })
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn abort_file(&self, scope: &TenantScope, upload: FileId) -> Result<(), LogError> {
        let sql = "SELECT content FROM files WHERE tenant = ?1 AND id = ?2 AND state = 0";
        // No copy of it stays in the files.
        if self.erase_file(scope, upload, sql).await? == Some(Erased::WithContent) {
            self.database.clear_slack(self.append_deadline).await?;
        }
        Ok(())
    }

    async fn file(&self, scope: &TenantScope, id: FileId) -> Result<Option<StoredFile>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |connection: &Connection| find(connection, &tenant, id);
        Ok(self.database.readers.run(query).await?)
    }

    async fn file_piece(&self, scope: &TenantScope, id: FileId, number: u32) -> Result<Option<Bytes>, LogError> {
        let tenant = scope.tenant().clone();
        let query = move |connection: &Connection| {
            let piece: Option<Vec<u8>> = connection
                .prepare_cached(
                    "SELECT file_pieces.bytes FROM files JOIN file_pieces USING (tenant, content)
                     WHERE files.tenant = ?1 AND files.id = ?2 AND files.state > 0 AND n = ?3",
                )?
                .query_row(params![tenant.as_str(), id.uuid(), number], |row| row.get(0))
                .optional()?;
            Ok(piece.map(Bytes::from))
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn reference_files(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        user: &UserId,
        ids: &[FileId],
    ) -> Result<Result<Vec<StoredFile>, FileId>, LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, user, ids) = (scope.tenant().clone(), user.clone(), ids.to_vec());
        let work = move |connection: &Connection| {
            let mut files = Vec::with_capacity(ids.len());
            for id in &ids {
                let own = |file: &StoredFile| file.conversation == conversation && file.user == user;
                let Some(file) = find(connection, &tenant, *id)?.filter(own) else {
                    return Ok(Err(*id));
                };
                connection
                    .prepare_cached("UPDATE files SET state = state + 1 WHERE tenant = ?1 AND id = ?2 AND state > 0")?
                    .execute(params![tenant.as_str(), id.uuid()])?;
                files.push(file);
            }
            Ok(Ok(files))
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn release_files(&self, scope: &TenantScope, ids: &[FileId]) -> Result<(), LogError> {
        let _pass = self.fence.enter(scope.tenant())?;
        let (tenant, ids) = (scope.tenant().clone(), ids.to_vec());
        let work = move |connection: &Connection| {
            for id in &ids {
                connection
                    .prepare_cached("UPDATE files SET state = state - 1 WHERE tenant = ?1 AND id = ?2 AND state > 1")?
                    .execute(params![tenant.as_str(), id.uuid()])?;
            }
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn delete_file(&self, scope: &TenantScope, id: FileId) -> Result<bool, LogError> {
        let sql = "SELECT content FROM files WHERE tenant = ?1 AND id = ?2 AND state > 0";
        if self.erase_file(scope, id, sql).await?.is_none() {
            return Ok(false);
        }
        if let Err(error) = self.database.clear_slack(self.append_deadline).await {
            let error = LogError::from(error);
            tracing::warn!(tenant = %scope.tenant(), file = %id, %error, "a file was deleted; copies of it stay in the database file until the next deletion overwrites them");
        }
        Ok(true)
    }

    async fn sweep_files(&self, scope: &TenantScope, before: Timestamp, limit: usize) -> Result<u64, LogError> {
        let (tenant, before) = (scope.tenant().clone(), before.as_millisecond());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let query = move |connection: &Connection| {
            let ids: Result<Vec<Uuid>, _> = connection
                .prepare_cached("SELECT id FROM files WHERE tenant = ?1 AND state < 2 AND created_at < ?2 LIMIT ?3")?
                .query_map(params![tenant.as_str(), before, limit], |row| row.get(0))?
                .collect();
            Ok(ids?)
        };
        let due = self.database.readers.run(query).await?;
        let mut swept = 0;
        for id in due {
            // Checked again by the writer: a prompt may refer to it by now. Its age cannot change.
            let sql = "SELECT content FROM files WHERE tenant = ?1 AND id = ?2 AND state < 2";
            swept += u64::from(self.erase_file(scope, FileId::new(id), sql).await?.is_some());
        }
        if swept > 0 {
            self.database.clear_slack(self.append_deadline).await?;
        }
        Ok(swept)
    }
}

/// What a deletion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Erased {
    /// An upload of which nothing was stored yet.
    Empty,
    /// Pieces, whose bytes may still be in free parts of the database's files.
    WithContent,
}

impl SqliteLog {
    /// Deletes the file whose content a query finds: first from view, then piece by piece.
    async fn erase_file(
        &self,
        scope: &TenantScope,
        id: FileId,
        find: &'static str,
    ) -> Result<Option<Erased>, LogError> {
        let tenant = scope.tenant().clone();
        let hide = move |connection: &Connection| {
            let found: Option<Uuid> = connection
                .prepare_cached(find)?
                .query_row(params![tenant.as_str(), id.uuid()], |row| row.get(0))
                .optional()?;
            // If the process dies now, the sweep finds it.
            if found.is_some() {
                hide(connection, &tenant, id.uuid())?;
            }
            Ok(found)
        };
        let hidden = self.database.writer.write_as(Priority::Erasing, hide).await?;
        let Some(content) = hidden else { return Ok(None) };
        let mut erased = Erased::Empty;
        loop {
            let tenant = scope.tenant().clone();
            let step = move |connection: &Connection| erase_pieces(connection, &tenant, content);
            if !self.database.writer.write_as(Priority::Erasing, step).await? {
                return Ok(Some(erased));
            }
            erased = Erased::WithContent;
        }
    }
}

/// Takes a file, or an upload, out of view.
fn hide(connection: &Connection, tenant: &TenantId, id: Uuid) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "UPDATE files SET id = content, state = -1, created_at = 0, name = '', sha256 = ''
             WHERE tenant = ?1 AND id = ?2 AND state >= 0",
        )?
        .execute(params![tenant.as_str(), id])?;
    Ok(())
}

/// Deletes some pieces of a hidden file, and its row once there are none; returns whether there are more. Several deletions of
/// one file do not harm each other or anybody else: no other file ever has this content, while the number of a row is used
/// again.
fn erase_pieces(connection: &Connection, tenant: &TenantId, content: Uuid) -> Result<bool, Failure> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM file_pieces WHERE tenant = ?1 AND content = ?2 AND n IN (SELECT n FROM file_pieces
             WHERE tenant = ?1 AND content = ?2 LIMIT ?3)",
        )?
        .execute(params![tenant.as_str(), content, PIECES_AT_ONCE])?;
    if deleted > 0 {
        return Ok(true);
    }
    connection
        .prepare_cached("DELETE FROM files WHERE tenant = ?1 AND id = ?2 AND state = -1")?
        .execute(params![tenant.as_str(), content])?;
    Ok(false)
}

/// Deletes some of the files of an erased conversation, unfinished uploads included; breaks when none is left.
pub(super) fn erase_files(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<ControlFlow<u64, u64>, Failure> {
    let found: Option<(Uuid, Uuid)> = connection
        .prepare_cached("SELECT id, content FROM files WHERE tenant = ?1 AND conversation = ?2 LIMIT 1")?
        .query_row(params![tenant.as_str(), rows::key(conversation)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((id, content)) = found else {
        return Ok(ControlFlow::Break(0));
    };
    // Out of view at once, and its pieces piece by piece.
    hide(connection, tenant, id)?;
    let is_more = erase_pieces(connection, tenant, content)?;
    Ok(ControlFlow::Continue(u64::from(!is_more)))
}

fn find(connection: &Connection, tenant: &TenantId, id: FileId) -> Result<Option<StoredFile>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM files WHERE tenant = ?1 AND id = ?2 AND state > 0");
    connection
        .prepare_cached(&sql)?
        .query_row(params![tenant.as_str(), id.uuid()], |row| Ok(file(row)))
        .optional()?
        .transpose()
}

fn file(row: &Row<'_>) -> Result<StoredFile, Failure> {
    let corrupt = |error: &dyn std::fmt::Display| LogError::Corrupt(format!("a file: {error}"));
    let (user, media_type): (String, String) = (row.get(2)?, row.get(6)?);
    Ok(StoredFile {
        id: FileId::new(row.get(0)?),
        conversation: rows::conversation(row.get(1)?),
        user: user.parse().map_err(|error| corrupt(&error))?,
        created_at: Timestamp::from_millisecond(row.get(3)?).map_err(|error| corrupt(&error))?,
        info: FileInfo {
            bytes: row.get(4)?,
            name: row.get(5)?,
            media_type: media_type.parse().map_err(|error| corrupt(&error))?,
            sha256: row.get(7)?,
        },
    })
}
