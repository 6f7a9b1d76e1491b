//! BM25 over the postings of the tenant.
//!
//! A search reads a bounded number of postings. Terms are read from the rarest on, which say most; a term whose postings
//! exceed what is left finds no chunks of its own, but counts for the best chunks that the others found. The bound is
//! larger as long as there are fewer chunks than wanted, as for a reader who may see few documents. What is given up:
//! chunks that have only such common terms, in tenants where several of these are each in tens of thousands of chunks.

use std::collections::HashMap;

use copilotd_actors::domain::ids::ChunkId;
use copilotd_knowledge::index::{Hit, Search, by_rarity};
use copilotd_knowledge::lexical::{Statistics, idf, weight};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::keys;
use super::readable::Readable;
use crate::adapters::sqlite::failure::Failure;

/// Most postings that are read once enough chunks are found: about 30 ms.
const POSTINGS: u64 = 100_000;
/// Most postings that are read as long as there are fewer chunks than wanted.
const POSTINGS_FOR_FEW: u64 = 4 * POSTINGS;
/// Most terms of a question that are looked up; further ones are ignored.
const TERMS: usize = 1_000;
/// Most chunks whose scores are completed by the terms that were not read.
const COMPLETED: usize = 1_000;
/// Most chunks beyond the limit whose ids are looked up to order those with the same score.
const TIED: usize = 4_000;

/// A term of the question that the tenant has.
struct Term {
    number: i64,
    /// Postings, also those of chunks that are not current.
    uses: u64,
    idf: f64,
}

/// What is known of a chunk.
#[derive(Clone, Copy)]
struct Score {
    sum: f64,
    length: u64,
}

/// Returns the best chunks, best first.
pub(super) fn search(
    connection: &Connection,
    tenant: i64,
    search: &Search,
    readable: &Readable,
) -> Result<Vec<Hit>, Failure> {
    let statistics = connection
        .prepare_cached("SELECT chunks, terms FROM tenants WHERE n = ?1")?
        .query_row([tenant], |row| {
            Ok(Statistics {
                chunks: row.get(0)?,
                terms: row.get(1)?,
            })
        })?;
    let terms = find_terms(connection, tenant, &search.terms, statistics)?;
    let average = statistics.average_length();
    let mut scores: HashMap<i64, Score> = HashMap::new();
    let mut spent = 0;
    let mut terms = terms.iter().peekable();
    while let Some(term) = terms.peek() {
        let most = if scores.len() < search.limit {
            POSTINGS_FOR_FEW
        } else {
            POSTINGS
        };
        let left = most.saturating_sub(spent);
        // Part of a term's postings is better than nothing at all.
        if term.uses > left && (left == 0 || !scores.is_empty()) {
            break;
        }
        spent += read(connection, (tenant, term), left, average, readable, &mut scores)?;
        terms.next();
    }
    let mut scores: Vec<(i64, Score)> = scores.into_iter().collect();
    if terms.peek().is_some() {
        sort(&mut scores);
        scores.truncate(COMPLETED.max(search.limit));
        for term in terms {
            complete(connection, (tenant, term), average, &mut scores)?;
        }
    }
    sort(&mut scores);
    // Those that tie with the last one are ordered by their ids.
    if let Some((_, last)) = scores.get(search.limit - 1).copied() {
        let beyond = scores.iter().skip(search.limit);
        let tied = beyond.take_while(|(_, score)| score.sum.total_cmp(&last.sum).is_eq());
        let tied = tied.take(TIED).count();
        scores.truncate(search.limit + tied);
    }
    let mut find = connection.prepare_cached("SELECT uuid FROM chunks WHERE id = ?1")?;
    let mut hits = Vec::with_capacity(scores.len());
    for (chunk, score) in scores {
        let uuid = find.query_row([keys::key(tenant, chunk)], |row| row.get(0))?;
        hits.push(Hit {
            chunk: ChunkId::new(uuid),
            score: score.sum,
        });
    }
    Ok(super::best(hits, search.limit))
}

/// Finds those of the terms that current chunks have, in the order of [`by_rarity`].
fn find_terms(
    connection: &Connection,
    tenant: i64,
    terms: &[String],
    statistics: Statistics,
) -> Result<Vec<Term>, Failure> {
    let mut find = connection
        .prepare_cached("SELECT n, uses, current FROM terms WHERE tenant = ?1 AND term = ?2 AND current > 0")?;
    let mut known: HashMap<&str, (i64, u64)> = HashMap::new();
    let mut ordered = Vec::new();
    for term in terms.iter().take(TERMS) {
        let row: Option<(i64, u64, u64)> = find
            .query_row(params![tenant, term], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        if let Some((number, uses, current)) = row {
            known.insert(term, (number, uses));
            ordered.push((term.clone(), current));
        }
    }
    by_rarity(&mut ordered);
    let terms = ordered.iter().filter_map(|(term, containing)| {
        let (number, uses) = known.get(term.as_str())?;
        Some(Term {
            number: *number,
            uses: *uses,
            idf: idf(statistics.chunks, *containing),
        })
    });
    Ok(terms.collect())
}

/// Adds the weights of a term, from at most `most` postings. Returns how many were read.
fn read(
    connection: &Connection,
    (tenant, term): (i64, &Term),
    most: u64,
    average: f64,
    readable: &Readable,
    scores: &mut HashMap<i64, Score>,
) -> Result<u64, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT chunk, document, occurrences, length FROM postings WHERE tenant = ?1 AND term = ?2 LIMIT ?3",
    )?;
    let mut postings = statement.query(params![tenant, term.number, most])?;
    let mut count = 0;
    while let Some(row) = postings.next()? {
        count += 1;
        let chunk = row.get(0)?;
        if readable.has(row.get(1)?, chunk) {
            let length = row.get(3)?;
            let score = scores.entry(chunk).or_insert(Score { sum: 0.0, length });
            score.sum += term.idf * weight(row.get(2)?, length, average);
        }
    }
    Ok(count)
}

/// Adds the weights of a term to chunks that others found.
fn complete(
    connection: &Connection,
    (tenant, term): (i64, &Term),
    average: f64,
    scores: &mut [(i64, Score)],
) -> Result<(), Failure> {
    let mut find =
        connection.prepare_cached("SELECT occurrences FROM postings WHERE tenant = ?1 AND term = ?2 AND chunk = ?3")?;
    for (chunk, score) in scores {
        let occurrences = find
            .query_row(params![tenant, term.number, *chunk], |row| row.get(0))
            .optional()?;
        if let Some(occurrences) = occurrences {
            score.sum += term.idf * weight(occurrences, score.length, average);
        }
    }
    Ok(())
}

fn sort(scores: &mut [(i64, Score)]) {
    scores.sort_unstable_by(|(a, one), (b, other)| other.sum.total_cmp(&one.sum).then(a.cmp(b)));
}
