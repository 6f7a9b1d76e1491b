//! The markers by which a model cites, and the filter that takes them out of its answer.
//!
//! A marker is `[cite-CODE:3]`. The code differs from turn to turn and is derived from the turn's nonce, so that
//! neither a user nor a document can write one: what they write stays in the answer.
//!
//! Invariants: the text that passes has no marker with the turn's code, also where taking one out joins the parts of
//! another; it does not depend on how the stream is split.

use sha2::{Digest as _, Sha256};

/// Spaces directly before a marker that are removed with it; further ones stay.
const MAX_SPACES: usize = 16;
/// Maximum bytes between the opening of a marker and its end.
const MAX_BODY: usize = 48;
/// Maximum numbers of one marker; further ones are ignored.
const MAX_NUMBERS: usize = 8;
/// How much of an opening at the end of an answer counts as a marker that was cut off.
const CUT_OFF: usize = "[cite".len();
/// Characters before which no space is wanted.
const CLOSING: [char; 19] = [
    '.', ',', ';', ':', '!', '?', ')', ']', '}', '"', '\'', '…', '»', '”', '’', '。', '，', '！', '？',
];

/// The code in a turn's markers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkerCode(String);

impl MarkerCode {
    /// Derives the code of a turn from its nonce.
    pub fn of(nonce: &str) -> Self {
        let digest = Sha256::new_with_prefix("citation markers ")
            .chain_update(nonce)
            .finalize();
        Self(hex::encode(&digest[..3]))
    }

    /// Returns the marker of a source.
    pub fn marker(&self, number: u32) -> String {
        format!("{}{number}]", self.opening())
    }

    fn opening(&self) -> String {
        format!("[cite-{}:", self.0)
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text for readers.
    Text(String),
    /// A marker was here; the numbers in it.
    Marker(Vec<u32>),
}

/// Takes markers out of a streamed answer, with the spaces before them where none are wanted.
#[derive(Debug)]
pub struct MarkerFilter {
    opening: String,
    /// What may be the beginning of a marker.
    held: String,
    /// The spaces before the markers that were taken out last, until it is known whether they are wanted.
    gap: Option<String>,
    /// Bytes of an opening with which the text that passed ends.
    met: usize,
}

/// What stands at a place where a marker might.
enum Found {
    Marker { bytes: usize, numbers: Vec<u32> },
    Nothing,
    Unfinished,
}

impl MarkerFilter {
    /// Creates a filter for the markers of a turn.
    pub fn new(code: &MarkerCode) -> Self {
        Self {
            opening: code.opening(),
            held: String::new(),
            gap: None,
            met: 0,
        }
    }

    /// Adds a piece of the answer and returns what is certain now.
    pub fn push(&mut self, piece: &str) -> Vec<Piece> {
        self.held.push_str(piece);
        self.scan(false)
    }

    /// Ends the answer and returns the rest. A marker that is cut off does not pass.
    pub fn finish(&mut self) -> Vec<Piece> {
        self.scan(true)
    }

    fn scan(&mut self, is_end: bool) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let (mut out, mut rest) = (Vec::new(), held.as_str());
        while !rest.is_empty() {
            let (plain, behind) = rest.split_at(rest.find([' ', '[']).unwrap_or(rest.len()));
            self.pass(plain, &mut out);
            let spaces = behind.len() - behind.trim_start_matches(' ').len();
            let (surplus, behind) = behind.split_at(spaces.saturating_sub(MAX_SPACES));
            self.pass(surplus, &mut out);
            let (gap, after) = behind.split_at(spaces.min(MAX_SPACES));
            match self.find(after, is_end) {
                Found::Marker { bytes, numbers } => {
                    self.gap.get_or_insert_with(|| gap.to_owned());
                    out.push(Piece::Marker(numbers));
                    rest = &after[bytes..];
                }
                Found::Nothing => {
                    let bracket = usize::from(after.starts_with('['));
                    let (nothing, further) = behind.split_at(gap.len() + bracket);
                    self.pass(nothing, &mut out);
                    rest = further;
                }
                Found::Unfinished => {
                    behind.clone_into(&mut self.held);
                    break;
                }
            }
        }
        out
    }

    /// Looks for a marker at the beginning of a text.
    fn find(&self, text: &str, is_end: bool) -> Found {
        let (opening, bytes) = (self.opening.as_bytes(), text.as_bytes());
        let common = opening.len().min(bytes.len());
        if !bytes[..common].eq_ignore_ascii_case(&opening[..common]) {
            return Found::Nothing;
        }
        if common < opening.len() {
            return match is_end {
                false => Found::Unfinished,
                true if common >= CUT_OFF => Found::Marker {
                    bytes: common,
                    numbers: Vec::new(),
                },
                true => Found::Nothing,
            };
        }
        let body = &bytes[common..];
        let is_body = |byte: &&u8| matches!(byte, b'0'..=b'9' | b',' | b';' | b' ');
        let length = body.iter().take(MAX_BODY).take_while(is_body).count();
        if length == body.len() && length < MAX_BODY && !is_end {
            return Found::Unfinished;
        }
        let closed = usize::from(body.get(length) == Some(&b']'));
        let numbers = text[common..common + length].split(|c: char| !c.is_ascii_digit());
        Found::Marker {
            bytes: common + length + closed,
            numbers: numbers
                .filter_map(|number| number.parse().ok())
                .take(MAX_NUMBERS)
                .collect(),
        }
    }

    /// Passes text on.
    fn pass(&mut self, text: &str, out: &mut Vec<Piece>) {
        let Some(first) = text.chars().next() else { return };
        let gap = self
            .gap
            .take()
            .filter(|_| !first.is_whitespace() && !CLOSING.contains(&first));
        let text = self.without_opening(&(gap.unwrap_or_default() + text));
        match out.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(&text),
            _ => out.push(Piece::Text(text)),
        }
    }

    /// Leaves out the colon that would complete an opening: a marker was nested in another's, and what is left of that one
    /// must not be a marker either.
    fn without_opening(&mut self, text: &str) -> String {
        let opening = self.opening.as_bytes();
        let mut kept = String::with_capacity(text.len());
        for char in text.chars() {
            let is_next = opening
                .get(self.met)
                .is_some_and(|next| char.eq_ignore_ascii_case(&char::from(*next)));
            if is_next && self.met + 1 == opening.len() {
                continue;
            }
            self.met = if is_next {
                self.met + 1
            } else {
                usize::from(char == '[')
            };
            kept.push(char);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code() -> MarkerCode {
        MarkerCode("7f3a10".to_owned())
    }

    /// Returns the text that passes, and the markers with the length of the text before each.
    fn filtered(pieces: &[&str]) -> (String, Vec<(usize, Vec<u32>)>) {
        let mut filter = MarkerFilter::new(&code());
        let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| filter.push(piece)).collect();
        all.extend(filter.finish());
        let (mut text, mut markers) = (String::new(), Vec::new());
        for piece in all {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Marker(numbers) => markers.push((text.len(), numbers)),
            }
        }
        (text, markers)
    }

    #[test]
    fn markers_leave_no_trace() {
        let cases = [
            ("Thirty days [cite-7f3a10:1].", "Thirty days.", vec![(11, vec![1])]),
            (
                "Thirty days. [cite-7f3a10:1] More",
                "Thirty days. More",
                vec![(12, vec![1])],
            ),
            (
                "Thirty days.[cite-7f3a10:1]More",
                "Thirty days.More",
                vec![(12, vec![1])],
            ),
            ("a [cite-7f3a10:1]b", "a b", vec![(1, vec![1])]),
            (
                "a [cite-7f3a10:1] [cite-7f3a10:2], b",
                "a, b",
                vec![(1, vec![1]), (1, vec![2])],
            ),
            ("a [CITE-7F3A10:1, 12;3]", "a", vec![(1, vec![1, 12, 3])]),
            ("a [cite-7f3a10:]", "a", vec![(1, vec![])]),
            ("a [cite-7f3a10:99999999999]", "a", vec![(1, vec![])]),
            // Cut off.
            ("a [cite-7f3a10:1", "a", vec![(1, vec![1])]),
            ("a [cite-7f", "a", vec![(1, vec![])]),
            ("a [c", "a [c", vec![]),
            // Not ours.
            ("a [cite-000000:1] b", "a [cite-000000:1] b", vec![]),
            ("xs[1] [2] [[3]] [cite:4]", "xs[1] [2] [[3]] [cite:4]", vec![]),
            // Nested: what is left is no marker.
            ("[cite-[cite-7f3a10:1]7f3a10:2]", "[cite-7f3a102]", vec![(6, vec![1])]),
            ("[cite-7f3a10 [cite-7f3a10:1]:2]", "[cite-7f3a102]", vec![(12, vec![1])]),
            ("[[cite-7f3a10:1]cite-000000:2]", "[cite-000000:2]", vec![(1, vec![1])]),
            // Malformed: what belongs to the marker goes.
            ("a [cite-7f3a10:one] b", "a one] b", vec![(1, vec![])]),
        ];
        for (written, text, markers) in cases {
            assert_eq!(filtered(&[written]), (text.to_owned(), markers), "{written:?}");
        }
    }

    #[test]
    fn codes_differ_from_turn_to_turn() {
        let (one, other) = (MarkerCode::of("0123456789abcdef"), MarkerCode::of("0123456789abcdee"));
        assert_ne!(one, other);
        assert_eq!(one, MarkerCode::of("0123456789abcdef"));
        assert!(one.marker(3).starts_with("[cite-") && one.marker(3).ends_with(":3]"));
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_the_answer_is_split(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "[cite-7f3a10:1]", "[cite-7f3a10:2,3]", "[cite-", "[", "]", " ", "                   ", ".", "x", "é",
                    "[cite-7f3a10:", "7", "\n", "1]", "[cite-000000:1]", ", ", "[CI", "te-7f3a10:", "[cite-7F3A10", ":", "[c",
                    "ite-7f3a10", "[cite-7f3a10:1",
                ]),
                0..16,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let whole = parts.concat();
            let mut at: Vec<usize> = cuts.iter().map(|cut| whole.floor_char_boundary(cut.index(whole.len() + 1))).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
            let split = filtered(&pieces);
            prop_assert_eq!(&split, &filtered(&[&whole]));
            prop_assert!(!split.0.to_ascii_lowercase().contains(&code().opening()), "{:?}", split);
            let by_character: Vec<String> = whole.chars().map(String::from).collect();
            let by_character: Vec<&str> = by_character.iter().map(String::as_str).collect();
            prop_assert_eq!(&split, &filtered(&by_character));
        }
    }
}
