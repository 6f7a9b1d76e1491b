//! Citations: which passage of a document supports which sentence of an answer.
//!
//! A model marks what it took from a passage ([`markers`]). Its word is not enough: a marker becomes a citation only if
//! the passage has a sentence that shares words with the marked one (`support`), and what is quoted occurs in the
//! passage byte for byte.

pub mod markers;
mod replace;
mod sentences;
mod support;

use std::collections::BTreeSet;

pub use replace::replace;
pub use sentences::sentences;

use super::content::Citation;
use super::guardrail::REDACTED;
use super::ids::{ChunkId, DocumentId, ExternalId};
use support::Quotable;

/// Maximum number of citations of one message.
pub const MAX_CITATIONS: usize = 64;
/// Maximum bytes of the quotes of one message.
const MAX_QUOTES: usize = 16 * 1024;
/// Number of bytes before a marker in which its sentence begins.
const MAX_CLAIM: usize = 2 * 1024;

/// A passage that a model was given and may cite.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The number by which markers name it.
    pub number: u32,
    /// Its chunk.
    pub chunk: ChunkId,
    /// Its document.
    pub document: DocumentId,
    /// The document's id in the tenant's own system.
    pub external_id: ExternalId,
    /// Title of the document, as readers may see it.
    pub title: Option<String>,
    /// Address of the document, as readers may see it.
    pub uri: Option<String>,
    /// The page on which the chunk begins.
    pub page: Option<u32>,
    /// Its relevance.
    pub score: f64,
    /// The text of the chunk.
    pub text: String,
    /// The text that the model was given: `text`, unless a guardrail redacted it.
    pub shown: String,
}

/// A place in an answer that a marker named, and the passages that it named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Offset in the text that readers see, in UTF-8 bytes.
    pub at: usize,
    /// Numbers of sources.
    pub numbers: Vec<u32>,
}

/// Returns the citations of an answer: for each mark and each source that it names, the sentences of the source that
/// support the marked sentence.
///
/// Invariants: every quote occurs in its chunk; every `at` is a character boundary of `text`. A source that the model
/// was not given is never cited, and neither is one without any support.
pub fn cite(text: &str, marks: &[Mark], sources: &[Source]) -> Vec<Citation> {
    let mut quotable: Vec<Option<Quotable<'_>>> = sources.iter().map(|_| None).collect();
    let (mut citations, mut quoted, mut seen) = (Vec::new(), 0, BTreeSet::new());
    let (mut previous, mut latest) = (0, 0);
    for mark in marks {
        if mark.at > text.len() || !text.is_char_boundary(mark.at) {
            continue;
        }
        if mark.at != latest {
            (previous, latest) = (latest, mark.at);
        }
        let claim = support::keys(claim(text, previous, mark.at));
        for number in &mark.numbers {
            let Some(place) = sources.iter().position(|source| source.number == *number) else {
                continue;
            };
            let source = &sources[place];
            let quotable = quotable[place].get_or_insert_with(|| Quotable::new(&source.shown));
            let Some(quote) = quotable.best(&claim) else { continue };
            // What the guardrails replaced is nowhere in the chunk.
            let occurs = !quote.contains(REDACTED) && source.text.contains(quote);
            let is_new = seen.insert((mark.at, *number));
            if !occurs || !is_new || citations.len() >= MAX_CITATIONS || quoted + quote.len() > MAX_QUOTES {
                continue;
            }
            quoted += quote.len();
            citations.push(Citation {
                document_id: source.document.to_string(),
                external_id: source.external_id.as_str().to_owned(),
                title: source.title.clone().unwrap_or_default(),
                uri: source.uri.clone(),
                quote: quote.to_owned(),
                page: source.page,
                chunk_id: source.chunk.to_string(),
                score: Some(source.score),
                at: Some(mark.at as u64),
            });
        }
    }
    citations
}

/// Returns the sentence that ends at `at`, or its part after the mark before it.
fn claim(text: &str, previous: usize, at: usize) -> &str {
    let from = text.ceil_char_boundary(at.saturating_sub(MAX_CLAIM)).min(at);
    let before = &text[from..at];
    let start = sentences(before).last().map_or(0, |last| last.start) + from;
    let start = if previous < at { start.max(previous) } else { start };
    &text[start..at]
}

/// Returns the sentences of an answer that no citation supports, as UTF-8 ranges. A citation supports the sentence
/// that it is in or directly behind.
pub fn unsupported(text: &str, citations: &[Citation]) -> Vec<std::ops::Range<usize>> {
    let all = sentences(text);
    let is_cited = |number: usize, sentence: &std::ops::Range<usize>| {
        let next = all.get(number + 1).map_or(text.len() + 1, |next| next.start);
        citations
            .iter()
            .filter_map(|citation| usize::try_from(citation.at?).ok())
            .any(|at| sentence.start < at && at < next)
    };
    let says_something = |sentence: &std::ops::Range<usize>| !support::keys(&text[sentence.clone()]).is_empty();
    let sentences = all.iter().enumerate();
    let sentences = sentences.filter(|(number, sentence)| says_something(sentence) && !is_cited(*number, sentence));
    sentences.map(|(_, sentence)| sentence.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn source(number: u32, text: &str) -> Source {
        Source {
            number,
            chunk: ChunkId::new(Uuid::from_u128(u128::from(number))),
            document: DocumentId::new(Uuid::from_u128(7)),
            external_id: "vacation".parse().unwrap(),
            title: None,
            uri: None,
            page: Some(2),
            score: 0.5,
            text: text.to_owned(),
            shown: text.to_owned(),
        }
    }

    fn mark(at: usize, numbers: &[u32]) -> Mark {
        Mark {
            at,
            numbers: numbers.to_vec(),
        }
    }

    /// Returns what is quoted for each mark.
    fn quotes(text: &str, marks: &[Mark], sources: &[Source]) -> Vec<(u64, String)> {
        let citations = cite(text, marks, sources).into_iter();
        citations
            .map(|citation| (citation.at.unwrap(), citation.quote))
            .collect()
    }

    const VACATION: &str = "Employees have thirty days of vacation. Requests go to the team lead.";
    const PARKING: &str = "Visitors may use the parking deck. It closes at nine.";

    #[test]
    fn each_mark_quotes_what_supports_the_words_before_it() {
        let sources = [source(1, VACATION), source(2, PARKING)];
        let text = "You have thirty days of vacation, and visitors use the parking deck.";
        let comma = text.find(',').unwrap();
        let quoted = quotes(text, &[mark(comma, &[1]), mark(text.len() - 1, &[2, 1])], &sources);
        let expected = [
            (comma as u64, "Employees have thirty days of vacation.".to_owned()),
            // What stands before the first mark is not claimed again: nothing of source 1 supports the rest.
            (text.len() as u64 - 1, "Visitors may use the parking deck.".to_owned()),
        ];
        assert_eq!(quoted, expected);
        // Two marks at one place claim the same; a repeated one is one citation.
        let marks = [mark(comma, &[1]), mark(comma, &[1]), mark(comma, &[1, 1])];
        assert_eq!(quotes(text, &marks, &sources), expected[..1]);
    }

    #[test]
    fn what_was_not_given_or_does_not_support_is_not_cited() {
        let sources = [source(1, VACATION)];
        let text = "The moon is made of cheese.";
        assert!(cite(text, &[mark(text.len(), &[1, 0, 2, u32::MAX])], &sources).is_empty());
        assert!(cite("", &[mark(0, &[1])], &sources).is_empty());
        assert!(cite("é thirty days of vacation", &[mark(1, &[1]), mark(99, &[1])], &sources).is_empty());
        let redacted = Source {
            shown: VACATION.replace("thirty", REDACTED),
            ..source(1, VACATION)
        };
        let text = "Days of vacation for employees";
        assert!(
            cite(text, &[mark(text.len(), &[1])], &[redacted]).is_empty(),
            "the quote is not in the chunk"
        );
    }

    #[test]
    fn the_number_of_citations_is_bounded() {
        let text = "thirty days of vacation. ".repeat(200);
        let marks: Vec<Mark> = (1..=200).map(|n| mark(n * 25 - 1, &[1])).collect();
        assert_eq!(cite(&text, &marks, &[source(1, VACATION)]).len(), MAX_CITATIONS);
    }

    #[test]
    fn sentences_without_a_citation_are_named() {
        let text = "You have thirty days of vacation. The moon is made of cheese. Ok.\nParking is free";
        let first = text.find('.').unwrap();
        for at in [first, first + 1] {
            let citations = cite(text, &[mark(at, &[1])], &[source(1, VACATION)]);
            let found: Vec<&str> = unsupported(text, &citations)
                .into_iter()
                .map(|range| &text[range])
                .collect();
            assert_eq!(found, ["The moon is made of cheese.", "Parking is free"], "{at}");
        }
    }

    proptest! {
        #[test]
        fn every_quote_occurs_in_its_chunk_and_every_place_in_the_text(
            text in "([a-d]{3,4} |é|[.!?] |\n|[0-9]){0,60}",
            chunks in prop::collection::vec("([a-d]{3,4} |é|[.!?] |\n|[0-9]){0,60}", 1..4),
            marks in prop::collection::vec((0_usize..200, prop::collection::vec(0_u32..6, 0..4)), 0..12),
        ) {
            let sources: Vec<Source> = (1..).zip(&chunks).map(|(number, text)| source(number, text)).collect();
            let mut marks: Vec<Mark> = marks.iter().map(|(at, numbers)| mark(*at, numbers)).collect();
            marks.sort_by_key(|mark| mark.at);
            let citations = cite(&text, &marks, &sources);
            for citation in &citations {
                let at = usize::try_from(citation.at.unwrap()).unwrap();
                prop_assert!(at <= text.len() && text.is_char_boundary(at));
                let cited = sources.iter().find(|source| source.chunk.to_string() == citation.chunk_id).unwrap();
                prop_assert!(!citation.quote.is_empty() && cited.text.contains(&citation.quote));
                prop_assert!(marks.iter().any(|mark| mark.at == at && mark.numbers.contains(&cited.number)));
            }
            prop_assert!(citations.is_sorted_by_key(|citation| citation.at));
            for range in unsupported(&text, &citations) {
                prop_assert!(text.get(range).is_some_and(|sentence| !sentence.trim().is_empty()));
            }
        }
    }
}
