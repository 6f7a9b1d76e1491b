//! A process that is killed while it embeds: the next one embeds only what is missing, and every document ends whole.

use serde_json::json;

use super::Server;
use crate::embed::models;

/// A text whose sections are a chunk each.
fn handbook(sections: u32) -> String {
    let section = |number: u32| {
        let rule = format!("Rule {number} applies to case {number} and to no other. ");
        format!("# Section {number}\n\n{}\n\n", rule.repeat(12))
    };
    (0..sections).map(section).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_chunks_are_not_embedded_again_after_a_kill() {
    let Some(models) = models() else { return };
    let more = format!(
        "[embeddings]\nmodel = \"bge-small-en-v1.5\"\ndirectory = {:?}\n",
        models.display().to_string()
    );
    let mut server = Server::start("http://127.0.0.1:1", &more).await;
    let job = server.client.put("long", "text/markdown", handbook(48)).await;
    let job = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    server.client.put("short", "text/plain", "The last one.").await;
    // Killed twice: at some moment after the first chunks were stored, and once more after some others.
    let mut stored = 0;
    for _ in 0..2 {
        let before = stored;
        while stored == before {
            let seen = server.client.get(&job).await;
            stored = seen["progress"]["done"].as_u64().unwrap_or(0);
            assert_ne!(seen["status"], "completed", "it was too quick to be killed");
        }
        server.restart().await;
    }
    let document = server.client.settled("long").await;
    let all = document["chunks"].as_u64().unwrap();
    assert_eq!(document["status"], "searchable", "{document}");
    let (new, kept) = (
        "copilotd_ingested_chunks_total{outcome=\"new\"}",
        "copilotd_ingested_chunks_total{outcome=\"kept\"}",
    );
    assert_eq!(server.client.settled("short").await["status"], "searchable");
    let (new, kept) = (server.client.metric(new).await, server.client.metric(kept).await);
    // One more chunk is the short document's. More may have been stored than was seen before the kill.
    assert_eq!(new + kept, all + 1);
    assert!(kept >= stored, "{kept} of {stored} stored chunks were kept");
    let seen = server.client.get(&job).await;
    assert_eq!(
        (&seen["status"], &seen["progress"]),
        (&json!("completed"), &json!({ "done": all, "total": all }))
    );
    let found = server.client.search("Which rule applies to case 47?").await;
    assert_eq!(found["semantic"], true);
    server.child.kill().await;
}
