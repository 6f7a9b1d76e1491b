//! Erases a tenant from SQLite: each table in bounded transactions, then every copy that deleted rows left in the
//! files.

use async_trait::async_trait;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::ports::LogError;
use rusqlite::{Connection, params};

use super::SqliteLog;
use super::jobs::PIECES_AT_ONCE;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::reserve::Priority;
use copilotd_actors::ports::{TenantData, TenantEraser};

/// Most rows that one transaction deletes from tables with short rows.
const ROWS_AT_ONCE: i64 = 500;
/// Most rows that one transaction reads from tables with long rows.
const LONG_ROWS_AT_ONCE: i64 = 50;
/// Bytes of long rows after which a transaction ends: deleted rows are overwritten, which takes as much of the
/// write-ahead log.
const BYTES_AT_ONCE: i64 = 1024 * 1024;

#[async_trait]
impl TenantEraser for SqliteLog {
    async fn close_tenant(&self, tenant: &TenantId) -> Result<(), LogError> {
        self.fence.close(tenant).await
    }

    fn reopen_tenant(&self, tenant: &TenantId) {
        self.fence.open(tenant);
    }

    async fn erase_tenant(&self, tenant: &TenantId, data: TenantData) -> Result<u64, LogError> {
        let mut erased = 0;
        loop {
            let of = tenant.clone();
            // Every write that began before the tenant was closed is ahead of this in the writer's queue.
            let work = move |connection: &Connection| erase_some(connection, &of, data);
            match self.database.writer.write_as(Priority::Erasing, work).await? {
                0 => break,
                some => erased += some,
            }
        }
        if data == TenantData::Audit {
            let (anchor, tenant) = (std::sync::Arc::clone(&self.anchor), tenant.clone());
            let forgotten = tokio::task::spawn_blocking(move || anchor.forget(&tenant)).await;
            let forgotten = forgotten.map_err(|error| LogError::Unavailable(error.to_string()))?;
            forgotten.map_err(|error| LogError::Unavailable(format!("the audit anchor: {error}")))?;
        }
        Ok(erased)
    }

    async fn scrub(&self) -> Result<(), LogError> {
        Ok(self.database.clear_slack(self.append_deadline).await?)
    }

    async fn delete_tenant(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError> {
        let tenant = tenant.clone();
        let work = move |connection: &Connection| {
            let sql = "DELETE FROM tenants WHERE id = ?1 AND deletion = ?2";
            Ok(connection.execute(sql, params![tenant.as_str(), job.uuid()])? > 0)
        };
        Ok(self.database.writer.write_protective(work).await?)
    }
}

/// Deletes some of the data; returns how much, 0 at the end.
fn erase_some(connection: &Connection, tenant: &TenantId, data: TenantData) -> Result<u64, Failure> {
    let delete = |sql: &str, limit: i64| -> Result<u64, Failure> {
        let deleted = connection
            .prepare_cached(sql)?
            .execute(params![tenant.as_str(), limit])?;
        Ok(deleted as u64)
    };
    // Deletes from the first table that is not empty; callers repeat until all are.
    let first = |deletes: &[(&str, i64)]| -> Result<u64, Failure> {
        for (sql, limit) in deletes {
            let deleted = delete(sql, *limit)?;
            if deleted > 0 {
                return Ok(deleted);
            }
        }
        Ok(0)
    };
    match data {
        TenantData::Records => delete_long(connection, tenant, "appends", "records", "last_seq - first_seq + 1"),
        TenantData::Snapshots => delete_long(connection, tenant, "snapshots", "state", "1"),
        TenantData::Projections => first(&[
            (
                "DELETE FROM append_turns WHERE (tenant, turn, first_seq) IN
                 (SELECT tenant, turn, first_seq FROM append_turns WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
            (
                "DELETE FROM conversations WHERE rowid IN (SELECT rowid FROM conversations WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
            (
                "DELETE FROM stored WHERE (tenant, user) IN (SELECT tenant, user FROM stored WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
        ]),
        TenantData::Usage => first(&[
            (
                "DELETE FROM usage WHERE (tenant, at, id) IN
                 (SELECT tenant, at, id FROM usage WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
            (
                // An array of values, or an object of an earlier release.
                "DELETE FROM open_calls WHERE id IN (SELECT id FROM open_calls
                 WHERE CASE WHEN json_valid(record)
                     THEN coalesce(json_extract(record, '$.tenant'), json_extract(record, '$[1]')) END = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
            (
                "DELETE FROM learned WHERE (tenant, model) IN
                 (SELECT tenant, model FROM learned WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
        ]),
        TenantData::Revocations => delete(
            "DELETE FROM revocations WHERE rowid IN (SELECT rowid FROM revocations WHERE tenant = ?1 LIMIT ?2)",
            ROWS_AT_ONCE,
        ),
        TenantData::ApiKeys => {
            // In one transaction: the last use of a key whose record is gone could not be attributed to a tenant.
            let hashes = "(SELECT hash FROM api_keys WHERE tenant = ?1 LIMIT ?2)";
            delete(&format!("DELETE FROM key_uses WHERE hash IN {hashes}"), ROWS_AT_ONCE)?;
            delete(&format!("DELETE FROM api_keys WHERE hash IN {hashes}"), ROWS_AT_ONCE)
        }
        TenantData::Jobs => first(&[
            (
                "DELETE FROM job_pieces WHERE rowid IN (SELECT rowid FROM job_pieces WHERE tenant = ?1 LIMIT ?2)",
                PIECES_AT_ONCE,
            ),
            (
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
        ]),
        TenantData::Facts => first(&[
            (
                "DELETE FROM facts WHERE rowid IN (SELECT rowid FROM facts WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
            (
                "DELETE FROM fact_lessons WHERE rowid IN (SELECT rowid FROM fact_lessons WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
        ]),
        TenantData::Files => {
            let pieces = delete_long(connection, tenant, "file_pieces", "bytes", "1")?;
            if pieces > 0 {
                return Ok(pieces);
            }
            delete(
                "DELETE FROM files WHERE rowid IN (SELECT rowid FROM files WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            )
        }
        TenantData::Audit => first(&[
            (
                "DELETE FROM audit WHERE (tenant, n) IN (SELECT tenant, n FROM audit WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
            (
                "DELETE FROM audit_heads WHERE tenant IN
                 (SELECT tenant FROM audit_heads WHERE tenant = ?1 LIMIT ?2)",
                ROWS_AT_ONCE,
            ),
        ]),
    }
}

/// Deletes rows of a table with a long column, up to a number of bytes. `worth` is an SQL expression: what one row
/// counts as.
fn delete_long(
    connection: &Connection,
    tenant: &TenantId,
    table: &str,
    long: &str,
    worth: &str,
) -> Result<u64, Failure> {
    let sql = format!("SELECT rowid, length({long}), {worth} FROM {table} WHERE tenant = ?1 LIMIT ?2");
    let found: Vec<(i64, i64, i64)> = connection
        .prepare_cached(&sql)?
        .query_map(params![tenant.as_str(), LONG_ROWS_AT_ONCE], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<Result<_, _>>()?;
    let (mut bytes, mut count) = (0_i64, 0_u64);
    for (row, length, worth) in found {
        connection
            .prepare_cached(&format!("DELETE FROM {table} WHERE rowid = ?1"))?
            .execute([row])?;
        count += u64::try_from(worth).unwrap_or(1).clamp(1, 1 << 32);
        bytes = bytes.saturating_add(length);
        if bytes >= BYTES_AT_ONCE {
            break;
        }
    }
    Ok(count)
}
