//! Reading documents and chunks.

use copilotd_actors::domain::ids::{ChunkId, CollectionName, ExternalId};
use copilotd_actors::ports::LogError;
use copilotd_knowledge::chunk::Chunk;
use copilotd_knowledge::document::{Document, DocumentKey, Reader};
use uuid::Uuid;

use super::rows::{self, most};
use super::session::Tx;

/// See `KnowledgeIndex::documents`.
pub(super) async fn documents(
    tx: &Tx<'_>,
    tenant: &str,
    collection: &CollectionName,
    after: Option<&ExternalId>,
    limit: usize,
) -> Result<Vec<Document>, LogError> {
    let sql = rows::select_documents(
        "WHERE tenant = $1 AND collection = $2 AND external_id > $3 ORDER BY external_id LIMIT $4",
    );
    // No id is empty, so that all are greater than nothing.
    let after = after.map_or("", ExternalId::as_str);
    let found = tx
        .query(&sql, &[&tenant, &collection.as_str(), &after, &most(limit)])
        .await?;
    found.iter().map(|row| Ok(rows::document(row)?.document)).collect()
}

/// See `KnowledgeIndex::chunks`.
pub(super) async fn current_chunks(
    tx: &Tx<'_>,
    tenant: &str,
    key: &DocumentKey,
    from: u32,
    limit: usize,
) -> Result<Option<Vec<Chunk>>, LogError> {
    let Some(document) = rows::find_document(tx, tenant, key).await? else {
        return Ok(None);
    };
    let sql = rows::select_chunks("c.document = $2 AND c.current AND c.ordinal >= $3 ORDER BY c.ordinal LIMIT $4");
    let found = tx
        .query(&sql, &[&tenant, &document.n, &i64::from(from), &most(limit)])
        .await?;
    let chunks: Result<Vec<Chunk>, LogError> = found.iter().map(|row| Ok(rows::chunk(row)?.0)).collect();
    chunks.map(Some)
}

/// See `KnowledgeIndex::read`.
pub(super) async fn read(
    tx: &Tx<'_>,
    tenant: &str,
    reader: &Reader,
    chunks: &[ChunkId],
) -> Result<Vec<Chunk>, LogError> {
    let sql = rows::select_chunks("c.id = ANY ($2)");
    let asked: Vec<Uuid> = chunks.iter().map(|chunk| chunk.uuid()).collect();
    let mut found = Vec::new();
    for row in &tx.query(&sql, &[&tenant, &asked]).await? {
        let (chunk, attributes) = rows::chunk(row)?;
        if reader.may_read(&attributes.access) {
            found.push(chunk);
        }
    }
    // A chunk that is asked for twice is answered twice.
    let answers = chunks
        .iter()
        .filter_map(|id| found.iter().find(|chunk| chunk.id == *id));
    Ok(answers.cloned().collect())
}

/// See `KnowledgeIndex::source_position`.
pub(super) async fn source_position(tx: &Tx<'_>, tenant: &str, name: &str) -> Result<Option<String>, LogError> {
    let sql = "SELECT position FROM source_positions WHERE tenant = $1 AND name = $2";
    tx.optional(sql, &[&tenant, &name]).await
}

/// See `KnowledgeIndex::put_source_position`.
pub(super) async fn put_source_position(tx: &Tx<'_>, tenant: &str, name: &str, position: &str) -> Result<(), LogError> {
    let sql = "INSERT INTO source_positions (tenant, name, position) VALUES ($1, $2, $3)
               ON CONFLICT (tenant, name) DO UPDATE SET position = excluded.position";
    tx.execute(sql, &[&tenant, &name, &position]).await?;
    Ok(())
}

/// See `KnowledgeIndex::cite`.
pub(super) async fn cite(tx: &Tx<'_>, tenant: &str, chunks: &[ChunkId]) -> Result<(), LogError> {
    let cited: Vec<Uuid> = chunks.iter().map(|chunk| chunk.uuid()).collect();
    let sql = "UPDATE chunks SET cited = true WHERE tenant = $1 AND id = ANY ($2) AND published AND NOT cited";
    tx.execute(sql, &[&tenant, &cited]).await?;
    Ok(())
}
