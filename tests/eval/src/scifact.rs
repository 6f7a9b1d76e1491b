//! SciFact (Wadden et al. 2020) as in BEIR: claims, and the abstracts that confirm or refute them.

use std::collections::HashSet;
use std::path::Path;

use copilotd_actors::ports::{Embedder, Purpose};
use serde::Deserialize;

use crate::corpus::Corpus;
use crate::metrics::{Estimate, ndcg, recall};
use crate::rows::{Document, Query, read};
use crate::table::{Aim, Line};
use crate::vectors::Vectors;

#[derive(Debug, Deserialize)]
struct Meta {
    beir_split: String,
}

/// Measures the claims of BEIR's test part, at most `sample` of them.
pub async fn measure(
    data: &Path,
    vectors: Option<&mut Vectors>,
    embedder: Option<&dyn Embedder>,
    sample: usize,
) -> anyhow::Result<Vec<Line>> {
    let set = data.join("retrieval_scifact");
    let documents: Vec<Document> = read(&set.join("corpus.jsonl"))?;
    let mut queries: Vec<Query<Meta>> = read(&set.join("dev.jsonl"))?;
    queries.retain(|query| query.meta.beir_split == "test");
    queries.truncate(sample);
    // An abstract is one passage: few exceed what the model reads.
    let passages: Vec<String> = documents
        .iter()
        .map(|document| format!("{}\n{}", document.title, document.text))
        .collect();
    let questions = || queries.iter().map(|query| query.query.as_str());
    let mut vectors = vectors;
    if let Some(vectors) = vectors.as_deref_mut() {
        vectors
            .ensure(embedder, Purpose::Passage, passages.iter().map(String::as_str))
            .await?;
        vectors.ensure(embedder, Purpose::Query, questions()).await?;
    }
    let vectors = vectors.as_deref();
    let corpus = Corpus::new(passages.iter().map(String::as_str), vectors)?;
    let (mut gains, mut recalls) = (Vec::new(), Vec::new());
    for query in &queries {
        let found = corpus.search(&query.query, vectors)?;
        let ranking: Vec<&str> = found.iter().map(|at| documents[*at as usize].id.as_str()).collect();
        let relevant: HashSet<&str> = query.relevant.keys().map(String::as_str).collect();
        gains.push(ndcg(&ranking, &relevant, 10));
        recalls.push(recall(&ranking, &relevant, 100));
    }
    let (gain_floor, recall_floor) = if vectors.is_some() {
        (0.748, 0.971)
    } else {
        (0.690, 0.947)
    };
    Ok(vec![
        Line {
            name: "SciFact nDCG@10".to_owned(),
            measured: Estimate::of(&gains),
            aim: Aim::AtLeast(0.75),
            floor: Some(gain_floor),
        },
        Line {
            name: "SciFact recall@100".to_owned(),
            measured: Estimate::of(&recalls),
            aim: Aim::AtLeast(0.97),
            floor: Some(recall_floor),
        },
    ])
}
