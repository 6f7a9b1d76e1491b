//! Long memory: finds the earlier turns of a conversation that bear on a question, and fills a budget of tokens with them.
//!
//! # How a turn is found
//!
//! Five rankings are fused by reciprocal rank: BM25 over the turns; BM25 over each turn with its two neighbours; and the
//! cosine of the question with the turn's vector, with the vector of the turn read after the one before it ("Yes, in May."
//! says nothing alone), and with the mean of the turn's vector and its neighbours'. The mean costs no embedding. A turn then
//! has its own score and a part of its neighbours', since an answer stands next to its question. If the question names exactly
//! one speaker, that speaker's turns count more.
//!
//! The selection is filled with the best turns and given in the order in which they were said, each with the reason for which
//! it is there. Texts are never shortened or rewritten: a turn is in the prompt verbatim or not at all.
//!
//! # What it costs
//!
//! One [`Recall`] holds one conversation and is extended by each turn. A turn takes about 1 KB: two vectors of 384 bytes
//! (8 bits a component; ranks hardly differ from those of floats) and some 20 postings; 10,000 turns take 10 to 15 MB. It is
//! meant to be held in a cache that is bounded in bytes ([`Recall::bytes`]), and to be rebuilt from the log and the stored
//! vectors when the conversation is used again. The vectors are made once per turn and stored with it; making them is what
//! costs. A search looks at every vector, and sorts no more turns than it looks at: for 10,000 turns 14 million instructions
//! with vectors and 5 million without, much less than embedding the question.
//!
//! # Invariants
//!
//! The same turns and question give the same selection. A selection never exceeds its budget. A conversation holds at most
//! [`MAX_TURNS`]; beyond, the oldest quarter is forgotten. Erasing a turn means dropping the `Recall` and building it again
//! without the turn: nothing here is a copy of record.

mod ranking;
mod select;
mod speakers;
mod vectors;
mod words;

use copilotd_actors::ports::Vector;
pub use select::{Budget, Question, Reason, Selected, Selection};

use self::speakers::Speakers;
use self::vectors::TurnVectors;
use self::words::Words;

/// Most turns of one conversation that are searched.
pub const MAX_TURNS: usize = 20_000;

/// The turns of one conversation, ready to be searched.
#[derive(Debug, Default)]
pub struct Recall {
    /// Number of the oldest turn that is held: those before it were forgotten.
    first: u64,
    turns: Vec<Entry>,
    words: Words,
    vectors: TurnVectors,
    speakers: Speakers,
}

/// A turn to be added.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Name of who said it, as others would call them; none if there is no name (a "user" or "assistant" is none).
    pub speaker: Option<&'a str>,
    /// What was said.
    pub text: &'a str,
    /// What it takes of a budget.
    pub tokens: u64,
    /// Vector of [`Recall::to_embed`]'s first text; none if there is no embedding model.
    pub alone: Option<&'a Vector>,
    /// Vector of [`Recall::to_embed`]'s second text.
    pub after_previous: Option<&'a Vector>,
}

/// What is kept of each turn beside words and vectors.
#[derive(Debug, Clone, Copy)]
struct Entry {
    tokens: u64,
    speaker: Option<u16>,
}

impl Recall {
    /// Returns an empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the texts whose vectors a turn needs: the turn, and the turn after the one before it. Turns and previous
    /// turns are given as speaker and text.
    pub fn to_embed(turn: (Option<&str>, &str), previous: Option<(Option<&str>, &str)>) -> [String; 2] {
        let alone = said(turn.0, turn.1);
        let after_previous = match previous {
            Some((speaker, text)) => format!("{}\n{alone}", said(speaker, text)),
            None => alone.clone(),
        };
        [alone, after_previous]
    }

    /// Adds the newest turn and returns its number: turns are numbered from 0 in the order in which they are added.
    pub fn push(&mut self, turn: Turn<'_>) -> u64 {
        if self.turns.len() >= MAX_TURNS {
            self.forget(MAX_TURNS / 4);
        }
        self.words.push(&said(turn.speaker, turn.text));
        self.vectors.push(turn.alone, turn.after_previous);
        self.turns.push(Entry {
            tokens: turn.tokens,
            speaker: turn.speaker.and_then(|name| self.speakers.register(name)),
        });
        self.first + (self.turns.len() - 1) as u64
    }

    /// Removes the newest turns, until there are `len`. The next one that is added gets the number of the first of them.
    pub fn truncate(&mut self, len: usize) {
        if len < self.turns.len() {
            self.turns.truncate(len);
            self.words.truncate(len);
            self.vectors.truncate(len);
        }
    }

    /// Sets the vectors of a turn that was added without; see [`Recall::to_embed`]. Nothing happens if it was forgotten.
    pub fn set_vectors(&mut self, turn: u64, alone: &Vector, after_previous: &Vector) {
        let place = turn
            .checked_sub(self.first)
            .and_then(|place| usize::try_from(place).ok());
        if let Some(place) = place.filter(|place| *place < self.turns.len()) {
            self.vectors.set(place, alone, after_previous);
        }
    }

    /// Returns whether any turn has vectors.
    pub fn has_vectors(&self) -> bool {
        !self.vectors.is_empty()
    }

    /// Returns the text to embed for a question, in the way of questions: without the names of speakers, which would draw
    /// it to everything that they said. Who is named counts in [`Recall::select`].
    pub fn question_to_embed(&self, question: &str) -> String {
        self.speakers.without_names(question)
    }

    /// Returns the number of turns that are searched.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Returns whether there are no turns.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Returns about how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.turns.capacity() * size_of::<Entry>() + self.words.bytes() + self.vectors.bytes()
    }

    /// Forgets the oldest turns. The numbers of the others stay.
    fn forget(&mut self, count: usize) {
        self.turns.drain(..count);
        self.words.forget(count);
        self.vectors.forget(count);
        self.first += count as u64;
    }
}

/// Returns the components of a vector with 8 bits each, as a [`Recall`] holds them: a vector of these components is the same
/// to it.
pub fn packed(vector: &Vector) -> Vec<i8> {
    vectors::pack(vector.values()).0
}

fn said(speaker: Option<&str>, text: &str) -> String {
    match speaker {
        Some(speaker) => format!("{speaker}: {text}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod plain;
#[cfg(test)]
mod tests;
