//! The text of an answer, piece by piece.

use std::sync::{Arc, LazyLock};

use super::step::Step;
use super::usage::tokens;

/// Characters of arguments in one delta, unless the step says otherwise.
const ARGUMENT_CHARS: usize = 12;
/// Longest piece of a text without spaces.
const LONGEST_PIECE: usize = 24;

/// Repeated when only a number of words is requested; it reads like a support assistant's answer.
const PASSAGE: &str = "Thank you for your patience, I have gone through the whole history of this request. The customer wrote to \
    us first on Monday and asked for help with the export of a long list. A colleague answered on the same day, suggested a smaller \
    selection, and offered to look at the file. Since then nobody has reported back, so the request is still open. I would suggest \
    three steps. First, ask the customer whether the export works with the new limit. Second, if it does not, collect the exact time \
    of the last attempt and the name of the list. Third, pass both on to the team that looks after exports, because they can find \
    the job in their records within minutes. In the meantime the customer can download the list in two parts. If you like, I can \
    write that answer for you, add an internal note with what we know so far, and remind the team tomorrow morning. Please tell me \
    which of these would help you most.";

/// Splits a text into the pieces that a model would stream.
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

    /// Characters left until the stream has to fail.
    pub(crate) fn room(&self) -> usize {
        self.max_chars
            .map_or(usize::MAX, |max| max.saturating_sub(self.said_chars))
    }

    /// Whether `max_tokens` cut the text short.
    pub(crate) fn was_shortened(&self) -> bool {
        self.max_pieces == Some(self.said_pieces) && self.has_more()
    }

    /// Skips to the end, without making words that are only counted.
    pub(crate) fn say_all(&mut self) {
        match (&self.text, self.max_pieces) {
            (None, max) => self.said_pieces = max.map_or(self.words, |max| self.words.min(max)),
            (Some(text), None) => self.at = text.len(),
            (Some(_), Some(_)) => self.by_ref().for_each(drop),
        }
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

    /// Returns the next fragment of a call's arguments, from character `at` on.
    pub(crate) fn fragment(&mut self, arguments: &str, at: usize) -> String {
        let size = self.chunk.unwrap_or(ARGUMENT_CHARS).min(self.room());
        let fragment: String = arguments.chars().skip(at).take(size).collect();
        self.said_chars += fragment.chars().count();
        fragment
    }

    fn word(at: usize) -> String {
        static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| PASSAGE.split_whitespace().collect());
        let blank = if at == 0 { "" } else { " " };
        format!("{blank}{}", WORDS[at % WORDS.len()])
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
