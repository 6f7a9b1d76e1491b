//! Vendors that answer only after the server has died and come back.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::live::client::{Client, PATIENCE};
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Store};
use crate::support::live::world::World;

/// Which answers are delayed, and which prompts make the server request them.
struct Case {
    zendesk: bool,
    hold: Value,
    tool: &'static str,
    arguments: Value,
}

const MARK: &str = "mark-late.";

fn cases() -> Vec<Case> {
    vec![
        Case {
            zendesk: true,
            hold: json!({"method": "POST", "path_contains": "/tickets"}),
            tool: "zendesk_create_ticket",
            arguments: json!({"subject": MARK, "body": "as asked"}),
        },
        Case {
            zendesk: true,
            hold: json!({"method": "PUT", "path_contains": "/tickets/102"}),
            tool: "zendesk_add_comment",
            arguments: json!({"ticket_id": 102, "body": MARK, "public": false}),
        },
        Case {
            zendesk: false,
            hold: json!({"path_contains": "chat.postMessage"}),
            tool: "slack_post_message",
            arguments: json!({"channel": "#support", "text": MARK}),
        },
    ]
}

/// The vendor has the call when the server dies, and reports its outcome once the next one runs. With `apply_first` it
/// is carried out before the server dies, else after.
async fn answers_late(case: &Case, apply_first: bool) {
    let what = format!("{} with apply_first {apply_first}", case.tool);
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let vendor = if case.zendesk { &world.zendesk } else { &world.slack };
    let mut hold = case.hold.clone();
    hold["apply_first"] = json!(apply_first);
    world.post(vendor, "knobs", &json!({ "hold": hold })).await;
    let mut server = Server::new(&world, Store::Sqlite);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversation = client.conversation("support", "late").await;
    let input = format!("[[sim tool={} args={}]]", case.tool, case.arguments);
    let turn = client.submit(&conversation, "late-0", &json!({ "input": input })).await;
    let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
    let deadline = Instant::now() + PATIENCE;
    while world.state(vendor).await["held"] != 1 {
        assert!(Instant::now() < deadline, "{what}: the call never left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.kill().await;
    assert_eq!(world.effects(MARK).await, usize::from(apply_first), "{what}");
    server.start(&[]).await;
    world.post(vendor, "release", &json!({})).await;
    reader.until("its end", |seen| seen.ended(&turn)).await;
    reader.look(|seen| assert_eq!(seen.faults, [""; 0], "{what}"));
    let view = client.turn(&turn).await;
    assert_eq!(view["status"], "completed", "{what}: {view:#}");
    let calls = view["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "{what}: {view:#}");
    // Not "outcome unknown": each of these tools can look it up.
    assert_eq!(calls[0]["status"], "succeeded", "{what}: {view:#}");
    assert_eq!(world.effects(MARK).await, 1, "{what}: how often it was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_had_done_it_is_not_asked_twice() {
    join_all(cases().iter().map(|case| answers_late(case, true))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_does_it_after_the_restart_does_it_once() {
    join_all(cases().iter().map(|case| answers_late(case, false))).await;
}
