//! Finds the sentences of a passage that support a claim, by the words that both have.
//!
//! Words are compared by their first five letters: truncation comes close to real stemmers in many languages (McNamee
//! and Mayfield, "Character n-gram tokenization for European language text retrieval", 2004), and needs to know none.

use std::collections::BTreeSet;
use std::ops::Range;

use super::sentences::sentences;

/// Letters of a word that count.
const STEM: usize = 5;
/// Letters that a word needs to count.
const MIN_WORD: usize = 3;
/// A quote must have at least one in this many of the claim's words.
const MIN_SHARE: usize = 5;
/// Words that a neighbouring sentence must add to become part of a quote.
const MIN_ADDED: usize = 2;
/// Maximum bytes of a quote.
const MAX_QUOTE: usize = 600;

/// Frequent words that support nothing, in a few languages, as they are compared.
const COMMON: [&str; 81] = [
    "about", "after", "all", "also", "and", "any", "are", "auch", "auf", "been", "bei", "but", "can", "dans", "das",
    "dem", "den", "der", "des", "die", "does", "ein", "eine", "einem", "einen", "einer", "est", "for", "from", "für",
    "had", "has", "have", "her", "his", "how", "ich", "into", "ist", "its", "kann", "les", "may", "mit", "more",
    "must", "nicht", "not", "oder", "only", "our", "par", "pas", "per", "pour", "que", "qui", "sie", "sind", "such",
    "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "und", "une", "von", "was",
    "were", "what", "when", "which", "will", "with", "you",
];

/// Returns the words of a text that can support a claim, as they are compared. Scripts without spaces between words
/// give pairs of letters.
pub(super) fn keys(text: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        let letters: Vec<char> = word.chars().flat_map(char::to_lowercase).collect();
        if letters.iter().any(|letter| is_unspaced(*letter)) {
            keys.extend(letters.windows(2).map(|pair| pair.iter().collect::<String>()));
        } else if letters.iter().any(|letter| letter.is_numeric()) {
            keys.insert(letters.into_iter().collect());
        } else if letters.len() >= MIN_WORD {
            let stem: String = letters.into_iter().take(STEM).collect();
            if !COMMON.contains(&stem.as_str()) {
                keys.insert(stem);
            }
        }
    }
    keys
}

/// Returns whether a letter belongs to a script that does not separate words: Thai to Khmer, kana and Han.
fn is_unspaced(letter: char) -> bool {
    matches!(letter, '\u{0e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}')
}

/// A passage, divided into what may be quoted.
pub(super) struct Quotable<'a> {
    text: &'a str,
    parts: Vec<(Range<usize>, BTreeSet<String>)>,
}

impl<'a> Quotable<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let parts = sentences(text).into_iter().flat_map(|sentence| divided(text, sentence));
        let parts = parts.map(|range| (range.clone(), keys(&text[range]))).collect();
        Self { text, parts }
    }

    /// Returns the sentence that has most of the claim's words, the first among equals, with a neighbour if that has
    /// further ones; `None` if it has hardly any.
    pub(super) fn best(&self, claim: &BTreeSet<String>) -> Option<&'a str> {
        let shared = |part: usize| self.parts[part].1.intersection(claim).count();
        let best = (0..self.parts.len()).rev().max_by_key(|part| shared(*part))?;
        let words = shared(best);
        if words == 0 || words * MIN_SHARE < claim.len() {
            return None;
        }
        let (range, found) = &self.parts[best];
        let neighbours = [
            best.checked_sub(1),
            Some(best + 1).filter(|next| *next < self.parts.len()),
        ];
        let added = |part: usize| {
            let new = self.parts[part]
                .1
                .intersection(claim)
                .filter(|key| !found.contains(*key));
            new.count()
        };
        let joined = |part: usize| {
            let other = &self.parts[part].0;
            range.start.min(other.start)..range.end.max(other.end)
        };
        let neighbours = neighbours.into_iter().flatten();
        let fitting = neighbours.filter(|part| added(*part) >= MIN_ADDED && joined(*part).len() <= MAX_QUOTE);
        let quote = fitting.max_by_key(|part| added(*part)).map_or(range.clone(), joined);
        Some(&self.text[quote])
    }
}

/// Divides a sentence that is too long to be quoted, between words where it can.
fn divided(text: &str, sentence: Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut start) = (Vec::new(), sentence.start);
    while sentence.end - start > MAX_QUOTE {
        let limit = text.floor_char_boundary(start + MAX_QUOTE);
        let window = &text[start..limit];
        let cut = window.rfind(char::is_whitespace).filter(|cut| *cut > 0);
        let end = cut.map_or(limit, |cut| start + cut);
        parts.push(start..end);
        let left = &text[end..sentence.end];
        start = end + (left.len() - left.trim_start().len());
    }
    if start < sentence.end {
        parts.push(start..sentence.end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSAGE: &str = "Employees have thirty days of vacation a year. Requests go to the team lead. The lead answers \
                           within two weeks. Unused days expire on 31 March.";

    fn best(claim: &str) -> Option<&'static str> {
        Quotable::new(PASSAGE).best(&keys(claim))
    }

    #[test]
    fn the_quote_is_the_sentence_that_says_the_same() {
        let cases = [
            (
                "You get thirty vacation days",
                Some("Employees have thirty days of vacation a year."),
            ),
            (
                "Unused vacation expires on 31 March",
                Some("Unused days expire on 31 March."),
            ),
            (
                "A request to the team lead is answered within two weeks",
                Some("Requests go to the team lead. The lead answers within two weeks."),
            ),
            ("The moon orbits the earth", None),
            ("Yes, that is so", None),
            ("", None),
        ];
        for (claim, expected) in cases {
            assert_eq!(best(claim), expected, "{claim:?}");
        }
    }

    #[test]
    fn common_words_stand_as_they_are_compared() {
        assert!(COMMON.is_sorted());
        assert!(COMMON.iter().all(|word| word.chars().count() <= STEM));
        assert!(keys("The and those with").len() == 1);
        assert_eq!(keys("休暇は三十日").len(), 5);
    }

    proptest! {
        #[test]
        fn a_quote_is_a_part_of_the_passage_and_never_long(
            passage in "([a-z]{1,9}|[A-Z][a-z]{2,6}|[0-9]{1,3}|é|。|[.!?] |\n| ){0,400}",
            claim in "([a-z]{1,9} ){0,12}",
        ) {
            if let Some(quote) = Quotable::new(&passage).best(&keys(&claim)) {
                prop_assert!(passage.contains(quote) && !quote.is_empty() && quote.len() <= MAX_QUOTE);
            }
        }
    }
}
