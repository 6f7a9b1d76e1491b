//! The banking help centre of tau2-bench (Sierra 2025): whole instructions to a simulated customer, of several hundred words,
//! and the articles that an agent needs to serve that customer.

use std::collections::HashSet;
use std::path::Path;

use copilotd_actors::ports::{Embedder, Purpose};
use copilotd_knowledge::query::parts;

use crate::corpus::Corpus;
use crate::metrics::{Estimate, ndcg, recall};
use crate::rows::{Document, Query, read};
use crate::table::{Aim, Line};
use crate::vectors::Vectors;

/// Most characters of a passage, about 250 word pieces.
const PASSAGE_CHARS: usize = 1_000;

/// Measures at most `sample` of the customers.
pub async fn measure(
    data: &Path,
    vectors: Option<&mut Vectors>,
    embedder: Option<&dyn Embedder>,
    sample: usize,
) -> anyhow::Result<Vec<Line>> {
    let set = data.join("retrieval_tau2_banking_kb");
    let documents: Vec<Document> = read(&set.join("corpus.jsonl"))?;
    let mut queries: Vec<Query> = read(&set.join("dev.jsonl"))?;
    queries.truncate(sample);
    let (mut passages, mut owners) = (Vec::new(), Vec::new());
    for document in &documents {
        for passage in cut(&document.text) {
            passages.push(format!("{}\n{passage}", document.title));
            owners.push(document.id.as_str());
        }
    }
    let mut vectors = vectors;
    if let Some(vectors) = vectors.as_deref_mut() {
        vectors
            .ensure(embedder, Purpose::Passage, passages.iter().map(String::as_str))
            .await?;
        let parts: Vec<_> = queries.iter().flat_map(|query| parts(&query.query)).collect();
        vectors
            .ensure(embedder, Purpose::Query, parts.iter().map(|part| part.text.as_str()))
            .await?;
    }
    let vectors = vectors.as_deref();
    let corpus = Corpus::new(passages.iter().map(String::as_str), vectors)?;
    let (mut gains, mut recalls) = (Vec::new(), Vec::new());
    for query in &queries {
        let found = corpus.search(&query.query, vectors)?;
        let mut seen = HashSet::new();
        let ranking = found
            .iter()
            .map(|at| owners[*at as usize])
            .filter(|owner| seen.insert(*owner));
        let ranking: Vec<&str> = ranking.collect();
        let relevant: HashSet<&str> = query.relevant.keys().map(String::as_str).collect();
        gains.push(ndcg(&ranking, &relevant, 10));
        recalls.push(recall(&ranking, &relevant, 50));
    }
    Ok(vec![
        Line {
            name: "tau2 banking nDCG@10".to_owned(),
            measured: Estimate::of(&gains),
            aim: Aim::AtLeast(0.30),
            floor: Some(0.195),
        },
        Line {
            name: "tau2 banking recall@50".to_owned(),
            measured: Estimate::of(&recalls),
            aim: Aim::AtLeast(0.60),
            floor: Some(0.442),
        },
    ])
}

/// Cuts a text into passages at paragraphs, or at lines where a paragraph is too long.
fn cut(text: &str) -> Vec<String> {
    let blocks = text.split("\n\n").flat_map(|block| {
        if block.chars().count() > PASSAGE_CHARS {
            pack(block.split('\n'), "\n")
        } else {
            vec![block.to_owned()]
        }
    });
    pack(blocks, "\n\n")
}

/// Joins successive pieces as long as they fit into a passage.
fn pack<S: AsRef<str>>(pieces: impl Iterator<Item = S>, separator: &str) -> Vec<String> {
    let mut passages: Vec<String> = Vec::new();
    for piece in pieces {
        let piece = piece.as_ref();
        match passages.last_mut() {
            Some(last) if last.chars().count() + separator.len() + piece.chars().count() <= PASSAGE_CHARS => {
                last.push_str(separator);
                last.push_str(piece);
            }
            _ => passages.push(piece.to_owned()),
        }
    }
    passages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_paragraphs_and_long_ones_at_lines() {
        let (short, long) = ("a".repeat(600), "b".repeat(900));
        for (text, expected) in [
            ("one\n\ntwo".to_owned(), vec!["one\n\ntwo".to_owned()]),
            (format!("{short}\n\n{short}"), vec![short.clone(), short.clone()]),
            (
                format!("{long}\n{short}\n\nend"),
                vec![long.clone(), format!("{short}\n\nend")],
            ),
        ] {
            assert_eq!(cut(&text), expected);
        }
    }
}
