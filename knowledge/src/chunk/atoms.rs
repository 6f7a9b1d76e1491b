//! Atoms: the parts of a text that no chunk cuts, and the boundaries between them.

use super::line_start;
use super::tokens::TokenCount;
use crate::extract::Extracted;

/// A sentence, a line, or some words of a sentence that is too long. It neither begins nor ends with white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Atom {
    /// Offset of its first byte.
    pub start: usize,
    /// Offset after its last byte.
    pub end: usize,
    /// An upper bound of its tokens.
    pub tokens: usize,
    /// Of the boundary before it.
    pub strength: Strength,
    /// Decides between boundaries of the same strength. Depends on the atoms before and after the boundary only.
    pub hash: u32,
}

/// How much a boundary separates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Within a word.
    Inside,
    /// Between words.
    Word,
    /// Between lines, in the middle of a sentence or of code.
    Line,
    /// Between sentences.
    Sentence,
    /// Before a list item or table row.
    Item,
    /// Before a paragraph.
    Paragraph,
    /// Before a heading; an outer one separates more.
    Heading(std::cmp::Reverse<u8>),
}

/// Longest atom, in tokens.
pub const MOST: usize = 64;
/// Bytes that count as one token at least: some vocabularies have one token for a word that they do not know, however
/// long it is.
const BYTES_PER_TOKEN: usize = 16;
/// Longest run without white space that stays whole, in bytes.
const LONGEST_WORD: usize = 128;
/// Shortest and longest part of a longer run.
const PART: std::ops::RangeInclusive<usize> = 16..=64;
/// Words of a long sentence that make one atom at most.
const WORDS: usize = 8;
/// One boundary in so many is an atom's, within long sentences and words.
const ONE_IN: u32 = 4;

/// Returns the atoms of a text, in order. Together they are all of it but white space.
pub fn atoms(extracted: &Extracted, count: &dyn TokenCount) -> Vec<Atom> {
    let mut splitter = Splitter::new(extracted, count);
    let mut offset = 0;
    for line in extracted.text.split_inclusive('\n') {
        splitter.line(offset, line);
        offset += line.len();
    }
    splitter.atoms
}

struct Splitter<'a> {
    text: &'a str,
    count: &'a dyn TokenCount,
    headings: std::iter::Peekable<std::vec::IntoIter<(usize, u8)>>,
    pages: std::iter::Peekable<std::slice::Iter<'a, crate::extract::Page>>,
    verbatim: std::iter::Peekable<std::slice::Iter<'a, std::ops::Range<usize>>>,
    /// Whether an empty line came after the last atom.
    is_after_gap: bool,
    /// Whether the last line was a heading.
    is_after_heading: bool,
    /// Hash of the last atom.
    last: u32,
    atoms: Vec<Atom>,
}

impl<'a> Splitter<'a> {
    fn new(extracted: &'a Extracted, count: &'a dyn TokenCount) -> Self {
        let text = &extracted.text;
        let headings = extracted.marks.headings.iter();
        let headings: Vec<_> = headings
            .map(|heading| (line_start(text, heading.offset), heading.level))
            .collect();
        Self {
            text,
            count,
            headings: headings.into_iter().peekable(),
            pages: extracted.marks.pages.iter().peekable(),
            verbatim: extracted.marks.verbatim.iter().peekable(),
            is_after_gap: false,
            is_after_heading: false,
            last: 0,
            atoms: Vec::new(),
        }
    }

    fn line(&mut self, offset: usize, line: &str) {
        let trimmed = line.trim_start();
        let start = offset + (line.len() - trimmed.len());
        let content = trimmed.trim_end();
        if content.is_empty() {
            self.is_after_gap = true;
            return;
        }
        let mut heading = None;
        while let Some((_, level)) = self.headings.next_if(|(at, _)| *at <= start) {
            heading = Some(level);
        }
        let mut is_new_page = false;
        while self.pages.next_if(|page| page.offset <= start).is_some() {
            is_new_page = true;
        }
        while self.verbatim.next_if(|range| range.end <= start).is_some() {}
        let is_verbatim = self.verbatim.peek().is_some_and(|range| range.start < start);
        let is_after_sentence = self.is_after_heading || self.ends_sentence();
        let strength = if let Some(level) = heading {
            Strength::Heading(std::cmp::Reverse(level))
        } else if is_verbatim {
            if self.is_after_gap {
                Strength::Sentence
            } else {
                Strength::Line
            }
        } else if is_new_page {
            if is_after_sentence {
                Strength::Paragraph
            } else {
                Strength::Line
            }
        } else if self.is_after_gap {
            Strength::Paragraph
        } else if is_item(content) {
            Strength::Item
        } else if is_after_sentence {
            Strength::Sentence
        } else {
            Strength::Line
        };
        self.is_after_gap = false;
        self.is_after_heading = heading.is_some();
        self.sentences(start, content, strength);
    }

    /// Whether the last atom ends a sentence.
    fn ends_sentence(&self) -> bool {
        let last = self.atoms.last().map(|atom| &self.text[atom.start..atom.end]);
        last.is_some_and(|text| text.trim_end_matches(is_closing).ends_with(is_terminal))
    }

    fn sentences(&mut self, start: usize, line: &str, mut strength: Strength) {
        let mut from = 0;
        for end in sentence_ends(line) {
            let sentence = &line[from..end];
            let leading = sentence.len() - sentence.trim_start().len();
            self.sentence(start + from + leading, sentence.trim(), strength);
            strength = Strength::Sentence;
            from = end;
        }
    }

    fn sentence(&mut self, start: usize, sentence: &str, strength: Strength) {
        if sentence.is_empty() {
            return;
        }
        let tokens = self.tokens(sentence);
        if tokens <= MOST {
            self.push(start, sentence, tokens, strength);
        } else {
            self.words(start, sentence, strength);
        }
    }

    fn tokens(&self, text: &str) -> usize {
        self.count.count(text).max(text.len().div_ceil(BYTES_PER_TOKEN))
    }

    /// Splits a long sentence where its words' hashes say, so that an edit moves the nearest boundaries only.
    fn words(&mut self, start: usize, sentence: &str, mut strength: Strength) {
        let (mut from, mut end, mut words, mut tokens) = (0, 0, 0, 0);
        let base = sentence.as_ptr() as usize;
        for word in sentence.split_whitespace() {
            let at = word.as_ptr() as usize - base;
            let is_long = word.len() > LONGEST_WORD;
            let more = if is_long { 0 } else { self.tokens(word) };
            let is_boundary = is_long || words >= WORDS || tokens + more > MOST || fnv(word).is_multiple_of(ONE_IN);
            if words > 0 && is_boundary {
                self.push(start + from, &sentence[from..end], tokens, strength);
                strength = Strength::Word;
                (words, tokens) = (0, 0);
            }
            if is_long {
                self.parts(start + at, word, strength);
                strength = Strength::Word;
                continue;
            }
            if words == 0 {
                from = at;
            }
            (end, words, tokens) = (at + word.len(), words + 1, tokens + more);
        }
        if words > 0 {
            self.push(start + from, &sentence[from..end], tokens, strength);
        }
    }

    /// Splits a long run without white space, such as encoded data or a text in a script without spaces.
    fn parts(&mut self, start: usize, run: &str, mut strength: Strength) {
        let mut from = 0;
        for (at, char) in run.char_indices() {
            let length = at - from;
            let next = at + char.len_utf8() - from;
            let context = &run[run.floor_char_boundary(at.saturating_sub(4))..at];
            if next > *PART.end() || (length >= *PART.start() && fnv(context).is_multiple_of(ONE_IN)) {
                self.part(start + from, &run[from..at], strength);
                strength = Strength::Inside;
                from = at;
            }
        }
        self.part(start + from, &run[from..], strength);
    }

    fn part(&mut self, start: usize, part: &str, strength: Strength) {
        // Beside its neighbours it can have more tokens than alone, though no more than bytes. One per character is what
        // words of unknown letters have.
        self.push(start, part, part.chars().count().max(self.tokens(part)), strength);
    }

    fn push(&mut self, start: usize, text: &str, tokens: usize, strength: Strength) {
        let hash = fnv(text);
        self.atoms.push(Atom {
            start,
            end: start + text.len(),
            tokens,
            strength,
            hash: mix(self.last.rotate_left(13) ^ hash),
        });
        self.last = hash;
    }
}

/// Returns where the sentences of a line end, the last one at its end.
fn sentence_ends(line: &str) -> impl Iterator<Item = usize> + '_ {
    let mut chars = line.char_indices().peekable();
    // The character before the terminal one, and the one before that.
    let (mut before, mut earlier) = (' ', ' ');
    let mut is_done = false;
    std::iter::from_fn(move || {
        while let Some((at, char)) = chars.next() {
            let previous = (earlier, before);
            (earlier, before) = (before, char);
            if !is_terminal(char) || char == ':' {
                continue;
            }
            let mut end = at + char.len_utf8();
            while let Some((_, more)) = chars.next_if(|(_, next)| is_closing(*next) || is_terminal(*next)) {
                end += more.len_utf8();
                (earlier, before) = (before, more);
            }
            if is_wide_terminal(char) {
                return Some(end);
            }
            let is_spaced = chars.peek().is_some_and(|(_, next)| next.is_whitespace());
            // "J. Smith", "1. First".
            let is_initial = char == '.' && !previous.0.is_alphanumeric() && previous.1.is_alphanumeric();
            if is_spaced && !is_initial {
                let after = line[end..].chars().find(|next| !next.is_whitespace());
                // "approx. five".
                if !(char == '.' && after.is_some_and(char::is_lowercase)) {
                    return Some(end);
                }
            }
        }
        (!std::mem::replace(&mut is_done, true)).then_some(line.len())
    })
}

fn is_terminal(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | ':') || is_wide_terminal(char)
}

/// Whether a character ends a sentence without white space after it.
fn is_wide_terminal(char: char) -> bool {
    matches!(char, '。' | '！' | '？' | '｡')
}

fn is_closing(char: char) -> bool {
    matches!(
        char,
        '"' | '\'' | ')' | ']' | '}' | '»' | '”' | '’' | '」' | '』' | '）' | '*' | '_' | '`'
    )
}

/// Whether a line is a list item or a row of a table.
fn is_item(line: &str) -> bool {
    if line.starts_with(['|', '•', '‣', '◦', '▪', '–']) {
        return true;
    }
    let rest = match line.strip_prefix(['-', '*', '+']) {
        Some(rest) => rest,
        None => {
            let rest = line.trim_start_matches(|char: char| char.is_ascii_digit());
            let digits = line.len() - rest.len();
            match rest.strip_prefix(['.', ')']) {
                Some(rest) if (1..=9).contains(&digits) => rest,
                _ => return false,
            }
        }
    };
    rest.starts_with(char::is_whitespace)
}

/// FNV-1a, the same in every version and on every machine.
fn fnv(text: &str) -> u32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    mix(hash)
}

/// The finaliser of MurmurHash3: every bit of the input changes half of the output's.
fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Estimate;
    use super::*;
    use crate::document::Format;
    use crate::extract::{Limits, extract};

    fn cut(text: &str) -> Vec<(String, Strength)> {
        let extracted = extract(text.as_bytes(), Format::Markdown, None, &Limits::default()).unwrap();
        let atoms = atoms(&extracted, &Estimate);
        let atom = |atom: Atom| (extracted.text[atom.start..atom.end].to_owned(), atom.strength);
        atoms.into_iter().map(atom).collect()
    }

    #[test]
    fn boundaries_have_the_strength_of_the_structure() {
        use Strength::{Heading, Item, Line, Paragraph, Sentence};
        let text = "# Plans\nTwo exist. Choose one\nof them!\n\n- Basic\n- \"Pro.\" It has more.\r\n\r\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nx = 1.\n\ny\n```\n## Dr. No, J. Doe approx. here 3.5 at e.g. home\nEnd";
        let heading = |level| Heading(std::cmp::Reverse(level));
        let expected = [
            ("# Plans", heading(1)),
            ("Two exist.", Sentence),
            ("Choose one", Sentence),
            ("of them!", Line),
            ("- Basic", Paragraph),
            ("- \"Pro.\"", Item),
            ("It has more.", Sentence),
            ("| a | b |", Paragraph),
            ("|---|---|", Item),
            ("| 1 | 2 |", Item),
            ("```", Paragraph),
            ("x = 1.", Line),
            ("y", Sentence),
            ("```", Line),
            ("## Dr.", heading(2)),
            ("No, J. Doe approx. here 3.5 at e.g. home", Sentence),
            ("End", Sentence),
        ];
        assert_eq!(cut(text), expected.map(|(text, strength)| (text.to_owned(), strength)));
        assert_eq!(
            cut("営業時間は九時からです。「はい！」そうです"),
            [
                ("営業時間は九時からです。".to_owned(), Paragraph),
                ("「はい！」".to_owned(), Sentence),
                ("そうです".to_owned(), Sentence)
            ]
            .map(|(text, strength)| (text, if strength == Paragraph { Line } else { strength }))
        );
        assert!(heading(1) > heading(2) && heading(6) > Paragraph);
    }

    #[test]
    fn no_atom_is_long() {
        for text in [
            "word ".repeat(5_000),
            "x".repeat(50_000),
            "日本".repeat(5_000),
            format!("{} {}", "a/b?c=".repeat(3_000), "tail ".repeat(300)),
        ] {
            let extracted = Extracted {
                text,
                ..Extracted::default()
            };
            let atoms = atoms(&extracted, &Estimate);
            assert!(atoms.iter().all(|atom| atom.tokens <= MOST));
            assert!(atoms.iter().all(|atom| atom.end - atom.start <= MOST * BYTES_PER_TOKEN));
        }
    }
}
