//! The one tokenizer: compression triggers and compression plans count with the same one.
//!
//! Invariant: every function here takes time linear in the length of its text, whatever it contains. The tokenizer
//! itself does not: its regex and its merges take longer per byte on long runs without a break, and panic on very long
//! ones. So it is only given pieces of at most [`PIECE`] bytes.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens that chat protocols add to each message, as OpenAI documents for its chat models.
pub const PER_MESSAGE: u64 = 4;
/// Maximum bytes of text that the tokenizer is given at once.
pub const PIECE: usize = 4 * 1024;
/// The cost of tokenizing one byte, relative to parsing one byte of JSON.
pub const COST_PER_BYTE: usize = 32;
/// Length of the longest token of the encoding in bytes (a run of spaces).
const LONGEST_TOKEN: u64 = 128;

/// Counts the tokens of `text` in the encoding `o200k_base`. Models of other vendors differ by a few per cent. In text
/// of more than [`PIECE`] bytes with a long stretch without spaces, a token at the end of a piece may count as two.
pub fn count(text: &str) -> u64 {
    count_up_to(text, u64::MAX)
}

/// Counts until there are more than `most` tokens; a result above `most` is a lower bound.
pub fn count_up_to(text: &str, most: u64) -> u64 {
    let (mut rest, mut sum) = (text, 0);
    while !rest.is_empty() && sum <= most {
        let (piece, tail) = rest.split_at(cut(rest, PIECE));
        sum += encode(piece).len() as u64;
        rest = tail;
    }
    sum
}

/// Returns a lower bound of the tokens of `text`, at a hundredth of the cost of counting: no token is longer than a
/// word with the sign before it, or than three digits.
pub fn at_least(text: &str) -> u64 {
    let (mut words, mut digits, mut run, mut before) = (0_u64, 0_u64, 0_u64, b' ');
    for byte in text.bytes() {
        // Characters that are not ASCII may be letters or digits too: what touches one is not counted separately.
        let starts = |same: fn(&u8) -> bool| before.is_ascii() && !same(&before);
        if byte.is_ascii_alphabetic() {
            // "it's" may be one token.
            words += u64::from(starts(u8::is_ascii_alphabetic) && before != b'\'');
        } else if byte.is_ascii_digit() {
            run = match run {
                0 if !before.is_ascii() => 0,
                run => run + 1,
            };
            // The first, the fourth, the seventh…
            digits += u64::from(run % 3 == 1);
        }
        if !byte.is_ascii_digit() {
            run = 0;
        }
        before = byte;
    }
    (words + digits).max((text.len() as u64).div_ceil(LONGEST_TOKEN))
}

/// Bytes of text that [`estimate`] counts; the rest is assumed to have as many tokens per byte. Takes a fraction of a
/// millisecond.
const COUNTED: usize = 2 * 1024;

/// Estimates the tokens of `text` in constant time, apart from [`at_least`]: exact up to 2 KiB, beyond that
/// extrapolated from the beginning.
pub fn estimate(text: &str) -> u64 {
    let kept = &text[..cut(text, COUNTED)];
    let counted = count(kept);
    if kept.len() == text.len() {
        return counted;
    }
    scaled(counted, kept.len() as u64, text.len() as u64).max(at_least(text))
}

/// Scales the tokens of `kept` bytes to `written` bytes of the same text.
fn scaled(counted: u64, kept: u64, written: u64) -> u64 {
    let tokens = (u128::from(counted) * u128::from(written)).checked_div(u128::from(kept));
    tokens.map_or(0, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX))
}

/// A sample of a text that arrives in pieces and is counted later: its beginning, and its length.
#[derive(Clone, Default)]
pub struct Sample {
    kept: String,
    written: u64,
}

impl Sample {
    /// Bytes of text that are kept; the rest is assumed to have as many tokens per byte.
    pub const KEPT: usize = 16 * 1024;

    /// Adds a piece.
    pub fn add(&mut self, piece: &str) {
        self.written += piece.len() as u64;
        let room = Self::KEPT.saturating_sub(self.kept.len());
        self.kept.push_str(&piece[..piece.floor_char_boundary(room)]);
    }

    /// Returns the number of bytes that were added.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns the cost of counting, in the unit of the compute pool.
    pub fn cost(&self) -> usize {
        self.kept.len() * COST_PER_BYTE
    }

    /// Counts the tokens.
    pub fn count(&self) -> u64 {
        scaled(count(&self.kept), self.kept.len() as u64, self.written)
    }

    /// Estimates the tokens without the tokenizer, for when the compute pool has no capacity to run it.
    pub fn coarse(&self) -> u64 {
        self.written.div_ceil(4)
    }
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text must not appear in logs.
        f.debug_struct("Sample")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Returns the longest prefix of `text` with roughly `tokens` tokens at most, cut at a character boundary.
pub fn clip(text: &str, tokens: u64) -> &str {
    let (mut at, mut left) = (0, tokens);
    while at < text.len() {
        let piece = &text[at..at + cut(&text[at..], PIECE)];
        let encoded = encode(piece);
        let Some(kept) = encoded.get(..usize::try_from(left).unwrap_or(usize::MAX)) else {
            at += piece.len();
            left -= encoded.len() as u64;
            continue;
        };
        // Tokens may end inside a character: count bytes and step back to a boundary.
        let decoded = tiktoken_rs::o200k_base_singleton().decode_bytes(kept);
        let bytes = decoded.map_or(0, |bytes| bytes.len()).min(piece.len());
        at += piece.floor_char_boundary(bytes);
        // If a whole piece fits exactly, the next piece's first token does not.
        break;
    }
    &text[..at]
}

/// Returns where to end a piece of `text` of at most `most` bytes (at least one character): at the end of a word if
/// there is one in the last quarter, because a token ends there in any case; else at a character boundary.
pub fn cut(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let end = text.floor_char_boundary(most);
    let bytes = text.as_bytes();
    let is_end = |at: &usize| bytes[at - 1].is_ascii_alphanumeric() && bytes[*at].is_ascii_whitespace();
    let word = (end - most / 4..=end).rev().filter(|at| *at > 0).find(is_end);
    // A limit below one character: always make progress.
    let first = text.chars().next().map_or(0, char::len_utf8);
    word.unwrap_or(end).max(first)
}

/// Whether the tokenizer's tables have been built, which takes a quarter of a second.
static READY: AtomicBool = AtomicBool::new(false);

/// Builds the tokenizer's tables.
pub fn warm_up() {
    encode("a");
}

/// Returns whether counting can start at once. Until then, callers that must not wait use a coarse estimate.
pub fn is_ready() -> bool {
    READY.load(Ordering::Relaxed)
}

fn encode(piece: &str) -> Vec<tiktoken_rs::Rank> {
    let encoded = tiktoken_rs::o200k_base_singleton().encode_ordinary(piece);
    READY.store(true, Ordering::Relaxed);
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clipping_keeps_whole_characters() {
        let text = "Grüße aus Köln 🙂🙂🙂";
        for tokens in 0..count(text) + 2 {
            let clipped = clip(text, tokens);
            assert!(text.starts_with(clipped));
            assert!(count(clipped) <= tokens + 1, "{clipped:?}");
        }
        assert_eq!(clip(text, 1000), text);
    }

    #[test]
    fn clipping_goes_over_pieces() {
        let text = "some words and 12 numbers, ".repeat(1_000);
        let whole = count(&text);
        for tokens in [0, 1, 100, 2_000, whole - 1, whole, whole + 1] {
            let clipped = clip(&text, tokens);
            assert!(count(clipped).abs_diff(tokens.min(whole)) <= 1, "{tokens}");
        }
    }

    #[test]
    fn estimates_are_the_tokenizers_and_not_a_number_of_bytes() {
        // Four bytes a token would be 500, 1,000 and 3,750 for these.
        for (text, exact) in [
            ("1 ".repeat(1_000), true),
            ("漢字仮名".repeat(300), false),
            ("word ".repeat(3_000), false),
        ] {
            let (counted, estimated) = (count(&text), estimate(&text));
            let most = if exact { 0 } else { counted / 50 };
            assert!(counted.abs_diff(estimated) <= most, "{counted} {estimated}");
            let mut sample = Sample::default();
            text.split_inclusive(' ').for_each(|piece| sample.add(piece));
            assert!(counted.abs_diff(sample.count()) <= counted / 50, "{counted} {sample:?}");
            assert_eq!(sample.written(), text.len() as u64);
        }
        assert_eq!((estimate(""), Sample::default().count()), (0, 0));
    }

    #[test]
    fn a_sample_is_bounded_and_prints_nothing_of_its_text() {
        let mut sample = Sample::default();
        for _ in 0..20_000 {
            sample.add(" word");
        }
        assert!(sample.kept.len() <= Sample::KEPT);
        assert!((19_900..=20_200).contains(&sample.count()), "{}", sample.count());
        assert!(!format!("{sample:?}").contains("word"));
    }

    #[test]
    fn pieces_of_ordinary_text_count_as_the_whole() {
        for text in [
            "The quick brown fox jumps over 13 lazy dogs.\n\nIt's\ta test…  with  blanks ",
            "fn main() { println!(\"{}\", 1_000_000 + 2); }\n    // done\r\n",
        ] {
            let text = text.repeat(400);
            assert_eq!(count(&text), encode(&text).len() as u64);
        }
    }

    #[test]
    fn runs_that_the_tokenizer_is_slow_on_are_counted_piece_by_piece() {
        for unit in [
            "a", "A", " ", "\n", "🙂", "é", "漢", "\u{301}", "7", "=", "' ", "\u{200b}",
        ] {
            let text = unit.repeat(200_000 / unit.len());
            let counted = count(&text);
            assert!(counted >= at_least(&text), "{unit:?}");
            assert!(counted <= text.len() as u64, "{unit:?}");
            assert!(clip(&text, 100).len() <= 100 * 128);
        }
    }

    proptest! {
        #[test]
        fn the_lower_bound_never_exceeds_the_count(text in "([a-zA-Z]{1,4}|[0-9]{1,5}|'|’|é|²|½|漢|🙂|\u{301}|[ \n\t./=_-]){0,80}") {
            let counted = encode(&text).len() as u64;
            prop_assert!(at_least(&text) <= counted, "{} > {counted}", at_least(&text));
            prop_assert!(count_up_to(&text, 3) <= counted);
        }

        #[test]
        fn cuts_fall_between_characters_and_make_progress(text in "\\PC{1,60}", most in 0_usize..40) {
            let at = cut(&text, most);
            prop_assert!(at > 0 && text.is_char_boundary(at));
        }
    }
}
