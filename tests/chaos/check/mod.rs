//! The promises, checked from outside after everything has ended. Plain functions judge what was observed; tests show
//! that they detect broken promises.

mod acknowledged;
mod effects;
mod erased;
mod ledger;
mod streams;
mod usage;

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use serde_json::Value;

use crate::client::Client;
use crate::findings::Promise;
use crate::stage::Stage;
use crate::support::transcript::Durable;
use crate::user::UserConversation;
use crate::watcher::{ATTENTIVE, Watcher};

pub use erased::everywhere;
pub use ledger::UncertainPeriods;

/// Conversations checked concurrently.
const AT_ONCE: usize = 6;

/// A conversation as the API serves it at the end.
pub struct ServedConversation {
    pub view: Value,
    pub messages: Vec<Value>,
    /// Events of its stream, read from the start.
    pub events: Vec<Durable>,
    /// Turns by their ids.
    pub turns: BTreeMap<String, Turn>,
}

pub struct Turn {
    pub view: Value,
    /// Events of its own stream, read from the start.
    pub events: Vec<Durable>,
}

impl Turn {
    pub fn status(&self) -> &str {
        self.view["status"].as_str().unwrap_or_default()
    }
}

/// Results of a run.
#[derive(Debug, Default)]
pub struct Summary {
    pub conversations: usize,
    pub erased: usize,
    pub turns: usize,
    /// Turns that were recovered after a death.
    pub recovered: usize,
    /// Number of turns by how they ended.
    pub ends: BTreeMap<String, usize>,
    /// Number of calls that change something, by status.
    pub calls: BTreeMap<String, usize>,
    pub effects: usize,
    /// Reconnections of readers.
    pub resumes: usize,
    /// Turns whose usage must equal the provider's exactly.
    pub exact: usize,
}

/// Checks every conversation.
pub async fn conversations(talks: &[UserConversation], stage: &Stage, doubtful: &UncertainPeriods) -> Summary {
    let mut summary = Summary::default();
    let served: Vec<(&UserConversation, Option<ServedConversation>)> = stream::iter(talks)
        .map(|talk| async move { (talk, serve(talk).await) })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let world = effects::World::of(&stage.world).await;
    let calls = usage::calls(&stage.world).await;
    for (talk, served) in &served {
        summary.conversations += 1;
        summary.erased += usize::from(talk.erased);
        let mut broken = |promise, what: String| talk.client.shared.findings.add(promise, Some(&talk.id), what);
        for ask in &talk.asks {
            let turn = served
                .as_ref()
                .zip(ask.turn())
                .and_then(|(served, id)| served.turns.get(id));
            effects::check(ask, turn, talk.erased, &world, &mut summary, &mut broken);
        }
        let Some(served) = served else { continue };
        acknowledged::check(talk, served, &mut summary, &mut broken);
        streams::check(talk, served, &mut summary, &mut broken);
        for ask in &talk.asks {
            if let Some(turn) = ask.turn().and_then(|id| served.turns.get(id)) {
                usage::check(&ask.mark, turn, &calls, &mut summary, &mut broken);
            }
        }
    }
    if let Some(talk) = talks.first() {
        ledger::check(&served, &calls, &talk.client.shared.history, doubtful).await;
    }
    for key in world.twice() {
        let findings = &talks[0].client.shared.findings;
        findings.add(
            Promise::Effects,
            None,
            format!("two changes were made with idempotency key {key}"),
        );
    }
    summary
}

/// Reads a conversation from the start; `None` if it was erased, as expected.
async fn serve(talk: &UserConversation) -> Option<ServedConversation> {
    let client = &talk.client;
    let broken = |promise, what: String| client.shared.findings.add(promise, Some(&talk.id), what);
    let path = format!("/v1/conversations/{}", talk.id);
    let (status, view) = client.get(&path).await?;
    if talk.erased || status != 200 {
        if !(talk.erased && status == 404) {
            broken(
                Promise::Kept,
                format!("GET was answered with status {status}; deleted: {}", talk.erased),
            );
        }
        return None;
    }
    let messages = client.all(&format!("{path}/messages")).await?;
    let of_messages = messages.iter().filter_map(|message| message["turn_id"].as_str());
    let acknowledged = talk.asks.iter().filter_map(|ask| ask.turn());
    let mut ids: Vec<&str> = of_messages.chain(acknowledged).collect();
    ids.sort_unstable();
    ids.dedup();
    let fresh = Watcher::open(client, &talk.id, format!("{path}/events?after=0"), ATTENTIVE);
    for id in &ids {
        if !fresh.until(client, |seen| seen.ended(id)).await {
            let view = client.get(&format!("/v1/turns/{id}")).await;
            broken(Promise::Kept, format!("turn {id} has not ended: {view:?}"));
            return None;
        }
    }
    let events = fresh.look(|seen| seen.durable.clone());
    let last = events.last().map_or(0, |event| event.seq);
    let caught_up =
        |seen: &crate::support::transcript::Transcript| seen.durable.last().map_or(0, |event| event.seq) >= last;
    if !talk.watcher.until(client, caught_up).await {
        broken(Promise::Streams, "its stream does not reach the end".to_owned());
    }
    // Read after its turns have ended.
    let messages = client.all(&format!("{path}/messages")).await?;
    let mut turns = BTreeMap::new();
    for id in ids {
        let (status, view) = client.get(&format!("/v1/turns/{id}")).await?;
        if status != 200 {
            broken(
                Promise::Kept,
                format!("turn {id} was answered with status {status} {view}"),
            );
            continue;
        }
        let fresh = Watcher::open(client, &talk.id, format!("/v1/turns/{id}/events"), ATTENTIVE);
        fresh.until(client, |seen| seen.ended(id)).await;
        let events = fresh.look(|seen| seen.durable.clone());
        turns.insert(id.to_owned(), Turn { view, events });
    }
    Some(ServedConversation {
        view,
        messages,
        events,
        turns,
    })
}

/// Submits each acknowledged turn again with its key: there must still be only one turn.
pub async fn copies(talks: &[UserConversation]) {
    stream::iter(talks.iter().filter(|talk| !talk.erased))
        .for_each_concurrent(AT_ONCE, |talk| copies_of(&talk.client, talk))
        .await;
}

async fn copies_of(client: &Client, talk: &UserConversation) {
    let path = format!("/v1/conversations/{}/turns", talk.id);
    for ask in &talk.asks {
        let Some(turn) = ask.turn() else { continue };
        let copy = client
            .ask(reqwest::Method::POST, &path, Some(&ask.key), Some(&ask.body))
            .await;
        let same = copy
            .as_ref()
            .is_some_and(|(status, view)| *status == 202 && view["id"] == turn);
        if !same {
            let what = format!("a copy of the submission of {} was answered with {copy:?}", ask.mark);
            client.shared.findings.add(Promise::Kept, Some(&talk.id), what);
        }
    }
}
