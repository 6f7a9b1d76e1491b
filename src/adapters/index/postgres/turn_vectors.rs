//! Vectors of conversations' messages: the port `TurnVectors` in tables of their own beside the documents.
//!
//! An erased conversation is remembered in the transaction that begins to delete its rows, and every `put` looks there.
//! Both hold a lock on the conversation meanwhile: whichever comes first, nothing is left. It is not the lock of the
//! tenant's changes, so that a turn does not wait while a long document is published.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, Seq};
use copilotd_actors::ports::{LogError, Space};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::turn_vectors::{TurnVector, TurnVectors, from_bytes, to_bytes};

use super::rows::{signed, unsigned};
use super::session::{Database, Mode, Tx, get};
use super::{PostgresIndex, transaction};

/// Rows deleted in one transaction.
const ROWS_AT_ONCE: i64 = 4_096;

/// Waits until no other call changes vectors of the conversation.
async fn lock(
    tx: &Tx<'_>,
    database: &Database,
    scope: &TenantScope,
    conversation: ConversationId,
) -> Result<(), LogError> {
    // Names of tenants contain no slash: it is no tenant's own lock.
    let lock = format!("{}/{}/{}", database.schema, scope.tenant(), conversation.uuid());
    tx.query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&lock])
        .await?;
    Ok(())
}

/// Stores vectors, unless the conversation was erased.
async fn put(
    tx: &Tx<'_>,
    tenant: &str,
    conversation: ConversationId,
    vectors: &BTreeMap<Seq, TurnVector>,
) -> Result<bool, LogError> {
    let seqs: Vec<i64> = vectors.keys().map(|seq| signed(*seq)).collect();
    let spaces: Vec<&str> = vectors.values().map(|row| row.alone.space().as_ref()).collect();
    let alone: Vec<Vec<u8>> = vectors.values().map(|row| to_bytes(&row.alone)).collect();
    let after_previous: Vec<Vec<u8>> = vectors.values().map(|row| to_bytes(&row.after_previous)).collect();
    let sql = "WITH stays AS (
                   SELECT NOT EXISTS (SELECT FROM erased_conversations WHERE tenant = $1 AND conversation = $2) AS stays),
               stored AS (
                   INSERT INTO turn_vectors (tenant, conversation, seq, space, alone, after_previous)
                   SELECT $1, $2, v.* FROM stays, unnest($3::bigint[], $4::text[], $5::bytea[], $6::bytea[]) AS v
                   WHERE stays.stays
                   ON CONFLICT (tenant, conversation, seq) DO UPDATE SET
                       space = excluded.space, alone = excluded.alone, after_previous = excluded.after_previous)
               SELECT stays FROM stays";
    tx.one(
        sql,
        &[&tenant, &conversation.uuid(), &seqs, &spaces, &alone, &after_previous],
    )
    .await
}

async fn load(
    tx: &Tx<'_>,
    tenant: &str,
    conversation: ConversationId,
    space: &Space,
    (from, upto): (Seq, Seq),
) -> Result<Vec<TurnVector>, LogError> {
    let sql = "SELECT seq, alone, after_previous FROM turn_vectors
               WHERE tenant = $1 AND conversation = $2 AND seq BETWEEN $3 AND $4 AND space = $5 ORDER BY seq";
    let (from, upto) = (signed(from), signed(upto));
    let rows = tx
        .query(sql, &[&tenant, &conversation.uuid(), &from, &upto, &space.as_ref()])
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let (alone, after_previous): (Vec<u8>, Vec<u8>) = (get(row, 1)?, get(row, 2)?);
        // One without direction is made again.
        if let (Some(alone), Some(after_previous)) = (from_bytes(space, &alone), from_bytes(space, &after_previous)) {
            found.push(TurnVector {
                seq: unsigned(get(row, 0)?),
                alone,
                after_previous,
            });
        }
    }
    Ok(found)
}

/// Remembers that a conversation was erased, and deletes some of its rows; returns how many, 0 at the end.
async fn erase_some(tx: &Tx<'_>, tenant: &str, conversation: ConversationId) -> Result<u64, LogError> {
    let sql = "INSERT INTO erased_conversations (tenant, conversation) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    tx.execute(sql, &[&tenant, &conversation.uuid()]).await?;
    let sql = "DELETE FROM turn_vectors WHERE tenant = $1 AND conversation = $2 AND seq IN
                   (SELECT seq FROM turn_vectors WHERE tenant = $1 AND conversation = $2 LIMIT $3)";
    tx.execute(sql, &[&tenant, &conversation.uuid(), &ROWS_AT_ONCE]).await
}

/// Deletes some rows of a tenant; returns how many messages, and how many rows of all kinds, 0 at the end.
async fn erase_some_of_tenant(tx: &Tx<'_>, tenant: &str) -> Result<(u64, u64), LogError> {
    let sql = "DELETE FROM turn_vectors WHERE tenant = $1 AND (conversation, seq) IN
                   (SELECT conversation, seq FROM turn_vectors WHERE tenant = $1 LIMIT $2)";
    let vectors = tx.execute(sql, &[&tenant, &ROWS_AT_ONCE]).await?;
    let sql = "DELETE FROM erased_conversations WHERE tenant = $1 AND conversation IN
                   (SELECT conversation FROM erased_conversations WHERE tenant = $1 LIMIT $2)";
    let erased = tx.execute(sql, &[&tenant, &ROWS_AT_ONCE]).await?;
    Ok((vectors, vectors + erased))
}

#[async_trait]
impl TurnVectors for PostgresIndex {
    async fn put(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        vectors: Vec<TurnVector>,
    ) -> Result<bool, LogError> {
        let tenant = scope.tenant().as_str();
        // A statement cannot change a row twice; the last one counts.
        let vectors: BTreeMap<Seq, TurnVector> = vectors.into_iter().map(|row| (row.seq, row)).collect();
        let _turn = self.turn(&self.turns, scope, Mode::Read).await?;
        transaction!(self, scope, Mode::Work, |tx| async {
            lock(&tx, &self.database, scope, conversation).await?;
            put(&tx, tenant, conversation, &vectors).await
        })
    }

    async fn load(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        space: &Space,
        from: Seq,
        upto: Seq,
    ) -> Result<Vec<TurnVector>, LogError> {
        let (tenant, space) = (scope.tenant().as_str(), Arc::clone(space));
        let _turn = self.turn(&self.turns, scope, Mode::Read).await?;
        transaction!(self, scope, Mode::Read, |tx| load(
            &tx,
            tenant,
            conversation,
            &space,
            (from, upto)
        ))
    }

    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, LogError> {
        let tenant = scope.tenant().as_str();
        let mut erased = 0;
        loop {
            let some = transaction!(self, scope, Mode::Work, |tx| async {
                lock(&tx, &self.database, scope, conversation).await?;
                erase_some(&tx, tenant, conversation).await
            });
            match some? {
                0 => return Ok(erased),
                some => erased += some,
            }
        }
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<u64, LogError> {
        let tenant = scope.tenant().as_str();
        let mut erased = 0;
        loop {
            let some = transaction!(self, scope, Mode::Write, |tx| erase_some_of_tenant(&tx, tenant));
            let (vectors, all) = some?;
            erased += vectors;
            if all == 0 {
                return Ok(erased);
            }
        }
    }
}
