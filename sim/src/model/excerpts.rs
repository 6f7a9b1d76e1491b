//! Answers from the excerpts of documents that copilotd puts into a prompt: the sentence that fits the question best,
//! with the marker by which it is cited.

use std::collections::BTreeSet;

use super::chat::{Chat, Role};

const OPENING: &str = "<document_excerpt";

/// Letters of a word that are compared, so that "refund" is in "refunds".
const STEM: usize = 5;
/// Letters that a word needs to count, unless it has a digit.
const MIN_WORD: usize = 3;
/// Words that a sentence needs, so that a heading is not taken for one.
const MIN_SENTENCE: usize = 4;

/// Words that say nothing about the subject of a question.
const COMMON: [&str; 72] = [
    "about",
    "after",
    "again",
    "all",
    "and",
    "any",
    "anything",
    "are",
    "asking",
    "before",
    "can",
    "cannot",
    "could",
    "customer",
    "customers",
    "did",
    "does",
    "each",
    "for",
    "from",
    "get",
    "give",
    "had",
    "has",
    "have",
    "her",
    "his",
    "how",
    "into",
    "its",
    "know",
    "long",
    "many",
    "may",
    "more",
    "most",
    "much",
    "must",
    "need",
    "not",
    "our",
    "out",
    "please",
    "should",
    "some",
    "take",
    "takes",
    "tell",
    "than",
    "thank",
    "thanks",
    "that",
    "the",
    "their",
    "them",
    "there",
    "these",
    "they",
    "this",
    "until",
    "was",
    "were",
    "what",
    "when",
    "where",
    "which",
    "who",
    "why",
    "will",
    "with",
    "would",
    "you",
];

/// One excerpt.
struct Excerpt<'a> {
    /// What the model is to write behind a sentence that rests on the excerpt; none if it is not asked to cite.
    marker: Option<&'a str>,
    /// Title, headings and text.
    body: &'a str,
}

/// Returns the answer that the excerpts give to the last user message; none if they do not answer it.
pub(crate) fn answer(chat: &Chat) -> Option<String> {
    let asked = keys(chat.last_user());
    let messages = chat.before_user().iter();
    let read = messages.filter(|message| message.role == Role::User && message.text.starts_with(OPENING));
    let mut excerpts: Vec<Excerpt<'_>> = read.flat_map(|message| excerpts(&message.text)).collect();
    // Markers are numbered by relevance. What stands first decides between sentences that fit equally well.
    excerpts.sort_by_key(|excerpt| excerpt.marker.map(number));
    let (sentence, excerpt) = best(&asked, &excerpts)?;
    let marker = excerpt.marker.map(|marker| format!(" {marker}"));
    let offer = "If it is about a certain customer, tell me the number of the ticket and I will look it up.";
    Some(format!("{sentence}{} {offer}", marker.unwrap_or_default()))
}

/// Finds the sentence that shares most words with the question; rare words count more, and those that only the rest of
/// its excerpt has count half. The excerpt must have at least half of the question's words.
fn best<'a>(asked: &BTreeSet<String>, excerpts: &'a [Excerpt<'a>]) -> Option<(&'a str, &'a Excerpt<'a>)> {
    let mut candidates = Vec::new();
    for excerpt in excerpts {
        let around: BTreeSet<String> = keys(excerpt.body).intersection(asked).cloned().collect();
        if around.len() * 2 < asked.len() {
            continue;
        }
        for sentence in sentences(excerpt.body) {
            let shared: BTreeSet<String> = keys(sentence).intersection(asked).cloned().collect();
            candidates.push((sentence, excerpt, shared, around.clone()));
        }
    }
    let weight = |key: &String| {
        let having = candidates
            .iter()
            .filter(|(_, _, shared, _)| shared.contains(key))
            .count();
        (1.0 + candidates.len() as f64 / having.max(1) as f64).ln()
    };
    let mut found: Option<(f64, &str, &Excerpt<'_>)> = None;
    for (sentence, excerpt, shared, around) in candidates.iter().filter(|(_, _, shared, _)| !shared.is_empty()) {
        let own: f64 = shared.iter().map(weight).sum();
        let rest: f64 = around.difference(shared).map(weight).sum();
        let score = own + rest / 2.0;
        if found.is_none_or(|(best, ..)| score > best) {
            found = Some((score, sentence, excerpt));
        }
    }
    found.map(|(_, sentence, excerpt)| (sentence, excerpt))
}

/// Returns the excerpts in a message, each between a mark with a code and the end mark with the same code.
fn excerpts(text: &str) -> Vec<Excerpt<'_>> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(start) = rest.find(OPENING) {
        rest = &rest[start + 1..];
        let Some((head, behind)) = rest.split_once(">\n") else {
            break;
        };
        let mark = head.split(' ').next().unwrap_or(head);
        let Some((body, behind)) = behind.split_once(&format!("\n</{mark}>")) else {
            break;
        };
        let marker = head.split_once(" cite=\"").and_then(|(_, value)| value.split_once('"'));
        found.push(Excerpt {
            marker: marker.map(|(marker, _)| marker),
            body,
        });
        rest = behind;
    }
    found
}

/// Returns the number in a marker such as `[cite-CODE:3]`.
fn number(marker: &str) -> u32 {
    let digits = marker.rsplit(':').next().unwrap_or_default().trim_end_matches(']');
    digits.parse().unwrap_or(u32::MAX)
}

/// Returns the whole statements of an excerpt: no headings, no questions, no tables.
fn sentences(body: &str) -> impl Iterator<Item = &str> {
    let lines = body.lines().map(|line| line.trim_start_matches(['-', '*', '>', ' ']));
    let parts = lines.flat_map(|line| {
        let ends = line.match_indices(['.', '!', '?']).map(|(at, _)| at + 1);
        let ends = ends.filter(|end| line[*end..].is_empty() || line[*end..].starts_with(' '));
        let mut start = 0;
        ends.map(move |end| {
            let sentence = line[start..end].trim();
            start = end;
            sentence
        })
    });
    parts.filter(|sentence| {
        let is_statement = sentence.ends_with(['.', '!']) && !sentence.starts_with(['#', '|']);
        is_statement && sentence.split_whitespace().count() >= MIN_SENTENCE
    })
}

/// Returns the words of a text that say what it is about.
fn keys(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let counts = |word: &&str| word.chars().count() >= MIN_WORD || word.contains(|c: char| c.is_ascii_digit());
    words
        .filter(counts)
        .map(str::to_lowercase)
        .filter(|word| !COMMON.contains(&word.as_str()))
        .map(|word| word.chars().take(STEM).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "<document_excerpt-ab source=\"handbook\" cite=\"[cite-7f:2]\">\nExports\n# Exports\n\n\
        An export has at most 50,000 rows. The link to it works for 24 hours.\n</document_excerpt-ab>\n\
        <document_excerpt-ab source=\"handbook\" cite=\"[cite-7f:1]\">\nRefunds\n# Refunds\n\nHow long does a refund take?\n\
        A refund arrives within five days. Annual plans can be refunded for 30 days.\n- Fees are not paid back at all.\n\
        </document_excerpt-ab>";

    fn said(asked: &str) -> Option<(&'static str, &'static str)> {
        let mut found = excerpts(PROMPT);
        found.sort_by_key(|excerpt| excerpt.marker.map(number));
        let found: &'static Vec<Excerpt<'static>> = Box::leak(Box::new(found));
        let (sentence, excerpt) = best(&keys(asked), found)?;
        Some((sentence, excerpt.marker.unwrap_or_default()))
    }

    #[test]
    fn the_sentence_that_fits_best_is_chosen_with_its_marker() {
        let refund = ("A refund arrives within five days.", "[cite-7f:1]");
        let cases = [
            ("How long does a refund take?", Some(refund)),
            (
                "Can an annual plan be refunded?",
                Some(("Annual plans can be refunded for 30 days.", "[cite-7f:1]")),
            ),
            (
                "How many rows can an export have?",
                Some(("An export has at most 50,000 rows.", "[cite-7f:2]")),
            ),
            (
                "Are fees paid back?",
                Some(("Fees are not paid back at all.", "[cite-7f:1]")),
            ),
            ("What is the weather in Lisbon?", None),
            ("What colour do exports have on a sunny weekday?", None),
            ("What?", None),
            ("", None),
        ];
        for (asked, expected) in cases {
            assert_eq!(said(asked), expected, "{asked}");
        }
    }

    #[test]
    fn what_is_no_whole_excerpt_is_not_read() {
        for text in [
            "<document_excerpt",
            "<document_excerpt-ab>\nno end",
            "<document_excerpt-ab>\nanother end\n</document_excerpt-cd>",
        ] {
            assert!(excerpts(text).is_empty(), "{text}");
        }
        let plain = excerpts("<document_excerpt source=\"a\">\nText\n</document_excerpt>");
        assert_eq!((plain[0].marker, plain[0].body), (None, "Text"));
    }
}
