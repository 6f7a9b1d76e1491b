//! The end of a version's ingestion: it becomes the searchable one, or fails.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::ids::{ChunkId, DocumentId};
use copilotd_actors::ports::LogError;
use copilotd_knowledge::document::{Document, IngestFailure, Stage};
use copilotd_knowledge::index::{ChunkPlace, Contents, IngestStatus, Published, Quota};
use jiff::Timestamp;
use uuid::Uuid;

use super::rows::{self, DocumentRow, signed};
use super::session::{Tx, get};
use super::{erase, statistics, submit};

/// A live chunk of a document.
struct Live {
    n: i64,
    is_current: bool,
    /// It was cited, and stays readable.
    stays: bool,
}

/// See `KnowledgeIndex::publish`.
pub(super) async fn publish(
    tx: &Tx<'_>,
    tenant: &str,
    (document, version): (DocumentId, u64),
    Contents { title, chunks }: &Contents,
    quota: &Quota,
    at: Timestamp,
) -> Result<Published, LogError> {
    let Some(DocumentRow { n, mut document }) = rows::find_waiting(tx, tenant, document, version).await? else {
        return Ok(Published::Superseded);
    };
    let live = live_chunks(tx, tenant, n).await?;
    let refused = || LogError::Refused("a chunk to be published is not stored, or occurs twice".to_owned());
    let mut listed = HashSet::new();
    let mut entering = Vec::new();
    let mut numbers = Vec::with_capacity(chunks.len());
    for (chunk, _) in chunks {
        let found = live.get(&chunk.uuid()).ok_or_else(refused)?;
        if !listed.insert(found.n) {
            return Err(refused());
        }
        if !found.is_current {
            entering.push(found.n);
        }
        numbers.push(found.n);
    }
    let (count, totals) = (chunks.len() as u64, submit::totals(tx, tenant).await?);
    if totals.chunks.saturating_sub(document.chunks) + count > quota.chunks {
        return Ok(Published::QuotaExceeded);
    }
    place(tx, tenant, version, &numbers, chunks).await?;
    statistics::enter(tx, tenant, &entering).await?;
    retire(tx, tenant, live.values().filter(|chunk| !listed.contains(&chunk.n))).await?;
    let sql = "UPDATE jobs SET done = $3, total = $3 WHERE tenant = $1 AND id = $2";
    tx.execute(sql, &[&tenant, &document.job.uuid(), &signed(count)])
        .await?;
    document.chunks = count;
    document.attributes.content_title.clone_from(title);
    end(tx, tenant, (n, document), Stage::Searchable, None, at).await?;
    let sql = "UPDATE work_tenants SET published = published + 1 WHERE tenant = $1";
    tx.execute(sql, &[&tenant]).await?;
    Ok(Published::Done)
}

async fn live_chunks(tx: &Tx<'_>, tenant: &str, document: i64) -> Result<HashMap<Uuid, Live>, LogError> {
    let sql = "SELECT id, n, current, cited AND published FROM chunks WHERE tenant = $1 AND document = $2 AND live";
    let rows = tx.query(sql, &[&tenant, &document]).await?;
    let live = rows.iter().map(|row| {
        let chunk = Live {
            n: get(row, 1)?,
            is_current: get(row, 2)?,
            stays: get(row, 3)?,
        };
        Ok((get(row, 0)?, chunk))
    });
    live.collect()
}

/// Makes chunks current, in their order.
async fn place(
    tx: &Tx<'_>,
    tenant: &str,
    version: u64,
    numbers: &[i64],
    chunks: &[(ChunkId, ChunkPlace)],
) -> Result<(), LogError> {
    let column = |value: fn(&ChunkPlace) -> Option<i64>| -> Vec<Option<i64>> {
        chunks.iter().map(|(_, place)| value(place)).collect()
    };
    let pages = column(|place| place.page.map(i64::from));
    let starts = column(|place| Some(signed(place.start)));
    let ends = column(|place| Some(signed(place.end)));
    let sql =
        "UPDATE chunks c SET current = true, since = CASE WHEN c.published THEN c.since ELSE $2 END, published = true,
                   ordinal = p.place - 1, page = p.page, first = p.first, after = p.after
               FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) WITH ORDINALITY
                   AS p (n, page, first, after, place)
               WHERE c.tenant = $1 AND c.n = p.n
                 AND (c.current, c.ordinal, c.page, c.first, c.after)
                     IS DISTINCT FROM (true, p.place - 1, p.page, p.first, p.after)";
    tx.execute(sql, &[&tenant, &signed(version), &numbers, &pages, &starts, &ends])
        .await?;
    Ok(())
}

/// Takes live chunks out of the searches: cited ones stay readable, others are deleted.
async fn retire<'a>(tx: &Tx<'_>, tenant: &str, chunks: impl Iterator<Item = &'a Live>) -> Result<(), LogError> {
    let (mut leaving, mut staying, mut going) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in chunks {
        if chunk.is_current {
            leaving.push(chunk.n);
        }
        let kept = if chunk.stays { &mut staying } else { &mut going };
        kept.push(chunk.n);
    }
    statistics::leave(tx, tenant, &leaving).await?;
    erase::delete_vectors(tx, tenant, &staying).await?;
    let sql = "UPDATE chunks SET current = false, live = false, length = 0 WHERE tenant = $1 AND n = ANY ($2)";
    tx.execute(sql, &[&tenant, &staying]).await?;
    let sql = "UPDATE passages SET terms = '{}', counts = '{}' WHERE tenant = $1 AND chunk = ANY ($2)";
    tx.execute(sql, &[&tenant, &staying]).await?;
    erase::delete_chunks(tx, tenant, &going).await?;
    Ok(())
}

/// See `KnowledgeIndex::fail`.
pub(super) async fn fail(
    tx: &Tx<'_>,
    tenant: &str,
    (document, version): (DocumentId, u64),
    failure: &IngestFailure,
    at: Timestamp,
) -> Result<bool, LogError> {
    let Some(DocumentRow { n, document }) = rows::find_waiting(tx, tenant, document, version).await? else {
        return Ok(false);
    };
    let live = live_chunks(tx, tenant, n).await?;
    retire(tx, tenant, live.values().filter(|chunk| !chunk.is_current)).await?;
    end(tx, tenant, (n, document), Stage::Failed, Some(failure), at).await?;
    Ok(true)
}

async fn end(
    tx: &Tx<'_>,
    tenant: &str,
    (n, mut document): (i64, Document),
    stage: Stage,
    failure: Option<&IngestFailure>,
    at: Timestamp,
) -> Result<(), LogError> {
    document.stage = stage;
    document.failure = failure.cloned();
    rows::update_document(tx, tenant, n, &document).await?;
    erase::delete_waiting(tx, tenant, n).await?;
    let status = failure.map_or(IngestStatus::Completed, |failure| IngestStatus::Failed(failure.clone()));
    rows::end_job(tx, tenant, document.job, &status, at).await
}
