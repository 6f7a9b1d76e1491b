//! The projector: writes the parts of a conversation as messages for the provider.
//!
//! Invariant: for every history the messages satisfy the pairing rules of OpenAI and Anthropic;
//! `tests/domain/prompt_rules.rs` checks it with random histories.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::Offset;
use serde_json::{Map, Value};

use super::memory::{Block, DoneCalls, EntryContent};
use super::prompt::{PromptCall, PromptMessage};
use crate::domain::content::ToolStatus;
use crate::domain::guardrail as guard;
use crate::domain::guardrail::{EXCERPT_NOTICE, FACT_NOTICE, NOTICE};
use crate::domain::ids::CallId;
use crate::domain::policy::Policy;

/// The instruction for models that cite.
const CITATION_NOTICE: &str = "An excerpt may have a marker in its `cite` attribute. Directly after each sentence of your \
answer that rests on an excerpt, write that excerpt's marker exactly as it stands there, with its brackets. Readers do not \
see markers: never mention them, and write none that you were not given.";

/// The assistant's reply to a message that holds data, because providers require alternating roles.
pub(super) const READ_AS_DATA: &str = "(Read as data.)";

/// Adds the messages of one turn.
pub(super) fn push_block(messages: &mut Vec<PromptMessage>, block: &Block) {
    let mut results: Vec<PromptMessage> = Vec::new();
    let mut expected: Vec<CallId> = Vec::new();
    for entry in &block.entries {
        if let EntryContent::Tool { call, .. } = &entry.content {
            results.push(PromptMessage::Tool {
                call: *call,
                content: text_of(&entry.content).unwrap_or_default().into_owned(),
            });
            if results.len() == expected.len() {
                in_order_of_calls(&mut results, &expected);
                messages.append(&mut results);
                expected.clear();
            }
            continue;
        }
        if let EntryContent::Assistant { calls, .. } = &entry.content {
            expected = calls.iter().map(|call| call.id).collect();
        }
        messages.push(message(&entry.content));
    }
}

/// Sorts results, which arrive in any order, into the order of their calls, which vendors require.
fn in_order_of_calls(results: &mut [PromptMessage], calls: &[CallId]) {
    results.sort_by_key(|message| match message {
        PromptMessage::Tool { call, .. } => calls.iter().position(|id| id == call),
        _ => None,
    });
}

/// Returns the system message: the instructions, and our notice if the prompt holds data.
pub(super) fn system_text(policy: &Policy, has_summary: bool, has_tools: bool) -> String {
    let mut text = policy.instructions.clone();
    let has_documents = !policy.knowledge.collections.is_empty();
    // By the policy, not by the prompt: the beginning of a conversation's prompts stays the same.
    let has_recalled = policy.memory.conversation_tokens.is_some();
    let notices = [
        (has_tools || has_summary || has_recalled, NOTICE),
        (has_documents, EXCERPT_NOTICE),
        (policy.memory.facts, FACT_NOTICE),
        (policy.knowledge.cites(), CITATION_NOTICE),
    ];
    for (_, notice) in notices.into_iter().filter(|(applies, _)| *applies) {
        text.push_str("\n\n");
        text.push_str(notice);
    }
    if text.is_empty() {
        "You are a helpful assistant.".into()
    } else {
        text
    }
}

/// Delimits the summary as data, because it contains text of users and tools. `nonce` is that of the first turn in the
/// window, which stays until there is another summary.
pub(super) fn summary_text(nonce: Option<&str>, summary: &str) -> String {
    let block = guard::delimit("conversation_summary", nonce, "", summary);
    format!("Summary of the conversation so far:\n{block}")
}

/// Delimits a fact about the user as data: nothing but what the user said and when. `nonce` is that of the first turn in the
/// window, like the summary's, so that the facts stay the same bytes from turn to turn.
pub fn fact_text(nonce: Option<&str>, said_at: Timestamp, fact: &str) -> String {
    let day = Offset::UTC.to_datetime(said_at).date();
    guard::delimit("user_fact", nonce, &format!(" said=\"{day}\""), fact)
}

fn message(content: &EntryContent) -> PromptMessage {
    let text = text_of(content).map_or_else(String::new, Cow::into_owned);
    match content {
        EntryContent::User { .. } | EntryContent::Correction { .. } | EntryContent::Done { .. } => {
            PromptMessage::User { text }
        }
        EntryContent::Tool { call, .. } => PromptMessage::Tool {
            call: *call,
            content: text,
        },
        EntryContent::Note { .. } => PromptMessage::Assistant {
            text,
            calls: Vec::new(),
        },
        EntryContent::Assistant { text, calls } => {
            let calls: Vec<PromptCall> = calls
                .iter()
                .map(|call| PromptCall {
                    id: call.id,
                    name: tool_name(&call.name).into_owned(),
                    arguments: object(&call.arguments),
                })
                .collect();
            // Providers reject an empty assistant message, and a text block of only white space.
            let text = match (text.trim().is_empty(), calls.is_empty()) {
                (true, true) => "(no text)".to_owned(),
                (true, false) => String::new(),
                (false, _) => text.clone(),
            };
            PromptMessage::Assistant { text, calls }
        }
    }
}

/// Arguments that are no object violated their schema and were answered with the validator's error; providers accept
/// only objects.
fn object(arguments: &Value) -> Value {
    if arguments.is_object() {
        arguments.clone()
    } else {
        Value::Object(Map::new())
    }
}

/// Models invent tool names; providers accept only some characters in them, in every later prompt too.
fn tool_name(name: &str) -> Cow<'_, str> {
    const MAX: usize = 64;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() {
        Cow::Borrowed("unnamed")
    } else if name.len() <= MAX && name.chars().all(fits) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.chars().take(MAX).map(|c| if fits(c) { c } else { '_' }).collect())
    }
}

/// Returns the text of one message as the model reads it, including calls (for counting).
pub fn text_of(content: &EntryContent) -> Option<Cow<'_, str>> {
    Some(match content {
        EntryContent::User { input } => Cow::Owned(input.text()),
        EntryContent::Assistant { text, calls } if calls.is_empty() => Cow::Borrowed(text),
        EntryContent::Assistant { text, calls } => {
            let calls: Vec<String> = calls
                .iter()
                .map(|call| format!("{} {}", call.name, call.arguments))
                .collect();
            Cow::Owned(format!("{text}\n{}", calls.join("\n")))
        }
        EntryContent::Correction { error } => Cow::Owned(format!(
            "Your answer does not satisfy the required JSON Schema: {error}\nAnswer again with JSON only."
        )),
        EntryContent::Note { text } => Cow::Borrowed(text),
        EntryContent::Done { calls, nonce } => Cow::Owned(done_text(calls, nonce.as_deref())),
        EntryContent::Tool {
            name,
            status,
            result,
            error,
            edited,
            nonce,
            ..
        } => {
            let text = tool_text(name, *status, result.as_ref(), error.as_deref(), nonce.as_deref());
            Cow::Owned(match edited {
                Some(edited) => {
                    let edited = edited.to_string();
                    let edited = guard::neutral(&edited);
                    format!("A person changed the arguments of this call to {edited}.\n{text}")
                }
                None => text,
            })
        }
    })
}

/// Says what replaced turns had done, each call delimited as a tool's result.
fn done_text(done: &DoneCalls, nonce: Option<&str>) -> String {
    let mut text =
        "Done before this edit. The user replaced an earlier version of the next message; these tool calls had \
been made for it. Their effects stand: do not repeat them."
            .to_owned();
    if done.older > 0 {
        text.push_str(&format!(" {} older calls are not listed.", done.older));
    }
    for call in &done.calls {
        let about = format!(
            " tool=\"{}\" status=\"{}\"",
            tool_name(&call.name),
            status_name(call.status)
        );
        let body = format!("arguments: {}\noutcome: {}", call.arguments, call.outcome);
        text.push('\n');
        text.push_str(&guard::delimit("tool_result", nonce, &about, &body));
    }
    text
}

fn status_name(status: ToolStatus) -> &'static str {
    match status {
        ToolStatus::Succeeded => "succeeded",
        ToolStatus::Failed => "failed",
        ToolStatus::Rejected => "rejected",
        ToolStatus::Cancelled => "cancelled",
        ToolStatus::Unknown => "unknown",
    }
}

/// Delimits a tool's text as data.
fn tool_text(
    name: &str,
    status: ToolStatus,
    result: Option<&Value>,
    error: Option<&str>,
    nonce: Option<&str>,
) -> String {
    let status = status_name(status);
    let body = match (result, error) {
        (Some(result), _) => result.to_string(),
        (None, Some(error)) => error.to_owned(),
        (None, None) => String::new(),
    };
    let about = format!(" tool=\"{}\" status=\"{status}\"", tool_name(name));
    guard::delimit("tool_result", nonce, &about, &body)
}
