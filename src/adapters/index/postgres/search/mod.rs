//! The two searches.
//!
//! Both are queries over rows of the tenant, with the filters for collection, access and metadata inside them.

mod lexical;
mod semantic;

use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::{LogError, Space};
use copilotd_knowledge::index::{Candidates, Hit, Search};
use copilotd_knowledge::lexical::Statistics;

use super::rows;
use super::session::{Parameter, Tx, get};
use super::spaces;
use super::tables;

/// The condition on a document `d` of the tenant `$1` that passes all filters. `$2` to `$5`: see [`Filters`].
const READABLE: &str =
    "d.tenant = $1 AND d.collection = ANY ($2) AND ($3 OR d.everyone OR d.readers && $4) AND d.labels @> $5";

/// What a search may find, as parameters of statements.
struct Filters<'a> {
    tenant: &'a str,
    collections: Vec<&'a str>,
    /// Whether the reader sees everything.
    is_administrator: bool,
    readers: Vec<String>,
    labels: Vec<String>,
}

impl<'a> Filters<'a> {
    fn of(tenant: &'a str, search: &'a Search) -> Result<Self, LogError> {
        let (is_administrator, readers) = rows::entries(&search.reader)?;
        Ok(Self {
            tenant,
            collections: search.collections.iter().map(|name| name.as_str()).collect(),
            is_administrator,
            readers,
            labels: rows::labels(search.filter.iter().map(|(name, value)| (name, value)))?,
        })
    }

    /// Returns the parameters `$1` to `$5` and the further ones.
    fn with<'b>(&'b self, further: &[Parameter<'b>]) -> Vec<Parameter<'b>> {
        let own: [Parameter<'b>; 5] = [
            &self.tenant,
            &self.collections,
            &self.is_administrator,
            &self.readers,
            &self.labels,
        ];
        own.into_iter().chain(further.iter().copied()).collect()
    }
}

/// See `KnowledgeIndex::search`. Of tenants with more readable chunks than `exact`, near vectors are found by graph.
pub(super) async fn search(tx: &Tx<'_>, tenant: &str, search: &Search, exact: u64) -> Result<Candidates, LogError> {
    if search.limit == 0 || search.collections.is_empty() {
        return Ok(Candidates::default());
    }
    // A plan that suits every tenant and reader suits few. Compiling one takes longer than running it.
    tx.batch("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off")
        .await?;
    let filters = Filters::of(tenant, search)?;
    let sql = format!(
        "SELECT t.chunks, t.terms, (SELECT coalesce(sum(d.chunks), 0)::bigint FROM documents d WHERE {READABLE})
         FROM tenants t WHERE t.tenant = $1"
    );
    let rows = tx.query(&sql, &filters.with(&[])).await?;
    let Some(row) = rows.first() else {
        return Ok(Candidates::default());
    };
    let statistics = Statistics {
        chunks: rows::unsigned(get(row, 0)?),
        terms: rows::unsigned(get(row, 1)?),
    };
    let readable = rows::unsigned(get(row, 2)?);
    if readable == 0 {
        return Ok(Candidates::default());
    }
    let lexical = lexical::search(tx, &filters, search, statistics).await?;
    let semantic = match &search.vector {
        Some(vector) => semantic::search(tx, &filters, vector, search.limit, readable, exact).await?,
        None => Vec::new(),
    };
    let unembedded = match &search.vector {
        Some(vector) => unembedded(tx, tenant, &lexical, vector.space()).await?,
        None => Vec::new(),
    };
    Ok(Candidates {
        lexical,
        semantic,
        unembedded,
    })
}

/// Returns the hits that have no vector of a space.
async fn unembedded(tx: &Tx<'_>, tenant: &str, hits: &[Hit], space: &Space) -> Result<Vec<ChunkId>, LogError> {
    let chunks = hits.iter().map(|hit| hit.chunk);
    let Some(known) = spaces::find(tx, space).await? else {
        return Ok(chunks.collect());
    };
    let sql = format!(
        "SELECT asked.id FROM unnest($2::uuid[]) WITH ORDINALITY AS asked (id, place)
         JOIN chunks c ON c.tenant = $1 AND c.id = asked.id
         WHERE NOT EXISTS (SELECT FROM {} v WHERE v.tenant = $1 AND v.chunk = c.n) ORDER BY asked.place",
        tables::vectors(known.n)
    );
    let asked: Vec<uuid::Uuid> = chunks.map(|chunk| chunk.uuid()).collect();
    let lacking: Vec<uuid::Uuid> = tx.column(&sql, &[&tenant, &asked]).await?;
    Ok(lacking.into_iter().map(ChunkId::new).collect())
}

/// Sorts hits, best first, ties in order of the chunk id, and cuts them.
fn best(mut hits: Vec<Hit>, limit: usize) -> Vec<Hit> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.chunk.cmp(&b.chunk)));
    hits.truncate(limit);
    hits
}
