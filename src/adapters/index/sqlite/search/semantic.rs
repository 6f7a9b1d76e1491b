//! The nearest vectors of the tenant, exactly: the vector of every readable chunk is compared.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::Vector;
use copilotd_knowledge::index::Hit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::super::{keys, rows, submit};
use super::readable::Readable;
use crate::adapters::sqlite::failure::Failure;

/// A hit, ordered by how good it is: by score, ties by id, the smaller one being better.
struct Ranked(Hit);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.0, &other.0);
        a.score.total_cmp(&b.score).then_with(|| b.chunk.cmp(&a.chunk))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// A reader of less than one in so many documents gets their vectors one by one, which takes about three times as long
/// for each as reading all in turn.
const FEW: u64 = 4;

/// Returns the best chunks, best first.
pub(super) fn search(
    connection: &Connection,
    tenant: i64,
    question: &Vector,
    limit: usize,
    readable: &Readable,
) -> Result<Vec<Hit>, Failure> {
    let Some(space) = rows::find_space(connection, question.space())? else {
        return Ok(Vec::new());
    };
    let mut nearest = Nearest {
        question,
        limit,
        numbers: Vec::with_capacity(question.values().len()),
        best: BinaryHeap::new(),
    };
    let documents = submit::totals(connection, tenant)?.documents;
    if (readable.documents().len() as u64).saturating_mul(FEW) < documents {
        let mut chunks = connection.prepare_cached("SELECT id FROM chunks WHERE document = ?1 AND current = 1")?;
        let mut find = connection.prepare_cached("SELECT chunk, embedding FROM vectors WHERE id = ?1")?;
        for document in readable.documents() {
            let mut of_document = chunks.query([keys::key(tenant, *document)])?;
            while let Some(row) = of_document.next()? {
                let mut vector = find.query([keys::vector(tenant, space, row.get(0)?)])?;
                if let Some(row) = vector.next()? {
                    nearest.compare(row)?;
                }
            }
        }
    } else {
        let (first, last) = keys::vectors(tenant, space);
        let mut statement = connection
            .prepare_cached("SELECT chunk, embedding, document, id FROM vectors WHERE id BETWEEN ?1 AND ?2")?;
        let mut vectors = statement.query([first, last])?;
        while let Some(row) = vectors.next()? {
            if readable.has(row.get(2)?, keys::within(row.get(3)?)) {
                nearest.compare(row)?;
            }
        }
    }
    let hits = nearest.best.into_iter().map(|ranked| ranked.0.0).collect();
    Ok(super::best(hits, limit))
}

/// The best hits so far.
struct Nearest<'a> {
    question: &'a Vector,
    limit: usize,
    /// Room for the numbers of a vector.
    numbers: Vec<f32>,
    /// The worst one on top.
    best: BinaryHeap<Reverse<Ranked>>,
}

impl Nearest<'_> {
    /// Compares the vector of a row, which begins with the chunk's id and the vector.
    fn compare(&mut self, row: &Row<'_>) -> Result<(), Failure> {
        let ValueRef::Blob(stored) = row.get_ref(1)? else {
            return Ok(());
        };
        rows::read_numbers(stored, &mut self.numbers);
        let score = f64::from(self.question.cosine_to_unit(&self.numbers));
        let is_full = self.best.len() >= self.limit;
        if is_full && self.best.peek().is_some_and(|worst| worst.0.0.score > score) {
            return Ok(());
        }
        let chunk = ChunkId::new(row.get(0)?);
        self.best.push(Reverse(Ranked(Hit { chunk, score })));
        if self.best.len() > self.limit {
            self.best.pop();
        }
        Ok(())
    }
}
