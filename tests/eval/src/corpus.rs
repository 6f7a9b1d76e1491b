//! Both searches over a set's passages, by looking at all of them: what every index of the product must come to.

use std::collections::HashMap;

use copilotd_actors::ports::{Purpose, Vector};
use copilotd_knowledge::lexical::{Statistics, idf, terms, weight};
use copilotd_knowledge::query::{Found, combine, parts};
use copilotd_knowledge::retrieve::CANDIDATES;

use crate::vectors::Vectors;

/// The passages of a set.
#[derive(Debug)]
pub struct Corpus {
    postings: HashMap<String, Vec<(u32, u32)>>,
    lengths: Vec<u64>,
    statistics: Statistics,
    vectors: Vec<Vector>,
}

impl Corpus {
    /// Indexes passages; without `vectors`, for words alone.
    pub fn new<'a>(passages: impl Iterator<Item = &'a str>, vectors: Option<&Vectors>) -> anyhow::Result<Self> {
        let mut corpus = Self {
            postings: HashMap::new(),
            lengths: Vec::new(),
            statistics: Statistics::default(),
            vectors: Vec::new(),
        };
        for (number, passage) in (0_u32..).zip(passages) {
            let mut length = 0;
            for (term, occurrences) in terms(passage) {
                length += u64::from(occurrences);
                corpus.postings.entry(term).or_default().push((number, occurrences));
            }
            corpus.lengths.push(length);
            corpus.statistics.chunks += 1;
            corpus.statistics.terms += length;
            if let Some(vectors) = vectors {
                corpus.vectors.push(vectors.get(Purpose::Passage, passage)?.clone());
            }
        }
        Ok(corpus)
    }

    /// Returns passages for a message, best first, as the product's retrieval ranks them.
    pub fn search(&self, message: &str, vectors: Option<&Vectors>) -> anyhow::Result<Vec<u32>> {
        let parts = parts(message);
        let is_alone = parts.len() == 1 || vectors.is_none();
        let found: anyhow::Result<Vec<Found<u32>>> = parts
            .iter()
            .map(|part| {
                let vector = vectors
                    .map(|vectors| vectors.get(Purpose::Query, &part.text))
                    .transpose()?;
                Ok(Found {
                    lexical: if part.is_lexical || is_alone {
                        self.lexical(&part.text)
                    } else {
                        Vec::new()
                    },
                    semantic: vector.map(|vector| self.semantic(vector)).unwrap_or_default(),
                    unembedded: Vec::new(),
                })
            })
            .collect();
        Ok(combine(&found?).into_iter().map(|(passage, _)| passage).collect())
    }

    fn lexical(&self, question: &str) -> Vec<u32> {
        let mut scores = vec![0.0; self.lengths.len()];
        for (term, _) in terms(question) {
            let postings = self.postings.get(&term).map(Vec::as_slice).unwrap_or_default();
            let rarity = idf(self.statistics.chunks, postings.len() as u64);
            for (passage, occurrences) in postings {
                let at = *passage as usize;
                scores[at] += rarity * weight(*occurrences, self.lengths[at], self.statistics.average_length());
            }
        }
        best(&scores)
    }

    fn semantic(&self, question: &Vector) -> Vec<u32> {
        let scores: Vec<f64> = self
            .vectors
            .iter()
            .map(|vector| f64::from(vector.cosine(question)))
            .collect();
        best(&scores)
    }
}

fn best(scores: &[f64]) -> Vec<u32> {
    let mut passages: Vec<u32> = (0_u32..)
        .zip(scores)
        .filter(|(_, score)| **score > 0.0)
        .map(|(at, _)| at)
        .collect();
    let score = |passage: &u32| scores[*passage as usize];
    passages.sort_unstable_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    passages.truncate(CANDIDATES);
    passages
}
