//! The embedding models of this process, against vectors that other implementations computed: the table's with numpy,
//! MiniLM's with a plain forward pass in double precision, both with the tokenizers package of PyPI.

mod pull;

use std::path::PathBuf;

use copilotd::adapters::embedding::{LocalEmbedder, ModelKind};
use copilotd_actors::ports::{EmbedRequest, Embedder};

const TEXTS: [&str; 5] = [
    "How do I reset my password?",
    "I forgot my password, how can I change it?",
    "What is our holiday policy?",
    "The cat sits on the mat.",
    "Ünïcode — naïve café, 12.5 km!",
];

/// The models' directory. `None` if this machine has none: CI then fails, any other run prints what it skips.
pub fn models() -> Option<PathBuf> {
    let set = std::env::var_os("COPILOTD_MODELS").map(PathBuf::from);
    let found = set.filter(|directory| directory.is_dir());
    if found.is_none() {
        let in_ci = std::env::var_os("CI").is_some();
        assert!(
            !in_ci,
            "no embedding models: scripts/setup fetches them and sets COPILOTD_MODELS"
        );
        eprintln!("skipped: no embedding models (scripts/setup; COPILOTD_MODELS)");
    }
    found
}

async fn check(kind: ModelKind, starts: [[f32; 4]; 5], cosines: [(usize, usize, f32); 4]) {
    let Some(directory) = models() else { return };
    let embedder = LocalEmbedder::load(kind, &directory).unwrap();
    // Alone and with others: padding must not change a vector.
    let mut vectors = embedder
        .embed(EmbedRequest::to_compare(TEXTS.map(str::to_owned).to_vec()))
        .await
        .unwrap();
    for (place, text) in TEXTS.into_iter().enumerate() {
        let alone = embedder
            .embed(EmbedRequest::to_compare(vec![text.to_owned()]))
            .await
            .unwrap()
            .remove(0);
        assert!(alone.cosine(&vectors[place]) > 0.999_99, "{text}");
        vectors[place] = alone;
    }
    for (vector, start) in vectors.iter().zip(starts) {
        let dimension = match kind {
            ModelKind::Wordllama => 256,
            ModelKind::Minilm => 384,
        };
        assert_eq!(vector.values().len(), dimension);
        for (value, expected) in vector.values().iter().zip(start) {
            assert!((value - expected).abs() < 2e-4, "{:?} {start:?}", &vector.values()[..4]);
        }
    }
    for (a, b, expected) in cosines {
        let cosine = vectors[a].cosine(&vectors[b]);
        assert!((cosine - expected).abs() < 2e-4, "{a} {b}: {cosine}, not {expected}");
    }
}

#[tokio::test]
async fn the_table_gives_the_vectors_of_its_reference() {
    let starts = [
        [0.22851, 0.13535, 0.10887, -0.01851],
        [0.14182, 0.11674, 0.08425, -0.01718],
        [0.06805, -0.05928, -0.08294, 0.05344],
        [-0.04843, 0.03827, -0.05994, 0.07704],
        [0.00592, 0.11196, 0.04373, -0.15079],
    ];
    let cosines = [(0, 1, 0.7452), (0, 2, -0.0157), (2, 3, 0.0395), (3, 4, 0.0479)];
    check(ModelKind::Wordllama, starts, cosines).await;
}

#[tokio::test]
async fn minilm_gives_the_vectors_of_its_reference() {
    let starts = [
        [0.0069, -0.06302, -0.07204, -0.0325],
        [-0.02378, -0.0162, -0.07047, -0.00892],
        [0.05869, 0.10208, 0.04299, -0.00543],
        [0.13418, -0.0329, -0.0248, 0.04144],
        [0.06264, -0.00331, 0.00454, -0.04466],
    ];
    let cosines = [(0, 1, 0.8939), (0, 2, -0.0637), (2, 3, 0.0473), (3, 4, -0.0443)];
    check(ModelKind::Minilm, starts, cosines).await;
}

#[tokio::test]
async fn texts_without_words_are_answered_or_refused_but_kill_nothing() {
    let Some(directory) = models() else { return };
    for kind in ModelKind::ALL {
        let embedder = LocalEmbedder::load(kind, &directory).unwrap();
        for text in ["", " ", "\u{0}", "🦀🦀🦀", &"long ".repeat(10_000)] {
            let _ = embedder.embed(EmbedRequest::to_compare(vec![text.to_owned()])).await;
        }
        assert!(
            embedder
                .embed(EmbedRequest::to_compare(vec!["still there".to_owned()]))
                .await
                .is_ok(),
            "{kind}"
        );
    }
}
