//! Crashes the server at each point of a source's run; the next process continues where the position is, and nothing of
//! the other system is lost or stored twice.

use std::collections::BTreeSet;
use std::path::Path;

use copilotd_actors::domain::access::key_hash::KeyHash;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ingestion::{ABORTED, KEY, Life};
use crate::sync::Zendesk;

/// Tickets of a page of the export; the simulator has eight.
const PAGE: usize = 4;
const TICKETS: [&str; 8] = ["101", "102", "103", "104", "105", "106", "107", "108"];

/// The points of the first run, with the tickets whose page was followed by a position when the process ends there.
const POINTS: [(&str, usize); 9] = [
    // The first position says where documents are stored, before there are any.
    ("sync.before:position", 0),
    ("sync.after:position", 0),
    ("sync.before:store", 0),
    ("sync.after:store", 0),
    ("sync.after:store#4", 0),
    ("sync.before:position#2", 0),
    ("sync.after:position#2", PAGE),
    ("sync.before:store#6", PAGE),
    ("sync.before:position#3", PAGE),
];

fn configure(directory: &Path, zendesk: &Zendesk, collection: &str) {
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = {data:?}
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
api_key = {{ value = "none" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "none", context_tokens = 16000 }}]
[[tenants]]
id = "acme"
  [[tenants.api_keys]]
  name = "writer"
  hash = "{hash}"
  scopes = ["knowledge", "admin"]
  [tenants.zendesk]
  base_url = "{zendesk}"
  oauth_token = {{ value = "token" }}
  [[tenants.sources]]
  kind = "zendesk"
  tickets = {{ collection = "{collection}", allowed_roles = ["agents"] }}
  exports_per_minute = 30
  requests_per_minute = 2000
"#,
        data = directory.join("data"),
        hash = KeyHash::of(KEY),
        zendesk = zendesk.address(),
    );
    std::fs::write(directory.join("copilotd.toml"), text).unwrap();
}

/// Waits until the source has read everything and all its documents are ingested; returns the collection's documents.
async fn settled(life: &Life, collection: &str) -> Vec<Value> {
    loop {
        let source = life.get("/v1/admin/knowledge/sources").await["data"][0].clone();
        assert_ne!(source["status"], "failed", "{source}");
        if source["status"] == "up_to_date" {
            let documents = documents(life, collection).await;
            assert_eq!(source["documents"], json!(documents.len()), "{source}");
            if documents.iter().all(|document| document["status"] != "pending") {
                return documents;
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn documents(life: &Life, collection: &str) -> Vec<Value> {
    let path = format!("/v1/knowledge/{collection}/documents?limit=100");
    life.get(&path).await["data"].as_array().unwrap().clone()
}

fn ids(documents: &[Value]) -> Vec<String> {
    let id = |document: &Value| document["external_id"].as_str().unwrap().replace("ticket-", "");
    documents.iter().map(id).collect()
}

/// Returns the external ids of what a search finds.
async fn found(life: &Life, collection: &str, words: &str) -> BTreeSet<String> {
    let path = format!("/v1/knowledge/{collection}/search");
    let (status, text) = life
        .client
        .ask("POST", &path, Some(&json!({ "query": words })))
        .await
        .unwrap();
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let hits = answer["data"].as_array().unwrap().iter();
    hits.map(|hit| hit["external_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_continues_where_its_position_is() {
    for (point, kept) in POINTS {
        let zendesk = Zendesk::start(true).await;
        zendesk.knobs(json!({ "export_page": PAGE })).await;
        let directory = TempDir::new().unwrap();
        configure(directory.path(), &zendesk, "tickets");
        if let Some(mut life) = Life::start(directory.path(), Some(point)).await {
            assert_eq!(life.child.wait().await, ABORTED, "{point}: {}", life.child.output());
        }
        let read_before = zendesk.requests("/comments").await.len();
        // Nobody reads while this happens.
        let answered = json!({ "ticket": { "comment": { "body": "We found the umbrella.", "public": true } } });
        zendesk.call("PUT", "/api/v2/tickets/102.json", answered).await;
        zendesk.delete_ticket(103).await;

        let life = Life::start(directory.path(), None).await.expect("it serves again");
        let documents = settled(&life, "tickets").await;
        assert_eq!(
            ids(&documents),
            ["101", "102", "104", "105", "106", "107", "108"],
            "{point}"
        );
        for document in &documents {
            assert_eq!(document["status"], "searchable", "{point}: {document}");
            assert_eq!(document["allowed_roles"], json!(["agents"]), "{point}");
            // Content that is submitted twice is one version.
            if document["external_id"] != "ticket-102" {
                assert_eq!(document["version"], 1, "{point}: {document}");
            }
        }
        assert_eq!(
            found(&life, "tickets", "umbrella").await,
            ["ticket-102".to_owned()].into(),
            "{point}"
        );
        let again = zendesk.requests("/comments").await.split_off(read_before);
        let again: BTreeSet<&str> = again.iter().filter_map(|path| path.split('/').nth(4)).collect();
        let expected: BTreeSet<&str> = TICKETS
            .iter()
            .enumerate()
            .filter(|(place, id)| **id != "103" && (*place >= kept || **id == "102"))
            .map(|(_, id)| *id)
            .collect();
        assert_eq!(again, expected, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_and_moves_continue_after_a_crash() {
    let zendesk = Zendesk::start(true).await;
    let directory = TempDir::new().unwrap();
    configure(directory.path(), &zendesk, "tickets");
    let mut life = Life::start(directory.path(), None).await.expect("it serves");
    assert_eq!(settled(&life, "tickets").await.len(), TICKETS.len());
    life.child.kill().await;

    zendesk.delete_ticket(103).await;
    zendesk.delete_ticket(106).await;
    if let Some(mut life) = Life::start(directory.path(), Some("sync.after:delete")).await {
        assert_eq!(life.child.wait().await, ABORTED, "{}", life.child.output());
    }
    let left = ["101", "102", "104", "105", "107", "108"];
    let mut life = Life::start(directory.path(), None).await.expect("it serves again");
    assert_eq!(ids(&settled(&life, "tickets").await), left);
    life.child.kill().await;

    // Another collection: whoever may not search it must not find them in the old one.
    for (collection, point) in [("moved", "sync.after:leave#3"), ("tickets", "sync.before:position")] {
        configure(directory.path(), &zendesk, collection);
        if let Some(mut life) = Life::start(directory.path(), Some(point)).await {
            assert_eq!(life.child.wait().await, ABORTED, "{point}: {}", life.child.output());
        }
        let mut life = Life::start(directory.path(), None).await.expect("it serves again");
        assert_eq!(ids(&settled(&life, collection).await), left, "{point}");
        let old = if collection == "moved" { "tickets" } else { "moved" };
        assert_eq!(documents(&life, old).await, Vec::<Value>::new(), "{point}");
        assert_eq!(found(&life, old, "invoice").await, BTreeSet::new(), "{point}");
        assert!(!found(&life, collection, "invoice").await.is_empty(), "{point}");
        life.child.kill().await;
    }
}
