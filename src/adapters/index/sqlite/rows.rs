//! How documents, jobs and chunks are stored as rows.

use copilotd_actors::domain::ids::{ChunkId, DocumentId, JobId, TenantId};
use copilotd_actors::ports::Space;
use copilotd_knowledge::chunk::{Chunk, ChunkDraft};
use copilotd_knowledge::document::{Attributes, Document, DocumentKey};
use copilotd_knowledge::index::{IngestJob, IngestStatus};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::keys;
use crate::adapters::index::stored::{QUEUED, document_key, stage, status, status_columns, time};
pub(super) use crate::adapters::index::stored::{RUNNING, decode, encode, nanoseconds, stage_number, stored_scope};
use crate::adapters::sqlite::failure::Failure;

/// A document as it is stored.
pub(super) struct DocumentRow {
    /// Its key in the tables.
    pub(super) id: i64,
    pub(super) document: Document,
}

const DOCUMENT: &str = "id, uuid, collection, external_id, version, hash, format, bytes, stage, failure, job, chunks, \
                        created_at, updated_at, attributes";

/// Returns a SELECT of documents; `rest` is what follows FROM.
pub(super) fn select_documents(rest: &str) -> String {
    format!("SELECT {DOCUMENT} FROM documents {rest}")
}

/// Reads a row of [`select_documents`].
pub(super) fn document(row: &Row<'_>) -> Result<DocumentRow, Failure> {
    let failure: Option<String> = row.get(9)?;
    let document = Document {
        id: DocumentId::new(row.get(1)?),
        key: document_key(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?)?,
        version: row.get(4)?,
        content_hash: row.get(5)?,
        format: decode(&row.get::<_, String>(6)?)?,
        bytes: row.get(7)?,
        stage: stage(row.get(8)?),
        failure: failure.as_deref().map(decode).transpose()?,
        job: JobId::new(row.get(10)?),
        chunks: row.get(11)?,
        created_at: time(row.get(12)?)?,
        updated_at: time(row.get(13)?)?,
        attributes: decode(&row.get::<_, String>(14)?)?,
    };
    Ok(DocumentRow {
        id: row.get(0)?,
        document,
    })
}

/// Finds a document by its key.
pub(super) fn find_document(
    connection: &Connection,
    tenant: i64,
    key: &DocumentKey,
) -> Result<Option<DocumentRow>, Failure> {
    let sql = select_documents("WHERE tenant = ?1 AND collection = ?2 AND external_id = ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![tenant, key.collection.as_str(), key.external_id.as_str()])?;
    rows.next()?.map(document).transpose()
}

/// Finds a document by its id, if this version of it waits.
pub(super) fn find_waiting(
    connection: &Connection,
    tenant: i64,
    document_id: DocumentId,
    version: u64,
) -> Result<Option<DocumentRow>, Failure> {
    let sql = select_documents("WHERE tenant = ?1 AND uuid = ?2 AND version = ?3 AND stage = 0");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![tenant, document_id.uuid(), version])?;
    rows.next()?.map(document).transpose()
}

/// Finds the number of a tenant.
pub(super) fn find_tenant(connection: &Connection, tenant: &TenantId) -> Result<Option<i64>, Failure> {
    let mut statement = connection.prepare_cached("SELECT n FROM tenants WHERE name = ?1")?;
    Ok(statement.query_row([tenant.as_str()], |row| row.get(0)).optional()?)
}

const CHUNK: &str = "c.uuid, c.since, c.current, c.ordinal, c.page, c.start, c.end, p.heading, p.text, d.uuid, \
                     d.collection, d.external_id, d.attributes";

/// Returns a SELECT of chunks `c` with their documents `d`; `rest` is the condition.
pub(super) fn select_chunks(rest: &str) -> String {
    format!(
        "SELECT {CHUNK} FROM chunks c JOIN passages p ON p.chunk = c.id JOIN documents d ON d.id = c.document
         WHERE c.published = 1 AND c.doomed < 2 AND {rest}"
    )
}

/// Reads a row of [`select_chunks`], with the attributes of its document.
pub(super) fn chunk(row: &Row<'_>) -> Result<(Chunk, Attributes), Failure> {
    let attributes: Attributes = decode(&row.get::<_, String>(12)?)?;
    let chunk = Chunk {
        id: ChunkId::new(row.get(0)?),
        document: DocumentId::new(row.get(9)?),
        key: document_key(&row.get::<_, String>(10)?, &row.get::<_, String>(11)?)?,
        title: attributes.shown_title().map(str::to_owned),
        uri: attributes.uri.clone(),
        since: row.get(1)?,
        is_current: row.get(2)?,
        ordinal: row.get(3)?,
        draft: ChunkDraft {
            text: row.get(8)?,
            heading: row.get(7)?,
            page: row.get(4)?,
            start: row.get(5)?,
            end: row.get(6)?,
        },
    };
    Ok((chunk, attributes))
}

/// Stores a job that waits.
pub(super) fn insert_job(
    connection: &Connection,
    tenant: i64,
    job: JobId,
    key: &DocumentKey,
    at: Timestamp,
) -> Result<(), Failure> {
    let sql = "INSERT OR REPLACE INTO jobs (tenant, id, collection, external_id, status, done, created_at)
               VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)";
    connection.prepare_cached(sql)?.execute(params![
        tenant,
        job.uuid(),
        key.collection.as_str(),
        key.external_id.as_str(),
        QUEUED,
        nanoseconds(at)
    ])?;
    Ok(())
}

/// Ends a job, unless it has ended.
pub(super) fn end_job(
    connection: &Connection,
    tenant: i64,
    job: JobId,
    status: &IngestStatus,
    at: Timestamp,
) -> Result<(), Failure> {
    let (number, failure) = status_columns(status)?;
    let sql = "UPDATE jobs SET status = ?3, failure = ?4, finished_at = ?5
               WHERE tenant = ?1 AND id = ?2 AND finished_at IS NULL";
    connection
        .prepare_cached(sql)?
        .execute(params![tenant, job.uuid(), number, failure, nanoseconds(at)])?;
    Ok(())
}

/// Finds a job.
pub(super) fn find_job(connection: &Connection, tenant: i64, job: JobId) -> Result<Option<IngestJob>, Failure> {
    let sql = "SELECT collection, external_id, status, failure, done, total, created_at, finished_at FROM jobs
               WHERE tenant = ?1 AND id = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![tenant, job.uuid()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let failure: Option<String> = row.get(3)?;
    let finished_at: Option<i64> = row.get(7)?;
    Ok(Some(IngestJob {
        id: job,
        key: document_key(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?)?,
        status: status(row.get(2)?, failure.as_deref())?,
        done: row.get(4)?,
        total: row.get(5)?,
        created_at: time(row.get(6)?)?,
        finished_at: finished_at.map(time).transpose()?,
    }))
}

/// Returns the number of a space, if it has one.
pub(super) fn find_space(connection: &Connection, name: &str) -> Result<Option<i64>, Failure> {
    let mut statement = connection.prepare_cached("SELECT n FROM spaces WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

/// Returns the names of all spaces, in their order.
pub(super) fn space_names(connection: &Connection) -> Result<Vec<Space>, Failure> {
    let mut statement = connection.prepare_cached("SELECT name FROM spaces ORDER BY name")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    Ok(names.map(|name| name.map(Space::from)).collect::<Result<_, _>>()?)
}

/// Returns the number of a space; gives it the smallest free one if it has none.
pub(super) fn ensure_space(connection: &Connection, name: &str) -> Result<i64, Failure> {
    if let Some(number) = find_space(connection, name)? {
        return Ok(number);
    }
    let taken: Vec<i64> = connection
        .prepare_cached("SELECT n FROM spaces ORDER BY n")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let free = (1..).zip(taken.iter()).find(|(number, taken)| number != *taken);
    let number = free.map_or(taken.len() as i64 + 1, |(number, _)| number);
    keys::check(number, keys::MAX_SPACE, "spaces of vectors")?;
    connection
        .prepare_cached("INSERT INTO spaces (n, name) VALUES (?1, ?2)")?
        .execute(params![number, name])?;
    Ok(number)
}

/// Returns the stored form of a vector's numbers.
pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Reads the stored form of a vector's numbers into `values`, which is reused.
pub(super) fn read_numbers(bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    values.extend(
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|number| f32::from_le_bytes(*number)),
    );
}
