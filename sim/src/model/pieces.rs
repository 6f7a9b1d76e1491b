//! What is said, piece by piece.

use std::sync::Arc;

use super::step::Step;
use super::usage::tokens;

/// Characters of arguments in one delta, when the step does not say.
const ARGUMENT_CHARS: usize = 12;
/// The longest piece of a text without blanks.
const LONGEST_PIECE: usize = 24;

const VOCABULARY: [&str; 40] = [
    "the", "model", "answers", "with", "words", "that", "mean", "little", "and", "arrive", "at", "a", "steady", "pace",
    "so", "anyone", "can", "measure", "how", "each", "piece", "travels", "from", "here", "to", "its", "reader",
    "while", "nothing", "is", "lost", "on", "long", "way", "between", "them", "every", "single", "time", "again",
];

/// Cuts a text into the pieces a model would stream.
#[derive(Debug)]
pub(crate) struct Pieces {
    text: Option<Arc<str>>,
    /// Byte position in the text, or number of the word.
    at: usize,
    words: u64,
    chunk: Option<usize>,
    said_chars: usize,
    pub(crate) said_pieces: u64,
    max_pieces: Option<u64>,
    max_chars: Option<usize>,
}

impl Pieces {
    pub(crate) fn new(step: &Step, max_pieces: Option<u64>) -> Self {
        let stops = [
            step.cut_after_chars,
            step.end_without_finish_after_chars,
            step.stall_after_chars,
        ];
        Self {
            text: step.text.clone(),
            at: 0,
            words: step.words.unwrap_or(0),
            chunk: step.chunk_chars.filter(|&chars| chars > 0),
            said_chars: 0,
            said_pieces: 0,
            max_pieces,
            max_chars: stops.into_iter().flatten().min(),
        }
    }

    /// Characters that may still be said before the stream is to fail.
    pub(crate) fn room(&self) -> usize {
        self.max_chars
            .map_or(usize::MAX, |max| max.saturating_sub(self.said_chars))
    }

    /// Whether there was more to say than `max_tokens` allows.
    pub(crate) fn was_shortened(&self) -> bool {
        self.max_pieces == Some(self.said_pieces) && self.has_more()
    }

    pub(crate) fn has_more(&self) -> bool {
        match &self.text {
            Some(text) => self.at < text.len(),
            None => (self.at as u64) < self.words,
        }
    }

    pub(crate) fn tokens(&self) -> u64 {
        match &self.text {
            Some(text) => tokens(&text[..self.at]),
            None => self.said_pieces,
        }
    }

    /// Cuts the next fragment off a call's arguments, from character `at` on.
    pub(crate) fn fragment(&mut self, arguments: &str, at: usize) -> String {
        let size = self.chunk.unwrap_or(ARGUMENT_CHARS).min(self.room());
        let fragment: String = arguments.chars().skip(at).take(size).collect();
        self.said_chars += fragment.chars().count();
        fragment
    }

    fn word(at: usize) -> String {
        let word = VOCABULARY[(at * 7 + at / 5) % VOCABULARY.len()];
        let blank = if at == 0 { "" } else { " " };
        match at % 12 {
            0 => format!("{blank}{}{}", word[..1].to_uppercase(), &word[1..]),
            11 => format!("{blank}{word}."),
            _ => format!("{blank}{word}"),
        }
    }
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let room = self.room();
        if room == 0 || self.max_pieces == Some(self.said_pieces) || !self.has_more() {
            return None;
        }
        let mut piece = match &self.text {
            None => {
                self.at += 1;
                Self::word(self.at - 1)
            }
            Some(text) => {
                let rest = &text[self.at..];
                let mut in_word = false;
                let mut chars = 0;
                let end = rest
                    .char_indices()
                    .find(|(_, character)| {
                        chars += 1;
                        let blank = character.is_whitespace();
                        let ends = match self.chunk {
                            Some(size) => chars > size,
                            None => (in_word && blank) || chars > LONGEST_PIECE,
                        };
                        in_word |= !blank;
                        ends
                    })
                    .map_or(rest.len(), |(at, _)| at);
                self.at += end;
                rest[..end].to_owned()
            }
        };
        if let Some((end, _)) = piece.char_indices().nth(room) {
            piece.truncate(end);
        }
        self.said_chars += piece.chars().count();
        self.said_pieces += 1;
        Some(piece)
    }
}
