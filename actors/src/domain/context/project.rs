//! The projector: builds the message list for the provider from the state.
//!
//! Invariant: for every history the list satisfies the pairing rules of OpenAI and Anthropic;
//! `tests/domain/prompt_rules.rs` checks it with random histories.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::memory::{EntryContent, Memory};
use super::prompt::{PromptCall, PromptMessage};
use super::tokens;
use crate::domain::content::ToolStatus;
use crate::domain::guardrail as guard;
use crate::domain::guardrail::NOTICE;
use crate::domain::policy::Policy;

/// The assistant's message between the summary and the first prompt, because providers require alternating roles.
const SUMMARY_READ: &str = "(Read as data.)";

/// A prompt and its size.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The messages of the prompt.
    pub messages: Vec<PromptMessage>,
    /// The number of their tokens, by our tokenizer.
    pub tokens: u64,
}

/// Assembles the prompt for the turn at the end of the window.
pub fn prompt(memory: &Memory, policy: &Policy) -> Prompt {
    let system = system_text(memory, policy);
    let mut total = tokens::count(&system) + tokens::PER_MESSAGE;
    let mut messages = vec![PromptMessage::System { text: system }];
    if let Some(summary) = &memory.summary {
        let [text, read] = [summary_text(memory, &summary.text), SUMMARY_READ.to_owned()];
        total += tokens::count(&text) + tokens::count(&read) + 2 * tokens::PER_MESSAGE;
        messages.push(PromptMessage::User { text });
        messages.push(PromptMessage::Assistant {
            text: read,
            calls: Vec::new(),
        });
    }
    for block in &memory.blocks {
        let mut results: Vec<PromptMessage> = Vec::new();
        let mut expected: Vec<crate::domain::ids::CallId> = Vec::new();
        for entry in &block.entries {
            total += entry.tokens();
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
    Prompt {
        messages,
        tokens: total,
    }
}

/// Sorts results, which arrive in any order, into the order of their calls, which vendors require.
fn in_order_of_calls(results: &mut [PromptMessage], calls: &[crate::domain::ids::CallId]) {
    results.sort_by_key(|message| match message {
        PromptMessage::Tool { call, .. } => calls.iter().position(|id| id == call),
        _ => None,
    });
}

fn system_text(memory: &Memory, policy: &Policy) -> String {
    let mut text = policy.instructions.clone();
    if !policy.tools.is_empty() || memory.summary.is_some() {
        text.push_str("\n\n");
        text.push_str(NOTICE);
    }
    if text.is_empty() {
        "You are a helpful assistant.".into()
    } else {
        text
    }
}

/// Delimits the summary as data, because it contains text of users and tools. Its nonce is that of the first turn in
/// the window, which stays until there is another summary.
fn summary_text(memory: &Memory, summary: &str) -> String {
    let nonce = memory.blocks.front().and_then(|block| block.nonce.as_deref());
    let block = guard::delimit("conversation_summary", nonce, "", summary);
    format!("Summary of the conversation so far:\n{block}")
}

fn message(content: &EntryContent) -> PromptMessage {
    let text = text_of(content).map_or_else(String::new, Cow::into_owned);
    match content {
        EntryContent::User { .. } | EntryContent::Correction { .. } => PromptMessage::User { text },
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

/// Delimits a tool's text as data.
fn tool_text(
    name: &str,
    status: ToolStatus,
    result: Option<&Value>,
    error: Option<&str>,
    nonce: Option<&str>,
) -> String {
    let status = match status {
        ToolStatus::Succeeded => "succeeded",
        ToolStatus::Failed => "failed",
        ToolStatus::Rejected => "rejected",
        ToolStatus::Cancelled => "cancelled",
        ToolStatus::Unknown => "unknown",
    };
    let body = match (result, error) {
        (Some(result), _) => result.to_string(),
        (None, Some(error)) => error.to_owned(),
        (None, None) => String::new(),
    };
    let about = format!(" tool=\"{}\" status=\"{status}\"", tool_name(name));
    guard::delimit("tool_result", nonce, &about, &body)
}
