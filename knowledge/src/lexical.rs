//! The lexical search: BM25 over stemmed words.
//!
//! Computed by us on every store, from statistics of the tenant alone: what databases offer counts the rows of all tenants
//! (FTS5) or is no BM25 (PostgreSQL's `ts_rank`).
//!
//! The score of a chunk is the sum over the question's terms of [`idf`] × [`weight`]: Robertson and Zaragoza, "The
//! Probabilistic Relevance Framework: BM25 and Beyond" (2009), in the form of Lucene 8 and later, which leaves out the
//! constant factor k1 + 1. The constants are Anserini's, chosen there on other collections.
//!
//! Changing what [`terms`] returns makes stored postings useless: raise [`TERMS_VERSION`] with it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Version of the rules by which [`terms`] cuts a text.
pub const TERMS_VERSION: u32 = 1;
/// Most characters of a term; the rest of a longer word is ignored.
pub const MAX_TERM_CHARS: usize = 64;
/// Most different terms of one text; further ones are ignored.
pub const MAX_TERMS: usize = 8_192;

/// How fast further occurrences of a term stop to count: 0 counts presence only.
pub const K1: f64 = 0.9;
/// How much a chunk's length counts: 0 not at all, 1 in full proportion.
pub const B: f64 = 0.4;

/// The English stop words of Lucene: words so common that they say nothing about a text. In order.
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
];

static CASES: CaseMapperBorrowed<'static> = CaseMapper::new();

thread_local! {
    static STEMMER: Stemmer = Stemmer::create(Algorithm::English);
    /// Stems of the words seen last: stemming is most of the work, and texts repeat their words.
    static STEMS: RefCell<HashMap<String, String>> = RefCell::default();
}
/// Most stems kept per thread.
const MAX_STEMS: usize = 4_096;

/// What the weights of a tenant's terms depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Searchable chunks.
    pub chunks: u64,
    /// Terms of all of them, each occurrence counted.
    pub terms: u64,
}

impl Statistics {
    /// Returns the average number of terms of a chunk; 0 if there are no chunks.
    pub fn average_length(&self) -> f64 {
        if self.chunks == 0 {
            return 0.0;
        }
        as_float(self.terms) / as_float(self.chunks)
    }
}

/// Returns the terms of a text in the order of their first occurrence, each once, with the number of its occurrences.
///
/// A term is a word by Unicode's rules (UAX #29) after compatibility normalisation (NFKC) and case folding, without the
/// English stop words, and stemmed by Snowball's English stemmer if it is a plain English word. Numbers and ids such as
/// `card_4821` are kept as they are. Runs of scripts that put no spaces between words (Han, Kana, Thai, Lao, Khmer,
/// Myanmar) give pairs of neighbouring characters, as Lucene's CJK analyser makes them.
pub fn terms(text: &str) -> Vec<(String, u32)> {
    let mut counted = Counted::default();
    let folded = fold(text);
    let mut run = String::new();
    for (_, word) in folded.split_word_bound_indices() {
        if word.chars().all(is_unspaced) {
            run.push_str(word);
            // Bounded: a page without any space is cut, and loses one pair at the cut.
            if run.len() >= 4_096 {
                pairs(&mut run, &mut counted);
            }
            continue;
        }
        pairs(&mut run, &mut counted);
        if word.chars().any(char::is_alphanumeric) {
            add_word(word, &mut counted);
        }
    }
    pairs(&mut run, &mut counted);
    counted.terms
}

/// Returns how much a term says that occurs in `containing` of `chunks` chunks; never negative. The caller passes
/// `containing <= chunks`.
pub fn idf(chunks: u64, containing: u64) -> f64 {
    let (chunks, containing) = (as_float(chunks.max(containing)), as_float(containing));
    (1.0 + (chunks - containing + 0.5) / (containing + 0.5)).ln()
}

/// Returns what `occurrences` of a term count in a chunk of `length` terms, from 0 (none) towards 1 (many).
pub fn weight(occurrences: u32, length: u64, average_length: f64) -> f64 {
    let occurrences = f64::from(occurrences);
    let relative = if average_length > 0.0 {
        as_float(length) / average_length
    } else {
        1.0
    };
    occurrences / (occurrences + K1 * (1.0 - B + B * relative))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of chunks and terms are far below 2^53"
)]
fn as_float(count: u64) -> f64 {
    count as f64
}

/// The terms found so far.
#[derive(Default)]
struct Counted {
    terms: Vec<(String, u32)>,
    positions: HashMap<String, usize>,
}

impl Counted {
    fn add(&mut self, term: &str) {
        if let Some(&at) = self.positions.get(term) {
            self.terms[at].1 = self.terms[at].1.saturating_add(1);
        } else if self.terms.len() < MAX_TERMS {
            self.positions.insert(term.to_owned(), self.terms.len());
            self.terms.push((term.to_owned(), 1));
        }
    }
}

/// Returns the text in the form in which words are compared.
fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    let composed: String = text.nfkc().collect();
    let folded = CASES.fold_string(&composed).into_owned();
    // Typographic apostrophes are apostrophes.
    Cow::Owned(folded.replace('\u{2019}', "'"))
}

fn add_word(word: &str, counted: &mut Counted) {
    if STOP_WORDS.binary_search(&word).is_ok() {
        return;
    }
    let word = match word.char_indices().nth(MAX_TERM_CHARS) {
        Some((end, _)) => &word[..end],
        None => word,
    };
    if !word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'\'') {
        counted.add(word);
        return;
    }
    STEMS.with_borrow_mut(|stems| {
        if let Some(stem) = stems.get(word) {
            counted.add(stem);
            return;
        }
        let stem = STEMMER.with(|stemmer| stemmer.stem(word).into_owned());
        counted.add(&stem);
        if stems.len() >= MAX_STEMS {
            stems.clear();
        }
        stems.insert(word.to_owned(), stem);
    });
}

/// Adds the pairs of neighbouring characters of a run, or its only character, and empties it.
fn pairs(run: &mut String, counted: &mut Counted) {
    if run.is_empty() {
        return;
    }
    let starts: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
    if starts.len() == 2 {
        counted.add(run);
    }
    for window in starts.windows(3) {
        counted.add(&run[window[0]..window[2]]);
    }
    run.clear();
}

/// Returns whether words of the character's script are not divided by spaces.
fn is_unspaced(character: char) -> bool {
    matches!(
        character,
        '\u{0E01}'..='\u{0EFF}'     // Thai, Lao
        | '\u{1000}'..='\u{109F}'   // Myanmar
        | '\u{1780}'..='\u{17FF}'   // Khmer
        | '\u{3005}'..='\u{3007}'   // Ideographic iteration mark, closing mark, zero
        | '\u{3041}'..='\u{30FF}'   // Hiragana, Katakana
        | '\u{31F0}'..='\u{31FF}'   // Katakana extensions
        | '\u{3400}'..='\u{4DBF}'   // Han, extension A
        | '\u{4E00}'..='\u{9FFF}'   // Han
        | '\u{F900}'..='\u{FAFF}'   // Han, compatibility
        | '\u{20000}'..='\u{3FFFF}' // Han, further extensions
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> String {
        let terms: Vec<String> = terms(text)
            .into_iter()
            .map(|(term, count)| if count == 1 { term } else { format!("{term}*{count}") })
            .collect();
        terms.join(" ")
    }

    #[test]
    fn texts_are_cut_into_terms() {
        for (text, expected) in [
            ("", ""),
            ("The of and", ""),
            ("Refunding a refund", "refund*2"),
            ("The customer's cards", "custom card"),
            ("The customer\u{2019}s CARDS", "custom card"),
            ("Use open_bank_account_4821 twice", "use open_bank_account_4821 twice"),
            ("ORD-2024-001 costs $3.14", "ord 2024 001 cost 3.14"),
            ("Stra\u{df}e STRASSE", "strass*2"),
            ("Cafe\u{301} CAF\u{c9}", "caf\u{e9}*2"),
            ("\u{ff21}\u{ff22}\u{ff11}", "ab1"),
            ("\u{6771}\u{4eac}\u{90fd} is", "\u{6771}\u{4eac} \u{4eac}\u{90fd}"),
            ("\u{6771}", "\u{6771}"),
            ("\u{e01}\u{e02}\u{e03}", "\u{e01}\u{e02} \u{e02}\u{e03}"),
            (
                "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
                "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}",
            ),
            ("--- \u{1f600} !!", ""),
        ] {
            assert_eq!(cut(text), expected, "{text:?}");
        }
    }

    #[test]
    fn stop_words_are_in_order() {
        assert!(STOP_WORDS.is_sorted(), "binary search needs their order");
    }

    #[test]
    fn a_text_is_bounded_however_long_its_words_and_many_its_terms() {
        let long = "\u{e4}".repeat(10_000);
        assert_eq!(terms(&long)[0].0.chars().count(), MAX_TERM_CHARS);
        let many: String = (0..MAX_TERMS + 5).map(|n| format!("n{n} ")).collect();
        assert_eq!(terms(&many).len(), MAX_TERMS);
        let page = "\u{6771}\u{4eac}".repeat(100_000);
        assert_eq!(terms(&page).len(), 2);
    }

    #[test]
    fn the_formulas_have_their_known_values() {
        // Computed by hand from the formulas in the paper.
        for (chunks, containing, expected) in [(10, 1, 7.333_333), (10, 10, 1.047_619), (0, 0, 2.0)] {
            assert!(
                (idf(chunks, containing).exp() - expected).abs() < 1e-5,
                "{chunks} {containing}"
            );
        }
        for (occurrences, length, average, expected) in [
            (0, 10, 10.0, 0.0),
            (1, 10, 10.0, 1.0 / 1.9),
            (2, 20, 10.0, 2.0 / 3.26),
            (1, 10, 0.0, 1.0 / 1.9),
        ] {
            assert!((weight(occurrences, length, average) - expected).abs() < 1e-9);
        }
        assert!((Statistics { chunks: 4, terms: 10 }.average_length() - 2.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn terms_are_distinct_bounded_and_the_same_every_time(text in "\\PC{0,200}") {
            let first = terms(&text);
            let mut names: Vec<&String> = first.iter().map(|(term, _)| term).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), first.len());
            prop_assert!(first.iter().all(|(term, count)| !term.is_empty() && *count > 0 && term.chars().count() <= MAX_TERM_CHARS));
            prop_assert_eq!(terms(&text), first);
        }

        #[test]
        fn rarer_terms_say_more_and_more_occurrences_count_more(
            chunks in 1_u64..1_000_000, containing in 1_u64..1_000_000, occurrences in 1_u32..1000, length in 1_u64..10_000,
        ) {
            let containing = containing.min(chunks);
            prop_assert!(idf(chunks, containing) >= 0.0);
            prop_assert!(idf(chunks, containing) <= idf(chunks, containing - 1));
            prop_assert!(weight(occurrences, length, 100.0) < weight(occurrences + 1, length, 100.0));
            prop_assert!(weight(occurrences, length, 100.0) > weight(occurrences, length + 1, 100.0));
        }
    }
}
