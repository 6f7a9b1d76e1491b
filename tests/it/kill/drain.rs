//! SIGTERM: no new turns; running ones get time to finish; the next process resumes the others.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::live::client::{Client, PATIENCE};
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::world::World;

struct Scene {
    world: World,
    server: Server,
    client: Client,
    conversation: String,
    turn: String,
    reader: Reader,
    _scratch: tempfile::TempDir,
}

/// A server that got SIGTERM while a turn of `words` words streams.
async fn told_to_end(words: u32, drain_s: u64) -> Scene {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let settings = Settings {
        drain_s,
        ..Store::Sqlite.into()
    };
    let mut server = Server::new(&world, settings);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversation = client.conversation("support", "drain").await;
    let input = format!("[[sim tokens={words} pace_ms=20]]");
    let turn = client
        .submit(&conversation, "drain-0", &json!({ "input": input }))
        .await;
    let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
    reader.until("text", |seen| seen.open_bytes() > 0).await;
    server.terminate().await;
    Scene {
        world,
        server,
        client,
        conversation,
        turn,
        reader,
        _scratch: scratch,
    }
}

/// Sends one request, without retries.
async fn once(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = client.request(method, path).await;
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_turn_ends_in_its_time_and_new_ones_are_refused() {
    let mut scene = told_to_end(150, 30).await;
    let deadline = Instant::now() + PATIENCE;
    while once(&scene.client, Method::GET, "/readyz", None).await.1["status"] != "draining" {
        assert!(Instant::now() < deadline, "the signal was not heard");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let path = format!("/v1/conversations/{}/turns", scene.conversation);
    let refused = once(&scene.client, Method::POST, &path, Some(json!({ "input": "one more" }))).await;
    assert_eq!(
        (refused.0, &refused.1["code"]),
        (503, &json!("unavailable")),
        "{}",
        refused.1
    );
    assert_eq!(scene.server.ended().await, 0, "{}", scene.server.log());
    // Its own stream showed the end before the process exited.
    scene.reader.look(|seen| {
        assert!(seen.ended(&scene.turn), "{seen:#?}");
        assert_eq!((seen.resumes(), &seen.faults), (0, &Vec::new()));
    });
    scene.server.start(&[]).await;
    let view = scene.client.turn(&scene.turn).await;
    assert_eq!(
        (&view["status"], &view["attempt"]),
        (&json!("completed"), &json!(1)),
        "{view:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_outlives_the_deadline_is_taken_up_by_the_next_process() {
    let mut scene = told_to_end(400, 1).await;
    assert_eq!(scene.server.ended().await, 0, "{}", scene.server.log());
    scene
        .reader
        .look(|seen| assert!(!seen.ended(&scene.turn), "it was meant to take longer"));
    scene.server.start(&[]).await;
    scene.reader.until("its end", |seen| seen.ended(&scene.turn)).await;
    scene.reader.look(|seen| {
        assert_eq!(seen.faults, [""; 0]);
        assert!(
            seen.resumes() > 0 && seen.has("message.reset") && seen.has("turn.completed"),
            "{seen:#?}"
        );
    });
    let view = scene.client.turn(&scene.turn).await;
    assert_eq!(
        (&view["status"], &view["attempt"]),
        (&json!("completed"), &json!(2)),
        "{view:#}"
    );
    let asked = scene.world.state(&scene.world.openai).await;
    assert!(asked["requests"].as_u64().is_none_or(|count| count <= 2), "{asked}");
}
