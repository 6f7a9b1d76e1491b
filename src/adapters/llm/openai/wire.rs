//! What a deployment changes in a body before it is sent. Everything else is sent as it was written.

use bytes::Bytes;
use copilotd_gateway::provider::UpstreamCall;
use copilotd_gateway::request::body::{Change, raw};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{Dialect, MaxTokensField};
use crate::adapters::llm::provider::AddedParameters;

/// Writes the body of `call` for `model`, without `left_out`; also returns which parameters in it were added by us.
pub fn write(
    call: &UpstreamCall,
    model: &str,
    dialect: &Dialect,
    stream: bool,
    left_out: AddedParameters,
) -> (Bytes, AddedParameters) {
    let body = &call.body;
    let mut added = AddedParameters::default();
    let mut changes: Vec<Change<'_>> = vec![("model", raw(&model))];
    if stream != body.stream() || (stream && body.get("stream").is_none()) {
        changes.push(("stream", if stream { raw(&true) } else { None }));
    }
    // A caller who wants a report gets one: it is estimated here if the provider sends none.
    if stream && dialect.stream_usage && !left_out.contains(AddedParameters::STREAM_OPTIONS) {
        added = added | AddedParameters::STREAM_OPTIONS;
        if !body.include_usage() {
            // The caller's own options stay; we need the report whether the caller wants it or not.
            let options = body.get("stream_options");
            let options = options.and_then(|options| Option::<Map<String, Value>>::deserialize(options).ok()?);
            let mut options = options.unwrap_or_default();
            options.insert("include_usage".to_owned(), Value::Bool(true));
            changes.push(("stream_options", raw(&options)));
        }
    } else if body.get("stream_options").is_some() {
        // Rejected by OpenAI without a stream.
        changes.push(("stream_options", None));
    }
    let (wanted, other) = match dialect.max_tokens {
        MaxTokensField::MaxCompletionTokens => ("max_completion_tokens", "max_tokens"),
        MaxTokensField::MaxTokens => ("max_tokens", "max_completion_tokens"),
    };
    if let Some(max) = body.get(other) {
        changes.push((other, None));
        if body.get(wanted).is_none() {
            changes.push((wanted, Some(max.to_owned())));
        }
    }
    // In the body of a conversation's call no parameter is a caller's.
    let is_ours = call.conversation.is_some();
    for (name, member, is_wanted) in [
        ("user", AddedParameters::USER, dialect.user || !is_ours),
        (
            "parallel_tool_calls",
            AddedParameters::PARALLEL_TOOL_CALLS,
            dialect.parallel_tool_calls,
        ),
    ] {
        if body.get(name).is_none() {
            continue;
        }
        if !is_wanted || (is_ours && left_out.contains(member)) {
            changes.push((name, None));
        } else if is_ours {
            added = added | member;
        }
    }
    if let Some(conversation) = call.conversation.filter(|_| dialect.prompt_cache_key)
        && body.get("prompt_cache_key").is_none()
        && !left_out.contains(AddedParameters::PROMPT_CACHE_KEY)
    {
        added = added | AddedParameters::PROMPT_CACHE_KEY;
        changes.push(("prompt_cache_key", raw(&conversation.to_string())));
    }
    (body.write(&changes), added)
}
