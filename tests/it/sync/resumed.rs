//! Kills and faults.

use std::time::Duration;

use serde_json::{Value, json};

use super::{World, Zendesk, source};

const TICKETS: &str = "tickets";

fn settings() -> Value {
    json!({ "tickets": { "collection": TICKETS, "allowed_roles": ["agents"] } })
}

/// Waits until the simulator holds a request.
async fn held(zendesk: &Zendesk) {
    for _ in 0..2_000 {
        let state = zendesk.call("GET", "/_sim/state", Value::Null).await;
        if state["held"] == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_repeats_at_most_a_page() {
    let (zendesk, world) = (Zendesk::start(true).await, World::start().await);
    // Two tickets a page, and the last one of the third page does not answer.
    let hold = json!({ "path_contains": "tickets/106/comments" });
    zendesk.knobs(json!({ "export_page": 2, "hold": hold })).await;
    world.apply(vec![source("acme", &zendesk, settings())]);
    held(&zendesk).await;
    let index = world.kill().await;
    zendesk.call("POST", "/_sim/release", json!({})).await;
    let before: Vec<String> = zendesk.requests("/comments").await;
    let world = World::with(index).await;
    world.apply(vec![source("acme", &zendesk, settings())]);
    let status = world.settled("acme", &zendesk).await;
    assert_eq!(status.documents, 8, "{status:?}");
    let again = zendesk.requests("/comments").await.split_off(before.len());
    let read: Vec<&str> = again.iter().filter_map(|path| path.split('/').nth(4)).collect();
    assert_eq!(
        read,
        ["105", "106", "107", "108"],
        "what was stored before the third page is not read again"
    );
    let starts = zendesk.requests("start_time=").await;
    assert_eq!(starts.len(), 1, "{starts:?}");
    // The content of 105 was submitted twice and is one version.
    let documents = world.documents("acme", TICKETS).await;
    assert!(documents.iter().all(|document| document.version == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_waited_out() {
    let (zendesk, world) = (Zendesk::start(true).await, World::start().await);
    zendesk
        .knobs(json!({ "fail_next": [
            { "path_contains": "/incremental/", "status": 500 },
            { "path_contains": "/incremental/", "torn": true },
            { "path_contains": "/incremental/" },
            { "path_contains": "/incremental/", "status": 429, "retry_after": 1 },
            { "path_contains": "tickets/103/comments", "status": 503, "retry_after": 1 },
            { "path_contains": "tickets/104/comments", "torn": true },
        ] }))
        .await;
    world.apply(vec![source("acme", &zendesk, settings())]);
    let status = world.settled("acme", &zendesk).await;
    assert_eq!((status.documents, status.skipped, status.last_error), (8, 0, None));

    // A refusal ends the run and is shown; the next run has success.
    let refused = json!({ "path_contains": "/incremental/", "status": 403, "times": 100_000 });
    zendesk.knobs(json!({ "fail_next": [refused] })).await;
    let error = loop {
        let status = world.status("acme").unwrap();
        match status.last_error {
            Some(error) => break error,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(error.starts_with("tickets: zendesk answered 403"), "{error}");
    zendesk.knobs(json!({ "fail_next": [] })).await;
    assert_eq!(world.settled("acme", &zendesk).await.last_error, None);
}
