//! Schemas whose validation never ends: they fail only their own turns and do not affect others.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::support::live::client::{Client, PATIENCE};
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::world::World;

/// A turn whose answer takes 2^50 steps to be checked.
fn endless() -> Value {
    let schema = json!({ "$ref": "#/$defs/n", "$defs": { "n": { "anyOf": [
        { "type": "array", "items": { "$ref": "#/$defs/n" }, "minItems": 0 },
        { "type": "array", "items": { "$ref": "#/$defs/n" }, "maxItems": 99 } ] } } });
    let answer = format!("{}1{}", "[".repeat(50), "]".repeat(50));
    json!({ "input": format!("[[sim text={}]]", json!(answer)), "response_schema": schema })
}

async fn end_of(client: &Client, turn: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = client.turn(turn).await;
        if !view["finished_at"].is_null() {
            return view;
        }
        assert!(Instant::now() < deadline, "it never ended: {view:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_without_end_fail_their_turns_and_stop_nobody() {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let settings = Settings {
        drain_s: 1,
        ..Store::Sqlite.into()
    };
    let mut server = Server::new(&world, settings);
    server.start(&[]).await;
    let (ada, bob) = (
        Client::new(server.address(), "ada"),
        Client::new(server.address(), "bob"),
    );
    let mut turns = Vec::new();
    for n in 0..6 {
        let conversation = ada.conversation("support", &format!("c{n}")).await;
        turns.push(ada.submit(&conversation, &format!("t{n}"), &endless()).await);
    }
    // While they are validated, everybody else is served.
    let theirs = bob.conversation("support", "bob").await;
    let turn = bob
        .submit(&theirs, "bob-0", &json!({ "input": "[[sim tokens=5]]" }))
        .await;
    assert_eq!(end_of(&bob, &turn).await["status"], "completed");
    let first = end_of(&ada, &turns[0]).await;
    assert_eq!(
        (&first["status"], &first["error"]["code"]),
        (&json!("failed"), &json!("schema_failed")),
        "{first:#}"
    );
    assert!(
        first["error"]["message"].as_str().unwrap().contains("response_schema"),
        "{first:#}"
    );
    // With the others in progress, the process stops when told to, and they do not delay the next one.
    server.terminate().await;
    assert_eq!(server.ended().await, 0, "{}", server.log());
    server.start(&[]).await;
    let turn = bob
        .submit(&theirs, "bob-1", &json!({ "input": "[[sim tokens=5]]" }))
        .await;
    assert_eq!(end_of(&bob, &turn).await["status"], "completed");
    server.kill().await;
    server.start(&[]).await;
    for turn in &turns {
        let view = end_of(&ada, turn).await;
        let code = view["error"]["code"].as_str().unwrap();
        assert!(["schema_failed", "attempts_exhausted"].contains(&code), "{view:#}");
    }
    // A schema that is too expensive is refused at submit, with its pointer.
    let member = |n: usize| (format!("p{n}"), json!({ "pattern": format!("^\\p{{L}}{{80}}<{n}>$") }));
    let conversation = ada.conversation("support", "refused").await;
    for (count, place) in [
        (400, "/response_schema/properties/p32/pattern"),
        (20, "/response_schema/properties/p0/pattern"),
    ] {
        let members: Map<String, Value> = (0..count).map(member).collect();
        let body = json!({ "input": "x", "response_schema": { "properties": members } });
        let path = format!("/v1/conversations/{conversation}/turns");
        let (status, problem) = ada.ask(Method::POST, &path, None, Some(&body)).await;
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (422, &json!(place)),
            "{problem:#}"
        );
    }
}
