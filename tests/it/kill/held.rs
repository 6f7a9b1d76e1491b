//! Requests that the network delays: they reach the vendor long after the process that sent them has died and the next
//! one has recorded their outcome. However late they arrive, nothing is done twice.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::live::client::{Client, PATIENCE};
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Store};
use crate::support::live::world::World;
use crate::support::proxy::{Mode, Proxy};

const MARK: &str = "mark-held.";

struct Case {
    zendesk: bool,
    tool: &'static str,
    arguments: Value,
    /// Text that occurs in the requests that change something.
    line: &'static str,
    /// How many of them pass before one is delayed.
    passing: u64,
    /// The final status of the call, and its error.
    ends: (&'static str, &'static str),
    /// How often it was carried out before the bytes arrive, and in the end.
    effects: (usize, usize),
}

fn cases() -> Vec<Case> {
    let long = format!("{MARK} {}", "a word ".repeat(3000));
    vec![
        Case {
            zendesk: false,
            tool: "slack_post_message",
            arguments: json!({"channel": "#support", "text": MARK}),
            line: "POST /api/chat.postMessage",
            passing: 0,
            ends: ("unknown", "check in slack before doing it again"),
            effects: (0, 1),
        },
        // The second of several messages; the first one contains the mark.
        Case {
            zendesk: false,
            tool: "slack_post_message",
            arguments: json!({"channel": "#support", "text": long}),
            line: "POST /api/chat.postMessage",
            passing: 1,
            ends: ("unknown", "1 of "),
            effects: (1, 1),
        },
        Case {
            zendesk: true,
            tool: "zendesk_add_comment",
            arguments: json!({"ticket_id": 102, "body": MARK, "public": false}),
            line: "PUT /api/v2/tickets/102",
            passing: 0,
            ends: ("unknown", "check in zendesk before doing it again"),
            effects: (0, 1),
        },
        // The vendor recognises the second copy by its key and drops it.
        Case {
            zendesk: true,
            tool: "zendesk_create_ticket",
            arguments: json!({"subject": MARK, "body": "as asked"}),
            line: "POST /api/v2/tickets",
            passing: 0,
            ends: ("succeeded", ""),
            effects: (1, 1),
        },
    ]
}

/// Number of requests of this kind that the vendor has received and answered, or would have.
async fn arrived(world: &World, vendor: &str, line: &str) -> usize {
    let state = world.state(vendor).await;
    let journal = state["journal"].as_array().unwrap();
    let is_it = |entry: &&Value| {
        let said = format!(
            "{} {}",
            entry["method"].as_str().unwrap(),
            entry["path"].as_str().unwrap()
        );
        said.starts_with(line) && entry["status"].is_number()
    };
    journal.iter().filter(is_it).count()
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn held(case: &Case, kills: u64) {
    let what = format!("{} after {} with {kills} kills", case.tool, case.passing);
    let scratch = tempfile::TempDir::new().unwrap();
    let mut world = World::start(scratch.path()).await;
    let vendor = if case.zendesk {
        world.zendesk.clone()
    } else {
        world.slack.clone()
    };
    let proxy = Proxy::to(vendor.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let through = format!("http://{}", proxy.address);
    let place = if case.zendesk {
        &mut world.zendesk
    } else {
        &mut world.slack
    };
    *place = through;
    let mut server = Server::new(&world, Store::Sqlite);
    // The server calls through the proxy; the test calls the vendor directly.
    let place = if case.zendesk {
        &mut world.zendesk
    } else {
        &mut world.slack
    };
    place.clone_from(&vendor);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversation = client.conversation("support", "held").await;
    let input = format!("[[sim pace_ms=0 tool={} args={}]]", case.tool, case.arguments);
    proxy.set(Mode::HeldAfter(case.passing, case.line));
    let turn = client.submit(&conversation, "held-0", &json!({ "input": input })).await;
    let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
    until(&format!("{what}: the call never left"), async || proxy.held() == 1).await;
    for _ in 0..kills {
        server.kill().await;
        server.start(&[]).await;
    }
    reader.until("its end", |seen| seen.ended(&turn)).await;
    reader.look(|seen| assert_eq!(seen.faults, [""; 0], "{what}"));
    let view = client.turn(&turn).await;
    assert_eq!(view["status"], "completed", "{what}: {view:#}");
    let calls = view["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "{what}: {view:#}");
    assert_eq!(calls[0]["status"], case.ends.0, "{what}: {view:#}");
    let error = calls[0]["error"].as_str().unwrap_or_default();
    assert!(error.contains(case.ends.1), "{what}: {error}");
    assert_eq!(
        world.effects(MARK).await,
        case.effects.0,
        "{what}: before the bytes arrive"
    );
    let before = arrived(&world, &vendor, case.line).await;
    proxy.set(Mode::Open);
    let more = async || arrived(&world, &vendor, case.line).await > before;
    until(&format!("{what}: the bytes never arrived"), more).await;
    assert_eq!(
        world.effects(MARK).await,
        case.effects.1,
        "{what}: how often it was done"
    );
    if case.ends.0 == "unknown" {
        let requests = arrived(&world, &vendor, case.line).await;
        assert_eq!(requests, before + 1, "{what}: it was sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_arrive_after_the_next_process_has_spoken_do_nothing_twice() {
    join_all(cases().iter().map(|case| held(case, 1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_after_two_deaths() {
    join_all(cases().iter().map(|case| held(case, 2))).await;
}
