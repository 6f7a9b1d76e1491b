//! Reads an answer that came as one document. It is passed on as it is; here is read what it means.

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::chunk::WireUsage;
use crate::adapters::provider::{Errors, Transcript};

#[derive(Deserialize)]
struct Completion<'a> {
    model: Option<String>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Option<Message<'a>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message<'a> {
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    #[serde(borrow)]
    tool_calls: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

/// What a document means.
#[derive(Debug)]
pub struct Meaning {
    /// The model, as the provider names it.
    pub model: Option<String>,
    /// What the provider says that it used.
    pub usage: Option<Usage>,
    /// Why the first choice ended.
    pub finish: Finish,
}

/// Reads a document; what was said goes into `transcript`.
pub fn read(body: &[u8], errors: &Errors, transcript: &mut Transcript) -> Result<Meaning, ModelError> {
    // The cause is not quoted: it may hold a piece of the conversation.
    let completion: Completion<'_> =
        serde_json::from_slice(body).map_err(|_| errors.malformed("it sent something that is not an answer"))?;
    if let Some(error) = completion.error.filter(|error| !error.is_null()) {
        return Err(errors.in_stream(&error));
    }
    let usage = completion.usage.and_then(WireUsage::read);
    let choices = completion.choices.unwrap_or_default();
    let mut first = None;
    let mut said_something = false;
    // Kept only where it has to be counted.
    let mut kept = usage.is_none().then_some(transcript);
    let mut keep = |text: &str| {
        if let Some(transcript) = &mut kept {
            transcript.add(text);
        }
    };
    for choice in &choices {
        let message = choice
            .message
            .as_ref()
            .ok_or_else(|| errors.malformed("it sent a choice without a message"))?;
        for call in message.tool_calls.iter().flatten().chain(&message.function_call) {
            keep(call.get());
        }
        let texts = [
            &message.content,
            &message.refusal,
            &message.reasoning_content,
            &message.reasoning,
        ];
        for text in texts.into_iter().flatten() {
            said_something |= !text.is_empty();
            keep(text);
        }
        let has_calls =
            message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()) || message.function_call.is_some();
        said_something |= has_calls || message.audio.is_some();
        let reason = choice.finish_reason.as_deref().filter(|reason| !reason.is_empty());
        let finish = ending(reason, has_calls, errors)?;
        first.get_or_insert(finish);
    }
    let finish = first.ok_or_else(|| errors.malformed("it sent an answer without a choice"))?;
    // A model that says nothing at all has not used a token either: the server broke, and says so politely.
    if !said_something && finish == Finish::Stop && usage.is_none_or(|usage| usage.completion_tokens == 0) {
        return Err(errors.malformed("it said nothing"));
    }
    Ok(Meaning {
        model: completion.model,
        usage,
        finish,
    })
}

fn ending(reason: Option<&str>, has_calls: bool, errors: &Errors) -> Result<Finish, ModelError> {
    use copilotd_actors::domain::command::FailureClass;
    match reason {
        // Vendors that stream say why they end, and so they do in a document; none at all is half an answer.
        None | Some("abort") => Err(errors.cut()),
        Some("error" | "insufficient_system_resource") => {
            Err(errors.plain(FailureClass::Overload, "the provider broke off the answer"))
        }
        Some("tool_calls" | "function_call") if !has_calls => {
            Err(errors.malformed("it asked for tools and named none"))
        }
        // The document says so. It is not the whole answer, so it must not count as one.
        Some("length" | "max_tokens" | "model_length" | "content_filter") => Ok(Finish::Length),
        Some(_) if has_calls => Ok(Finish::ToolCalls),
        Some(_) => Ok(Finish::Stop),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copilotd_actors::domain::command::FailureClass;

    use super::*;
    use crate::gateway::body::ChatBody;

    fn meaning(body: &str) -> Result<Meaning, FailureClass> {
        let prompt = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(prompt));
        read(body.as_bytes(), &Errors::new("main", Vec::new()), &mut transcript).map_err(|error| error.class)
    }

    #[test]
    fn documents_end_well_or_have_a_class() {
        let one = |message: &str, reason: &str| {
            format!(r#"{{"model":"m","choices":[{{"message":{message},"finish_reason":{reason}}}]}}"#)
        };
        let text = r#"{"role":"assistant","content":"hi"}"#;
        let call = r#"{"content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}"#;
        let empty = r#"{"role":"assistant","content":""}"#;
        for (body, expected) in [
            (one(text, "\"stop\""), Ok(Finish::Stop)),
            (one(text, "\"length\""), Ok(Finish::Length)),
            (one(text, "\"content_filter\""), Ok(Finish::Length)),
            (one(call, "\"tool_calls\""), Ok(Finish::ToolCalls)),
            (one(call, "\"stop\""), Ok(Finish::ToolCalls)),
            (one(text, "null"), Err(FailureClass::Cut)),
            (one(text, "\"abort\""), Err(FailureClass::Cut)),
            (one(text, "\"error\""), Err(FailureClass::Overload)),
            (one(text, "\"tool_calls\""), Err(FailureClass::Malformed)),
            (one(empty, "\"stop\""), Err(FailureClass::Malformed)),
            (one(empty, "\"length\""), Ok(Finish::Length)),
            (r#"{"choices":[]}"#.to_owned(), Err(FailureClass::Malformed)),
            ("{}".to_owned(), Err(FailureClass::Malformed)),
            ("<html>".to_owned(), Err(FailureClass::Malformed)),
            (String::new(), Err(FailureClass::Malformed)),
            (
                r#"{"error":{"message":"x","type":"server_error"}}"#.to_owned(),
                Err(FailureClass::Overload),
            ),
            (
                r#"{"error":{"message":"x","code":429}}"#.to_owned(),
                Err(FailureClass::Rate),
            ),
        ] {
            assert_eq!(meaning(&body).map(|meaning| meaning.finish), expected, "{body}");
        }
    }
}
