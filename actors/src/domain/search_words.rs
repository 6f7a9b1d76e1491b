//! The words of a search, and whether a text has them: whatever its case, accents and width.

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_properties::props::Script;
use icu_properties::{CodePointMapData, CodePointMapDataBorrowed};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Most words of a search.
pub const MAX_WORDS: usize = 16;

/// Cost of comparing a byte of text, in the unit of [`compute`](crate::compute).
pub const COST_PER_BYTE: usize = 8;

static CASES: CaseMapperBorrowed<'static> = CaseMapper::new();
static SCRIPTS: CodePointMapDataBorrowed<'static, Script> = CodePointMapData::<Script>::new();

/// The words that a text must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchWords {
    /// Sorted, and none twice.
    words: Vec<String>,
    /// Those of a script that is written without spaces.
    unspaced: Vec<String>,
    /// What the last word begins with: a user is still typing it, perhaps.
    beginning: String,
}

impl SearchWords {
    /// Reads what a user searches for; none if it has no word, or more than [`MAX_WORDS`].
    pub fn parse(text: &str) -> Option<Self> {
        let folded = folded(text);
        let mut words: Vec<String> = split(&folded).map(str::to_owned).collect();
        let beginning = words.pop()?;
        words.sort_unstable();
        words.dedup();
        let (unspaced, words): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| is_unspaced(word));
        let is_short = words.len() + unspaced.len() < MAX_WORDS;
        is_short.then_some(Self {
            words,
            unspaced,
            beginning,
        })
    }

    /// Returns whether a text has all words. A word of a script that is written without spaces may stand anywhere.
    pub fn are_in(&self, text: &str) -> bool {
        let folded = folded(text);
        if !self.unspaced.iter().all(|word| folded.contains(word.as_str())) {
            return false;
        }
        let mut begins = is_unspaced(&self.beginning) && folded.contains(&self.beginning);
        let mut is_missing = vec![true; self.words.len()];
        let mut missing = self.words.len();
        // One pass, however many words there are.
        for word in split(&folded) {
            begins = begins || word.starts_with(&self.beginning);
            if let Ok(found) = self.words.binary_search_by(|wanted| wanted.as_str().cmp(word))
                && std::mem::take(&mut is_missing[found])
            {
                missing -= 1;
            }
            if begins && missing == 0 {
                return true;
            }
        }
        begins && missing == 0
    }
}

/// Returns a text without case and accents.
fn folded(text: &str) -> String {
    let is_plain = text.is_ascii();
    if is_plain {
        return text.to_ascii_lowercase();
    }
    let bare: String = text.nfkd().filter(|c| !is_combining_mark(*c)).collect();
    CASES.fold_string(&bare).into_owned()
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

fn is_unspaced(word: &str) -> bool {
    let is_unspaced = |c: char| {
        matches!(
            SCRIPTS.get(c),
            Script::Han
                | Script::Hiragana
                | Script::Katakana
                | Script::Thai
                | Script::Lao
                | Script::Khmer
                | Script::Myanmar
        )
    };
    !word.is_ascii() && word.chars().any(is_unspaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whatever_their_case_and_accents() {
        for (words, text, expected) in [
            ("printer", "The Printer is on fire.", true),
            ("fire printer", "The PRINTER is on fire.", true),
            ("on fi", "The printer is on fire.", true),
            // Only the last word may go on.
            ("print fire", "The printer is on fire.", false),
            ("rinter", "The printer is on fire.", false),
            ("printer ticket", "The printer is on fire.", false),
            ("cafe", "Caf\u{e9} au lait", true),
            ("CAF\u{c9}", "cafe\u{301} au lait", true),
            ("strasse", "Hauptstra\u{df}e, Stra\u{df}e 5", true),
            ("\u{ff11}\u{ff12}", "Ticket 12", true),
            ("#4711!", "Order 4711 was sent.", true),
            (
                "\u{6253}\u{5370}\u{673a}",
                "\u{6211}\u{7684}\u{6253}\u{5370}\u{673a}\u{8d77}\u{706b}\u{4e86}",
                true,
            ),
            ("%", "100 %", false),
            ("_", "a_b", false),
        ] {
            let found = SearchWords::parse(words).is_some_and(|words| words.are_in(text));
            assert_eq!(found, expected, "{words:?} in {text:?}");
        }
    }

    #[test]
    fn a_search_has_few_words() {
        let words = |count: usize| (0..count).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        assert!(SearchWords::parse(&words(MAX_WORDS)).is_some_and(|found| found.are_in(&words(MAX_WORDS))));
        assert!(SearchWords::parse(&words(MAX_WORDS)).is_some_and(|found| !found.are_in(&words(MAX_WORDS - 1))));
        assert_eq!(SearchWords::parse(&words(MAX_WORDS + 1)), None);
    }

    #[test]
    fn a_search_without_a_word_is_none() {
        for text in ["", " ", "?!", "\u{301}"] {
            assert_eq!(SearchWords::parse(text), None, "{text:?}");
        }
    }
}
