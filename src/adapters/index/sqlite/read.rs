//! Reading documents and chunks.

use copilotd_actors::domain::ids::{ChunkId, CollectionName, ExternalId, TenantId};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Chunk;
use copilotd_knowledge::document::{Document, DocumentKey, Reader};
use copilotd_knowledge::index::Pending;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows;
use crate::adapters::sqlite::failure::Failure;

/// See `KnowledgeIndex::documents`.
pub(super) fn documents(
    connection: &Connection,
    tenant: &TenantId,
    collection: &CollectionName,
    after: Option<&ExternalId>,
    limit: usize,
) -> Result<Vec<Document>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(Vec::new());
    };
    let sql = rows::select_documents(
        "WHERE tenant = ?1 AND collection = ?2 AND external_id > ?3 ORDER BY external_id LIMIT ?4",
    );
    let mut statement = connection.prepare_cached(&sql)?;
    // No id is empty, so that all are greater than nothing.
    let after = after.map_or("", ExternalId::as_str);
    let mut found = statement.query(params![tenant, collection.as_str(), after, most(limit)])?;
    let mut documents = Vec::new();
    while let Some(row) = found.next()? {
        documents.push(rows::document(row)?.document);
    }
    Ok(documents)
}

/// See `KnowledgeIndex::chunks`.
pub(super) fn current_chunks(
    connection: &Connection,
    tenant: &TenantId,
    key: &DocumentKey,
    from: u32,
    limit: usize,
) -> Result<Option<Vec<Chunk>>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(None);
    };
    let Some(document) = rows::find_document(connection, tenant, key)? else {
        return Ok(None);
    };
    let sql = rows::select_chunks(
        "c.document = ?1 AND c.current = 1 AND c.doomed = 0 AND c.ordinal >= ?2 ORDER BY c.ordinal LIMIT ?3",
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params![document.id, from, most(limit)])?;
    let mut chunks = Vec::new();
    while let Some(row) = found.next()? {
        chunks.push(rows::chunk(row)?.0);
    }
    Ok(Some(chunks))
}

/// See `KnowledgeIndex::read`.
pub(super) fn read(
    connection: &Connection,
    tenant: &TenantId,
    reader: &Reader,
    chunks: &[ChunkId],
) -> Result<Vec<Chunk>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(Vec::new());
    };
    let sql = rows::select_chunks("c.tenant = ?1 AND c.uuid = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut readable = Vec::new();
    for chunk in chunks {
        let mut found = statement.query(params![tenant, chunk.uuid()])?;
        if let Some(row) = found.next()? {
            let (chunk, attributes) = rows::chunk(row)?;
            if reader.may_read(&attributes.access) {
                readable.push(chunk);
            }
        }
    }
    Ok(readable)
}

/// See `KnowledgeIndex::cite`.
pub(super) fn cite(connection: &Connection, tenant: &TenantId, chunks: &[ChunkId]) -> Result<(), Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(());
    };
    let mut statement = connection.prepare_cached(
        "UPDATE chunks SET cited = 1 WHERE tenant = ?1 AND uuid = ?2 AND published = 1 AND doomed < 2 AND cited = 0",
    )?;
    for chunk in chunks {
        statement.execute(params![tenant, chunk.uuid()])?;
    }
    Ok(())
}

/// See `KnowledgeIndex::pending`.
pub(super) fn pending(connection: &Connection, busy: &[TenantScope], limit: usize) -> Result<Vec<Pending>, Failure> {
    let busy: Vec<i64> = busy
        .iter()
        .filter_map(|scope| rows::find_tenant(connection, scope.tenant()).transpose())
        .collect::<Result<_, _>>()?;
    // From tenant to tenant, so that the time does not depend on how much waits.
    let mut next = connection.prepare_cached(
        "SELECT tenant, n, document FROM waiting INDEXED BY waiting_by_tenant
         WHERE tenant > ?1 ORDER BY tenant, n LIMIT 1",
    )?;
    let mut oldest: Vec<(i64, i64)> = Vec::new();
    let mut after = 0;
    loop {
        let found = next.query_row([after], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)));
        let Some((tenant, number, document)) = found.optional()? else {
            break;
        };
        if !busy.contains(&tenant) {
            oldest.push((number, document));
        }
        after = tenant;
    }
    oldest.sort_unstable();
    let mut pending = Vec::new();
    for (number, document) in oldest.into_iter().take(limit) {
        let (content, tenant, attempts): (Vec<u8>, String, u32) = connection
            .prepare_cached(
                "SELECT content, name, attempts FROM waiting JOIN tenants ON tenants.n = tenant WHERE waiting.n = ?1",
            )?
            .query_row([number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let sql = rows::select_documents("WHERE id = ?1");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query([document])?;
        if let Some(row) = found.next()? {
            pending.push(Pending {
                scope: rows::stored_scope(&tenant)?,
                document: rows::document(row)?.document,
                content,
                attempts,
            });
        }
    }
    Ok(pending)
}

pub(super) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
