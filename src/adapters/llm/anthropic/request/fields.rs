//! The members of a body that are neither messages nor tools.

use serde_json::{Map, Value, json};

use super::{Unsupported, schema};

/// Members that Anthropic knows by the same name.
const OWN: &[&str] = &[
    "cache_control",
    "container",
    "context_management",
    "inference_geo",
    "mcp_servers",
    "output_config",
    "speed",
    "stop_sequences",
    "thinking",
    "top_k",
];
/// Members that are read elsewhere, and those that do not affect the answer: how OpenAI frames, stores, bills, caches
/// and prioritises it. A seed is a request that OpenAI itself does not promise to honour.
const SILENT: &[&str] = &[
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "seed",
    "store",
    "stream",
    "stream_options",
    "tool_choice",
    "tools",
];

/// What a member becomes.
#[derive(Debug, PartialEq)]
pub(super) enum Translated {
    Nothing,
    /// A member of the request; objects of the same name are merged.
    Member(&'static str, Value),
}

/// Translates a member that is present.
pub(super) fn meaning(name: &str, value: Value) -> Result<Translated, Unsupported> {
    if let Some(own) = OWN.iter().find(|own| **own == name) {
        return Ok(Translated::Member(own, value));
    }
    if SILENT.contains(&name) || is_usual(name, &value) {
        return Ok(Translated::Nothing);
    }
    match name {
        "stop" => stop(value),
        "temperature" | "top_p" => sampling(name, &value),
        "user" | "safety_identifier" => Ok(Translated::Member("metadata", json!({ "user_id": value }))),
        "metadata" => Ok(metadata(value)),
        "service_tier" => Ok(tier(value)),
        "reasoning_effort" => effort(&value),
        "response_format" => format(&value),
        _ => Err(Unsupported::new(name, "there is no such field")),
    }
}

/// Returns whether a member asks for the default behaviour.
fn is_usual(name: &str, value: &Value) -> bool {
    match name {
        "logprobs" => value == &Value::Bool(false),
        "frequency_penalty" | "presence_penalty" | "top_logprobs" => value.as_f64() == Some(0.0),
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        "functions" => value.as_array().is_some_and(Vec::is_empty),
        "function_call" => value == "none" || value == "auto",
        "modalities" => value == &json!(["text"]),
        "verbosity" => value == "medium",
        _ => false,
    }
}

fn stop(value: Value) -> Result<Translated, Unsupported> {
    let stops = match value {
        Value::Array(stops) => stops,
        one => vec![one],
    };
    if stops.is_empty() {
        return Ok(Translated::Nothing);
    }
    let is_blank = |stop: &Value| stop.as_str().is_none_or(|stop| stop.trim().is_empty());
    if stops.iter().any(is_blank) {
        return Err(Unsupported::new(
            "stop",
            "whitespace-only stop sequences are not supported",
        ));
    }
    Ok(Translated::Member("stop_sequences", stops.into()))
}

/// Default values are omitted: some models accept only one of the two, and clients often send both.
fn sampling(name: &str, value: &Value) -> Result<Translated, Unsupported> {
    let number = value
        .as_f64()
        .ok_or_else(|| Unsupported::new(name, "must be a number"))?;
    let name = if name == "top_p" { "top_p" } else { "temperature" };
    if number >= 1.0 {
        return Ok(Translated::Nothing);
    }
    Ok(Translated::Member(name, json!(number.max(0.0))))
}

/// In OpenAI's API these are labels of a stored answer; only Anthropic's own member is passed on.
fn metadata(value: Value) -> Translated {
    match value {
        Value::Object(mut fields) => match fields.remove("user_id") {
            Some(user) => Translated::Member("metadata", json!({ "user_id": user })),
            None => Translated::Nothing,
        },
        _ => Translated::Nothing,
    }
}

/// The tiers that both know or that are Anthropic's.
fn tier(value: Value) -> Translated {
    if value == "auto" || value == "standard_only" {
        Translated::Member("service_tier", value)
    } else {
        Translated::Nothing
    }
}

fn effort(value: &Value) -> Result<Translated, Unsupported> {
    let effort = match value.as_str() {
        Some("none") => return Ok(Translated::Member("thinking", json!({"type": "disabled"}))),
        Some("minimal") => "low",
        Some(effort @ ("low" | "medium" | "high" | "xhigh" | "max")) => effort,
        _ => return Err(Unsupported::new("reasoning_effort", "unknown effort")),
    };
    Ok(Translated::Member("output_config", json!({ "effort": effort })))
}

fn format(value: &Value) -> Result<Translated, Unsupported> {
    match value["type"].as_str() {
        Some("text") => Ok(Translated::Nothing),
        Some("json_schema") => {
            let path = "response_format.json_schema.schema";
            let wanted = &value["json_schema"];
            let schema = schema::closed(&wanted["schema"], wanted["strict"] == true)
                .map_err(|why| Unsupported::new(path, why))?;
            let format = json!({"format": {"type": "json_schema", "schema": schema}});
            Ok(Translated::Member("output_config", format))
        }
        _ => Err(Unsupported::new(
            "response_format",
            "only text and json_schema are supported",
        )),
    }
}
