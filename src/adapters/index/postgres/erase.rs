//! Deleting documents, chunks and tenants, each document in one transaction.
//!
//! What was deleted is in no answer from then on. PostgreSQL itself keeps the bytes in its files until a vacuum, and those
//! of tables also after it, in the unused parts of pages, until these are written over or the table is rewritten; see
//! docs/operate/postgres.md.

use copilotd_actors::ports::LogError;
use copilotd_knowledge::document::DocumentKey;
use copilotd_knowledge::index::IngestStatus;
use jiff::Timestamp;

use super::rows::{self, DocumentRow, signed};
use super::session::{Tx, get};
use super::{spaces, statistics, tables};

/// Most documents deleted in one transaction when a tenant is erased.
const DOCUMENTS_AT_ONCE: i64 = 16;
/// No further document is deleted in the same transaction once so many chunks were: they take seconds.
const CHUNKS_AT_ONCE: u64 = 2_000;

/// Numbers of what was deleted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Erased {
    pub(super) documents: u64,
    pub(super) chunks: u64,
    pub(super) vectors: u64,
}

/// See `KnowledgeIndex::delete`.
pub(super) async fn delete(
    tx: &Tx<'_>,
    tenant: &str,
    key: &DocumentKey,
    at: Timestamp,
) -> Result<Option<Erased>, LogError> {
    let Some(found) = rows::find_document(tx, tenant, key).await? else {
        return Ok(None);
    };
    rows::end_job(tx, tenant, found.document.job, &IngestStatus::Superseded, at).await?;
    delete_document(tx, tenant, &found).await.map(Some)
}

async fn delete_document(tx: &Tx<'_>, tenant: &str, found: &DocumentRow) -> Result<Erased, LogError> {
    let sql = "SELECT n, current FROM chunks WHERE tenant = $1 AND document = $2";
    let (mut chunks, mut current) = (Vec::new(), Vec::new());
    for row in tx.query(sql, &[&tenant, &found.n]).await? {
        let n: i64 = get(&row, 0)?;
        chunks.push(n);
        if get(&row, 1)? {
            current.push(n);
        }
    }
    statistics::leave(tx, tenant, &current).await?;
    let vectors = delete_chunks(tx, tenant, &chunks).await?;
    delete_waiting(tx, tenant, found.n).await?;
    tx.execute(
        "DELETE FROM documents WHERE tenant = $1 AND n = $2",
        &[&tenant, &found.n],
    )
    .await?;
    let sql = "UPDATE tenants SET documents = documents - 1, bytes = bytes - $2 WHERE tenant = $1";
    tx.execute(sql, &[&tenant, &signed(found.document.bytes)]).await?;
    Ok(Erased {
        documents: 1,
        chunks: chunks.len() as u64,
        vectors,
    })
}

/// Deletes the content of a version that waited.
pub(super) async fn delete_waiting(tx: &Tx<'_>, tenant: &str, document: i64) -> Result<(), LogError> {
    for table in ["waiting", "work_waiting"] {
        let sql = format!("DELETE FROM {table} WHERE tenant = $1 AND document = $2");
        tx.execute(&sql, &[&tenant, &document]).await?;
    }
    Ok(())
}

/// Deletes chunks that are not current any more. Returns the number of their vectors.
pub(super) async fn delete_chunks(tx: &Tx<'_>, tenant: &str, chunks: &[i64]) -> Result<u64, LogError> {
    if chunks.is_empty() {
        return Ok(0);
    }
    let vectors = delete_vectors(tx, tenant, chunks).await?;
    for (table, column) in [("passages", "chunk"), ("chunks", "n")] {
        let sql = format!("DELETE FROM {table} WHERE tenant = $1 AND {column} = ANY ($2)");
        tx.execute(&sql, &[&tenant, &chunks]).await?;
    }
    Ok(vectors)
}

/// Deletes the vectors of chunks, of all spaces; returns their number.
pub(super) async fn delete_vectors(tx: &Tx<'_>, tenant: &str, chunks: &[i64]) -> Result<u64, LogError> {
    let mut vectors = 0;
    if chunks.is_empty() {
        return Ok(vectors);
    }
    for space in spaces::all(tx).await? {
        let sql = format!(
            "DELETE FROM {} WHERE tenant = $1 AND chunk = ANY ($2)",
            tables::vectors(space)
        );
        vectors += tx.execute(&sql, &[&tenant, &chunks]).await?;
    }
    Ok(vectors)
}

/// Deletes some of a tenant; returns what, and whether something may be left. What is interrupted goes on with the next
/// call: every step is whole by itself.
pub(super) async fn erase_some(tx: &Tx<'_>, tenant: &str) -> Result<(Erased, bool), LogError> {
    let mut erased = Erased::default();
    let sql = rows::select_documents("WHERE tenant = $1 LIMIT $2");
    let documents = tx.query(&sql, &[&tenant, &DOCUMENTS_AT_ONCE]).await?;
    for row in &documents {
        let one = delete_document(tx, tenant, &rows::document(row)?).await?;
        erased.documents += one.documents;
        erased.chunks += one.chunks;
        erased.vectors += one.vectors;
        if erased.chunks >= CHUNKS_AT_ONCE {
            break;
        }
    }
    if !documents.is_empty() {
        return Ok((erased, true));
    }
    for table in ["jobs", "source_positions", "tenants", "work_tenants", "work_embedded"] {
        let sql = format!("DELETE FROM {table} WHERE tenant = $1");
        tx.execute(&sql, &[&tenant]).await?;
    }
    Ok((erased, false))
}
