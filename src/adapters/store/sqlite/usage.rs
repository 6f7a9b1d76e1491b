//! The ledger in SQLite: a row for each attempt, sums by query.

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::ledger::{
    GroupBy, TenantsGroupBy, TenantsUsageQuery, TenantsUsageRow, UsageEntries, UsageQuery, UsageRecord, UsageRow,
    UsageStore, read_open, write_open,
};
use copilotd_gateway::limit::StoredStatistics;
use copilotd_gateway::meter::UnreportedAttempts;
use copilotd_gateway::spending::Spending;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use tokio::time::Instant;
use uuid::Uuid;

use super::SqliteLog;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::history::CountTable;
use crate::adapters::sqlite::reserve::Priority;
use crate::adapters::store::open_tenants::{entries_of_open_tenants, learned_by_open_tenants};
use crate::adapters::store::unreadable::skip_unreadable;

/// Records stored before the thread yields its processor: about a tenth of a millisecond.
const YIELD_EVERY: usize = 16;

#[async_trait]
impl UsageStore for SqliteLog {
    async fn add_usage(&self, entries: &Arc<UsageEntries>) -> Result<(), LogError> {
        self.add_usage_by(entries, Instant::now()).await
    }

    fn joins_writes(&self) -> bool {
        true
    }

    async fn add_usage_by(&self, entries: &Arc<UsageEntries>, deadline: Instant) -> Result<(), LogError> {
        let (entries, _passes) = entries_of_open_tenants(&self.fence, entries);
        let work = move |connection: &Connection| {
            open(connection, &entries.begun)?;
            add(connection, &entries.ended)?;
            close(connection, &entries.closed)
        };
        let counted = self
            .database
            .writer
            .write_joining(deadline, CountTable::OpenCalls, Priority::Booking, work);
        Ok(counted.await?)
    }

    async fn unreported_usage(&self, scope: &TenantScope, of: &UnreportedAttempts) -> Result<Vec<LostUsage>, LogError> {
        let (tenant, of) = (scope.tenant().clone(), *of);
        Ok(self
            .database
            .readers
            .run(move |connection| unreported(connection, &tenant, &of))
            .await?)
    }

    async fn save_learned(&self, learned: &[StoredStatistics], at: Timestamp) -> Result<(), LogError> {
        let ((rows, _passes), at) = (learned_by_open_tenants(&self.fence, learned), at.as_millisecond());
        let work = move |connection: &Connection| {
            let mut statement = connection
                .prepare_cached("INSERT OR REPLACE INTO learned (tenant, model, known, at) VALUES (?1, ?2, ?3, ?4)")?;
            for row in &rows {
                statement.execute(params![row.tenant.as_str(), row.model, row.known, at])?;
            }
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn learned(&self, limit: usize) -> Result<Vec<StoredStatistics>, LogError> {
        let limit = signed(limit as u64);
        Ok(self
            .database
            .readers
            .run(move |connection| learned(connection, limit))
            .await?)
    }

    async fn record_lost_usage(&self) -> Result<usize, LogError> {
        let any = |connection: &Connection| {
            Ok(
                connection.query_row("SELECT EXISTS (SELECT 1 FROM open_calls WHERE id <> x'')", [], |row| {
                    row.get::<_, bool>(0)
                })?,
            )
        };
        if !self.database.readers.run(any).await? {
            return Ok(0);
        }
        // A start must not fail on a full disk.
        Ok(self.database.writer.write_protective(record_lost).await?)
    }

    async fn sum_usage(&self, scope: &TenantScope, query: &UsageQuery) -> Result<Vec<UsageRow>, LogError> {
        let (tenant, query) = (scope.tenant().clone(), *query);
        Ok(self
            .database
            .readers
            .run(move |connection| sum(connection, &tenant, &query))
            .await?)
    }

    async fn sum_tenants_usage(&self, query: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, LogError> {
        let query = query.clone();
        Ok(self
            .database
            .readers
            .run(move |connection| sum_tenants(connection, &query))
            .await?)
    }

    async fn spendings(&self, day: Timestamp, month: Timestamp) -> Result<Vec<Spending>, LogError> {
        Ok(self
            .database
            .readers
            .run(move |connection| spendings(connection, day, month))
            .await?)
    }

    async fn prune_usage(&self, before: Timestamp) -> Result<(), LogError> {
        let before = before.as_millisecond();
        let work = move |connection: &Connection| {
            prune(connection, before)?;
            connection.execute("DELETE FROM learned WHERE at < ?1", [before])?;
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }
}

fn open(connection: &Connection, records: &[UsageRecord]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO open_calls (id, record) VALUES (?1, ?2)")?;
    for record in records {
        let text = write_open(record).map_err(|error| LogError::Refused(error.to_string()))?;
        statement.execute(params![record.id, text])?;
    }
    Ok(())
}

fn close(connection: &Connection, ids: &[Uuid]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached("DELETE FROM open_calls WHERE id = ?1")?;
    for id in ids {
        statement.execute([id])?;
    }
    Ok(())
}

/// In SQLite a record's key contains its time, but no open call is recorded under another key already: a call is closed
/// in the transaction that stores its record.
fn record_lost(connection: &Connection) -> Result<usize, Failure> {
    let mut statement = connection.prepare("SELECT record FROM open_calls WHERE id <> x''")?;
    let texts: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let records: Vec<UsageRecord> = texts.iter().filter_map(|text| read_open(text)).collect();
    add(connection, &records)?;
    connection.execute("DELETE FROM open_calls WHERE id <> x''", [])?;
    Ok(records.len())
}

fn add(connection: &Connection, records: &[UsageRecord]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT OR IGNORE INTO usage (tenant, at, id, user, api_key, copilot, conversation, turn, purpose, route, provider,
             model, key, attempt, prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, cost,
             estimated, outcome, first_content_ms, took_ms, cache)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
    )?;
    for (index, record) in records.iter().enumerate() {
        if index > 0 && index.is_multiple_of(YIELD_EVERY) {
            // A scheduler's slice takes milliseconds: threads that answer requests shall not wait for the end of it.
            std::thread::yield_now();
        }
        let UsageRecord { usage, .. } = record;
        statement.execute(params![
            record.tenant.as_str(),
            record.at.as_millisecond(),
            record.id,
            record.user,
            record.api_key,
            record.copilot,
            record.conversation,
            record.turn,
            record.purpose,
            record.route,
            record.provider,
            record.model,
            record.key,
            record.attempt,
            signed(usage.prompt_tokens),
            signed(usage.completion_tokens),
            signed(usage.cached_tokens),
            signed(usage.cache_write_tokens),
            signed(usage.reasoning_tokens),
            signed(usage.cost),
            record.is_estimated,
            record.outcome,
            record.first_content_ms.map(signed),
            signed(record.took_ms),
            record.cache,
        ])?;
    }
    Ok(())
}

/// The tenants in the ledger, each found with one step in its key.
const TENANTS: &str = "WITH RECURSIVE known(tenant) AS (
        SELECT min(tenant) FROM usage
        UNION ALL SELECT (SELECT min(tenant) FROM usage WHERE tenant > known.tenant) FROM known WHERE known.tenant IS NOT NULL
    )";

fn prune(connection: &Connection, before: i64) -> Result<(), Failure> {
    let mut tenants = connection.prepare(&format!("{TENANTS} SELECT tenant FROM known WHERE tenant IS NOT NULL"))?;
    let tenants: Vec<String> = tenants.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut delete = connection.prepare("DELETE FROM usage WHERE tenant = ?1 AND at < ?2")?;
    for tenant in tenants {
        delete.execute(params![tenant, before])?;
    }
    Ok(())
}

fn unreported(connection: &Connection, tenant: &TenantId, of: &UnreportedAttempts) -> Result<Vec<LostUsage>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT model, prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, cost,
             estimated
         FROM usage
         WHERE tenant = ?1 AND at >= ?2 AND turn = ?3 AND (outcome = 'lost' OR at >= ?4)
             AND prompt_tokens + completion_tokens > 0
         ORDER BY at, id",
    )?;
    let asked_at = of.asked_at.map(Timestamp::as_millisecond);
    let rows = statement.query_map(
        params![
            tenant.as_str(),
            of.began_at.as_millisecond(),
            of.turn.to_string(),
            asked_at
        ],
        |row| {
            Ok(LostUsage {
                model: row.get(0)?,
                usage: tokens(row, 1)?,
            })
        },
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn learned(connection: &Connection, limit: i64) -> Result<Vec<StoredStatistics>, Failure> {
    let mut statement = connection.prepare("SELECT tenant, model, known FROM learned ORDER BY at DESC LIMIT ?1")?;
    let mut rows = statement.query([limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let tenant: String = row.get(0)?;
        let tenant = tenant
            .parse()
            .map_err(|error| LogError::Corrupt(format!("a tenant: {error}")));
        let Some(tenant) = skip_unreadable("learned", "what was learned", tenant)? else {
            continue;
        };
        found.push(StoredStatistics {
            tenant,
            model: row.get(1)?,
            known: row.get(2)?,
        });
    }
    Ok(found)
}

fn sum(connection: &Connection, tenant: &TenantId, query: &UsageQuery) -> Result<Vec<UsageRow>, Failure> {
    let group = match query.group_by {
        GroupBy::Day => "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
        GroupBy::User => "user",
        GroupBy::Copilot => "coalesce(copilot, '')",
        GroupBy::Model => "model",
        GroupBy::Key => "coalesce(api_key, '')",
        GroupBy::Route => "route",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {group}, {SUMS}
         FROM usage WHERE tenant = ?1 AND at >= ?2 AND at < ?3 GROUP BY 1 ORDER BY 1 LIMIT ?4"
    ))?;
    let rows = statement.query_map(
        params![
            tenant.as_str(),
            query.from.as_millisecond(),
            query.to.as_millisecond(),
            signed(query.limit as u64)
        ],
        |row| sums(row, 0),
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The sums of a group, in the order in which [`sums`] reads them.
const SUMS: &str = "sum(cache != 'hit'), sum(cache = 'hit'), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), \
     sum(cache_write_tokens), sum(reasoning_tokens), sum(cost), sum(estimated)";

/// Reads a group and its sums, starting at a column.
fn sums(row: &Row<'_>, from: usize) -> rusqlite::Result<UsageRow> {
    Ok(UsageRow {
        group: row.get(from)?,
        calls: number(row, from + 1)?,
        cache_hits: number(row, from + 2)?,
        estimated_calls: number(row, from + 9)?,
        usage: tokens(row, from + 3)?,
    })
}

/// Reads tokens, cost and the number of estimates, starting at a column.
fn tokens(row: &Row<'_>, from: usize) -> rusqlite::Result<Usage> {
    Ok(Usage {
        prompt_tokens: number(row, from)?,
        completion_tokens: number(row, from + 1)?,
        cached_tokens: number(row, from + 2)?,
        cache_write_tokens: number(row, from + 3)?,
        reasoning_tokens: number(row, from + 4)?,
        cost: number(row, from + 5)?,
        estimated: number(row, from + 6)? > 0,
    })
}

fn sum_tenants(connection: &Connection, query: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, Failure> {
    let group = match query.group_by {
        TenantsGroupBy::Tenant => "usage.tenant",
        TenantsGroupBy::Key => "coalesce(api_key, '')",
        TenantsGroupBy::Route => "route",
        TenantsGroupBy::Day => "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
    };
    let by_tenant = query.group_by.by_tenant();
    let tenant = if by_tenant { "usage.tenant" } else { "''" };
    // Tenant by tenant, each by its key: an index by time would be a page more in every commit of the ledger.
    let mut statement = connection.prepare_cached(&format!(
        "{TENANTS} SELECT {tenant}, {group}, {SUMS}
         FROM known CROSS JOIN usage ON usage.tenant = known.tenant
         WHERE at >= ?1 AND at < ?2 AND (?3 IS NULL OR known.tenant = ?3) GROUP BY 1, 2 ORDER BY 1, 2 LIMIT ?4"
    ))?;
    let rows = statement.query_map(
        params![
            query.from.as_millisecond(),
            query.to.as_millisecond(),
            query.tenant.as_ref().map(TenantId::as_str),
            signed(query.limit as u64)
        ],
        |row| {
            let tenant: String = row.get(0)?;
            let tenant = Some(tenant).filter(|_| by_tenant);
            Ok(TenantsUsageRow {
                tenant,
                row: sums(row, 1)?,
            })
        },
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn spendings(connection: &Connection, day: Timestamp, month: Timestamp) -> Result<Vec<Spending>, Failure> {
    let mut statement = connection.prepare(&format!(
        "{TENANTS} SELECT usage.tenant, user, api_key, sum(CASE WHEN at >= ?1 THEN cost ELSE 0 END), sum(cost)
         FROM known CROSS JOIN usage ON usage.tenant = known.tenant
         WHERE at >= ?2 AND cost > 0 GROUP BY usage.tenant, user, api_key",
    ))?;
    let mut rows = statement.query(params![day.as_millisecond(), month.as_millisecond()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(skip_unreadable("usage", "a sum", spending(row))?);
    }
    Ok(found)
}

fn spending(row: &Row<'_>) -> Result<Spending, Failure> {
    let tenant: String = row.get(0)?;
    Ok(Spending {
        tenant: tenant
            .parse()
            .map_err(|error| LogError::Corrupt(format!("a tenant: {error}")))?,
        user: row.get(1)?,
        api_key: row.get(2)?,
        day: number(row, 3)?,
        month: number(row, 4)?,
    })
}

/// SQLite's integers are signed; no value comes near the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}
