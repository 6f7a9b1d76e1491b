//! BM25 over the postings of the tenant, added up by the server in the order in which every index adds.
//!
//! A search reads a bounded number of postings: terms are taken from the rarest on, which say most, as long as their
//! postings are few enough together. The others find no chunks of their own, but count for the best that were found. The
//! bound is larger if there are fewer chunks than wanted, as for a reader who may see few documents.

use std::collections::HashMap;

use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::LogError;
use copilotd_knowledge::index::{Hit, Search, by_rarity};
use copilotd_knowledge::lexical::{B, K1, Statistics, idf, weight};

use super::super::rows::{most, unsigned};
use super::super::session::{Tx, get};
use super::{Filters, READABLE};

/// Most postings that are read.
const POSTINGS: u64 = 100_000;
/// Most postings that are read if those found too few chunks.
const POSTINGS_FOR_FEW: u64 = 4 * POSTINGS;
/// Most terms of a question that are looked up; further ones are ignored.
const TERMS: usize = 1_000;
/// Most chunks whose scores are completed by the terms that were not read.
const COMPLETED: usize = 1_000;

/// A term of the question that current chunks have.
struct Term {
    term: String,
    idf: f64,
    /// Chunks that contain it.
    containing: u64,
}

/// A chunk that was found.
struct Found {
    n: i64,
    length: u64,
    hit: Hit,
}

/// Returns the best chunks, best first.
pub(super) async fn search(
    tx: &Tx<'_>,
    filters: &Filters<'_>,
    search: &Search,
    statistics: Statistics,
) -> Result<Vec<Hit>, LogError> {
    let terms = find_terms(tx, filters.tenant, &search.terms, statistics).await?;
    if terms.is_empty() {
        return Ok(Vec::new());
    }
    let average = statistics.average_length();
    let mut found = Vec::new();
    let mut rest = terms.as_slice();
    for budget in [POSTINGS, POSTINGS_FOR_FEW] {
        let (read, left) = terms.split_at(within(&terms, budget));
        let is_same = left.len() == rest.len();
        if is_same && budget > POSTINGS {
            break;
        }
        rest = left;
        let limit = if rest.is_empty() {
            search.limit
        } else {
            COMPLETED.max(search.limit)
        };
        found = read_postings(tx, filters, read, average, limit).await?;
        if rest.is_empty() || found.len() >= search.limit {
            break;
        }
    }
    if !rest.is_empty() {
        complete(tx, filters.tenant, rest, average, &mut found).await?;
    }
    let hits = found.into_iter().map(|found| found.hit).collect();
    Ok(super::best(hits, search.limit))
}

/// Returns how many of the terms, from the first on, have so few postings together; at least one.
fn within(terms: &[Term], budget: u64) -> usize {
    let mut spent = 0_u64;
    let affordable = terms.iter().take_while(|term| {
        spent += term.containing;
        spent <= budget
    });
    affordable.count().max(1)
}

/// Finds those of the terms that current chunks have, in the order of [`by_rarity`].
async fn find_terms(
    tx: &Tx<'_>,
    tenant: &str,
    terms: &[String],
    statistics: Statistics,
) -> Result<Vec<Term>, LogError> {
    let asked: Vec<&str> = terms.iter().take(TERMS).map(String::as_str).collect();
    let sql = "SELECT term, current FROM terms WHERE tenant = $1 AND term = ANY ($2) AND current > 0";
    let rows = tx.query(sql, &[&tenant, &asked]).await?;
    let known = rows.iter().map(|row| Ok((get(row, 0)?, unsigned(get(row, 1)?))));
    let mut known = known.collect::<Result<Vec<(String, u64)>, LogError>>()?;
    by_rarity(&mut known);
    let terms = known.into_iter().map(|(term, containing)| Term {
        idf: idf(statistics.chunks, containing),
        term,
        containing,
    });
    Ok(terms.collect())
}

/// Returns the best of the readable chunks that have some of the terms. The formula is [`weight`]'s, step by step.
async fn read_postings(
    tx: &Tx<'_>,
    filters: &Filters<'_>,
    terms: &[Term],
    average: f64,
    limit: usize,
) -> Result<Vec<Found>, LogError> {
    let sql = format!(
        "WITH readable AS MATERIALIZED (SELECT d.n FROM documents d WHERE {READABLE})
         SELECT c.n, c.id, c.length,
                sum(a.idf * (o.occurrences::float8 / (o.occurrences::float8
                    + $8::float8 * (1::float8 - $9::float8 + $9::float8 * (c.length::float8 / $10::float8)))) ORDER BY a.rank) AS score
         FROM unnest($6::text[], $7::float8[]) WITH ORDINALITY AS a (term, idf, rank)
         JOIN postings o ON o.tenant = $1 AND o.term = a.term COLLATE \"C\"
         JOIN chunks c ON c.tenant = $1 AND c.n = o.chunk AND c.current
         WHERE c.document IN (SELECT n FROM readable)
         GROUP BY c.n, c.id, c.length ORDER BY score DESC, c.id LIMIT $11"
    );
    let names: Vec<&str> = terms.iter().map(|term| term.term.as_str()).collect();
    let idfs: Vec<f64> = terms.iter().map(|term| term.idf).collect();
    let limit = most(limit);
    let parameters = filters.with(&[&names, &idfs, &K1, &B, &average, &limit]);
    let rows = tx.query(&sql, &parameters).await?;
    let found = rows.iter().map(|row| {
        Ok(Found {
            n: get(row, 0)?,
            length: unsigned(get(row, 2)?),
            hit: Hit {
                chunk: ChunkId::new(get(row, 1)?),
                score: get(row, 3)?,
            },
        })
    });
    found.collect()
}

/// Adds the weights of further terms to chunks that others found.
async fn complete(
    tx: &Tx<'_>,
    tenant: &str,
    terms: &[Term],
    average: f64,
    found: &mut [Found],
) -> Result<(), LogError> {
    let names: Vec<&str> = terms.iter().map(|term| term.term.as_str()).collect();
    let chunks: Vec<i64> = found.iter().map(|found| found.n).collect();
    let sql = "SELECT o.term, o.chunk, o.occurrences FROM postings o
               WHERE o.tenant = $1 AND o.term = ANY ($2) AND o.chunk = ANY ($3)";
    let mut occurrences: HashMap<(String, i64), u32> = HashMap::new();
    for row in &tx.query(sql, &[&tenant, &names, &chunks]).await? {
        let count = u32::try_from(get::<i64>(row, 2)?).unwrap_or(u32::MAX);
        occurrences.insert((get(row, 0)?, get(row, 1)?), count);
    }
    for term in terms {
        for chunk in &mut *found {
            if let Some(count) = occurrences.get(&(term.term.clone(), chunk.n)) {
                chunk.hit.score += term.idf * weight(*count, chunk.length, average);
            }
        }
    }
    Ok(())
}
