//! The choice of the boundaries at which chunks begin.
//!
//! A boundary is chosen if it is the strongest within a window on both sides (ties are decided by a hash of the text
//! around it). That is a local rule, unlike filling chunks one after the other: see the [chunks](super)' invariants. In a
//! row of equal boundaries the chosen ones are two windows apart on average and one at least (the records of a random
//! sequence), so the window is half of the length that is aimed at.

use std::collections::VecDeque;

use super::MOST_TOKENS;
use super::atoms::{Atom, Strength};

/// Headings this close to an outer one, in tokens, begin no chunk: sections that are smaller stay with their neighbours.
const SECTION_WINDOW: usize = 64;
/// Half of the average length of chunks, in tokens.
const WINDOW: usize = 128;
/// Sections up to this length are one chunk.
const WHOLE: usize = 320;

/// A boundary that may be chosen.
#[derive(Clone, Copy)]
struct Candidate {
    /// Number of the atom after it.
    atom: usize,
    /// Tokens before it.
    at: usize,
    key: (Strength, u32),
}

/// Returns the numbers of the atoms with which chunks begin.
pub fn choose(atoms: &[Atom]) -> Vec<usize> {
    let mut total = 0;
    let candidates: Vec<Candidate> = atoms
        .iter()
        .enumerate()
        .map(
            |(
                atom,
                Atom {
                    tokens, strength, hash, ..
                },
            )| {
                let at = total;
                total += tokens;
                Candidate {
                    atom,
                    at,
                    key: (*strength, *hash),
                }
            },
        )
        .collect();
    let is_heading = |candidate: &&Candidate| candidate.atom > 0 && matches!(candidate.key.0, Strength::Heading(_));
    let headings: Vec<Candidate> = candidates.iter().filter(is_heading).copied().collect();
    let mut starts = Vec::new();
    let mut from = 0;
    for next in peaks(&headings, SECTION_WINDOW).into_iter().chain([candidates.len()]) {
        let end = candidates.get(next).map_or(total, |candidate| candidate.at);
        section(&candidates[from..next], end, &mut starts);
        from = next;
    }
    starts
}

/// Chooses within a section, which ends after `end` tokens.
fn section(candidates: &[Candidate], end: usize, starts: &mut Vec<usize>) {
    let [first, rest @ ..] = candidates else {
        return;
    };
    let mut from = first.atom;
    if end - first.at > WHOLE {
        let is_inside = |candidate: &&Candidate| candidate.at >= first.at + WINDOW && candidate.at + WINDOW <= end;
        let inside: Vec<Candidate> = rest.iter().filter(is_inside).copied().collect();
        for next in peaks(&inside, WINDOW) {
            let (gap, after) = candidates[from - first.atom..].split_at(next - from);
            bounded(gap, after.first().map_or(end, |after| after.at), starts);
            from = next;
        }
    }
    bounded(&candidates[from - first.atom..], end, starts);
}

/// Cuts what is too long at its strongest boundaries that are not near its ends, until nothing is.
fn bounded(candidates: &[Candidate], end: usize, starts: &mut Vec<usize>) {
    let mut open = vec![(candidates, end)];
    while let Some((part, end)) = open.pop() {
        let Some(first) = part.first() else {
            continue;
        };
        let length = end - first.at;
        // Atoms are shorter than half of what is too long, so there is a boundary in the middle.
        let middle = first.at + length / 4..=end - length / 4;
        let inner = part.iter().enumerate().skip(1);
        let best = inner
            .filter(|(_, candidate)| middle.contains(&candidate.at))
            .max_by_key(|(_, candidate)| candidate.key);
        match best {
            Some((index, best)) if length > MOST_TOKENS => {
                // The part in front is taken next.
                open.push((&part[index..], end));
                open.push((&part[..index], best.at));
            }
            _ => starts.push(first.atom),
        }
    }
}

/// Returns the atoms of the candidates that are the greatest within `window` tokens on both sides. Of equal ones, as in
/// text that repeats itself, the first is chosen and then every one that is a window away from the last.
fn peaks(candidates: &[Candidate], window: usize) -> Vec<usize> {
    let before = greatest_before(candidates.iter().copied(), window);
    // Seen from the other end.
    let most = candidates.last().map_or(0, |last| last.at);
    let reversed = candidates.iter().rev().map(|candidate| Candidate {
        at: most - candidate.at,
        ..*candidate
    });
    let mut after = greatest_before(reversed, window);
    after.reverse();
    let mut chosen = Vec::new();
    let mut last: Option<usize> = None;
    for (candidate, (before, after)) in candidates.iter().zip(before.into_iter().zip(after)) {
        let is_peak = before.is_none_or(|key| key <= candidate.key) && after.is_none_or(|key| key <= candidate.key);
        if is_peak && last.is_none_or(|last| candidate.at >= last + window) {
            chosen.push(candidate.atom);
            last = Some(candidate.at);
        }
    }
    chosen
}

/// Returns for each candidate the greatest key less than `window` tokens before it.
fn greatest_before(candidates: impl Iterator<Item = Candidate>, window: usize) -> Vec<Option<(Strength, u32)>> {
    // Keys decrease from front to back: what is smaller than a later one can never be the greatest again.
    let mut open: VecDeque<Candidate> = VecDeque::new();
    candidates
        .map(|candidate| {
            while open.front().is_some_and(|front| front.at + window <= candidate.at) {
                open.pop_front();
            }
            let greatest = open.front().map(|front| front.key);
            while open.back().is_some_and(|back| back.key <= candidate.key) {
                open.pop_back();
            }
            open.push_back(candidate);
            greatest
        })
        .collect()
}
