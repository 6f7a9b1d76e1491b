//! Audit entries in SQLite: a row for each, and one per tenant for the head, written in one transaction. The head is
//! also copied to a separate file ([`Anchor`](super::anchor::Anchor)).

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::crash;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteLog;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::reserve::Priority;
use copilotd_actors::ports::{AuditStore, Head, StoredEntry};

#[async_trait]
impl AuditStore for SqliteLog {
    async fn append_entry(
        &self,
        tenant: &TenantId,
        entry: &StoredEntry,
        head: &Head,
        _genesis: &Head,
        is_protective: bool,
    ) -> Result<(), LogError> {
        let _pass = self.fence.enter(tenant)?;
        let priority = Priority::protective_if(is_protective);
        let work = {
            let (tenant, entry, head) = (tenant.clone(), entry.clone(), head.clone());
            move |connection: &Connection| append(connection, &tenant, &entry, &head)
        };
        self.database.writer.write_as(priority, work).await?;
        // After the commit: the anchor may be behind the log, but never ahead of it.
        crash::point("audit.before:anchor");
        let (anchor, raised, head) = (Arc::clone(&self.anchor), tenant.clone(), head.clone());
        let noted = tokio::task::spawn_blocking(move || anchor.raise(raised.as_str(), &head)).await;
        if let Err(error) = noted {
            tracing::warn!(%tenant, %error, "audit anchor not written; it lags behind the audit log until the next entry");
        }
        Ok(())
    }

    async fn audit_anchor(&self, tenant: &TenantId) -> Result<Option<Head>, LogError> {
        Ok(self.anchor.of(tenant))
    }

    async fn entries_after(
        &self,
        tenant: &TenantId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError> {
        let tenant = tenant.clone();
        let first = after.map_or(i64::MIN, |after| after.saturating_add(1));
        let query = move |connection: &Connection| {
            let sql = "SELECT n, body, hash, mac FROM audit WHERE tenant = ?1 AND n >= ?2 ORDER BY n LIMIT ?3";
            entries(connection, sql, &tenant, first, limit)
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn entries_before(
        &self,
        tenant: &TenantId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError> {
        let tenant = tenant.clone();
        let last = before.map_or(i64::MAX, |before| before.saturating_sub(1));
        let query = move |connection: &Connection| {
            let sql = "SELECT n, body, hash, mac FROM audit WHERE tenant = ?1 AND n <= ?2 ORDER BY n DESC LIMIT ?3";
            entries(connection, sql, &tenant, last, limit)
        };
        Ok(self.database.readers.run(query).await?)
    }

    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, LogError> {
        let tenant = tenant.clone();
        let query = move |connection: &Connection| {
            let head = connection
                .prepare_cached("SELECT n, hash, mac FROM audit_heads WHERE tenant = ?1")?
                .query_row([tenant.as_str()], head_of)
                .optional()?;
            Ok(head)
        };
        Ok(self.database.readers.run(query).await?)
    }
}

/// Reads the readable heads of all tenants: damage must not prevent a start.
pub(super) fn heads(connection: &Connection) -> Vec<(String, Head)> {
    let read = || {
        let mut statement = connection.prepare("SELECT n, hash, mac, tenant FROM audit_heads")?;
        let rows = statement.query_map([], |row| Ok((row.get(3)?, head_of(row)?)))?;
        Ok::<_, rusqlite::Error>(rows.filter_map(Result::ok).collect())
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(path = connection.path(), %error, "heads of audit logs unreadable; each tenant gets an audit anchor again with its next entry");
        Vec::new()
    })
}

fn head_of(row: &Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head {
        n: row.get(0).unwrap_or(i64::MIN),
        hash: bytes(row, 1)?,
        mac: bytes(row, 2)?,
    })
}

fn append(connection: &Connection, tenant: &TenantId, entry: &StoredEntry, head: &Head) -> Result<(), Failure> {
    let standing: Option<Vec<u8>> = connection
        .prepare_cached("SELECT hash FROM audit WHERE tenant = ?1 AND n = ?2")?
        .query_row(params![tenant.as_str(), entry.n], |row| row.get(0))
        .optional()?;
    match standing {
        Some(hash) if hash == entry.hash => return Ok(()),
        Some(_) => return Err(LogError::Conflict(entry.n.unsigned_abs()).into()),
        None => {}
    }
    connection
        .prepare_cached("INSERT INTO audit (tenant, n, body, hash, mac) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![tenant.as_str(), entry.n, entry.body, entry.hash, entry.mac])?;
    connection
        .prepare_cached(
            "INSERT INTO audit_heads (tenant, n, hash, mac) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (tenant) DO UPDATE SET n = excluded.n, hash = excluded.hash, mac = excluded.mac
             WHERE excluded.n > n",
        )?
        .execute(params![tenant.as_str(), head.n, head.hash, head.mac])?;
    Ok(())
}

/// Reads a column's bytes, whatever type an altered row claims: `verify` finds that they are not those that were
/// recorded.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row
        .get_ref(column)?
        .as_bytes_or_null()
        .ok()
        .flatten()
        .unwrap_or_default()
        .to_vec())
}

fn entries(
    connection: &Connection,
    sql: &str,
    tenant: &TenantId,
    bound: i64,
    limit: usize,
) -> Result<Vec<StoredEntry>, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = |row: &Row<'_>| {
        Ok(StoredEntry {
            n: row.get(0).unwrap_or(i64::MIN),
            body: bytes(row, 1)?,
            hash: bytes(row, 2)?,
            mac: bytes(row, 3)?,
        })
    };
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![tenant.as_str(), bound, limit], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}
