//! The product's promises, checked when everything has ended.

use serde_json::Value;

use super::client::Client;
use super::orders::Act;
use super::reader::Reader;
use super::stage::{Talk, Turn};
use super::transcript::{Durable, Transcript};
use super::world::World;

/// Summary of a run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    pub turns: usize,
    /// Connections of readers after their first.
    pub resumes: usize,
    pub deltas: usize,
    /// Turns that were resumed.
    pub recovered: usize,
    pub effects: usize,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.turns += other.turns;
        self.resumes += other.resumes;
        self.deltas += other.deltas;
        self.recovered += other.recovered;
        self.effects += other.effects;
    }
}

/// Attempts of a turn, including those that a crash interrupted.
const ATTEMPTS: u64 = 3;

/// Checks every conversation. With `steady`, every turn must have ended as ordered; otherwise it may also have used up
/// its attempts.
pub async fn verdict(client: &Client, world: &World, talks: &[Talk], steady: bool) -> Summary {
    let mut summary = Summary::default();
    for talk in talks {
        if talk.erased {
            let (status, _) = client.get(&format!("/v1/conversations/{}", talk.id)).await;
            assert_eq!(status, 404, "an erased conversation is shown");
            talk.reader
                .look(|seen| assert_eq!(seen.faults, [""; 0], "{}", talk.reader.name));
            continue;
        }
        conversation(client, talk, &mut summary).await;
        for order in &talk.turns {
            turn(client, world, talk, order, steady, &mut summary).await;
        }
    }
    let mut keys = world.keyed_changes().await;
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all, "one call made two tickets");
    summary
}

/// One conversation's stream, its messages, and the number of its turns.
async fn conversation(client: &Client, talk: &Talk, summary: &mut Summary) {
    let last = |seen: &Transcript| seen.durable.last().map_or(0, |event| event.seq);
    let mut truth: Vec<Durable> = Vec::new();
    for turn in &talk.turns {
        let fresh = Reader::open(client, format!("/v1/turns/{}/events", turn.id));
        fresh.until("its end", |seen| seen.ended(&turn.id)).await;
        let read = fresh.look(|seen| {
            assert_eq!(seen.faults, [""; 0], "{} read afterwards", fresh.name);
            seen.durable.clone()
        });
        turn.reader.look(|seen| {
            assert!(!seen.gone, "{} was not found", turn.reader.name);
            assert_eq!(seen.faults, [""; 0], "{}", turn.reader.name);
            assert_eq!(
                seen.durable, read,
                "{} differs from what is read afterwards",
                turn.reader.name
            );
            summary.resumes += seen.resumes();
            summary.deltas += seen.deltas;
        });
        truth.extend(read);
    }
    truth.sort_by_key(|event| event.seq);
    let end = truth.last().map_or(0, |event| event.seq);
    talk.reader.until("the last event", |seen| last(seen) >= end).await;
    talk.reader.look(|seen| {
        assert!(!seen.gone, "{} was not found", talk.reader.name);
        assert_eq!(seen.faults, [""; 0], "{}", talk.reader.name);
        let of_turns: Vec<_> = seen
            .durable
            .iter()
            .filter(|event| event.turn().is_some())
            .cloned()
            .collect();
        assert_eq!(of_turns, truth, "{} differs from its turns' streams", talk.reader.name);
        summary.resumes += seen.resumes();
    });
    let queued = truth.iter().filter(|event| event.name == "turn.queued").count();
    assert_eq!(queued, talk.turns.len(), "requests and turns of {}", talk.id);
    let said = |event: &&Durable| ["turn.queued", "message.completed", "tool.finished"].contains(&event.name.as_str());
    let said: Vec<u64> = truth.iter().filter(said).map(|event| event.seq).collect();
    let messages = client.messages(&talk.id).await;
    let listed: Vec<u64> = messages.iter().filter_map(|message| message["seq"].as_u64()).collect();
    assert_eq!(listed, said, "messages of {}", talk.id);
    for message in &messages {
        if message["role"] == "assistant" {
            let event = truth.iter().find(|event| message["seq"] == event.seq).unwrap();
            let text = message["content"][0]["text"].as_str().unwrap_or_default();
            assert_eq!(event.data["text"], text);
        }
    }
}

/// Checks one turn: its final status, its usage and calls, and its effects in external systems.
async fn turn(client: &Client, world: &World, talk: &Talk, turn: &Turn, steady: bool, summary: &mut Summary) {
    let path = format!("/v1/conversations/{}/turns", talk.id);
    let (status, copy) = client.post(&path, &turn.key, &turn.order.body).await;
    assert_eq!(
        (status, copy["id"].as_str()),
        (202, Some(turn.id.as_str())),
        "a copy made another turn"
    );
    let view = client.turn(&turn.id).await;
    let status = view["status"].as_str().unwrap();
    let tired = !steady && status == "failed" && view["attempt"] == ATTEMPTS;
    assert!(
        turn.order.ends.contains(&status) || tired,
        "{} ended as {status}: {view:#}",
        turn.order.body
    );
    let events: Vec<Durable> = turn.reader.look(|seen| seen.durable.clone());
    let of = |name: &'static str| events.iter().filter(move |event| event.name == name);
    assert_eq!(events.last().unwrap().name, format!("turn.{status}"));
    if let Some(answer) = of("message.completed").next_back().filter(|_| status == "completed") {
        assert_eq!(view["output"]["text"], answer.data["text"]);
    }
    let attempt = of("turn.started")
        .next_back()
        .map_or(0, |event| event.data["attempt"].as_u64().unwrap());
    assert_eq!(view["attempt"], attempt);
    for finished in of("tool.finished") {
        let calls = view["tool_calls"].as_array().unwrap();
        let call = calls
            .iter()
            .find(|call| call["id"] == finished.data["call_id"])
            .unwrap();
        assert_eq!(call["status"], finished.data["status"]);
    }
    if turn.order.act == Act::Run && status == "completed" {
        let call = &view["tool_calls"][0];
        assert_eq!(call["result"], serde_json::json!({ "title": "Orders" }), "{view:#}");
    }
    summary.turns += 1;
    summary.recovered += usize::from(attempt > 1);
    if let Some(mark) = &turn.order.mark {
        let count = world.effects(mark).await;
        effect(&view, count);
        summary.effects += count;
    }
}

/// Checks that effects in external systems agree with what the turn reports.
fn effect(view: &Value, count: usize) {
    let calls = view["tool_calls"].as_array().unwrap();
    let has = |status: &str| calls.iter().any(|call| call["status"] == status);
    let truthful = if has("succeeded") {
        count == 1
    } else if has("unknown") {
        count <= 1
    } else {
        count == 0
    };
    assert!(truthful, "it was done {count} times: {view:#}");
}
