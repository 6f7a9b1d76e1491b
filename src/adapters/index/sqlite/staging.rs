//! Staging the chunks of a version that waits.

use copilotd_actors::domain::ids::{ChunkId, DocumentId, TenantId};
use copilotd_actors::ports::{LogError, Space, Vector};
use copilotd_knowledge::index::NewChunk;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{erase, keys, rows};
use crate::adapters::sqlite::failure::Failure;

/// Counts an attempt at a version; see `KnowledgeIndex::begin`.
pub(super) fn begin(
    connection: &Connection,
    tenant: &TenantId,
    document: DocumentId,
    version: u64,
) -> Result<Option<u32>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(None);
    };
    let Some(waiting) = rows::find_waiting(connection, tenant, document, version)? else {
        return Ok(None);
    };
    let sql = "UPDATE waiting SET attempts = attempts + 1 WHERE document = ?1 RETURNING attempts";
    let mut count = connection.prepare_cached(sql)?;
    Ok(count.query_row([waiting.id], |row| row.get(0)).optional()?)
}

/// Records the number of chunks of a version.
pub(super) fn start(
    connection: &Connection,
    tenant: &TenantId,
    document: DocumentId,
    version: u64,
    total: u64,
) -> Result<bool, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(false);
    };
    let Some(waiting) = rows::find_waiting(connection, tenant, document, version)? else {
        return Ok(false);
    };
    let sql = "UPDATE jobs SET status = ?3, total = ?4 WHERE tenant = ?1 AND id = ?2";
    let job = waiting.document.job.uuid();
    connection
        .prepare_cached(sql)?
        .execute(params![tenant, job, rows::RUNNING, total])?;
    Ok(true)
}

/// See `KnowledgeIndex::known_chunks`.
pub(super) fn known_chunks(
    connection: &Connection,
    tenant: &TenantId,
    document: DocumentId,
    chunks: &[ChunkId],
    space: Option<&Space>,
) -> Result<Vec<ChunkId>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(Vec::new());
    };
    let space = match space {
        Some(space) => match rows::find_space(connection, space)? {
            Some(number) => Some(number),
            None => return Ok(Vec::new()),
        },
        None => None,
    };
    let sql = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document
               WHERE c.tenant = ?1 AND c.uuid = ?2 AND d.uuid = ?3 AND c.indexed = 1 AND c.doomed = 0";
    let mut find = connection.prepare_cached(sql)?;
    let mut known = Vec::new();
    for chunk in chunks {
        let id: Option<i64> = find
            .query_row(params![tenant, chunk.uuid(), document.uuid()], |row| row.get(0))
            .optional()?;
        let Some(id) = id else { continue };
        if space.map_or(Ok(true), |space| has_vector(connection, tenant, space, id))? {
            known.push(*chunk);
        }
    }
    Ok(known)
}

pub(super) fn has_vector(connection: &Connection, tenant: i64, space: i64, chunk: i64) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM vectors WHERE id = ?1")?;
    Ok(statement.exists([keys::vector(tenant, space, chunk)])?)
}

/// See `KnowledgeIndex::stage`.
pub(super) fn stage(
    connection: &Connection,
    tenant: &TenantId,
    document: DocumentId,
    version: u64,
    chunks: &[NewChunk],
    vectors: &[Vector],
) -> Result<bool, Failure> {
    if !vectors.is_empty() && vectors.len() != chunks.len() {
        return Err(LogError::Refused("chunks and vectors differ in number".to_owned()).into());
    }
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(false);
    };
    let Some(waiting) = rows::find_waiting(connection, tenant, document, version)? else {
        return Ok(false);
    };
    let mut done = 0_u64;
    let mut vectors = vectors.iter();
    for chunk in chunks {
        let (id, staged_for) = ensure_chunk(connection, tenant, waiting.id, chunk)?;
        if staged_for != version {
            done += 1;
            connection
                .prepare_cached("UPDATE chunks SET staged_for = ?2 WHERE id = ?1")?
                .execute(params![id, version])?;
        }
        if let Some(vector) = vectors.next() {
            let space = rows::ensure_space(connection, vector.space())?;
            if !has_vector(connection, tenant, space, id)? {
                put_vector(connection, tenant, space, id, (waiting.id, chunk.id), vector)?;
            }
        }
    }
    connection
        .prepare_cached("UPDATE jobs SET done = done + ?3 WHERE tenant = ?1 AND id = ?2")?
        .execute(params![tenant, waiting.document.job.uuid(), done])?;
    if done > 0 {
        connection
            .prepare_cached("UPDATE waiting SET attempts = 0 WHERE document = ?1 AND attempts > 0")?
            .execute([waiting.id])?;
    }
    Ok(true)
}

/// Stores a chunk with its postings unless it has them. Returns its key and the version it was staged for before.
fn ensure_chunk(connection: &Connection, tenant: i64, document: i64, chunk: &NewChunk) -> Result<(i64, u64), Failure> {
    let known: Option<(i64, u64, bool, i64, i64)> = connection
        .prepare_cached("SELECT id, staged_for, indexed, doomed, document FROM chunks WHERE tenant = ?1 AND uuid = ?2")?
        .query_row(params![tenant, chunk.id.uuid()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    match known {
        // What was about to be deleted is deleted now.
        Some((id, _, _, 2.., _)) => erase::purge_chunk(connection, tenant, id)?,
        Some((_, _, _, _, owner)) if owner != document => {
            return Err(LogError::Refused("a chunk belongs to another document".to_owned()).into());
        }
        Some((id, staged_for, _, 1, _)) => {
            erase::purge_chunk(connection, tenant, id)?;
            index(connection, tenant, document, id, chunk)?;
            return Ok((id, staged_for));
        }
        Some((id, staged_for, is_indexed, ..)) => {
            if !is_indexed {
                index(connection, tenant, document, id, chunk)?;
            }
            return Ok((id, staged_for));
        }
        None => {}
    }
    let sql = "UPDATE tenants SET next_chunk = next_chunk + 1 WHERE n = ?1 RETURNING next_chunk - 1";
    let number = connection.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))?;
    let id = keys::key(tenant, keys::check_within(number, "chunks")?);
    let draft = &chunk.draft;
    connection
        .prepare_cached(
            "INSERT INTO chunks (id, tenant, uuid, document, since, page, start, end)
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7)",
        )?
        .execute(params![
            id,
            tenant,
            chunk.id.uuid(),
            document,
            draft.page,
            draft.start,
            draft.end
        ])?;
    connection
        .prepare_cached("INSERT INTO passages (chunk, heading, text, terms) VALUES (?1, ?2, ?3, '[]')")?
        .execute(params![id, draft.heading, draft.text])?;
    index(connection, tenant, document, id, chunk)?;
    Ok((id, 0))
}

/// Stores the postings of a chunk that has none.
fn index(connection: &Connection, tenant: i64, document: i64, id: i64, chunk: &NewChunk) -> Result<(), Failure> {
    let length: u64 = chunk.terms.iter().map(|(_, count)| u64::from(*count)).sum();
    let (of, posting) = (keys::within(document), keys::within(id));
    for (term, occurrences) in &chunk.terms {
        let number = ensure_term(connection, tenant, term)?;
        connection
            .prepare_cached(
                "INSERT INTO postings (tenant, term, chunk, document, occurrences, length)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![tenant, number, posting, of, occurrences, length])?;
    }
    connection
        .prepare_cached("UPDATE chunks SET indexed = 1, length = ?2 WHERE id = ?1")?
        .execute(params![id, length])?;
    connection
        .prepare_cached("UPDATE passages SET terms = ?2 WHERE chunk = ?1")?
        .execute(params![id, rows::encode(&chunk.terms)?])?;
    Ok(())
}

/// Counts one more posting of a term; returns the term's number.
fn ensure_term(connection: &Connection, tenant: i64, term: &str) -> Result<i64, Failure> {
    let known: Option<i64> = connection
        .prepare_cached("UPDATE terms SET uses = uses + 1 WHERE tenant = ?1 AND term = ?2 RETURNING n")?
        .query_row(params![tenant, term], |row| row.get(0))
        .optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    let sql = "UPDATE tenants SET next_term = next_term + 1 WHERE n = ?1 RETURNING next_term - 1";
    let number: i64 = connection.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))?;
    connection
        .prepare_cached("INSERT INTO terms (tenant, term, n, uses, current) VALUES (?1, ?2, ?3, 1, 0)")?
        .execute(params![tenant, term, number])?;
    Ok(number)
}

/// Stores a vector of a chunk, replacing one of the same space. `of` is the chunk's document and its id.
pub(super) fn put_vector(
    connection: &Connection,
    tenant: i64,
    space: i64,
    chunk: i64,
    of: (i64, ChunkId),
    vector: &Vector,
) -> Result<(), Failure> {
    let (document, uuid) = of;
    connection
        .prepare_cached("INSERT OR REPLACE INTO vectors (id, document, chunk, embedding) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            keys::vector(tenant, space, chunk),
            keys::within(document),
            uuid.uuid(),
            rows::bytes(vector.values())
        ])?;
    connection
        .prepare_cached("UPDATE chunks SET space = ?2 WHERE id = ?1 AND space <> ?2")?
        .execute(params![chunk, space])?;
    Ok(())
}
