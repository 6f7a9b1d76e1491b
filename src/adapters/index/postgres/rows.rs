//! How documents, jobs and chunks are stored as rows.

use copilotd_actors::domain::ids::{ChunkId, DocumentId, JobId};
use copilotd_actors::ports::LogError;
use copilotd_knowledge::chunk::{Chunk, ChunkDraft};
use copilotd_knowledge::document::{Access, Attributes, Document, DocumentKey, Reader};
use copilotd_knowledge::index::{IngestJob, IngestStatus};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;

use super::session::{Tx, get};
use crate::adapters::index::stored::{QUEUED, document_key, stage, stage_number, status, status_columns, time};
pub(super) use crate::adapters::index::stored::{RUNNING, decode, encode, nanoseconds, stored_scope};

/// A document as it is stored.
pub(super) struct DocumentRow {
    /// Its number.
    pub(super) n: i64,
    pub(super) document: Document,
}

const DOCUMENT: &str = "n, id, collection, external_id, version, hash, format, bytes, stage, failure, job, chunks, \
                        created_at, updated_at, attributes";

/// Returns a SELECT of documents; `rest` is what follows FROM.
pub(super) fn select_documents(rest: &str) -> String {
    format!("SELECT {DOCUMENT} FROM documents {rest}")
}

/// Reads a row of [`select_documents`].
pub(super) fn document(row: &Row) -> Result<DocumentRow, LogError> {
    let failure: Option<String> = get(row, 9)?;
    let hash: Vec<u8> = get(row, 5)?;
    let document = Document {
        id: DocumentId::new(get(row, 1)?),
        key: document_key(&get::<String>(row, 2)?, &get::<String>(row, 3)?)?,
        version: unsigned(get(row, 4)?),
        content_hash: hash
            .try_into()
            .map_err(|_| LogError::Corrupt("a hash in the index has another length".to_owned()))?,
        format: decode(&get::<String>(row, 6)?)?,
        bytes: unsigned(get(row, 7)?),
        stage: stage(get(row, 8)?),
        failure: failure.as_deref().map(decode).transpose()?,
        job: JobId::new(get(row, 10)?),
        chunks: unsigned(get(row, 11)?),
        created_at: time(get(row, 12)?)?,
        updated_at: time(get(row, 13)?)?,
        attributes: decode(&get::<String>(row, 14)?)?,
    };
    Ok(DocumentRow {
        n: get(row, 0)?,
        document,
    })
}

/// Finds a document by its key.
pub(super) async fn find_document(
    tx: &Tx<'_>,
    tenant: &str,
    key: &DocumentKey,
) -> Result<Option<DocumentRow>, LogError> {
    let sql = select_documents("WHERE tenant = $1 AND collection = $2 AND external_id = $3");
    let rows = tx
        .query(&sql, &[&tenant, &key.collection.as_str(), &key.external_id.as_str()])
        .await?;
    rows.first().map(document).transpose()
}

/// Finds a document by its id, if this version of it waits.
pub(super) async fn find_waiting(
    tx: &Tx<'_>,
    tenant: &str,
    id: DocumentId,
    version: u64,
) -> Result<Option<DocumentRow>, LogError> {
    let sql = select_documents("WHERE tenant = $1 AND id = $2 AND version = $3 AND stage = 0");
    let rows = tx.query(&sql, &[&tenant, &id.uuid(), &signed(version)]).await?;
    rows.first().map(document).transpose()
}

/// Stores all that can change of a document.
pub(super) async fn update_document(tx: &Tx<'_>, tenant: &str, n: i64, document: &Document) -> Result<(), LogError> {
    let failure = document.failure.as_ref().map(encode).transpose()?;
    let attributes = &document.attributes;
    let sql =
        "UPDATE documents SET version = $3, hash = $4, format = $5, bytes = $6, stage = $7, failure = $8, job = $9,
                   chunks = $10, updated_at = $11, attributes = $12, everyone = $13, readers = $14, labels = $15
               WHERE tenant = $1 AND n = $2";
    tx.execute(
        sql,
        &[
            &tenant,
            &n,
            &signed(document.version),
            &document.content_hash.as_slice(),
            &encode(&document.format)?,
            &signed(document.bytes),
            &stage_number(document.stage),
            &failure,
            &document.job.uuid(),
            &signed(document.chunks),
            &nanoseconds(document.updated_at),
            &encode(attributes)?,
            &(attributes.access == Access::Everyone),
            &readers(&attributes.access)?,
            &labels(attributes.metadata.iter())?,
        ],
    )
    .await?;
    Ok(())
}

/// Who is listed: `u` or `r` for a user or a role, and the name as JSON.
fn readers(access: &Access) -> Result<Vec<String>, LogError> {
    let Access::Listed { users, roles } = access else {
        return Ok(Vec::new());
    };
    let users = users.iter().map(|user| entry('u', user.as_str()));
    users.chain(roles.iter().map(|role| entry('r', role))).collect()
}

fn entry(kind: char, name: &str) -> Result<String, LogError> {
    Ok(format!("{kind}{}", encode(&name)?))
}

/// Returns whether a reader sees everything, and the entries of `readers` that let it see a document.
pub(super) fn entries(reader: &Reader) -> Result<(bool, Vec<String>), LogError> {
    match reader {
        Reader::Administrator => Ok((true, Vec::new())),
        Reader::Caller { user: None, .. } => Ok((false, Vec::new())),
        Reader::Caller {
            user: Some(user),
            roles,
        } => {
            let roles = roles.iter().map(|role| entry('r', role));
            let entries: Result<Vec<String>, LogError> = roles.chain([entry('u', user.as_str())]).collect();
            Ok((false, entries?))
        }
    }
}

/// Metadata: each name and value as a JSON array.
pub(super) fn labels<'a>(pairs: impl Iterator<Item = (&'a String, &'a Value)>) -> Result<Vec<String>, LogError> {
    pairs.map(|pair| encode(&pair)).collect()
}

const CHUNK: &str = "c.id, c.since, c.current, c.ordinal, c.page, c.first, c.after, p.heading, p.text, d.id, \
                     d.collection, d.external_id, d.attributes";

/// Returns a SELECT of published chunks `c` of the tenant `$1` with their documents `d`; `rest` is the condition.
pub(super) fn select_chunks(rest: &str) -> String {
    format!(
        "SELECT {CHUNK} FROM chunks c JOIN passages p ON p.tenant = $1 AND p.chunk = c.n
         JOIN documents d ON d.tenant = $1 AND d.n = c.document
         WHERE c.tenant = $1 AND c.published AND {rest}"
    )
}

/// Reads a row of [`select_chunks`], with the attributes of its document.
pub(super) fn chunk(row: &Row) -> Result<(Chunk, Attributes), LogError> {
    let attributes: Attributes = decode(&get::<String>(row, 12)?)?;
    let chunk = Chunk {
        id: ChunkId::new(get(row, 0)?),
        document: DocumentId::new(get(row, 9)?),
        key: document_key(&get::<String>(row, 10)?, &get::<String>(row, 11)?)?,
        title: attributes.shown_title().map(str::to_owned),
        uri: attributes.uri.clone(),
        since: unsigned(get(row, 1)?),
        is_current: get(row, 2)?,
        ordinal: narrow(get(row, 3)?)?,
        draft: ChunkDraft {
            text: text(get(row, 8)?)?,
            heading: text(get(row, 7)?)?,
            page: get::<Option<i64>>(row, 4)?.map(narrow).transpose()?,
            start: unsigned(get(row, 5)?),
            end: unsigned(get(row, 6)?),
        },
    };
    Ok((chunk, attributes))
}

/// Stores a job that waits.
pub(super) async fn insert_job(
    tx: &Tx<'_>,
    tenant: &str,
    job: JobId,
    key: &DocumentKey,
    at: Timestamp,
) -> Result<(), LogError> {
    let sql = "INSERT INTO jobs (tenant, id, collection, external_id, status, created_at) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (tenant, id) DO UPDATE SET collection = excluded.collection, external_id = excluded.external_id,
                   status = excluded.status, failure = NULL, done = 0, total = NULL, created_at = excluded.created_at,
                   finished_at = NULL";
    let (collection, external_id) = (key.collection.as_str(), key.external_id.as_str());
    tx.execute(
        sql,
        &[
            &tenant,
            &job.uuid(),
            &collection,
            &external_id,
            &QUEUED,
            &nanoseconds(at),
        ],
    )
    .await?;
    Ok(())
}

/// Ends a job, unless it has ended.
pub(super) async fn end_job(
    tx: &Tx<'_>,
    tenant: &str,
    job: JobId,
    status: &IngestStatus,
    at: Timestamp,
) -> Result<(), LogError> {
    let (number, failure) = status_columns(status)?;
    let sql = "UPDATE jobs SET status = $3, failure = $4, finished_at = $5
               WHERE tenant = $1 AND id = $2 AND finished_at IS NULL";
    let at = nanoseconds(at);
    tx.execute(sql, &[&tenant, &job.uuid(), &number, &failure, &at]).await?;
    // `least` ignores NULL.
    tx.execute(
        "UPDATE work_tenants SET ended = least(ended, $2) WHERE tenant = $1",
        &[&tenant, &at],
    )
    .await?;
    Ok(())
}

/// Finds a job.
pub(super) async fn find_job(tx: &Tx<'_>, tenant: &str, job: JobId) -> Result<Option<IngestJob>, LogError> {
    let sql = "SELECT collection, external_id, status, failure, done, total, created_at, finished_at FROM jobs
               WHERE tenant = $1 AND id = $2";
    let rows = tx.query(sql, &[&tenant, &job.uuid()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let failure: Option<String> = get(row, 3)?;
    Ok(Some(IngestJob {
        id: job,
        key: document_key(&get::<String>(row, 0)?, &get::<String>(row, 1)?)?,
        status: status(get(row, 2)?, failure.as_deref())?,
        done: unsigned(get(row, 4)?),
        total: get::<Option<i64>>(row, 5)?.map(unsigned),
        created_at: time(get(row, 6)?)?,
        finished_at: get::<Option<i64>>(row, 7)?.map(time).transpose()?,
    }))
}

/// Reads a text that is stored as bytes.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, LogError> {
    String::from_utf8(bytes).map_err(|_| LogError::Corrupt("a text in the index is not UTF-8".to_owned()))
}

fn narrow(number: i64) -> Result<u32, LogError> {
    u32::try_from(number).map_err(|_| LogError::Corrupt("a number in the index is too large".to_owned()))
}

/// Counts and sizes are far below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Counts and sizes are never negative.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Returns a limit as a parameter.
pub(super) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
