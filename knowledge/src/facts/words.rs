//! Whether a fact says what its source says: words, numbers, denials and qualifications.

use unicode_segmentation::UnicodeSegmentation;

use super::Refusal;
use crate::lexical::terms;

/// Words that a fact may add: they name the user or join words, and state nothing.
const FREE: [&str; 66] = [
    "a",
    "about",
    "also",
    "am",
    "an",
    "and",
    "any",
    "are",
    "as",
    "at",
    "be",
    "been",
    "being",
    "by",
    "called",
    "currently",
    "customer",
    "customer's",
    "day",
    "did",
    "do",
    "does",
    "for",
    "from",
    "had",
    "has",
    "have",
    "he",
    "her",
    "him",
    "his",
    "in",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "name",
    "named",
    "of",
    "on",
    "or",
    "person",
    "s",
    "said",
    "she",
    "since",
    "stated",
    "states",
    "that",
    "the",
    "their",
    "them",
    "themselves",
    "these",
    "they",
    "this",
    "to",
    "user",
    "user's",
    "using",
    "was",
    "were",
    "which",
    "who",
    "with",
];
/// Words that deny.
const DENIALS: [&str; 11] = [
    "cannot", "neither", "never", "no", "nobody", "none", "nor", "not", "nothing", "nowhere", "without",
];
/// Words that limit a statement so much that it says something else without them.
const LIMITS: [&str; 26] = [
    "almost",
    "barely",
    "except",
    "ex",
    "former",
    "formerly",
    "hardly",
    "hate",
    "hates",
    "longer",
    "nearly",
    "only",
    "previous",
    "previously",
    "quit",
    "rarely",
    "seldom",
    "sometimes",
    "stop",
    "stopped",
    "than",
    "too",
    "until",
    "used",
    "wanted",
    "yet",
];
/// People whose doings are not the user's.
const OTHERS: [&str; 44] = [
    "aunt",
    "boss",
    "boyfriend",
    "brother",
    "child",
    "children",
    "client",
    "colleague",
    "company",
    "cousin",
    "coworker",
    "dad",
    "daughter",
    "doctor",
    "father",
    "friend",
    "friends",
    "girlfriend",
    "grandfather",
    "grandmother",
    "he",
    "her",
    "him",
    "his",
    "husband",
    "kid",
    "kids",
    "manager",
    "mom",
    "mother",
    "mum",
    "neighbor",
    "neighbour",
    "parents",
    "partner",
    "roommate",
    "she",
    "sister",
    "son",
    "team",
    "they",
    "uncle",
    "wife",
    "you",
];
/// Numbers in words.
const NUMBERS: [&str; 13] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
];

/// Returns a word in lower case with plain apostrophes.
pub(super) fn plain(word: &str) -> String {
    word.to_lowercase().replace('\u{2019}', "'")
}

/// Refuses a fact that leaves out a denial, a limitation or a person of the sentences around its source, or adds a denial
/// or a limitation.
pub(super) fn check_qualifiers(fact: &str, sentences: &str) -> Result<(), Refusal> {
    let (fact, source) = (words(fact), words(sentences));
    let denial = |words: &[String]| words.iter().find(|word| is_denial(word)).cloned();
    match (denial(&fact), denial(&source)) {
        (Some(_), Some(_)) | (None, None) => {}
        (Some(word), None) | (None, Some(word)) => return Err(Refusal::Distorted(word)),
    }
    let missing = source
        .iter()
        .find(|word| (LIMITS.contains(&word.as_str()) || OTHERS.contains(&bare(word))) && !has(&fact, word));
    let added = fact
        .iter()
        .find(|word| LIMITS.contains(&word.as_str()) && !has(&source, word));
    match missing.or(added) {
        Some(word) => Err(Refusal::Distorted(word.clone())),
        None => Ok(()),
    }
}

/// Refuses a fact with a word or a number that does not occur in its source.
pub(super) fn check_support(fact: &str, source: &str) -> Result<(), Refusal> {
    let source = words(source);
    let mut has_content = false;
    for word in words(fact) {
        if let Some(number) = number(&word) {
            has_content = true;
            if !source.iter().any(|theirs| self::number(theirs) == Some(number.clone())) {
                return Err(Refusal::Unsupported(word));
            }
        } else if !FREE.contains(&word.as_str()) && !is_denial(&word) {
            has_content = true;
            if !has(&source, &word) {
                return Err(Refusal::Unsupported(word));
            }
        }
    }
    // "The user is a customer" says nothing.
    if has_content { Ok(()) } else { Err(Refusal::Malformed) }
}

fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(plain).collect()
}

/// Returns whether the word occurs, in any of its endings.
fn has(words: &[String], word: &str) -> bool {
    let stem = |word: &str| terms(bare(word)).into_iter().next().map(|(term, _)| term);
    let wanted = stem(word);
    words
        .iter()
        .any(|theirs| theirs == word || (wanted.is_some() && stem(theirs) == wanted))
}

fn bare(word: &str) -> &str {
    word.strip_suffix("'s").unwrap_or(word)
}

pub(super) fn is_denial(word: &str) -> bool {
    DENIALS.contains(&word) || word.ends_with("n't")
}

/// Returns the digits of a number, so that "5,000" is "5000" and "five" is "5"; none for words without a digit.
fn number(word: &str) -> Option<String> {
    if let Some(value) = NUMBERS.iter().position(|number| *number == word) {
        return Some(value.to_string());
    }
    word.contains(char::is_numeric).then(|| word.replace(',', ""))
}
