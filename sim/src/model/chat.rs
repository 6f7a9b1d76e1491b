//! The parts of a request that decide the answer, independent of the provider's wire format.

use std::fmt::Write as _;

use serde_json::Value;

/// A valid request.
#[derive(Debug)]
pub(crate) struct Chat {
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) n: u64,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<String>,
    /// Whether `tool_choice` forbids calls.
    pub(crate) no_calls: bool,
    /// Schema of `response_format`, or `true` for a plain `json_object`.
    pub(crate) response_schema: Option<Value>,
    /// Text whose tokens count as the prompt.
    pub(crate) prompt: String,
}

/// One message, its content flattened to text.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) text: String,
    /// The tool calls, in order, with their ids and arguments.
    pub(crate) calls: Vec<PastCall>,
    /// For a tool message: the id of the call that it answers.
    pub(crate) call_id: Option<String>,
}

/// A tool call in the history.
#[derive(Debug)]
pub(crate) struct PastCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Chat {
    /// Returns the last user message.
    pub(crate) fn last_user(&self) -> &str {
        self.turn_start().map_or("", |at| self.messages[at].text.as_str())
    }

    /// Returns the messages after the last user message.
    pub(crate) fn since_user(&self) -> &[Message] {
        self.turn_start()
            .map_or(&self.messages[..], |at| &self.messages[at + 1..])
    }

    /// Returns the messages before the last user message.
    pub(crate) fn before_user(&self) -> &[Message] {
        &self.messages[..self.turn_start().unwrap_or_default()]
    }

    fn turn_start(&self) -> Option<usize> {
        self.messages.iter().rposition(|message| message.role == Role::User)
    }

    /// Returns the calls made since the last user message, each with its result.
    pub(crate) fn results(&self) -> Vec<(&PastCall, &str)> {
        let turn = self.since_user();
        turn.iter()
            .flat_map(|message| &message.calls)
            .filter_map(|call| {
                let result = turn
                    .iter()
                    .find(|message| message.call_id.as_deref() == Some(&call.id))?;
                Some((call, result.text.as_str()))
            })
            .collect()
    }

    pub(crate) fn offers(&self, tool: &str) -> bool {
        self.tools.iter().any(|name| name == tool)
    }

    pub(crate) fn system_text(&self) -> String {
        let texts: Vec<_> = self
            .messages
            .iter()
            .filter(|message| message.role == Role::System)
            .map(|message| message.text.as_str())
            .collect();
        texts.join("\n")
    }
}

pub(crate) fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Joins the text parts of a message's content.
pub(crate) fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

/// Renders the prompt as one text: first these `parts` of the body, as providers do, then the messages.
pub(crate) fn prompt_text(body: &Value, parts: &[&str], messages: &[Message]) -> String {
    let mut prompt = String::new();
    for &part in parts {
        if !body[part].is_null() {
            // Writing to a string does not fail.
            let _ = writeln!(prompt, "{}", body[part]);
        }
    }
    for message in messages {
        let _ = writeln!(prompt, "<{:?}>{}", message.role, message.text);
        for call in &message.calls {
            let _ = writeln!(prompt, "{} {} {}", call.id, call.name, call.arguments);
        }
    }
    prompt
}
