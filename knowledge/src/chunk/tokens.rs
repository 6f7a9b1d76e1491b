//! Lengths in tokens of an embedding model.

use std::fmt;

/// Counts the tokens of a text, without those that a model adds around it.
///
/// Contract: white space counts nothing, and the count of a text is at most the sum of the counts of its parts if it is cut
/// at white space. No text has more tokens than bytes.
pub trait TokenCount: Send + Sync + fmt::Debug {
    /// Returns the number of tokens.
    fn count(&self, text: &str) -> usize;
}

/// Estimates the word pieces of a BERT vocabulary, for when no model is there. Rather too many than too few.
#[derive(Debug, Clone, Copy, Default)]
pub struct Estimate;

/// Letters of a word that make one piece, from the second piece on; the first piece has [`FIRST`].
const MORE: usize = 4;
/// Letters of a word's first piece.
const FIRST: usize = 7;
/// Digits that make one piece.
const DIGITS: usize = 2;

impl TokenCount for Estimate {
    fn count(&self, text: &str) -> usize {
        let (mut tokens, mut letters, mut digits) = (0, 0_usize, 0_usize);
        let word = |letters: usize, digits: usize| match (letters, digits) {
            (0, digits) => digits.div_ceil(DIGITS),
            (letters, digits) => 1 + letters.saturating_sub(FIRST).div_ceil(MORE) + digits.div_ceil(DIGITS),
        };
        for char in text.chars() {
            match char {
                'a'..='z' | 'A'..='Z' => letters += 1,
                '0'..='9' => digits += 1,
                _ => {
                    tokens += word(letters, digits);
                    (letters, digits) = (0, 0);
                    // Letters of other alphabets and other characters are mostly pieces of their own.
                    tokens += usize::from(!char.is_whitespace());
                }
            }
        }
        tokens + word(letters, digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates() {
        for (text, tokens) in [
            ("", 0),
            (" \n\t", 0),
            ("refund", 1),
            ("Refunds take five working days.", 6),
            ("internationalization", 5),
            ("2026-11-30", 6),
            ("日本語", 3),
            ("a1", 2),
        ] {
            assert_eq!(Estimate.count(text), tokens, "{text}");
        }
    }
}
