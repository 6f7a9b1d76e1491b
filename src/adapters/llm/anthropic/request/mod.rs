//! Translates an OpenAI chat body to the Messages API.
//!
//! Invariant: nothing that the caller asked for is silently left out. A member is translated, passed on because
//! Anthropic knows it by the same name, omitted because it does not affect the answer, or refused, so that another
//! target may be tried. The same body always gives the same bytes: providers cache by prefix.

mod fields;
mod messages;
mod parts;
mod schema;
#[cfg(test)]
mod tests;
mod tools;

use bytes::Bytes;
use copilotd_gateway::request::body::ChatBody;
use serde_json::{Map, Value, json};

use fields::Translated;

/// What the Messages API cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The part of the body concerned.
    pub param: String,
    /// The reason; quotes nothing of the body.
    pub why: String,
}

impl Unsupported {
    fn new(param: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            why: why.into(),
        }
    }
}

/// How a body is translated.
#[derive(Debug, Clone, Copy)]
pub struct TranslateOptions<'a> {
    pub model: &'a str,
    /// Limits the answer if the body does not: the API requires a limit.
    pub max_tokens: u64,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the caller validates the answer against its schema anyway: constraints that the API does not accept may
    /// then be omitted, even if the schema is marked as strict.
    pub is_checked: bool,
}

/// Translates `body`.
pub fn write(body: &ChatBody, options: TranslateOptions<'_>) -> Result<Bytes, Unsupported> {
    let TranslateOptions {
        model,
        max_tokens,
        stream,
        is_checked,
    } = options;
    let mut request = Map::new();
    request.insert("model".to_owned(), json!(model));
    request.insert("max_tokens".to_owned(), json!(body.max_tokens().unwrap_or(max_tokens)));
    if body.choices() > 1 {
        return Err(Unsupported::new("n", "only one answer per request is supported"));
    }
    let said = messages::read(&parsed("messages", body.messages().get())?)?;
    if !said.system.is_empty() {
        request.insert("system".to_owned(), said.system.into());
    }
    request.insert("messages".to_owned(), said.messages.into());
    let offer = tools::Offer {
        tools: member(body, "tools")?,
        choice: member(body, "tool_choice")?,
        parallel: member(body, "parallel_tool_calls")?,
        called: said.called.into_names(),
    };
    let (tools, choice) = offer.translate()?;
    if !tools.is_empty() {
        request.insert("tools".to_owned(), tools.into());
    }
    if let Some(choice) = choice {
        request.insert("tool_choice".to_owned(), choice);
    }
    for (name, value) in body.members() {
        let mut value = parsed(name, value.get())?;
        if value.is_null() {
            continue;
        }
        if let Some(strict) = value.pointer_mut("/json_schema/strict").filter(|_| is_checked) {
            *strict = Value::Bool(false);
        }
        match fields::meaning(name, value)? {
            Translated::Nothing => {}
            Translated::Member(name, Value::Object(more)) => match request.get_mut(name) {
                // The output's format and the effort share one member.
                Some(Value::Object(known)) => known.extend(more),
                _ => _ = request.insert(name.to_owned(), more.into()),
            },
            Translated::Member(name, value) => _ = request.insert(name.to_owned(), value),
        }
    }
    if stream {
        request.insert("stream".to_owned(), Value::Bool(true));
    }
    Ok(Value::Object(request).to_string().into())
}

fn member(body: &ChatBody, name: &str) -> Result<Value, Unsupported> {
    body.get(name)
        .map_or(Ok(Value::Null), |value| parsed(name, value.get()))
}

fn parsed(name: &str, text: &str) -> Result<Value, Unsupported> {
    // The parser's own message may quote the value.
    serde_json::from_str(text).map_err(|_| Unsupported::new(name, "unreadable value"))
}
