//! Attached files of a turn: each target gets what it reads, in its own format, also after a fallback.

use std::sync::Arc;

use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::file::{FileContent, FileInfo, FileKind, MediaType, PromptFile};
use copilotd_actors::domain::ids::FileId;
use copilotd_actors::ports::{Model, ModelRequest};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CLOCKS, Protocol, Provider, TestTarget, at, gateway};

fn file(n: u128, name: &str, media_type: MediaType) -> PromptFile {
    let info = FileInfo {
        name: name.to_owned(),
        media_type,
        bytes: 3,
        sha256: "00".repeat(32),
    };
    let id = FileId::new(Uuid::from_u128(n));
    match media_type.kind() {
        FileKind::Text => PromptFile::of_text(id, info, "abc", None),
        FileKind::Image | FileKind::Pdf => PromptFile::of_bytes(id, info, FileContent::new(b"abc".to_vec()), None),
    }
}

fn request() -> ModelRequest {
    let files = vec![
        file(1, "a.png", MediaType::Png),
        file(2, "b.pdf", MediaType::Pdf),
        file(3, "c.txt", MediaType::Text),
    ];
    ModelRequest {
        messages: Arc::new(vec![
            PromptMessage::Files { files },
            PromptMessage::Assistant {
                text: "(Read as data.)".to_owned(),
                calls: Vec::new(),
            },
            PromptMessage::User {
                text: "What is in them?".to_owned(),
            },
        ]),
        ..crate::model::request()
    }
}

/// The content of the first message of the last request.
async fn sent(provider: &Provider) -> Value {
    let bodies = provider.bodies().await;
    bodies.last().unwrap()["messages"][0]["content"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_gets_what_it_reads_and_is_told_of_the_rest() {
    const UNREADABLE: &str = "not readable by this model";
    let seeing = Provider::faulty("status=500").await;
    let reading = Provider::speaking(Protocol::Anthropic).await;
    let plain = Provider::start().await;
    let reads = |target: TestTarget<'static>, reads: &[FileKind]| TestTarget {
        reads: reads.to_vec(),
        context_tokens: 100_000,
        ..target
    };
    let targets = vec![
        reads(at("seeing", &seeing), &[FileKind::Image]),
        reads(at("reading", &reading), &[FileKind::Image, FileKind::Pdf]),
    ];
    let (both, ledger) = gateway(targets, CLOCKS);
    let events: Vec<_> = both.stream(request()).await.unwrap().collect().await;
    assert!(events.iter().all(Result::is_ok), "{events:?}");
    assert_eq!(ledger.lines().last().unwrap(), "reading/gpt ok");

    let image = json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,YWJj" } });
    let first = sent(&seeing).await;
    assert_eq!(first.as_array().unwrap()[1..], [image], "{first:#}");
    let text = first[0]["text"].as_str().unwrap();
    assert_eq!(text.matches(UNREADABLE).count(), 1, "{text}");
    assert!(
        text.contains("b.pdf (application/pdf, 3 bytes)\n(attached, not readable"),
        "{text}"
    );

    let second = sent(&reading).await;
    let source = |media_type: &str| json!({ "type": "base64", "media_type": media_type, "data": "YWJj" });
    assert_eq!(
        second[1],
        json!({ "type": "image", "source": source("image/png") }),
        "{second:#}"
    );
    let document = json!({ "type": "document", "title": "b.pdf", "source": source("application/pdf") });
    assert_eq!(second[2], document);
    assert!(!second[0]["text"].as_str().unwrap().contains(UNREADABLE));

    let (alone, _) = gateway(vec![reads(at("plain", &plain), &[])], CLOCKS);
    let events: Vec<_> = alone.stream(request()).await.unwrap().collect().await;
    assert!(events.iter().all(Result::is_ok), "{events:?}");
    let text = sent(&plain).await;
    let text = text.as_str().unwrap();
    assert_eq!(text.matches(UNREADABLE).count(), 2, "{text}");
    assert!(text.contains("\nabc\n"), "{text}");
}
