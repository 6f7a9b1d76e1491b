//! The end of a version's ingestion: it becomes the searchable one, or fails.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::ids::{ChunkId, DocumentId, TenantId};
use copilotd_actors::ports::LogError;
use copilotd_knowledge::document::{IngestFailure, Stage};
use copilotd_knowledge::index::{ChunkPlace, Contents, IngestStatus, Published, Quota};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::erase::{ALL, POSTINGS};
use super::rows::DocumentRow;
use super::{rows, submit};
use crate::adapters::sqlite::failure::Failure;

/// How the statistics of a tenant change when chunks become current or no longer are.
#[derive(Default)]
pub(super) struct Change {
    chunks: i64,
    length: i64,
    containing: HashMap<String, i64>,
}

impl Change {
    /// Counts a chunk that becomes current (1) or no longer is (-1).
    pub(super) fn add(&mut self, connection: &Connection, chunk: i64, sign: i64) -> Result<(), Failure> {
        let terms: String = connection
            .prepare_cached("SELECT terms FROM passages WHERE chunk = ?1")?
            .query_row([chunk], |row| row.get(0))?;
        self.chunks += sign;
        for (term, count) in rows::decode::<Vec<(String, u32)>>(&terms)? {
            self.length += sign * i64::from(count);
            *self.containing.entry(term).or_default() += sign;
        }
        Ok(())
    }

    /// Stores the change.
    pub(super) fn store(self, connection: &Connection, tenant: i64) -> Result<(), Failure> {
        connection
            .prepare_cached("UPDATE tenants SET chunks = chunks + ?2, terms = terms + ?3 WHERE n = ?1")?
            .execute(params![tenant, self.chunks, self.length])?;
        let mut update =
            connection.prepare_cached("UPDATE terms SET current = current + ?3 WHERE tenant = ?1 AND term = ?2")?;
        for (term, change) in self.containing.into_iter().filter(|(_, change)| *change != 0) {
            update.execute(params![tenant, term, change])?;
        }
        Ok(())
    }
}

/// See `KnowledgeIndex::publish`.
pub(super) fn publish(
    connection: &Connection,
    tenant: &TenantId,
    (document, version): (DocumentId, u64),
    Contents { title, chunks }: &Contents,
    quota: &Quota,
    at: Timestamp,
) -> Result<Published, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(Published::Superseded);
    };
    let Some(DocumentRow { id, mut document }) = rows::find_waiting(connection, tenant, document, version)? else {
        return Ok(Published::Superseded);
    };
    let listed = find_listed(connection, tenant, id, chunks)?;
    let (count, totals) = (chunks.len() as u64, submit::totals(connection, tenant)?);
    if totals.chunks.saturating_sub(document.chunks) + count > quota.chunks {
        return Ok(Published::QuotaExceeded);
    }
    let mut change = Change::default();
    let mut place = connection.prepare_cached(
        "UPDATE chunks SET current = 1, since = CASE published WHEN 1 THEN since ELSE ?2 END, published = 1,
             ordinal = ?3, page = ?4, start = ?5, end = ?6
         WHERE id = ?1 AND (current, ordinal, page, start, end) IS NOT (1, ?3, ?4, ?5, ?6)",
    )?;
    for (ordinal, ((chunk, was_current), (_, at))) in (0_u32..).zip(listed.iter().zip(chunks)) {
        if !was_current {
            change.add(connection, *chunk, 1)?;
        }
        place.execute(params![chunk, version, ordinal, at.page, at.start, at.end])?;
    }
    let listed: HashSet<i64> = listed.into_iter().map(|(chunk, _)| chunk).collect();
    retire(connection, id, &mut change, |chunk, _| !listed.contains(&chunk))?;
    change.store(connection, tenant)?;
    connection
        .prepare_cached("UPDATE jobs SET done = ?3, total = ?3 WHERE tenant = ?1 AND id = ?2")?
        .execute(params![tenant, document.job.uuid(), count])?;
    document.chunks = count;
    document.attributes.content_title.clone_from(title);
    end(connection, tenant, (id, document), Stage::Searchable, None, at)?;
    Ok(Published::Done)
}

/// Finds the chunks of a version, in order, and whether each is current already.
fn find_listed(
    connection: &Connection,
    tenant: i64,
    document: i64,
    chunks: &[(ChunkId, ChunkPlace)],
) -> Result<Vec<(i64, bool)>, Failure> {
    let mut find = connection.prepare_cached(
        "SELECT id, current FROM chunks
         WHERE tenant = ?1 AND uuid = ?2 AND document = ?3 AND indexed = 1 AND doomed = 0",
    )?;
    let refused = || LogError::Refused("a chunk to be published is not stored, or occurs twice".to_owned());
    let mut seen = HashSet::new();
    let mut found = Vec::with_capacity(chunks.len());
    for (chunk, _) in chunks {
        let row = find.query_row(params![tenant, chunk.uuid(), document], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        let (id, is_current) = row.optional()?.ok_or_else(refused)?;
        if !seen.insert(id) {
            return Err(refused().into());
        }
        found.push((id, is_current));
    }
    Ok(found)
}

/// Takes chunks of a document out of the searches: cited ones stay readable, others are deleted soon. `leaves` decides
/// by the chunk's key and whether it is current.
pub(super) fn retire(
    connection: &Connection,
    document: i64,
    change: &mut Change,
    leaves: impl Fn(i64, bool) -> bool,
) -> Result<(), Failure> {
    let mut find = connection.prepare_cached(
        "SELECT id, current, cited AND published FROM chunks WHERE document = ?1 AND indexed = 1 AND doomed = 0",
    )?;
    let found: Vec<(i64, bool, bool)> = find
        .query_map([document], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut doom = connection.prepare_cached("UPDATE chunks SET current = 0, doomed = ?2 WHERE id = ?1")?;
    for (chunk, is_current, stays) in found {
        if leaves(chunk, is_current) {
            if is_current {
                change.add(connection, chunk, -1)?;
            }
            doom.execute(params![chunk, if stays { POSTINGS } else { ALL }])?;
        }
    }
    Ok(())
}

/// See `KnowledgeIndex::fail`.
pub(super) fn fail(
    connection: &Connection,
    tenant: &TenantId,
    (document, version): (DocumentId, u64),
    failure: &IngestFailure,
    at: Timestamp,
) -> Result<bool, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(false);
    };
    let Some(DocumentRow { id, document }) = rows::find_waiting(connection, tenant, document, version)? else {
        return Ok(false);
    };
    let mut change = Change::default();
    retire(connection, id, &mut change, |_, is_current| !is_current)?;
    change.store(connection, tenant)?;
    end(connection, tenant, (id, document), Stage::Failed, Some(failure), at)?;
    Ok(true)
}

fn end(
    connection: &Connection,
    tenant: i64,
    (id, mut document): (i64, copilotd_knowledge::document::Document),
    stage: Stage,
    failure: Option<&IngestFailure>,
    at: Timestamp,
) -> Result<(), Failure> {
    document.stage = stage;
    document.failure = failure.cloned();
    submit::update(connection, id, &document)?;
    connection
        .prepare_cached("DELETE FROM waiting WHERE document = ?1")?
        .execute([id])?;
    let status = failure.map_or(IngestStatus::Completed, |failure| IngestStatus::Failed(failure.clone()));
    rows::end_job(connection, tenant, document.job, &status, at)
}
