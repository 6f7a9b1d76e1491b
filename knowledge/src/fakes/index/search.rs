//! The two searches, by looking at every chunk.

use copilotd_actors::domain::ids::ChunkId;

use super::tenant::{StoredChunk, Tenant};
use crate::index::{Candidates, Hit, Search, by_rarity};
use crate::lexical;

impl Tenant {
    pub(super) fn search(&self, search: &Search) -> Candidates {
        let readable: Vec<(ChunkId, &StoredChunk)> = self
            .chunks
            .iter()
            .filter(|(_, chunk)| chunk.is_current && self.is_readable(chunk, search))
            .map(|(id, chunk)| (*id, chunk))
            .collect();
        let lexical = readable
            .iter()
            .filter_map(|(id, chunk)| Some((*id, self.bm25(chunk, &search.terms)?)));
        let semantic = readable.iter().filter_map(|(id, chunk)| {
            let question = search.vector.as_ref()?;
            let vector = chunk.vectors.iter().find(|vector| vector.space() == question.space())?;
            Some((*id, f64::from(vector.cosine(question))))
        });
        let lexical = best(lexical.collect(), search.limit);
        let lacks_vector = |chunk: &ChunkId| {
            let question = search.vector.as_ref();
            question.is_some_and(|question| {
                let vectors = &self.chunks[chunk].vectors;
                vectors.iter().all(|vector| vector.space() != question.space())
            })
        };
        Candidates {
            semantic: best(semantic.collect(), search.limit),
            unembedded: lexical.iter().map(|hit| hit.chunk).filter(lacks_vector).collect(),
            lexical,
        }
    }

    fn is_readable(&self, chunk: &StoredChunk, search: &Search) -> bool {
        self.of(chunk.document).is_some_and(|document| {
            let attributes = &document.attributes;
            let mut filter = search.filter.iter();
            search.collections.contains(&document.key.collection)
                && search.reader.may_read(&attributes.access)
                && filter.all(|(name, value)| attributes.metadata.get(name) == Some(value))
        })
    }

    /// Adds up the weights in the order of [`by_rarity`], so that every index comes to the same sum. None if no
    /// term occurs.
    fn bm25(&self, chunk: &StoredChunk, terms: &[String]) -> Option<f64> {
        let current: Vec<&StoredChunk> = self.chunks.values().filter(|chunk| chunk.is_current).collect();
        let length = |chunk: &StoredChunk| chunk.terms.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        let statistics = lexical::Statistics {
            chunks: current.len() as u64,
            terms: current.iter().map(|chunk| length(chunk)).sum(),
        };
        let containing = |term: &String| {
            let containing = current.iter().filter(|chunk| occurrences(chunk, term).is_some());
            (term.clone(), containing.count() as u64)
        };
        let mut terms: Vec<(String, u64)> = terms.iter().map(containing).collect();
        by_rarity(&mut terms);
        let mut score = None;
        for (term, containing) in terms {
            if let Some(occurrences) = occurrences(chunk, &term) {
                let weight = lexical::weight(occurrences, length(chunk), statistics.average_length());
                *score.get_or_insert(0.0) += lexical::idf(statistics.chunks, containing) * weight;
            }
        }
        score
    }
}

fn occurrences(chunk: &StoredChunk, term: &str) -> Option<u32> {
    let mut terms = chunk.terms.iter();
    terms.find(|(known, _)| known == term).map(|(_, count)| *count)
}

fn best(mut scores: Vec<(ChunkId, f64)>, limit: usize) -> Vec<Hit> {
    scores.sort_by(|(a, one), (b, other)| other.total_cmp(one).then(a.cmp(b)));
    scores.truncate(limit);
    scores.into_iter().map(|(chunk, score)| Hit { chunk, score }).collect()
}
