//! The nearest vectors of the tenant.
//!
//! Up to some number of readable chunks every vector is compared, which is exact. Of more, the server finds near ones by
//! its graph (HNSW), going on until enough of them pass the filters; if it gives up before, all are compared. Scores are
//! computed here from the stored numbers, so that they agree with other indexes to the last bit.

use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::{LogError, Vector};
use copilotd_knowledge::index::Hit;
use tokio_postgres::Row;

use super::super::rows::most;
use super::super::session::{Tx, get};
use super::super::spaces::{self, KnownSpace};
use super::super::tables::{self, MAX_GRAPH_DIMENSIONS};
use super::{Filters, READABLE};

/// The server's sums of 32-bit products differ from ours by less than this: dimensions × 2^-24 for vectors of length 1.
const ROUNDING: f64 = 1e-4;
/// Most chunks beyond the limit that are read because they are as near as the last one.
const TIED: usize = 4_000;
/// Candidates that a search of the graph keeps: at least, and at most (the extension's own bound).
const CANDIDATES: (usize, usize) = (400, 1_000);
/// Vectors that a search of the graph looks at before it gives up.
const SCANNED: u32 = 100_000;

/// Returns the best chunks, best first. `readable`: about how many chunks pass the filters.
pub(super) async fn search(
    tx: &Tx<'_>,
    filters: &Filters<'_>,
    question: &Vector,
    limit: usize,
    readable: u64,
    exact: u64,
) -> Result<Vec<Hit>, LogError> {
    let Some(space) = spaces::find(tx, question.space()).await? else {
        return Ok(Vec::new());
    };
    if space.dimensions != question.values().len() {
        return Ok(Vec::new());
    }
    if readable > exact && space.dimensions <= MAX_GRAPH_DIMENSIONS {
        let hits = by_graph(tx, filters, question, limit, space).await?;
        if hits.len() >= limit {
            return Ok(super::best(hits, limit));
        }
    }
    let hits = by_comparison(tx, filters, question, limit, space).await?;
    Ok(super::best(hits, limit))
}

/// Compares all. No ORDER BY near the vectors: it would invite the server to use the graph.
async fn by_comparison(
    tx: &Tx<'_>,
    filters: &Filters<'_>,
    question: &Vector,
    limit: usize,
    space: KnownSpace,
) -> Result<Vec<Hit>, LogError> {
    let vectors = tables::vectors(space.n);
    let sql = format!(
        "WITH readable AS MATERIALIZED (SELECT d.n FROM documents d WHERE {READABLE}),
              compared AS MATERIALIZED (
                  SELECT c.n, c.id, v.embedding <#> $6 AS distance FROM chunks c
                  JOIN {vectors} v ON v.tenant = $1 AND v.chunk = c.n
                  WHERE c.tenant = $1 AND c.current AND c.document IN (SELECT n FROM readable)),
              wanted AS (
                  SELECT n, id, distance FROM compared
                  WHERE distance <= coalesce((SELECT distance FROM compared ORDER BY distance OFFSET $7 LIMIT 1), 'Infinity') + $9
                  ORDER BY distance, id LIMIT $8)
         SELECT w.id, (SELECT v.embedding FROM {vectors} v WHERE v.tenant = $1 AND v.chunk = w.n) FROM wanted w"
    );
    let embedding = pgvector::Vector::from(question.values().to_vec());
    let (last, at_most) = (most(limit.saturating_sub(1)), most(limit.saturating_add(TIED)));
    let parameters = filters.with(&[&embedding, &last, &at_most, &ROUNDING]);
    let rows = tx.query(&sql, &parameters).await?;
    rows.iter().map(|row| hit(row, question)).collect()
}

/// Asks the graph, which knows tenants of the same partition too. In relaxed order: the strict one drops whatever is found
/// late and near, and the hits are sorted by their scores anyway. More are read than wanted for the same reason.
async fn by_graph(
    tx: &Tx<'_>,
    filters: &Filters<'_>,
    question: &Vector,
    limit: usize,
    space: KnownSpace,
) -> Result<Vec<Hit>, LogError> {
    let candidates = limit.saturating_mul(2).clamp(CANDIDATES.0, CANDIDATES.1);
    // Without sorting and hashing only the graph gives the order.
    tx.batch(&format!(
        "SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = {candidates};
         SET LOCAL hnsw.max_scan_tuples = {SCANNED}; SET LOCAL enable_sort = off; SET LOCAL enable_hashjoin = off;
         SET LOCAL enable_mergejoin = off"
    ))
    .await?;
    let sql = format!(
        "SELECT c.id, v.embedding FROM {} v
         JOIN chunks c ON c.tenant = $1 AND c.n = v.chunk AND c.current
         JOIN documents d ON d.n = c.document AND {READABLE}
         WHERE v.tenant = $1 ORDER BY v.embedding <#> $6 LIMIT $7",
        tables::vectors(space.n)
    );
    let embedding = pgvector::Vector::from(question.values().to_vec());
    let wanted = most(limit.saturating_mul(2));
    let rows = tx.query(&sql, &filters.with(&[&embedding, &wanted])).await?;
    tx.batch("SET LOCAL enable_sort = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")
        .await?;
    rows.iter().map(|row| hit(row, question)).collect()
}

fn hit(row: &Row, question: &Vector) -> Result<Hit, LogError> {
    let stored: pgvector::Vector = get(row, 1)?;
    Ok(Hit {
        chunk: ChunkId::new(get(row, 0)?),
        score: f64::from(question.cosine_to_unit(stored.as_slice())),
    })
}
