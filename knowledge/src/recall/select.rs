//! Chooses turns for a question: rankings, fusion, neighbours, budget.

use copilotd_actors::ports::Vector;

use super::Recall;
use super::ranking::{BestFirst, best};
use crate::fusion::of_rank;

/// Part of a turn's score that each of its neighbours has too.
const NEIGHBOUR: f64 = 0.25;
/// How much more turns of the speaker count whom the question names.
const NAMED_SPEAKER: f64 = 1.75;
/// The newest turns have one part in this many of the budget, whatever the question is: "it" and "that one" are among them.
const RECENT_PART: u64 = 16;
/// A turn may take one part in this many of the budget: one long paste must not displace everything else.
const LARGEST_PART: u64 = 2;
/// A selection is full when fewer tokens are left than any sentence has.
const FULL: u64 = 10;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The question.
    pub text: &'a str,
    /// Vector of [`Recall::question_to_embed`]; without it words alone decide.
    pub vector: Option<&'a Vector>,
    /// Turns from this number on are not selected, but count as neighbours: whoever asks has them already.
    pub before: Option<u64>,
}

/// How much a selection may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tokens of all turns.
    pub tokens: u64,
    /// Tokens of it that the newest turns have, whatever the question is.
    pub recent_tokens: u64,
}

/// The turns for a question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// In the order in which they were said.
    pub turns: Vec<Selected>,
    /// Tokens of all of them.
    pub tokens: u64,
    /// Turns with anything to do with the question that did not fit.
    pub omitted: u64,
}

/// A turn of a selection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selected {
    /// Its number.
    pub turn: u64,
    /// Its tokens.
    pub tokens: u64,
    /// Its score for the question; only compared within one selection.
    pub score: f64,
    /// Why it is there.
    pub reason: Reason,
}

/// Why a turn was selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is one of the newest.
    Recent,
    /// It has to do with the question.
    Relevant {
        /// Its rank among all turns, from 1.
        rank: u32,
    },
    /// The turn before or after it has to do with the question.
    Neighbour {
        /// Number of that turn.
        of: u64,
    },
}

impl Budget {
    /// Divides tokens between recent and relevant turns by the fixed policy.
    pub fn of(tokens: u64) -> Self {
        Self {
            tokens,
            recent_tokens: tokens / RECENT_PART,
        }
    }
}

impl Recall {
    /// Selects the turns that bear on a question, within a budget.
    pub fn select(&self, question: Question<'_>, budget: Budget) -> Selection {
        let own = self.scores(question);
        let end = question.before.map_or(own.len(), |before| {
            let places = before.saturating_sub(self.first);
            usize::try_from(places).map_or(own.len(), |places| places.min(own.len()))
        });
        let mut filling = Filling {
            chosen: Vec::new(),
            left: budget.tokens,
            omitted: 0,
        };
        self.add_recent(&mut filling, budget, &own, end);
        self.add_relevant(&mut filling, budget, &own, end, self.speakers.named(question.text));
        let mut turns = filling.chosen;
        turns.sort_unstable_by_key(|turn| turn.turn);
        Selection {
            tokens: turns.iter().map(|turn| turn.tokens).sum(),
            turns,
            omitted: filling.omitted,
        }
    }

    /// Returns the fused score of each turn.
    fn scores(&self, question: Question<'_>) -> Vec<f64> {
        let words = self.words.scores(question.text);
        let mut rankings = vec![best(&words.alone), best(&words.with_neighbours)];
        if let Some(cosines) = question.vector.and_then(|vector| self.vectors.cosines(vector)) {
            rankings.extend([&cosines.alone, &cosines.after_previous, &cosines.mean].map(|scores| best(scores)));
        }
        let mut scores = vec![0.0; self.turns.len()];
        for ranking in rankings {
            for (rank, turn) in (1_u32..).zip(ranking) {
                scores[turn] += of_rank(rank);
            }
        }
        scores
    }

    /// Adds the newest turns without a gap.
    fn add_recent(&self, filling: &mut Filling, budget: Budget, own: &[f64], end: usize) {
        let mut left = budget.recent_tokens.min(budget.tokens);
        for turn in (0..end).rev() {
            let tokens = self.turns[turn].tokens;
            if tokens > left {
                break;
            }
            left -= tokens;
            filling.left -= tokens;
            filling.chosen.push(self.selected(turn, own[turn], Reason::Recent));
        }
    }

    fn add_relevant(&self, filling: &mut Filling, budget: Budget, own: &[f64], end: usize, named: Option<u16>) {
        let scores = (0..end).map(|turn| (turn, self.score(turn, own, named)));
        let mut scored = BestFirst::new(scores.filter(|(_, score)| *score > 0.0));
        // The newest are chosen already.
        let recent_from = end - filling.chosen.len();
        let mut chosen_before = (recent_from..end)
            .filter(|turn| self.score(*turn, own, named) > 0.0)
            .count();
        let mut rank = 0;
        // Nothing fits any more once it is full: who the others are does not matter, nor their order.
        while filling.left >= FULL
            && let Some((turn, score)) = scored.next()
        {
            rank += 1;
            if turn >= recent_from {
                chosen_before -= 1;
                continue;
            }
            let tokens = self.turns[turn].tokens;
            if tokens > filling.left || tokens > budget.tokens / LARGEST_PART {
                filling.omitted += 1;
                continue;
            }
            let (neighbour, theirs) = best_neighbour(turn, own);
            let reason = if own[turn] < NEIGHBOUR * theirs {
                let of = self.first + neighbour as u64;
                Reason::Neighbour { of }
            } else {
                Reason::Relevant { rank }
            };
            filling.left -= tokens;
            filling.chosen.push(self.selected(turn, score, reason));
        }
        filling.omitted += (scored.len() - chosen_before) as u64;
    }

    /// Returns the score of a turn with what its neighbours and its speaker add.
    fn score(&self, turn: usize, own: &[f64], named: Option<u16>) -> f64 {
        let before = turn.checked_sub(1).map_or(0.0, |before| own[before]);
        let after = own.get(turn + 1).copied().unwrap_or_default();
        let is_named = named.is_some() && self.turns[turn].speaker == named;
        let factor = if is_named { NAMED_SPEAKER } else { 1.0 };
        (own[turn] + NEIGHBOUR * (before + after)) * factor
    }

    fn selected(&self, turn: usize, score: f64, reason: Reason) -> Selected {
        Selected {
            turn: self.first + turn as u64,
            tokens: self.turns[turn].tokens,
            score,
            reason,
        }
    }
}

/// A selection in the making.
struct Filling {
    chosen: Vec<Selected>,
    left: u64,
    omitted: u64,
}

/// Returns the better neighbour of a turn and its score; the turn itself with 0 if it is alone.
fn best_neighbour(turn: usize, own: &[f64]) -> (usize, f64) {
    let before = turn.checked_sub(1).map(|before| (before, own[before]));
    let after = own.get(turn + 1).map(|score| (turn + 1, *score));
    match (before, after) {
        (Some(before), Some(after)) if after.1 > before.1 => after,
        (Some(before), _) => before,
        (None, Some(after)) => after,
        (None, None) => (turn, 0.0),
    }
}
