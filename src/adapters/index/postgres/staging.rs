//! Staging the chunks of a version that waits.

use copilotd_actors::domain::ids::{ChunkId, DocumentId};
use copilotd_actors::ports::{LogError, Space, Vector};
use copilotd_knowledge::index::NewChunk;

use super::rows::{self, signed};
use super::session::{Tx, get};
use super::{spaces, tables};

/// Counts an attempt at a version; see `KnowledgeIndex::begin`.
pub(super) async fn begin(
    tx: &Tx<'_>,
    tenant: &str,
    document: DocumentId,
    version: u64,
) -> Result<Option<u32>, LogError> {
    let Some(waiting) = rows::find_waiting(tx, tenant, document, version).await? else {
        return Ok(None);
    };
    let sql = "UPDATE waiting SET attempts = attempts + 1 WHERE tenant = $1 AND document = $2 RETURNING attempts";
    let attempts: Option<i64> = tx.optional(sql, &[&tenant, &waiting.n]).await?;
    Ok(attempts.map(|attempts| u32::try_from(attempts).unwrap_or(u32::MAX)))
}

/// Records the number of chunks of a version.
pub(super) async fn start(
    tx: &Tx<'_>,
    tenant: &str,
    document: DocumentId,
    version: u64,
    total: u64,
) -> Result<bool, LogError> {
    let Some(waiting) = rows::find_waiting(tx, tenant, document, version).await? else {
        return Ok(false);
    };
    let sql = "UPDATE jobs SET status = $3, total = $4 WHERE tenant = $1 AND id = $2";
    let job = waiting.document.job.uuid();
    tx.execute(sql, &[&tenant, &job, &rows::RUNNING, &signed(total)])
        .await?;
    Ok(true)
}

/// See `KnowledgeIndex::known_chunks`.
pub(super) async fn known_chunks(
    tx: &Tx<'_>,
    tenant: &str,
    document: DocumentId,
    chunks: &[ChunkId],
    space: Option<&Space>,
) -> Result<Vec<ChunkId>, LogError> {
    let with_vector = match space {
        Some(space) => match spaces::find(tx, space).await? {
            Some(known) => format!(
                "AND EXISTS (SELECT FROM {} v WHERE v.tenant = $1 AND v.chunk = c.n)",
                tables::vectors(known.n)
            ),
            None => return Ok(Vec::new()),
        },
        None => String::new(),
    };
    let sql = format!(
        "SELECT c.id FROM unnest($2::uuid[]) WITH ORDINALITY AS asked (id, place)
         JOIN chunks c ON c.tenant = $1 AND c.id = asked.id AND c.live
         JOIN documents d ON d.tenant = $1 AND d.n = c.document AND d.id = $3
         WHERE true {with_vector} ORDER BY asked.place"
    );
    let asked: Vec<uuid::Uuid> = chunks.iter().map(|chunk| chunk.uuid()).collect();
    let known: Vec<uuid::Uuid> = tx.column(&sql, &[&tenant, &asked, &document.uuid()]).await?;
    Ok(known.into_iter().map(ChunkId::new).collect())
}

/// See `KnowledgeIndex::stage`. The spaces of the vectors have tables.
pub(super) async fn stage(
    tx: &Tx<'_>,
    tenant: &str,
    document: DocumentId,
    version: u64,
    chunks: &[NewChunk],
    vectors: &[Vector],
) -> Result<bool, LogError> {
    let Some(waiting) = rows::find_waiting(tx, tenant, document, version).await? else {
        return Ok(false);
    };
    let known = spaces::of(tx, vectors).await?;
    let mut done = 0_i64;
    let mut vectors = vectors.iter();
    for chunk in chunks {
        let (n, staged_for) = ensure_chunk(tx, tenant, waiting.n, chunk).await?;
        if staged_for != signed(version) {
            done += 1;
            let sql = "UPDATE chunks SET staged_for = $3 WHERE tenant = $1 AND n = $2";
            tx.execute(sql, &[&tenant, &n, &signed(version)]).await?;
        }
        if let Some(vector) = vectors.next()
            && let Some(space) = known.get(vector.space())
        {
            // A vector of the same space stays.
            put_vector(tx, tenant, space.n, n, vector, "DO NOTHING").await?;
        }
    }
    tx.execute(
        "UPDATE jobs SET done = done + $3 WHERE tenant = $1 AND id = $2",
        &[&tenant, &waiting.document.job.uuid(), &done],
    )
    .await?;
    if done > 0 {
        let sql = "UPDATE waiting SET attempts = 0 WHERE tenant = $1 AND document = $2 AND attempts > 0";
        tx.execute(sql, &[&tenant, &waiting.n]).await?;
    }
    Ok(true)
}

/// Stores a vector; `conflict` says what happens if the chunk has one of the space.
pub(super) async fn put_vector(
    tx: &Tx<'_>,
    tenant: &str,
    space: i32,
    chunk: i64,
    vector: &Vector,
    conflict: &str,
) -> Result<(), LogError> {
    let sql = format!(
        "INSERT INTO {} (tenant, chunk, embedding) VALUES ($1, $2, $3) ON CONFLICT (tenant, chunk) {conflict}",
        tables::vectors(space)
    );
    let embedding = pgvector::Vector::from(vector.values().to_vec());
    tx.execute(&sql, &[&tenant, &chunk, &embedding]).await?;
    Ok(())
}

/// Stores a chunk unless it is there. Returns its number and the version it was staged for before.
async fn ensure_chunk(tx: &Tx<'_>, tenant: &str, document: i64, chunk: &NewChunk) -> Result<(i64, i64), LogError> {
    let sql = "SELECT n, staged_for, live, document FROM chunks WHERE tenant = $1 AND id = $2";
    let rows = tx.query(sql, &[&tenant, &chunk.id.uuid()]).await?;
    let terms: Vec<&str> = chunk.terms.iter().map(|(term, _)| term.as_str()).collect();
    let counts: Vec<i64> = chunk.terms.iter().map(|(_, count)| i64::from(*count)).collect();
    let length: i64 = counts.iter().sum();
    if let Some(row) = rows.first() {
        let (n, staged_for): (i64, i64) = (get(row, 0)?, get(row, 1)?);
        if get::<i64>(row, 3)? != document {
            return Err(LogError::Refused("a chunk belongs to another document".to_owned()));
        }
        if !get::<bool>(row, 2)? {
            // It was cited and left the searches.
            let sql = "UPDATE chunks SET live = true, length = $3 WHERE tenant = $1 AND n = $2";
            tx.execute(sql, &[&tenant, &n, &length]).await?;
            let sql = "UPDATE passages SET terms = $3, counts = $4 WHERE tenant = $1 AND chunk = $2";
            tx.execute(sql, &[&tenant, &n, &terms, &counts]).await?;
        }
        return Ok((n, staged_for));
    }
    let draft = &chunk.draft;
    let sql =
        "INSERT INTO chunks (tenant, id, document, page, first, after, length) VALUES ($1, $2, $3, $4, $5, $6, $7)
               RETURNING n";
    let n: i64 = tx
        .one(
            sql,
            &[
                &tenant,
                &chunk.id.uuid(),
                &document,
                &draft.page.map(i64::from),
                &signed(draft.start),
                &signed(draft.end),
                &length,
            ],
        )
        .await?;
    let sql = "INSERT INTO passages (tenant, chunk, heading, text, terms, counts) VALUES ($1, $2, $3, $4, $5, $6)";
    let (heading, text) = (draft.heading.as_bytes(), draft.text.as_bytes());
    tx.execute(sql, &[&tenant, &n, &heading, &text, &terms, &counts])
        .await?;
    Ok((n, 0))
}
