//! Posting messages, and finding them again by the marks that each of them bears.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::{Clock, LookUp, ToolError, ToolRequest};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Call, Page};
use super::message;
use crate::adapters::tools::refused;

/// How far back a message is looked for when this process did not begin its call.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much the two clocks may differ.
const SKEW: Duration = Duration::from_secs(300);
/// Pages that are read before we say that we cannot tell.
const PAGES: usize = 10;
/// Calls whose beginning is remembered.
const REMEMBERED: usize = 4096;

/// When this process began which call: a look-up then needs to read the channel from there on only.
pub(super) struct Started {
    clock: Arc<dyn Clock>,
    calls: Mutex<(HashMap<CallId, Timestamp>, VecDeque<CallId>)>,
}

impl Started {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            calls: Mutex::default(),
        }
    }

    /// Remembers the first beginning of `call`; the oldest call is forgotten when there are too many.
    pub fn note(&self, call: CallId) {
        let mut guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (times, order) = &mut *guard;
        if times.contains_key(&call) {
            return;
        }
        if order.len() >= REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            times.remove(&oldest);
        }
        times.insert(call, self.clock.now());
        order.push_back(call);
    }

    /// The earliest time at which a message of `call` can have been posted, as Slack writes it.
    fn oldest(&self, call: CallId) -> String {
        let guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = match guard.0.get(&call) {
            Some(began) => began.as_second() - SKEW.as_secs() as i64,
            None => self.clock.now().as_second() - WINDOW.as_secs() as i64,
        };
        format!("{oldest}.000000")
    }
}

/// Posts into a channel, or into a thread of it.
pub(super) async fn post(
    call: &Call,
    request: &ToolRequest,
    channel: &str,
    thread: Option<&str>,
    text: &str,
) -> Result<Value, ToolError> {
    let mut body = message::body(channel, text, request.call)?;
    if let Some(thread) = thread {
        body["thread_ts"] = json!(thread);
    }
    body["link_names"] = json!(false);
    // A preview makes Slack fetch the address, query and all: a model must not be able to send data out that way.
    body["unfurl_links"] = json!(false);
    body["unfurl_media"] = json!(false);
    let answer = call.change("chat.postMessage", &body).await?;
    Ok(tell(
        answer["channel"].as_str().unwrap_or(channel),
        &answer["ts"],
        thread,
    ))
}

/// Looks in a channel, or in a thread of it, for the message of an earlier call.
pub(super) async fn find(
    call: &Call,
    request: &ToolRequest,
    channel: &str,
    thread: Option<&str>,
) -> Result<LookUp, ToolError> {
    let mut query = vec![
        ("channel", channel.to_owned()),
        ("oldest", call.api.started.oldest(request.call)),
        ("include_all_metadata", "true".to_owned()),
    ];
    let method = match thread {
        Some(thread) => {
            query.push(("ts", thread.to_owned()));
            "conversations.replies"
        }
        None => "conversations.history",
    };
    let mut cursor = None;
    for _ in 0..PAGES {
        let Page { items, next } = call.page(method, "messages", &query, cursor).await?;
        if let Some(found) = items.iter().find(|item| message::bears(item, request.call)) {
            return Ok(LookUp::Found(tell(channel, &found["ts"], thread)));
        }
        if next.is_none() {
            return Ok(LookUp::NotFound);
        }
        cursor = next;
    }
    Err(refused(format!(
        "too many messages were posted since: whether this one is among the later ones in {channel} cannot be told"
    )))
}

pub(super) fn tell(channel: &str, ts: &Value, thread: Option<&str>) -> Value {
    let mut told = json!({ "channel": channel, "ts": ts });
    if let Some(thread) = thread {
        told["thread_ts"] = json!(thread);
    }
    told
}
