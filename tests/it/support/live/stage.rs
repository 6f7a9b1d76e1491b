//! Plays the clients: submits orders, reads their streams from the beginning, and acts as a person would.

use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use super::client::{Client, PATIENCE};
use super::orders::{Act, HELD_TICKET, Order};
use super::reader::Reader;
use super::transcript::Transcript;
use super::world::World;

/// Longer than any summary takes here.
const COMPRESSION: Duration = Duration::from_secs(4);

/// Shorter than the timeout of a delayed call.
const HELD: Duration = Duration::from_millis(1500);

/// A conversation with a reader.
pub struct Talk {
    pub id: String,
    pub reader: Reader,
    pub turns: Vec<Turn>,
    pub erased: bool,
}

/// A turn that was answered 202.
pub struct Turn {
    pub order: Order,
    pub key: String,
    pub id: String,
    pub reader: Reader,
}

/// Runs all orders concurrently; those of one conversation start one after another. Returns when all have ended.
pub async fn perform(client: &Client, world: &World, orders: Vec<Order>) -> Vec<Talk> {
    let mut groups: Vec<Vec<Order>> = Vec::new();
    for order in orders {
        match groups.iter_mut().find(|group| group[0].talk == order.talk) {
            Some(group) => group.push(order),
            None => groups.push(vec![order]),
        }
    }
    let hold = json!({"hold": {"method": "PUT", "path_contains": format!("/tickets/{HELD_TICKET}")}});
    world.post(&world.zendesk, "knobs", &hold).await;
    join_all(groups.into_iter().map(|group| talk(client, world, group))).await
}

async fn talk(client: &Client, world: &World, orders: Vec<Order>) -> Talk {
    let name = orders[0].talk.clone();
    let id = client.conversation(orders[0].copilot, &name).await;
    let reader = Reader::open(client, format!("/v1/conversations/{id}/events?after=0"));
    let erased = Mutex::new(false);
    let mut turns: Vec<Turn> = Vec::new();
    for (n, order) in orders.into_iter().enumerate() {
        if order.over_text {
            let before = turns.last().map(|turn| turn.id.clone()).unwrap_or_default();
            let shown = |seen: &Transcript| seen.open_bytes() > 0 || seen.ended(&before);
            reader.until("text of the turn before", shown).await;
        }
        turns.push(submit(client, &id, format!("{name}-{n}"), order).await);
    }
    join_all(turns.iter().map(|turn| async {
        act(client, world, &id, turn).await;
        if turn.order.act == Act::Erase {
            let end = |seen: &Transcript| seen.has("conversation.erased") || seen.gone;
            reader.until("its end", end).await;
            *erased.lock() = true;
        } else {
            turn.reader.until("its end", |seen| seen.ended(&turn.id)).await;
            rate(client, &id, turn).await;
        }
    }))
    .await;
    // A compression that a crash has interrupted is planned again only after the next turn.
    while turns[0].order.copilot == "brief" && !compressed(&reader).await {
        assert!(
            turns.len() < 8,
            "the memory was never compressed: {:#?}",
            reader.look(|seen| seen.durable.clone())
        );
        let order = turns[0].order.clone();
        let turn = submit(client, &id, format!("{name}-{}", turns.len()), order).await;
        turn.reader.until("its end", |seen| seen.ended(&turn.id)).await;
        turns.push(turn);
    }
    let erased = *erased.lock();
    Talk {
        id,
        reader,
        turns,
        erased,
    }
}

/// Whether a compression happens within the time that one takes.
async fn compressed(reader: &Reader) -> bool {
    let comes = reader.until("a compression", |seen| seen.has("memory.compressed"));
    tokio::time::timeout(COMPRESSION, comes).await.is_ok()
}

async fn submit(client: &Client, conversation: &str, key: String, order: Order) -> Turn {
    let id = client.submit(conversation, &key, &order.body).await;
    let reader = Reader::open(client, format!("/v1/turns/{id}/events"));
    Turn { order, key, id, reader }
}

async fn act(client: &Client, world: &World, conversation: &str, turn: &Turn) {
    let id = &turn.id;
    let reader = &turn.reader;
    let cancel = async || {
        let (status, body) = client
            .ask(Method::POST, &format!("/v1/turns/{id}/cancel"), None, None)
            .await;
        assert_eq!(status, 202, "{body}");
    };
    let text = async || {
        reader
            .until("text", |seen| seen.open_bytes() > 0 || seen.ended(id))
            .await;
    };
    match turn.order.act {
        Act::Wait | Act::Rate => {}
        Act::CancelQueued => cancel().await,
        Act::Cancel => {
            text().await;
            cancel().await;
        }
        Act::Approve | Act::Reject => {
            let asked = |seen: &Transcript| seen.has("approval.requested") || seen.ended(id);
            reader.until("the question", asked).await;
            let asked = reader.look(|seen| {
                seen.durable
                    .iter()
                    .find(|event| event.name == "approval.requested")
                    .cloned()
            });
            // It may have used up its attempts before.
            let Some(asked) = asked else { return };
            let call = asked.data["call_id"].as_str().unwrap().to_owned();
            let decision = if turn.order.act == Act::Approve {
                "approve"
            } else {
                "reject"
            };
            let path = format!("/v1/turns/{id}/approvals/{call}");
            let decided = client
                .ask(Method::POST, &path, None, Some(&json!({ "decision": decision })))
                .await;
            assert_eq!(decided.0, 202, "{}", decided.1);
        }
        Act::Run => {
            let asked = |seen: &Transcript| seen.has("client_tool.requested") || seen.ended(id);
            reader.until("the call", asked).await;
            let asked = reader.look(|seen| {
                let mut events = seen.durable.iter();
                events.find(|event| event.name == "client_tool.requested").cloned()
            });
            // It may have used up its attempts before.
            let Some(asked) = asked else { return };
            assert_eq!(asked.data["arguments"], json!({ "path": "/orders" }));
            let path = format!(
                "/v1/turns/{id}/client-tools/{}",
                asked.data["call_id"].as_str().unwrap()
            );
            let claim = async |page: &str| {
                let body = json!({ "claim": true });
                client.ask(Method::POST, &path, Some(page), Some(&body)).await
            };
            let (first, second) = tokio::join!(claim("page-1"), claim("page-2"));
            let mut statuses = [first.0, second.0];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409], "one page gets the call: {} {}", first.1, second.1);
            let claimed = if first.0 == 200 { first.1 } else { second.1 };
            let answer = json!({ "claim": claimed["claim"], "result": { "title": "Orders" } });
            let answered = client.ask(Method::POST, &path, None, Some(&answer)).await;
            assert_eq!(answered.0, 202, "{}", answered.1);
        }
        Act::CancelHeld => {
            // Asks Zendesk itself: the server may be dead before its stream shows it.
            let held = async || world.state(&world.zendesk).await["held"].as_u64() > Some(0);
            let deadline = Instant::now() + PATIENCE;
            while !held().await && !reader.look(|seen| seen.ended(id)) {
                assert!(Instant::now() < deadline, "the call never reached Zendesk");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // It answers in time whatever happens to the server: nobody could tell a call that a vendor carries out
            // after its timeout from one that it never will.
            let in_time = tokio::time::timeout(HELD, cancel()).await.is_ok();
            world.post(&world.zendesk, "release", &json!({})).await;
            if !in_time {
                cancel().await;
            }
        }
        Act::Erase => {
            text().await;
            let path = format!("/v1/conversations/{conversation}");
            let (status, body) = client.ask(Method::DELETE, &path, None, None).await;
            // A repeated request, whose first answer was lost, finds nothing.
            assert!([204, 404].contains(&status), "{status} {body}");
        }
    }
}

async fn rate(client: &Client, conversation: &str, turn: &Turn) {
    if turn.order.act != Act::Rate {
        return;
    }
    let path = format!("/v1/turns/{}/feedback", turn.id);
    let rated = client
        .ask(Method::POST, &path, None, Some(&json!({ "rating": 1 })))
        .await;
    assert_eq!(rated.0, 204, "{}", rated.1);
    let path = format!("/v1/conversations/{conversation}");
    let named = client
        .ask(Method::PATCH, &path, None, Some(&json!({ "title": "renamed" })))
        .await;
    assert_eq!(named.0, 200, "{}", named.1);
}
