//! BM25 over turns, and over turns with their neighbours, from one set of postings.

use std::collections::HashMap;

use crate::lexical::{Statistics, idf, terms, weight};

/// Lengths of which a search computes weights once: those of nearly all turns.
const USUAL_LENGTHS: usize = 128;
/// The same for numbers of occurrences, from 0.
const USUAL_OCCURRENCES: usize = 4;

/// Where the terms occur.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// For each term the turns that contain it, ascending.
    postings: HashMap<Box<str>, Vec<Posting>>,
    /// Terms of each turn, each occurrence counted.
    lengths: Vec<u32>,
    /// Sum of `lengths`.
    total: u64,
    /// Terms of each turn with the one before and the one after.
    window_lengths: Vec<u32>,
    /// Sum of `window_lengths`.
    window_total: u64,
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

/// What occurrences count in texts of different lengths.
struct Weights {
    average_length: f64,
    /// By occurrences and length.
    usual: Box<[[f64; USUAL_LENGTHS]; USUAL_OCCURRENCES]>,
}

impl Weights {
    fn new(texts: usize, terms: u64) -> Self {
        let statistics = Statistics {
            chunks: texts as u64,
            terms,
        };
        let average_length = statistics.average_length();
        let mut usual = Box::new([[0.0; USUAL_LENGTHS]; USUAL_OCCURRENCES]);
        for (occurrences, weights) in (0..).zip(usual.iter_mut()) {
            for (length, of_length) in (0..).zip(weights) {
                *of_length = weight(occurrences, length, average_length);
            }
        }
        Self { average_length, usual }
    }

    fn of(&self, occurrences: u32, length: u32) -> f64 {
        let usual = self.usual.get(occurrences as usize);
        match usual.and_then(|weights| weights.get(length as usize)) {
            Some(weight) => *weight,
            None => weight(occurrences, u64::from(length), self.average_length),
        }
    }
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
        self.add_length(length);
    }

    fn add_length(&mut self, length: u32) {
        let before = self.lengths.last().copied().unwrap_or_default();
        if let Some(window) = self.window_lengths.last_mut() {
            *window = window.saturating_add(length);
            self.window_total += u64::from(length);
        }
        let window = before.saturating_add(length);
        self.window_lengths.push(window);
        self.window_total += u64::from(window);
        self.lengths.push(length);
        self.total += u64::from(length);
    }

    pub(super) fn scores(&self, question: &str) -> LexicalScores {
        let turns = self.lengths.len();
        let alone = Weights::new(turns, self.total);
        let with_neighbours = Weights::new(turns, self.window_total);
        let mut scores = LexicalScores {
            alone: vec![0.0; turns],
            with_neighbours: vec![0.0; turns],
        };
        for (term, _) in terms(question) {
            let Some(postings) = self.postings.get(term.as_str()) else {
                continue;
            };
            let rarity = idf(turns as u64, postings.len() as u64);
            for posting in postings {
                let turn = posting.turn as usize;
                scores.alone[turn] += rarity * alone.of(posting.occurrences, self.lengths[turn]);
            }
            let rarity = idf(turns as u64, windows_with(postings, turns));
            for_each_window(postings, turns, |window, occurrences| {
                let weight = with_neighbours.of(occurrences, self.window_lengths[window]);
                scores.with_neighbours[window] += rarity * weight;
            });
        }
        scores
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
        self.count = self.postings.values().map(Vec::len).sum();
        let lengths = self.lengths.split_off(oldest);
        self.set_lengths(lengths);
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.postings.retain(|_, postings| {
            let left = postings.partition_point(|posting| (posting.turn as usize) < len);
            postings.truncate(left);
            !postings.is_empty()
        });
        self.count = self.postings.values().map(Vec::len).sum();
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.truncate(len);
        self.set_lengths(lengths);
    }

    fn set_lengths(&mut self, lengths: Vec<u32>) {
        (self.total, self.window_total) = (0, 0);
        self.lengths.clear();
        self.window_lengths.clear();
        lengths.into_iter().for_each(|length| self.add_length(length));
    }

    pub(super) fn bytes(&self) -> usize {
        // A vector grows in steps of two, and an entry of the map has its key, its value and a control byte.
        const PER_TERM: usize = 16 + 24 + 1 + 16;
        let lengths = self.lengths.capacity() + self.window_lengths.capacity();
        self.count * size_of::<Posting>() * 3 / 2 + self.postings.len() * PER_TERM + lengths * 4
    }
}

/// Returns in how many windows a term occurs that has these postings.
fn windows_with(postings: &[Posting], turns: usize) -> u64 {
    let (Some(first), Some(last)) = (postings.first(), postings.last()) else {
        return 0;
    };
    // The first one has three windows, each further one those that the one before does not have.
    let further = postings
        .windows(2)
        .map(|pair| u64::from((pair[1].turn - pair[0].turn).min(3)));
    let outside = u64::from(first.turn == 0) + u64::from(last.turn as usize + 1 == turns);
    3 + further.sum::<u64>() - outside
}

/// Calls `each` with every window in which a term occurs that has these postings, ascending, and how often it does.
fn for_each_window(postings: &[Posting], turns: usize, mut each: impl FnMut(usize, u32)) {
    // Occurrences in the window `first`, the next one, and the one after that. Windows are counted from 1 here, so that the
    // first turn has one before it, too.
    let (mut first, mut counts) = (0_usize, [0_u32; 3]);
    let mut pass = |window: usize, occurrences: u32| {
        if occurrences > 0 && (1..=turns).contains(&window) {
            each(window - 1, occurrences);
        }
    };
    for posting in postings {
        let before = posting.turn as usize;
        if before >= first + 3 {
            (first..).zip(counts).for_each(|(window, count)| pass(window, count));
            (first, counts) = (before, [0; 3]);
        }
        while first < before {
            pass(first, counts[0]);
            counts = [counts[1], counts[2], 0];
            first += 1;
        }
        for count in &mut counts {
            *count = count.saturating_add(posting.occurrences);
        }
    }
    (first..).zip(counts).for_each(|(window, count)| pass(window, count));
}
