//! What is searched for: a question, and a long message in parts.
//!
//! BM25 was made for questions of a few words: a message of several hundred has every common word of the language, and what
//! it asks is lost among them. An embedding reads such a message as its average. So a long message is searched for as a whole
//! by its embedding alone, which knows its subject, and in parts of a few sentences by both, of which the best counts: one
//! sentence that names what is wanted must not be outvoted by twenty that do not.

use std::collections::HashMap;
use std::hash::Hash;

use unicode_segmentation::UnicodeSegmentation;

use crate::fusion::{best_first, of_rank, reciprocal_rank};

/// Most words of a part: a long question with its circumstances.
const PART_WORDS: usize = 80;
/// Most parts of one message; what comes after is only searched for as part of the whole.
const MAX_PARTS: usize = 8;

/// One text to search for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The text.
    pub text: String,
    /// Whether it is short enough that its words say what is wanted; if not, only its embedding is searched for.
    pub is_lexical: bool,
}

/// What was found for one [`Part`]: chunks, each list best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found<T> {
    /// By words; empty if the part is not lexical.
    pub lexical: Vec<T>,
    /// By meaning; empty without an embedding model.
    pub semantic: Vec<T>,
    /// Those of `lexical` whose meaning is not known yet. They count as if their meaning was ranked as their words are:
    /// otherwise everything that has a vector would push them back while a model is new.
    pub unembedded: Vec<T>,
}

/// Returns what to search for: the message itself, and after it its parts if it is longer than a part. At most nine.
/// Linear in the length of the message.
pub fn parts(message: &str) -> Vec<Part> {
    let whole = |is_lexical| Part {
        text: message.to_owned(),
        is_lexical,
    };
    if words(message) <= PART_WORDS {
        return vec![whole(true)];
    }
    let mut parts = vec![whole(false)];
    let (mut text, mut length) = (String::new(), 0);
    for sentence in message.lines().flat_map(|line| pieces(line.trim())) {
        let more = words(sentence);
        if more == 0 {
            continue;
        }
        if length > 0 && length + more > PART_WORDS {
            parts.push(Part {
                text: std::mem::take(&mut text),
                is_lexical: true,
            });
            length = 0;
            if parts.len() > MAX_PARTS {
                return parts;
            }
        }
        if length > 0 {
            text.push(' ');
        }
        text.push_str(sentence);
        length += more;
    }
    if length > 0 {
        parts.push(Part { text, is_lexical: true });
    }
    parts
}

/// Fuses the rankings of one part by reciprocal rank.
fn fused<T: Copy + Eq + Hash + Ord>(found: &Found<T>) -> Vec<(T, f64)> {
    let assumed = (1_u32..).zip(&found.lexical);
    let assumed = assumed.filter(|(_, chunk)| found.unembedded.contains(chunk));
    let assumed: HashMap<T, f64> = assumed.map(|(rank, chunk)| (*chunk, of_rank(rank))).collect();
    let mut fused = reciprocal_rank(&[&found.lexical, &found.semantic]);
    if assumed.is_empty() {
        return fused;
    }
    for (chunk, score) in &mut fused {
        *score += assumed.get(chunk).unwrap_or(&0.0);
    }
    best_first(fused)
}

/// Ranks what was found for the parts of a message, in the order of [`parts`]: each part's two rankings are fused, and a
/// chunk has what the whole gives it plus the most that one part gives it. Best first; ties in the chunks' own order.
pub fn combine<T: Copy + Eq + Hash + Ord>(found: &[Found<T>]) -> Vec<(T, f64)> {
    let Some((whole, parts)) = found.split_first() else {
        return Vec::new();
    };
    let mut best: HashMap<T, f64> = HashMap::new();
    for (chunk, score) in parts.iter().flat_map(fused) {
        let most = best.entry(chunk).or_default();
        *most = most.max(score);
    }
    for (chunk, score) in fused(whole) {
        *best.entry(chunk).or_default() += score;
    }
    best_first(best.into_iter().collect())
}

/// Returns the sentences of a line; one that is longer than a part is cut at words.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    line.unicode_sentences().map(str::trim).flat_map(|sentence| {
        let mut cuts = vec![0];
        let starts = sentence.unicode_word_indices().map(|(start, _)| start);
        cuts.extend(starts.skip(PART_WORDS).step_by(PART_WORDS));
        cuts.push(sentence.len());
        (1..cuts.len())
            .map(move |end| (cuts[end - 1], cuts[end]))
            .map(move |(start, end)| sentence[start..end].trim())
            .collect::<Vec<_>>()
    })
}

fn words(text: &str) -> usize {
    text.unicode_words().count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(sentences: usize, words: usize) -> String {
        let sentence = |n: usize| (0..words).map(|w| format!("Word{n}x{w} ")).collect::<String>();
        (0..sentences).map(|n| format!("{}. ", sentence(n).trim())).collect()
    }

    #[test]
    fn a_question_is_searched_for_as_it_is() {
        for text in ["", "How do I get a refund?", &message(2, 40)] {
            assert_eq!(
                parts(text),
                [Part {
                    text: text.to_owned(),
                    is_lexical: true
                }]
            );
        }
    }

    #[test]
    fn a_long_message_is_searched_for_whole_and_in_parts() {
        for (sentences, length, expected) in [(3, 40, 2), (9, 10, 2), (100, 40, MAX_PARTS), (1, 200, 3)] {
            let text = message(sentences, length);
            let parts = parts(&text);
            assert_eq!(parts.len() - 1, expected, "{sentences} sentences of {length} words");
            assert_eq!(
                parts[0],
                Part {
                    text: text.clone(),
                    is_lexical: false
                }
            );
            assert!(
                parts[1..]
                    .iter()
                    .all(|part| part.is_lexical && words(&part.text) <= PART_WORDS)
            );
        }
    }

    #[test]
    fn the_best_part_counts_and_the_whole_is_added() {
        let found = |lexical: &[u8], semantic: &[u8]| Found {
            lexical: lexical.to_vec(),
            semantic: semantic.to_vec(),
            unembedded: Vec::new(),
        };
        assert_eq!(combine::<u8>(&[]), []);
        let order = |found: &[Found<u8>]| combine(found).into_iter().map(|(chunk, _)| chunk).collect::<Vec<_>>();
        // Alone, a question is a fusion of its two rankings.
        assert_eq!(order(&[found(&[1, 2], &[2, 3])]), [2, 1, 3]);
        // Chunk 9 is second in every part, chunks 1 to 3 are first in one: the best rank counts, not the sum.
        let parts = [
            found(&[], &[]),
            found(&[1, 9], &[]),
            found(&[2, 9], &[]),
            found(&[3, 9], &[]),
        ];
        assert_eq!(order(&parts), [1, 2, 3, 9]);
        // What the whole message is about comes first.
        let parts = [found(&[], &[9]), found(&[1, 9], &[]), found(&[2], &[])];
        assert_eq!(order(&parts), [9, 1, 2]);
    }

    proptest! {
        #[test]
        fn parts_hold_words_of_the_message_in_order(text in "([a-z]{1,8}[ .\n]{1,2}){0,900}") {
            let parts = parts(&text);
            prop_assert!(parts.len() <= MAX_PARTS + 1);
            prop_assert_eq!(&parts[0].text, &text);
            if parts.len() > 1 {
                let joined: Vec<String> = parts[1..].iter().flat_map(|part| part.text.unicode_words()).map(str::to_owned).collect();
                let all: Vec<String> = text.unicode_words().map(str::to_owned).collect();
                prop_assert!(all.starts_with(&joined) || joined == all);
                prop_assert!(parts.len() == MAX_PARTS + 1 || joined == all);
            }
        }
    }

    #[test]
    fn what_has_no_vector_yet_is_not_pushed_back() {
        let order = |lexical: &[u8], semantic: &[u8], unembedded: &[u8]| {
            let found = Found {
                lexical: lexical.to_vec(),
                semantic: semantic.to_vec(),
                unembedded: unembedded.to_vec(),
            };
            combine(&[found])
                .into_iter()
                .map(|(chunk, _)| chunk)
                .collect::<Vec<_>>()
        };
        // Without what is assumed the first by words is behind all that have a vector.
        assert_eq!(order(&[1, 2, 3], &[3, 2], &[]), [3, 2, 1]);
        assert_eq!(order(&[1, 2, 3], &[3, 2], &[1]), [1, 3, 2]);
        // While nothing has a vector, words alone decide, as without a model.
        assert_eq!(order(&[4, 2, 3], &[], &[4, 2, 3]), [4, 2, 3]);
        // A chunk that only words find, and whose vector is far away, stays behind.
        assert_eq!(order(&[1, 2], &[2], &[]), [2, 1]);
    }
}
