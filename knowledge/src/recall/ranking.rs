//! Orders turns by score, without ordering more of them than are looked at.

use std::cmp::Reverse;

/// Length of each ranking, the usual depth of runs in TREC. It bounds the fusion, whatever the conversation's length.
const RANKED: usize = 1_000;
/// Turns that are ordered first; then twice as many, and so on.
const FIRST: usize = 128;

/// Returns the turns with the highest scores above 0, best first, at most [`RANKED`]; ties in the order of the turns.
pub(super) fn best(scores: &[f64]) -> Vec<usize> {
    let positive = scores.iter().filter(|score| **score > 0.0);
    let mut keys: Vec<u64> = positive.map(|score| key(*score)).collect();
    let (mut least, mut ties) = (0, usize::MAX);
    if keys.len() > RANKED {
        let (better, last, _) = keys.select_nth_unstable_by(RANKED - 1, |a, b| b.cmp(a));
        least = *last;
        // How many of those with the last score have a place, the earliest ones.
        ties = RANKED - better.iter().filter(|key| **key > least).count();
    }
    let mut best = Vec::with_capacity(RANKED.min(keys.len()));
    for (turn, score) in scores.iter().enumerate().filter(|(_, score)| **score > 0.0) {
        let key = key(*score);
        if key < least {
            continue;
        }
        if key == least {
            if ties == 0 {
                continue;
            }
            ties -= 1;
        }
        best.push((Reverse(key), turn));
    }
    best.sort_unstable();
    best.into_iter().map(|(_, turn)| turn).collect()
}

/// Turns with their scores, best first; ties in the order of the turns. Those that are never asked for are never ordered.
pub(super) struct BestFirst {
    /// What was returned already, then what is in order up to `ordered`, then the rest.
    turns: Vec<(Reverse<u64>, usize)>,
    next: usize,
    ordered: usize,
}

impl BestFirst {
    /// Takes turns with scores above 0.
    pub(super) fn new(scored: impl Iterator<Item = (usize, f64)>) -> Self {
        Self {
            turns: scored.map(|(turn, score)| (Reverse(key(score)), turn)).collect(),
            next: 0,
            ordered: 0,
        }
    }

    /// Returns how many are left.
    pub(super) fn len(&self) -> usize {
        self.turns.len() - self.next
    }
}

impl Iterator for BestFirst {
    type Item = (usize, f64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.ordered {
            let rest = &mut self.turns[self.ordered..];
            let count = FIRST.max(self.ordered).min(rest.len());
            if count < rest.len() {
                rest.select_nth_unstable(count);
            }
            rest[..count].sort_unstable();
            self.ordered += count;
        }
        let (Reverse(key), turn) = *self.turns.get(self.next)?;
        self.next += 1;
        Some((turn, f64::from_bits(key)))
    }
}

/// Returns a number that is greater for a greater score: the bits of a positive one are.
fn key(score: f64) -> u64 {
    score.to_bits()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fusion::best_first;

    proptest! {
        #[test]
        fn the_best_come_as_if_all_had_been_sorted(
            scores in prop::collection::vec(prop_oneof![Just(0.0), -1.0..1.0_f64, (0_u8..6).prop_map(f64::from)], 0..3_000),
            taken in 0_usize..3_000,
        ) {
            let positive = || scores.iter().copied().enumerate().filter(|(_, score)| *score > 0.0);
            let sorted = best_first(positive().collect());
            let expected: Vec<usize> = sorted.iter().take(RANKED).map(|(turn, _)| *turn).collect();
            prop_assert_eq!(best(&scores), expected);
            let mut lazily = BestFirst::new(positive());
            let taken: Vec<(usize, f64)> = lazily.by_ref().take(taken).collect();
            prop_assert_eq!(&taken[..], &sorted[..taken.len()]);
            prop_assert_eq!(lazily.len(), sorted.len() - taken.len());
        }
    }
}
