//! The one tokenizer: what triggers a compression and what plans it count alike.
//!
//! Invariant: every function here takes time linear in its text, whatever that holds. The tokenizer itself does not: its regex and
//! its merges take longer per byte on long runs without a break, and give up on very long ones with a panic. So it is given
//! [`PIECE`]s only.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens that chat protocols add around a message, as OpenAI documents for its chat models.
pub const PER_MESSAGE: u64 = 4;
/// Most text that the tokenizer gets at once.
pub const PIECE: usize = 4 * 1024;
/// What tokenizing one byte costs, in the time that parsing one byte of JSON takes.
pub const COST_PER_BYTE: usize = 32;
/// Bytes of the longest token of the encoding (a run of blanks).
const LONGEST_TOKEN: u64 = 128;

/// Counts the tokens of `text` in the encoding `o200k_base`. Other vendors' models differ by some percent. In text of more than
/// [`PIECE`] bytes that has no blanks for a long stretch, a token may count as two where a piece ends.
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

/// Returns how many tokens `text` has at least, at a hundredth of the price of counting: no token is longer than a word with the
/// sign before it, or than three digits.
pub fn at_least(text: &str) -> u64 {
    let (mut words, mut digits, mut run, mut before) = (0_u64, 0_u64, 0_u64, b' ');
    for byte in text.bytes() {
        // Characters that are not ASCII may be letters or digits too: what touches one is not counted apart.
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

/// Text that [`estimate`] counts; what is longer has as many tokens for each byte. A fraction of a millisecond.
const COUNTED: usize = 2 * 1024;

/// Estimates the tokens of `text` in constant time but for [`at_least`]: exact up to 2 KiB, by its beginning beyond that.
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

/// Text that is counted later, while it comes in pieces: its beginning, and how long it is.
#[derive(Clone, Default)]
pub struct Sample {
    kept: String,
    written: u64,
}

impl Sample {
    /// Text that is kept; what is longer has as many tokens for each byte.
    pub const KEPT: usize = 16 * 1024;

    /// Adds a piece.
    pub fn add(&mut self, piece: &str) {
        self.written += piece.len() as u64;
        let room = Self::KEPT.saturating_sub(self.kept.len());
        self.kept.push_str(&piece[..piece.floor_char_boundary(room)]);
    }

    /// Returns the bytes that were added.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns what counting costs, in the unit of the compute pool.
    pub fn cost(&self) -> usize {
        self.kept.len() * COST_PER_BYTE
    }

    /// Counts the tokens.
    pub fn count(&self) -> u64 {
        scaled(count(&self.kept), self.kept.len() as u64, self.written)
    }

    /// Estimates the tokens without the tokenizer, for where there is no room to run it.
    pub fn coarse(&self) -> u64 {
        self.written.div_ceil(4)
    }
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What was said stands in no log.
        f.debug_struct("Sample")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Returns the longest beginning of `text` that has about `tokens` tokens at most, cut at a character.
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
        // A whole piece that fits exactly is followed by the next one's first token, which does not.
        break;
    }
    &text[..at]
}

/// Returns where to end a part of `text` of at most `most` bytes (at least a character): the end of a word if there is one in the
/// last quarter, where a token ends in any case; else the end of a character.
pub fn cut(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let end = text.floor_char_boundary(most);
    let bytes = text.as_bytes();
    let is_end = |at: &usize| bytes[at - 1].is_ascii_alphanumeric() && bytes[*at].is_ascii_whitespace();
    let word = (end - most / 4..=end).rev().filter(|at| *at > 0).find(is_end);
    // A bound below one character: never stand still.
    let first = text.chars().next().map_or(0, char::len_utf8);
    word.unwrap_or(end).max(first)
}

/// Whether the tokenizer's tables are built, which takes a quarter of a second.
static READY: AtomicBool = AtomicBool::new(false);

/// Builds the tokenizer's tables.
pub fn warm_up() {
    encode("a");
}

/// Tells whether counting begins at once. Before that, who must not wait makes do with a coarse number.
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
        fn the_lower_bound_is_one(text in "([a-zA-Z]{1,4}|[0-9]{1,5}|'|’|é|²|½|漢|🙂|\u{301}|[ \n\t./=_-]){0,80}") {
            let counted = encode(&text).len() as u64;
            prop_assert!(at_least(&text) <= counted, "{} > {counted}", at_least(&text));
            prop_assert!(count_up_to(&text, 3) <= counted);
        }

        #[test]
        fn cuts_stand_between_characters_and_make_way(text in "\\PC{1,60}", most in 0_usize..40) {
            let at = cut(&text, most);
            prop_assert!(at > 0 && text.is_char_boundary(at));
        }
    }
}
