//! Vectors of conversations' messages: the port `TurnVectors` in tables of their own beside the documents.
//!
//! Rows are keyed by the tenant's name, the conversation and the record. An erased conversation is remembered in the same
//! transaction that begins to delete its rows, and every `put` looks there in its own: whichever comes first, nothing is
//! left.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId};
use copilotd_actors::ports::{LogError, Space};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::turn_vectors::{TurnVector, TurnVectors, from_bytes, to_bytes};
use rusqlite::{Connection, params};

use super::SqliteIndex;
use crate::adapters::sqlite::failure::Failure;

/// Rows deleted in one transaction, so that others write in between.
const ROWS_AT_ONCE: i64 = 512;

/// Stores vectors, unless the conversation was erased.
fn put(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    vectors: &[TurnVector],
) -> Result<bool, Failure> {
    let is_erased: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM erased_conversations WHERE tenant = ?1 AND conversation = ?2)")?
        .query_row(params![tenant.as_str(), conversation.uuid()], |row| row.get(0))?;
    if is_erased {
        return Ok(false);
    }
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO turn_vectors (tenant, conversation, seq, space, alone, after_previous)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for row in vectors {
        insert.execute(params![
            tenant.as_str(),
            conversation.uuid(),
            number(row.seq),
            row.alone.space().as_ref(),
            to_bytes(&row.alone),
            to_bytes(&row.after_previous)
        ])?;
    }
    Ok(true)
}

fn load(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    space: &Space,
    from: Seq,
    upto: Seq,
) -> Result<Vec<TurnVector>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT seq, alone, after_previous FROM turn_vectors
         WHERE tenant = ?1 AND conversation = ?2 AND seq BETWEEN ?3 AND ?4 AND space = ?5 ORDER BY seq",
    )?;
    let mut rows = select.query(params![
        tenant.as_str(),
        conversation.uuid(),
        number(from),
        number(upto),
        space.as_ref()
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (alone, after_previous): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
        // One without direction is made again.
        if let (Some(alone), Some(after_previous)) = (from_bytes(space, &alone), from_bytes(space, &after_previous)) {
            found.push(TurnVector {
                seq: row.get(0)?,
                alone,
                after_previous,
            });
        }
    }
    Ok(found)
}

/// Remembers that a conversation was erased, and deletes some of its rows; returns how many, 0 at the end.
fn erase_some(connection: &Connection, tenant: &TenantId, conversation: ConversationId) -> Result<u64, Failure> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO erased_conversations (tenant, conversation) VALUES (?1, ?2)")?
        .execute(params![tenant.as_str(), conversation.uuid()])?;
    let deleted = connection
        .prepare_cached(
            "DELETE FROM turn_vectors WHERE (tenant, conversation, seq) IN (SELECT tenant, conversation, seq
             FROM turn_vectors WHERE tenant = ?1 AND conversation = ?2 LIMIT ?3)",
        )?
        .execute(params![tenant.as_str(), conversation.uuid(), ROWS_AT_ONCE])?;
    Ok(deleted as u64)
}

/// Deletes some rows of a tenant; returns how many messages, and how many rows of all kinds, 0 at the end.
fn erase_some_of_tenant(connection: &Connection, tenant: &TenantId) -> Result<(u64, u64), Failure> {
    let vectors = connection
        .prepare_cached(
            "DELETE FROM turn_vectors WHERE (tenant, conversation, seq) IN (SELECT tenant, conversation, seq
             FROM turn_vectors WHERE tenant = ?1 LIMIT ?2)",
        )?
        .execute(params![tenant.as_str(), ROWS_AT_ONCE])?;
    let erased = connection
        .prepare_cached(
            "DELETE FROM erased_conversations WHERE (tenant, conversation) IN (SELECT tenant, conversation
             FROM erased_conversations WHERE tenant = ?1 LIMIT ?2)",
        )?
        .execute(params![tenant.as_str(), ROWS_AT_ONCE])?;
    Ok((vectors as u64, (vectors + erased) as u64))
}

/// Integers in SQLite are signed.
fn number(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

impl SqliteIndex {
    /// Clears the files, if they may hold bytes of what was deleted.
    async fn clear_if_unclean(&self) -> Result<(), LogError> {
        if self.is_unclean.load(Ordering::Relaxed) {
            self.clear().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl TurnVectors for SqliteIndex {
    async fn put(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        vectors: Vec<TurnVector>,
    ) -> Result<bool, LogError> {
        let tenant = scope.tenant().clone();
        self.write(move |c| put(c, &tenant, conversation, &vectors)).await
    }

    async fn load(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        space: &Space,
        from: Seq,
        upto: Seq,
    ) -> Result<Vec<TurnVector>, LogError> {
        let (tenant, space) = (scope.tenant().clone(), Arc::clone(space));
        self.read_with(move |c| load(c, &tenant, conversation, &space, from, upto))
            .await
    }

    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, LogError> {
        let mut erased = 0;
        loop {
            let (tenant, is_unclean) = (scope.tenant().clone(), Arc::clone(&self.is_unclean));
            let erase = move |c: &Connection| {
                let some = erase_some(c, &tenant, conversation)?;
                // Here, since the caller may be gone.
                if some > 0 {
                    is_unclean.store(true, Ordering::Relaxed);
                }
                Ok(some)
            };
            match self.write_erasing(erase).await? {
                0 => break,
                some => erased += some,
            }
        }
        // Also when nothing was left: the call that deleted it may not have come to the end.
        self.clear_if_unclean().await?;
        Ok(erased)
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<u64, LogError> {
        let mut erased = 0;
        loop {
            let (tenant, is_unclean) = (scope.tenant().clone(), Arc::clone(&self.is_unclean));
            let erase = move |c: &Connection| {
                let (vectors, all) = erase_some_of_tenant(c, &tenant)?;
                if all > 0 {
                    is_unclean.store(true, Ordering::Relaxed);
                }
                Ok((vectors, all))
            };
            let (vectors, all) = self.write_erasing(erase).await?;
            erased += vectors;
            if all == 0 {
                break;
            }
        }
        self.clear_if_unclean().await?;
        Ok(erased)
    }
}
