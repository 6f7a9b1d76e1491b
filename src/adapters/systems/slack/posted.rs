//! Posts messages, and finds them again by the marks that each of them carries.
//!
//! A long text becomes several messages. Invariant: none of them is posted twice, and a part is never reported as the
//! whole. They are posted one after the other, each only when the previous one is known to be posted, and each carries
//! its number. A message that may have been posted is looked for and never sent again, by this process or by the next
//! one: Slack has no idempotency key that would drop a second copy.

use std::time::Duration;

use copilotd_actors::ports::{LookUp, ToolError, ToolErrorKind, ToolRequest};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Call, Page};
use super::message::{self, Mark};
use super::started::Posted;
use crate::adapters::systems::tools::member::{as_text, at, set};
use crate::adapters::systems::tools::refused;

/// Pages that are read before the outcome is reported as unknown.
const PAGES: usize = 10;
/// How often Slack may ask us to wait between two messages of one call.
const WAITS: u32 = 5;

/// Posts to a channel, or to a thread of it.
pub(super) async fn post(
    call: &Call,
    request: &ToolRequest,
    channel: &str,
    thread: Option<&str>,
    text: &str,
) -> Result<Value, ToolError> {
    let started = &call.api.started;
    let began = Instant::now();
    let bodies = message::bodies(channel, text, request.call)?;
    started.is_for(request.call, channel);
    let parts = bodies.len();
    let mut channel = channel.to_owned();
    for (part, mut body) in bodies.into_iter().enumerate() {
        let posted = started.posted(request.call);
        if posted.contains_key(&part) {
            continue;
        }
        if let Some(thread) = thread {
            set(&mut body, "thread_ts", thread);
        }
        set(&mut body, "link_names", false);
        // A preview makes Slack fetch the address, query and all: a model must not be able to send data out that way.
        set(&mut body, "unfurl_links", false);
        set(&mut body, "unfurl_media", false);
        let until = began + request.timeout;
        let answer = send(call, request, part, &body, until).await.map_err(|error| {
            if posted.is_empty() {
                error
            } else {
                partly(error, posted.len(), parts)
            }
        })?;
        started.add(request.call, part, as_text(at(&answer, &["ts"])));
        channel = as_text(at(&answer, &["channel"])).unwrap_or(channel);
    }
    let told = describe(&channel, thread, &started.posted(request.call));
    started.done(request.call);
    Ok(told)
}

/// Sends one message. After the first message of a call a 429 is waited out here: the call may not start again.
async fn send(
    call: &Call,
    request: &ToolRequest,
    part: usize,
    body: &Value,
    until: Instant,
) -> Result<Value, ToolError> {
    let started = &call.api.started;
    let mut waits = 0;
    loop {
        started.set_sent(request.call, part + 1);
        let error = match call.change("chat.postMessage", body).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if error.kind != ToolErrorKind::OutcomeUnknown {
            started.set_sent(request.call, part);
        }
        waits += 1;
        let pause = Duration::from_secs(waits.into()).max(error.retry_after.unwrap_or_default());
        let is_worth_it = part > 0 && waits <= WAITS && until.saturating_duration_since(Instant::now()) > pause;
        if error.kind != ToolErrorKind::RateLimited || !is_worth_it {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// A failure after messages were posted: whatever it is, something was changed.
fn partly(error: ToolError, posted: usize, parts: usize) -> ToolError {
    ToolError {
        message: format!("{posted} of {parts} messages were posted, then: {}", error.message),
        answered: error.answered || matches!(error.kind, ToolErrorKind::Refused | ToolErrorKind::RateLimited),
        kind: ToolErrorKind::OutcomeUnknown,
        ..error
    }
}

/// Looks for the messages of an earlier call in the channels where they may be, or in a thread there.
pub(super) async fn find(
    call: &Call,
    request: &ToolRequest,
    channels: &[String],
    thread: Option<&str>,
    text: &str,
) -> Result<LookUp, ToolError> {
    let started = &call.api.started;
    let wanted = message::from_markdown(text)?.len();
    for channel in channels {
        let mut posted = started.posted(request.call);
        let parts = read(call, request, channel, thread, wanted, &mut posted).await?;
        if posted.is_empty() {
            continue;
        }
        if (0..parts).all(|part| posted.contains_key(&part)) {
            return Ok(LookUp::Found(describe(channel, thread, &posted)));
        }
        started.is_for(request.call, channel);
        let sent = started.sent(request.call);
        // Nothing is in flight any more, and the rest was never sent.
        if sent > 0 && (0..sent).all(|part| posted.contains_key(&part)) {
            return Err(refused(format!("only {sent} of {parts} messages were posted")));
        }
        return Ok(LookUp::PartlyFound(format!(
            "{} of {parts} messages were found in {channel}; the others may still arrive",
            posted.len()
        )));
    }
    Ok(LookUp::NotFound)
}

/// Reads a channel, newest messages first, until all `wanted` messages of the call are found. Returns how many the call
/// has.
async fn read(
    call: &Call,
    request: &ToolRequest,
    channel: &str,
    thread: Option<&str>,
    wanted: usize,
    posted: &mut Posted,
) -> Result<usize, ToolError> {
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
    let (mut cursor, mut parts) = (None, wanted);
    for _ in 0..PAGES {
        let Page { items, next } = call.page(method, "messages", &query, cursor).await?;
        for item in &items {
            if let Some(mark) = message::mark(item, request.call) {
                let Mark { part, parts: said } = mark;
                parts = said.unwrap_or(parts);
                posted.insert(part, as_text(at(item, &["ts"])));
            }
        }
        if posted.len() >= parts {
            return Ok(parts);
        }
        if items.iter().any(|item| !item.is_object()) {
            return Err(refused(format!(
                "a message in {channel} could not be read: whether it is this one is unknown"
            )));
        }
        if next.is_none() {
            return Ok(parts);
        }
        cursor = next;
    }
    Err(refused(format!(
        "too many messages were posted since: whether this one is in {channel} is unknown"
    )))
}

/// Describes where messages are, for the model.
pub(super) fn describe(channel: &str, thread: Option<&str>, posted: &Posted) -> Value {
    let mut told = json!({ "channel": channel, "ts": posted.values().next().cloned().flatten() });
    if let Some(thread) = thread {
        set(&mut told, "thread_ts", thread);
    }
    if posted.len() > 1 {
        let all: Vec<Value> = posted.values().map(|ts| json!(ts)).collect();
        set(&mut told, "messages", all);
    }
    told
}
