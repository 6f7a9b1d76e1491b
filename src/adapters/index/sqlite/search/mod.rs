//! The two searches.
//!
//! Both read only rows of the tenant, and look at a chunk only if its document passes all filters: the filters decide
//! which documents are readable before anything is scored.

mod lexical;
mod readable;
mod semantic;

use std::collections::HashSet;

use copilotd_actors::domain::ids::{ChunkId, TenantId};
use copilotd_actors::ports::Space;
use copilotd_knowledge::index::{Candidates, Hit, Search};
use rusqlite::{Connection, params};

use super::rows;
use super::staging::has_vector;
use crate::adapters::sqlite::failure::Failure;

/// See `KnowledgeIndex::search`.
pub(super) fn search(connection: &Connection, tenant: &TenantId, search: &Search) -> Result<Candidates, Failure> {
    // All statements see the index as of one moment.
    let moment = connection.unchecked_transaction()?;
    let Some(tenant) = rows::find_tenant(&moment, tenant)? else {
        return Ok(Candidates::default());
    };
    let readable = readable::find(&moment, tenant, search)?;
    if readable.is_empty() || search.limit == 0 {
        return Ok(Candidates::default());
    }
    let lexical = lexical::search(&moment, tenant, search, &readable)?;
    let semantic = match &search.vector {
        Some(vector) => semantic::search(&moment, tenant, vector, search.limit, &readable)?,
        None => Vec::new(),
    };
    let unembedded = match &search.vector {
        Some(vector) => {
            let known: HashSet<ChunkId> = semantic.iter().map(|hit| hit.chunk).collect();
            let unknown = lexical
                .iter()
                .map(|hit| hit.chunk)
                .filter(|chunk| !known.contains(chunk));
            unembedded(&moment, tenant, unknown, vector.space())?
        }
        None => Vec::new(),
    };
    Ok(Candidates {
        lexical,
        semantic,
        unembedded,
    })
}

/// Returns those chunks that have no vector of a space.
fn unembedded(
    connection: &Connection,
    tenant: i64,
    chunks: impl Iterator<Item = ChunkId>,
    space: &Space,
) -> Result<Vec<ChunkId>, Failure> {
    let space = rows::find_space(connection, space)?;
    let mut find = connection.prepare_cached("SELECT id FROM chunks WHERE tenant = ?1 AND uuid = ?2")?;
    let mut lacking = Vec::new();
    for chunk in chunks {
        let id: i64 = find.query_row(params![tenant, chunk.uuid()], |row| row.get(0))?;
        let has_vector = match space {
            Some(space) => has_vector(connection, tenant, space, id)?,
            None => false,
        };
        if !has_vector {
            lacking.push(chunk);
        }
    }
    Ok(lacking)
}

/// Sorts hits, best first, ties in order of the chunk id, and cuts them.
fn best(mut hits: Vec<Hit>, limit: usize) -> Vec<Hit> {
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.chunk.cmp(&b.chunk)));
    hits.truncate(limit);
    hits
}
