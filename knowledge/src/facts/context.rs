//! Whether what a user wrote is a statement about that user.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::words::plain;
use super::{NotStated, Refusal};

/// Words that speak of who writes.
const FIRST_PERSON: [&str; 12] = [
    "i", "i'm", "i'd", "i'll", "i've", "me", "my", "mine", "myself", "our", "us", "we",
];
/// Words and phrases that make a guess, a wish, a joke or a condition of a sentence.
const HYPOTHETICAL: [&str; 34] = [
    "assume",
    "could",
    "fantasy",
    "fiction",
    "guess",
    "haha",
    "hopefully",
    "hypothetical",
    "hypothetically",
    "i'd",
    "if",
    "imagine",
    "jk",
    "joke",
    "joking",
    "just kidding",
    "kidding",
    "lol",
    "maybe",
    "might",
    "perhaps",
    "possibly",
    "pretend",
    "probably",
    "roleplay",
    "sarcasm",
    "should",
    "story",
    "suppose",
    "unless",
    "unsure",
    "wish",
    "would",
    "/s",
];
/// Words by which somebody is said to have said something.
const REPORTING: [&str; 33] = [
    "according",
    "allegedly",
    "answered",
    "article",
    "asked",
    "asks",
    "believed",
    "believes",
    "claim",
    "claimed",
    "claims",
    "heard",
    "mentioned",
    "quote",
    "quoted",
    "quotes",
    "read",
    "reads",
    "reckons",
    "said",
    "says",
    "stated",
    "states",
    "suggested",
    "suggests",
    "translate",
    "tell",
    "tells",
    "thinks",
    "thought",
    "told",
    "wrote",
    "writes",
];
/// Marks around what somebody else said. An apostrophe is none.
const QUOTES: [char; 7] = ['"', '\u{201c}', '\u{201d}', '\u{201e}', '\u{ab}', '\u{bb}', '`'];

/// Returns the whole sentences of the message that the range touches: a range that leaves a "not" out must not hide it.
pub(super) fn sentences_around<'a>(message: &'a str, range: &Range<usize>) -> &'a str {
    let (mut start, mut end) = (range.start, range.end);
    for (at, sentence) in message.split_sentence_bound_indices() {
        let sentence = at..at + sentence.len();
        if sentence.start < range.end && range.start < sentence.end {
            start = start.min(sentence.start);
            end = end.max(sentence.end);
        }
    }
    &message[start..end]
}

/// Refuses questions, guesses, jokes, quotations and what others said.
pub(super) fn check_statement(message: &str, range: &Range<usize>, sentences: &str) -> Result<(), Refusal> {
    let refuse = |reason| Err(Refusal::NotStated(reason));
    let words: Vec<String> = sentences.unicode_words().map(plain).collect();
    let has = |list: &[&str]| {
        list.iter().any(|phrase| {
            let phrase: Vec<&str> = phrase.split(' ').collect();
            words.windows(phrase.len()).any(|window| window == phrase.as_slice())
        })
    };
    if sentences.contains(['?', '\u{ff1f}']) {
        return refuse(NotStated::Question);
    }
    // A joke is often taken back in the sentence after it.
    let rest: Vec<String> = message[range.end..].unicode_words().map(plain).collect();
    let taken_back = ["kidding", "joking", "joke", "jk", "lol", "haha", "sarcasm"];
    if has(&HYPOTHETICAL) || sentences.contains("/s") || rest.iter().any(|word| taken_back.contains(&word.as_str())) {
        return refuse(NotStated::Hypothetical);
    }
    // Every line that the range touches, from its beginning.
    let line = message[..range.start].rfind('\n').map_or(0, |end| end + 1);
    let mut lines = message[line..range.end].lines();
    let is_line_quoted = lines.any(|line| line.trim_start().starts_with('>'));
    if sentences.contains(QUOTES) || is_line_quoted || is_inside_quotes(message, range) || has(&REPORTING) {
        return refuse(NotStated::Reported);
    }
    if !has(&FIRST_PERSON) {
        return refuse(NotStated::NotAboutUser);
    }
    Ok(())
}

/// Refuses a fact whose subject is not the subject of the user's words: "User is ..." needs an "I" or a "we" in the passage on
/// which it rests, "User's ..." a "my" or an "our".
pub(super) fn check_subject(fact: &str, quote: &str) -> Result<(), Refusal> {
    let mut words = fact.unicode_words().map(plain).filter(|word| word != "the");
    let subjects: &[&str] = match words.next().as_deref() {
        Some("user") => &["i", "i'm", "i've", "we", "we're", "we've"],
        Some("user's") => &["my", "mine", "our", "ours"],
        _ => return Ok(()),
    };
    if quote
        .unicode_words()
        .map(plain)
        .any(|word| subjects.contains(&word.as_str()))
    {
        Ok(())
    } else {
        Err(Refusal::NotStated(NotStated::NotAboutUser))
    }
}

/// Returns the sentences without a contrast at their end ("..., not the old one"): it denies what follows it, not what the
/// passage before it says.
pub(super) fn without_contrast<'a>(sentences: &'a str, quote: &str) -> &'a str {
    let Some(at) = sentences.find(", not ") else {
        return sentences;
    };
    let mut words = sentences[at..].unicode_words().map(plain).skip(1);
    let begins = ["the", "a", "an", "in", "at", "on", "my", "to", "for"];
    let is_contrast = words.next().is_some_and(|word| begins.contains(&word.as_str())) && words.next().is_some();
    if is_contrast && sentences[..at].contains(quote.trim()) {
        &sentences[..at]
    } else {
        sentences
    }
}

/// Returns whether a quotation was begun before the range and ends after it.
fn is_inside_quotes(message: &str, range: &Range<usize>) -> bool {
    let before = message[..range.start].matches(QUOTES).count();
    before % 2 == 1 && message[range.end..].contains(QUOTES)
}
