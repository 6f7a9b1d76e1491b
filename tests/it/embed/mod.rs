//! The embedding model of this process, against ranks that another implementation computed: onnxruntime, with the
//! tokenizers package of PyPI.

mod provider;
mod pull;

use std::path::{Path, PathBuf};

use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, Threads};
use copilotd_actors::fakes::embedder::contract;
use copilotd_actors::ports::{EmbedRequest, Embedder, Purpose, Urgency};

use crate::served::{FILE, Served};

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

#[tokio::test]
async fn texts_without_words_are_answered_or_refused_but_kill_nothing() {
    let Some(directory) = models() else { return };
    for kind in ModelKind::ALL {
        let embedder = LocalEmbedder::load(kind, &directory, Threads::default()).unwrap();
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

/// Passages of a help centre, one subject each.
const PASSAGES: [&str; 8] = [
    "To reset your password, open Settings, choose Security, and select Send reset link. The link is valid for one hour.",
    "Invoices are issued on the first day of each month and are due within thirty days. A copy is sent to the billing contact.",
    "A refund for a duplicate charge reaches the card within five business days after it was approved.",
    "Employees receive twenty-eight days of paid leave a year; up to five unused days carry over until the end of March.",
    "Webhooks are delivered at least once. An endpoint that does not answer within ten seconds is retried with growing pauses for a day.",
    "Single sign-on works with any OpenID Connect provider. Map the groups claim to roles under Access.",
    "Dashboards can be exported as CSV or PDF. Exports of more than a million rows are prepared in the background.",
    "The warehouse in Rotterdam ships orders placed before noon on the same day; deliveries to islands take two days longer.",
];

/// Questions, and the passages nearest to them by onnxruntime with the same weights, nearest first, as far as their
/// cosines are more than 0.02 apart: eight-bit arithmetic differs that much between processors.
const NEAREST: [(&str, &[usize]); 7] = [
    ("I forgot my login credentials, what now?", &[0, 5]),
    ("When do I have to pay the bill?", &[1, 2, 3]),
    ("How many vacation days do I get?", &[3, 1]),
    ("Our server was down, will events be sent again?", &[4, 0]),
    ("connect Okta for our staff", &[5]),
    ("download the chart data as a spreadsheet", &[6, 1]),
    ("how long until my parcel arrives", &[1, 7, 2]),
];

#[tokio::test]
async fn bge_ranks_as_its_reference_does() {
    let Some(directory) = models() else { return };
    let embedder = LocalEmbedder::load(ModelKind::BgeSmall, &directory, Threads::default()).unwrap();
    let request = |texts: &[&str], purpose, urgency| EmbedRequest {
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        purpose,
        urgency,
    };
    for urgency in [Urgency::Foreground, Urgency::Background] {
        let passages = embedder
            .embed(request(&PASSAGES, Purpose::Passage, urgency))
            .await
            .unwrap();
        assert!(passages.iter().all(|vector| vector.values().len() == 384));
        let questions = NEAREST.map(|(question, _)| question);
        let questions = embedder
            .embed(request(&questions, Purpose::Query, urgency))
            .await
            .unwrap();
        for ((text, expected), question) in NEAREST.iter().zip(&questions) {
            let mut ranks: Vec<usize> = (0..PASSAGES.len()).collect();
            ranks.sort_by(|a, b| {
                question
                    .cosine(&passages[*b])
                    .total_cmp(&question.cosine(&passages[*a]))
            });
            assert_eq!(ranks[..expected.len()], **expected, "{text}");
        }
    }
    // A question has the prefix of the model, a passage has not: the reference has these cosines.
    for (purpose, expected) in [(Purpose::Query, 0.669), (Purpose::Passage, 0.692)] {
        let question = embedder
            .embed(request(&[NEAREST[0].0], purpose, Urgency::Foreground))
            .await
            .unwrap();
        let passage = embedder
            .embed(request(&PASSAGES[..1], Purpose::Passage, Urgency::Foreground))
            .await
            .unwrap();
        let cosine = question[0].cosine(&passage[0]);
        assert!(
            (cosine - expected).abs() < 0.012,
            "{purpose:?}: {cosine}, not {expected}"
        );
    }
}

#[tokio::test]
async fn bge_keeps_the_contract() {
    let Some(directory) = models() else { return };
    let embedder = LocalEmbedder::load(ModelKind::BgeSmall, &directory, Threads::default()).unwrap();
    let alike = [
        "How do I reset my password?",
        "I forgot my password, how can I change it?",
    ];
    // Of texts that are run together one scale maps all numbers to eight bits.
    contract(&embedder, alike, "What is our holiday policy?", 0.01).await;
    // Texts longer than the model reads differ no more behind that.
    let long = "word ".repeat(511);
    let texts = vec![format!("{long} one end"), format!("{long} another end")];
    assert_eq!(embedder.count_tokens(&texts[0]), Ok(512));
    let vectors = embedder.embed(EmbedRequest::to_compare(texts)).await.unwrap();
    assert_eq!(vectors[0], vectors[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_says_what_searches_compare() {
    let ready = async |embeddings: &str| {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let served = Served::start_with(directory, &data, &format!("{embeddings}{FILE}"), &[]).await;
        let answer = reqwest::get(format!("{}/readyz", served.server)).await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["document_search"].clone()
    };
    assert_eq!(ready("").await, "words");
    let named = |directory: &Path| format!("[embeddings]\nmodel = \"bge-small-en-v1.5\"\ndirectory = {directory:?}\n");
    assert_eq!(ready(&named(Path::new("/no/such/directory"))).await, "words");
    if let Some(directory) = models() {
        assert_eq!(ready(&named(&directory)).await, "words_and_meaning");
    }
}
