//! Deleting documents, chunks and tenants.
//!
//! Chunks are deleted in two steps: one transaction marks them, after which no call finds them, and further ones, each
//! bounded, delete them. A process that is killed in between continues when it opens the file again.

use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::document::DocumentKey;
use copilotd_knowledge::index::IngestStatus;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::publish::Change;
use super::rows::DocumentRow;
use super::{keys, rows, submit};
use crate::adapters::sqlite::failure::Failure;

/// A chunk's postings and vectors are to be deleted.
pub(super) const POSTINGS: i64 = 1;
/// All of a chunk is to be deleted.
pub(super) const ALL: i64 = 2;

/// Chunks deleted in one transaction, so that others write in between.
const CHUNKS_AT_ONCE: i64 = 32;
/// Documents deleted in one transaction when a tenant is erased.
const DOCUMENTS_AT_ONCE: i64 = 16;
/// Rows of the jobs deleted in one transaction.
const JOBS_AT_ONCE: i64 = 500;

/// Numbers of what was deleted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Erased {
    pub(super) documents: u64,
    pub(super) chunks: u64,
    pub(super) vectors: u64,
}

/// Deletes a document; its chunks are marked.
pub(super) fn delete(
    connection: &Connection,
    tenant: &TenantId,
    key: &DocumentKey,
    at: Timestamp,
) -> Result<Option<Erased>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(None);
    };
    let Some(found) = rows::find_document(connection, tenant, key)? else {
        return Ok(None);
    };
    rows::end_job(connection, tenant, found.document.job, &IngestStatus::Superseded, at)?;
    delete_document(connection, tenant, &found).map(Some)
}

fn delete_document(connection: &Connection, tenant: i64, found: &DocumentRow) -> Result<Erased, Failure> {
    let DocumentRow { id, document } = found;
    let chunks: Vec<(i64, bool)> = connection
        .prepare_cached("SELECT id, current FROM chunks WHERE document = ?1 AND doomed < 2")?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let spaces = spaces(connection)?;
    let mut change = Change::default();
    let mut vectors = 0;
    for (chunk, is_current) in &chunks {
        if *is_current {
            change.add(connection, *chunk, -1)?;
        }
        for space in &spaces {
            vectors += u64::from(super::staging::has_vector(connection, tenant, *space, *chunk)?);
        }
    }
    change.store(connection, tenant)?;
    connection
        .prepare_cached("UPDATE chunks SET current = 0, doomed = ?2 WHERE document = ?1")?
        .execute(params![id, ALL])?;
    submit::remove_filters(connection, tenant, *id, &document.attributes)?;
    connection
        .prepare_cached("DELETE FROM waiting WHERE document = ?1")?
        .execute([id])?;
    connection
        .prepare_cached("DELETE FROM documents WHERE id = ?1")?
        .execute([id])?;
    connection
        .prepare_cached("UPDATE tenants SET documents = documents - 1, bytes = bytes - ?2 WHERE n = ?1")?
        .execute(params![tenant, document.bytes])?;
    Ok(Erased {
        documents: 1,
        chunks: chunks.len() as u64,
        vectors,
    })
}

/// Deletes some of the chunks that are marked; returns how many, 0 at the end.
pub(super) fn purge(connection: &Connection, tenant: Option<&TenantId>) -> Result<u64, Failure> {
    let tenant = match tenant {
        Some(tenant) => match rows::find_tenant(connection, tenant)? {
            Some(tenant) => Some(tenant),
            None => return Ok(0),
        },
        None => None,
    };
    let doomed: Vec<(i64, i64)> = connection
        .prepare_cached(
            "SELECT tenant, id FROM chunks WHERE doomed > 0 AND tenant BETWEEN ?1 AND ?2 ORDER BY tenant LIMIT ?3",
        )?
        .query_map(
            params![tenant.unwrap_or(0), tenant.unwrap_or(keys::MAX_TENANT), CHUNKS_AT_ONCE],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .collect::<Result<_, _>>()?;
    for (tenant, chunk) in &doomed {
        purge_chunk(connection, *tenant, *chunk)?;
    }
    Ok(doomed.len() as u64)
}

/// Deletes what is marked of a chunk.
pub(super) fn purge_chunk(connection: &Connection, tenant: i64, chunk: i64) -> Result<(), Failure> {
    let (is_indexed, doomed): (bool, i64) = connection
        .prepare_cached("SELECT indexed, doomed FROM chunks WHERE id = ?1")?
        .query_row([chunk], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if is_indexed {
        let terms: String = connection
            .prepare_cached("SELECT terms FROM passages WHERE chunk = ?1")?
            .query_row([chunk], |row| row.get(0))?;
        for (term, _) in rows::decode::<Vec<(String, u32)>>(&terms)? {
            delete_posting(connection, tenant, &term, chunk)?;
        }
    }
    for space in spaces(connection)? {
        connection
            .prepare_cached("DELETE FROM vectors WHERE id = ?1")?
            .execute([keys::vector(tenant, space, chunk)])?;
    }
    if doomed == ALL {
        connection
            .prepare_cached("DELETE FROM passages WHERE chunk = ?1")?
            .execute([chunk])?;
        connection
            .prepare_cached("DELETE FROM chunks WHERE id = ?1")?
            .execute([chunk])?;
    } else {
        connection
            .prepare_cached("UPDATE passages SET terms = '[]' WHERE chunk = ?1")?
            .execute([chunk])?;
        connection
            .prepare_cached("UPDATE chunks SET indexed = 0, doomed = 0, space = 0, length = 0 WHERE id = ?1")?
            .execute([chunk])?;
    }
    Ok(())
}

fn delete_posting(connection: &Connection, tenant: i64, term: &str, chunk: i64) -> Result<(), Failure> {
    let counted: Option<(i64, i64)> = connection
        .prepare_cached("UPDATE terms SET uses = uses - 1 WHERE tenant = ?1 AND term = ?2 RETURNING n, uses")?
        .query_row(params![tenant, term], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((number, uses)) = counted else { return Ok(()) };
    connection
        .prepare_cached("DELETE FROM postings WHERE tenant = ?1 AND term = ?2 AND chunk = ?3")?
        .execute(params![tenant, number, keys::within(chunk)])?;
    if uses <= 0 {
        connection
            .prepare_cached("DELETE FROM terms WHERE tenant = ?1 AND term = ?2")?
            .execute(params![tenant, term])?;
    }
    Ok(())
}

/// Returns the numbers of all spaces.
pub(super) fn spaces(connection: &Connection) -> Result<Vec<i64>, Failure> {
    let mut statement = connection.prepare_cached("SELECT n FROM spaces")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Deletes some of a tenant; returns what, and whether something may be left.
pub(super) fn erase_some(connection: &Connection, tenant: &TenantId) -> Result<(Erased, bool), Failure> {
    let mut erased = Erased::default();
    if purge(connection, Some(tenant))? > 0 {
        return Ok((erased, true));
    }
    let Some(number) = rows::find_tenant(connection, tenant)? else {
        return Ok((erased, false));
    };
    let documents = {
        let sql = rows::select_documents("WHERE tenant = ?1 LIMIT ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query(params![number, DOCUMENTS_AT_ONCE])?;
        let mut documents = Vec::new();
        while let Some(row) = found.next()? {
            documents.push(rows::document(row)?);
        }
        documents
    };
    for document in &documents {
        let one = delete_document(connection, number, document)?;
        erased.documents += one.documents;
        erased.chunks += one.chunks;
        erased.vectors += one.vectors;
    }
    if !documents.is_empty() {
        return Ok((erased, true));
    }
    let jobs = connection
        .prepare_cached(
            "DELETE FROM jobs WHERE (tenant, id) IN (SELECT tenant, id FROM jobs WHERE tenant = ?1 LIMIT ?2)",
        )?
        .execute(params![number, JOBS_AT_ONCE])?;
    if jobs > 0 {
        return Ok((erased, true));
    }
    connection
        .prepare_cached("DELETE FROM source_positions WHERE tenant = ?1")?
        .execute([number])?;
    connection
        .prepare_cached("DELETE FROM tenants WHERE n = ?1")?
        .execute([number])?;
    Ok((erased, false))
}

/// Deletes some of the jobs that ended before a time; returns how many, 0 at the end.
pub(super) fn forget_jobs(connection: &Connection, ended_before: Timestamp) -> Result<u64, Failure> {
    let sql = "DELETE FROM jobs WHERE (tenant, id) IN
               (SELECT tenant, id FROM jobs WHERE finished_at < ?1 LIMIT ?2)";
    let deleted = connection
        .prepare_cached(sql)?
        .execute(params![rows::nanoseconds(ended_before), JOBS_AT_ONCE])?;
    Ok(deleted as u64)
}
