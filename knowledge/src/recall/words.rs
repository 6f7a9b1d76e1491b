//! BM25 over turns, and over turns with their neighbours, from one set of postings.

use std::collections::HashMap;

use crate::lexical::{Statistics, idf, terms, weight};

/// Where the terms occur.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// For each term the turns that contain it, ascending.
    postings: HashMap<Box<str>, Vec<Posting>>,
    /// Terms of each turn, each occurrence counted.
    lengths: Vec<u32>,
    /// Sum of `lengths`.
    total: u64,
    /// Number of all postings.
    count: usize,
}

#[derive(Debug, Clone, Copy)]
struct Posting {
    turn: u32,
    occurrences: u32,
}

/// BM25 scores of all turns; 0 for a turn without any term of the question.
pub(super) struct LexicalScores {
    /// Of the turns alone.
    pub alone: Vec<f64>,
    /// Of the turns with the one before and the one after.
    pub with_neighbours: Vec<f64>,
}

impl Words {
    pub(super) fn push(&mut self, text: &str) {
        let turn = u32::try_from(self.lengths.len()).expect("a conversation has at most MAX_TURNS turns");
        let mut length = 0_u32;
        for (term, occurrences) in terms(text) {
            length = length.saturating_add(occurrences);
            let posting = Posting { turn, occurrences };
            self.postings.entry(term.into_boxed_str()).or_default().push(posting);
            self.count += 1;
        }
        self.lengths.push(length);
        self.total += u64::from(length);
    }

    pub(super) fn scores(&self, question: &str) -> LexicalScores {
        let turns = self.lengths.len();
        let windows: Vec<u64> = (0..turns).map(|turn| self.window_length(turn)).collect();
        let alone = Statistics {
            chunks: turns as u64,
            terms: self.total,
        };
        let with_neighbours = Statistics {
            chunks: turns as u64,
            terms: windows.iter().sum(),
        };
        let (average, window_average) = (alone.average_length(), with_neighbours.average_length());
        let mut scores = LexicalScores {
            alone: vec![0.0; turns],
            with_neighbours: vec![0.0; turns],
        };
        // Occurrences of one term in each window, and which windows have any.
        let mut counts = vec![0_u32; turns];
        let mut touched: Vec<usize> = Vec::new();
        for (term, _) in terms(question) {
            let Some(postings) = self.postings.get(term.as_str()) else {
                continue;
            };
            let rarity = idf(turns as u64, postings.len() as u64);
            for posting in postings {
                let turn = posting.turn as usize;
                let length = u64::from(self.lengths[turn]);
                scores.alone[turn] += rarity * weight(posting.occurrences, length, average);
                let first = turn.saturating_sub(1);
                for (window, count) in (first..).zip(&mut counts[first..(turn + 2).min(turns)]) {
                    if *count == 0 {
                        touched.push(window);
                    }
                    *count = count.saturating_add(posting.occurrences);
                }
            }
            let rarity = idf(turns as u64, touched.len() as u64);
            for window in touched.drain(..) {
                let occurrences = std::mem::take(&mut counts[window]);
                scores.with_neighbours[window] += rarity * weight(occurrences, windows[window], window_average);
            }
        }
        scores
    }

    fn window_length(&self, turn: usize) -> u64 {
        let window = &self.lengths[turn.saturating_sub(1)..(turn + 2).min(self.lengths.len())];
        window.iter().map(|length| u64::from(*length)).sum()
    }

    pub(super) fn forget(&mut self, oldest: usize) {
        self.postings.retain(|_, postings| {
            postings.retain(|posting| posting.turn as usize >= oldest);
            postings.shrink_to_fit();
            for posting in postings.iter_mut() {
                // Below `oldest` nothing is left, and `oldest` turns are no more than a u32 counts.
                posting.turn = posting.turn.saturating_sub(u32::try_from(oldest).unwrap_or(u32::MAX));
            }
            !postings.is_empty()
        });
        let forgotten: u64 = self.lengths.drain(..oldest).map(u64::from).sum();
        self.total -= forgotten;
        self.count = self.postings.values().map(Vec::len).sum();
    }

    pub(super) fn bytes(&self) -> usize {
        // A vector grows in steps of two, and an entry of the map has its key, its value and a control byte.
        const PER_TERM: usize = 16 + 24 + 1 + 16;
        self.count * size_of::<Posting>() * 3 / 2 + self.postings.len() * PER_TERM + self.lengths.capacity() * 4
    }
}
