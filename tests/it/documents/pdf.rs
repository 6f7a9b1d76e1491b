//! PDF documents from the upload to the page of a citation, by both readers, and those that no reader should trust.

use serde_json::json;
use tempfile::TempDir;

use super::Server;
use crate::pdf::documents::{all, encrypted, pages};
use crate::pdf::library;
use crate::support::live::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_cites_the_page_of_a_pdf() {
    let around = TempDir::new().unwrap();
    let world = World::start(around.path()).await;
    let readers = [None, library()];
    // Without the library the built-in reader is tested alone.
    let readers = if readers[1].is_none() {
        &readers[..1]
    } else {
        &readers[..]
    };
    for library in readers {
        let more = library.as_ref().map_or_else(String::new, |library| {
            format!("[knowledge]\npdfium = {:?}\n", library.display().to_string())
        });
        let mut server = Server::start(&world.openai, &more).await;
        let client = server.client.clone();
        // Each page is more than half of a chunk.
        let long = |sentence: &str| {
            format!(
                "{sentence} {}",
                "Ask the desk in the hall about other matters. ".repeat(35)
            )
        };
        let texts = [
            "Welcome to the handbook.",
            "A refund arrives within five working days.",
            "Parking is free.",
        ];
        let texts = texts.map(long);
        let content = pages(&texts.each_ref().map(String::as_str), "/Title(The Handbook)");
        let job = client.put("handbook", "application/pdf", content).await;
        let document = client.settled("handbook").await;
        assert_eq!(document["status"], "searchable", "{document}");
        let job = client.get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await;
        assert_eq!(job["status"], "completed", "{job}");
        let found = client.search("When does a refund arrive?").await;
        assert_eq!(found["data"][0]["page"], 2, "{found}");
        let turn = client.asked("When does a refund arrive?").await;
        let citation = &turn["output"]["citations"][0];
        assert_eq!(
            (&citation["page"], &citation["quote"]),
            (&json!(2), &json!("A refund arrives within five working days.")),
            "{turn:#}"
        );
        server.child.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisoned_documents_end_with_a_reason_and_harm_no_other() {
    let mut server = Server::start("http://127.0.0.1:1", "").await;
    let client = server.client.clone();
    let pid = server.child.pid();
    let whole = pages(&["A refund arrives within five working days."], "");
    let mut bomb = b"%PDF-1.7\n".to_vec();
    bomb.extend(b"[".repeat(200_000));
    let poisoned = [
        ("empty", b"%PDF-1.7\n".to_vec(), "damaged"),
        ("other", b"GIF89a".repeat(100), "damaged"),
        ("half", whole[..whole.len() / 3].to_vec(), "damaged"),
        ("nested", bomb, "damaged"),
        ("loops", all().pop().unwrap(), "damaged"),
        ("locked", encrypted(), "encrypted"),
        ("pictures", pages(&["", ""], ""), "no_text"),
    ];
    for (id, content, _) in &poisoned {
        client.put(id, "application/pdf", content.clone()).await;
    }
    client.put("good", "application/pdf", whole).await;
    assert_eq!(client.settled("good").await["status"], "searchable");
    for (id, _, code) in &poisoned {
        let document = client.settled(id).await;
        assert_eq!(document["status"], "failed", "{id}: {document}");
        let found = document["error"]["code"].as_str().unwrap();
        // How a reader fails on these is its own affair, as long as it has a name.
        let is_named = [*code, "damaged", "no_text", "out_of_memory", "timed_out"].contains(&found);
        assert!(is_named, "{id}: {found}");
        let job = client
            .get(&format!("/v1/jobs/{}", document["job_id"].as_str().unwrap()))
            .await;
        assert_eq!(job["status"], "failed", "{id}: {job}");
    }
    assert_eq!(server.child.pid(), pid);
    assert_eq!(client.search("refund").await["data"].as_array().unwrap().len(), 1);
    server.child.kill().await;
}
