//! Rejects what Anthropic rejects, with its messages: clients must not get used to a lenient simulator.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::refusal::invalid;
use crate::model::step::Refusal;

/// All request fields of the published descriptions; the last three are in the older one only.
const FIELDS: [&str; 22] = [
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "user_profile_id",
    "workspace_id",
    "temperature",
    "top_k",
    "top_p",
];

type Checked = Result<(), Box<Refusal>>;

fn refuse(message: impl Into<String>) -> Checked {
    Err(invalid(message))
}

fn need(holds: bool, message: impl Into<String>) -> Checked {
    if holds { Ok(()) } else { refuse(message) }
}

/// Checks a message request.
pub(super) fn request(body: &Value) -> Checked {
    let Value::Object(fields) = body else {
        return refuse("Input should be a valid dictionary");
    };
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return refuse(format!("{unknown}: Extra inputs are not permitted"));
    }
    need(
        body["model"].as_str().is_some_and(|model| !model.is_empty()),
        "model: Field required",
    )?;
    need(!body["max_tokens"].is_null(), "max_tokens: Field required")?;
    let is_bound = body["max_tokens"].as_u64().is_some_and(|max| max >= 1);
    need(is_bound, "max_tokens: Input should be greater than or equal to 1")?;
    sampling(fields)?;
    let is_known = body["stream"].is_null() || body["stream"].is_boolean();
    need(is_known, "stream: Input should be a valid boolean")?;
    for stop in list(&body["stop_sequences"]) {
        let is_blank = stop.as_str().is_none_or(|stop| stop.trim().is_empty());
        need(
            !is_blank,
            "stop_sequences: each stop sequence must contain non-whitespace",
        )?;
    }
    if !body["system"].is_null() {
        content("system", &body["system"], &["text"])?;
    }
    let names = tools(body)?;
    tool_choice(body, &names)?;
    output(body)?;
    let calls = messages(&body["messages"])?;
    need(
        !calls || !names.is_empty(),
        "Requests which include `tool_use` or `tool_result` blocks must define tools",
    )
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn sampling(fields: &Map<String, Value>) -> Checked {
    for name in ["temperature", "top_p"] {
        let value = fields.get(name).unwrap_or(&Value::Null);
        let valid = value.is_null() || value.as_f64().is_some_and(|x| (0.0..=1.0).contains(&x));
        need(valid, format!("{name}: range: 0..1"))?;
    }
    let both = ["temperature", "top_p"].iter().all(|name| fields.contains_key(*name));
    need(
        !both,
        "`temperature` and `top_p` cannot both be specified for this model.",
    )
}

/// Checks the tools and returns their names.
fn tools(body: &Value) -> Result<HashSet<&str>, Box<Refusal>> {
    let mut names = HashSet::new();
    for (at, tool) in list(&body["tools"]).enumerate() {
        let place = format!("tools.{at}.custom");
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = tool["name"].as_str().unwrap_or_default();
        let is_name = (1..=128).contains(&name.len()) && name.chars().all(allowed);
        need(
            is_name,
            format!("{place}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"),
        )?;
        need(
            tool["input_schema"].is_object(),
            format!("{place}.input_schema: Field required"),
        )?;
        let is_object = tool["input_schema"]["type"] == "object";
        need(
            is_object,
            format!("{place}.input_schema.type: Input should be 'object'"),
        )?;
        let known = ["name", "description", "input_schema", "cache_control", "strict", "type"];
        let foreign = tool
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, _)| !known.contains(&key.as_str()));
        if let Some((key, _)) = foreign {
            return Err(invalid(format!("{place}.{key}: Extra inputs are not permitted")));
        }
        if tool["strict"] == true {
            closed(&tool["input_schema"], &format!("{place}.input_schema"))?;
        }
        need(names.insert(name), "tools: Tool names must be unique.")?;
    }
    Ok(names)
}

fn tool_choice(body: &Value, names: &HashSet<&str>) -> Checked {
    let choice = &body["tool_choice"];
    if choice.is_null() {
        return Ok(());
    }
    need(
        !names.is_empty(),
        "tool_choice: tool_choice may only be specified while providing tools.",
    )?;
    match choice["type"].as_str() {
        Some("auto" | "any" | "none") => Ok(()),
        Some("tool") => {
            let name = choice["name"].as_str().unwrap_or_default();
            need(
                names.contains(name),
                format!("Tool '{name}' not found in provided tools"),
            )
        }
        _ => refuse("tool_choice: Input tag found using 'type' does not match any of the expected tags"),
    }
}

fn output(body: &Value) -> Checked {
    let format = &body["output_config"]["format"];
    if format.is_null() {
        return Ok(());
    }
    need(
        format["type"] == "json_schema",
        "output_config.format.type: Input should be 'json_schema'",
    )?;
    need(
        format["schema"].is_object(),
        "output_config.format.schema: Field required",
    )?;
    closed(&format["schema"], "output_config.format.schema")
}

/// Checks that every object is closed and that no unsupported keyword is used.
fn closed(schema: &Value, place: &str) -> Checked {
    if schema["type"] == "object" && schema["additionalProperties"] != false {
        return refuse(format!(
            "{place}: For 'object' type, 'additionalProperties' must be explicitly set to false"
        ));
    }
    for keyword in [
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "maxItems",
        "oneOf",
    ] {
        if !schema[keyword].is_null() {
            return refuse(format!("{place}: property '{keyword}' is not supported"));
        }
    }
    for key in ["properties", "$defs"] {
        for (_, schema) in schema[key].as_object().into_iter().flatten() {
            closed(schema, place)?;
        }
    }
    for schema in list(&schema["anyOf"]).chain(list(&schema["allOf"])) {
        closed(schema, place)?;
    }
    if schema["items"].is_object() {
        closed(&schema["items"], place)
    } else {
        Ok(())
    }
}

/// Checks the conversation; returns whether it has calls or results.
fn messages(messages: &Value) -> Result<bool, Box<Refusal>> {
    let list: &[Value] = messages.as_array().map_or(&[], Vec::as_slice);
    need(messages.is_array(), "messages: Field required")?;
    need(!list.is_empty(), "messages: at least one message is required")?;
    need(
        list[0]["role"] == "user",
        "messages: first message must use the \"user\" role",
    )?;
    // Calls of the previous message that have no result yet.
    let mut waiting: Vec<&str> = Vec::new();
    let mut has_calls = false;
    for (at, message) in list.iter().enumerate() {
        let place = format!("messages.{at}");
        if let Some(extra) = message
            .as_object()
            .and_then(|fields| fields.keys().find(|key| *key != "role" && *key != "content"))
        {
            return Err(invalid(format!("{place}.{extra}: Extra inputs are not permitted")));
        }
        match message["role"].as_str() {
            Some("user") => {
                let kinds = ["text", "image", "document", "search_result", "tool_result"];
                content(&place, &message["content"], &kinds)?;
                has_calls |= !waiting.is_empty();
                results(at, &message["content"], std::mem::take(&mut waiting))?;
            }
            Some("assistant") => {
                let kinds = ["text", "tool_use", "thinking", "redacted_thinking"];
                content(&place, &message["content"], &kinds)?;
                unanswered(at, &waiting)?;
                waiting = calls(&place, &message["content"])?;
            }
            Some("system") => {
                let text = "messages: Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \"system\" as an input message role.";
                return Err(invalid(text));
            }
            _ => return Err(invalid(format!("{place}.role: Input should be 'user' or 'assistant'"))),
        }
    }
    unanswered(list.len(), &waiting)?;
    Ok(has_calls)
}

fn content(place: &str, content: &Value, kinds: &[&str]) -> Checked {
    match content {
        Value::String(text) => need(!text.is_empty(), format!("{place}: content must be non-empty")),
        Value::Array(blocks) if !blocks.is_empty() => {
            for (n, block) in blocks.iter().enumerate() {
                let kind = block["type"].as_str().unwrap_or_default();
                need(
                    kinds.contains(&kind),
                    format!(
                        "{place}.content.{n}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
                    ),
                )?;
                let is_blank = kind == "text" && block["text"].as_str().is_none_or(|text| text.trim().is_empty());
                need(
                    !is_blank,
                    format!("{place}: text content blocks must contain non-whitespace text"),
                )?;
                let source = block["source"]["type"].as_str().unwrap_or_default();
                let is_source = kind != "image" || ["base64", "url", "file"].contains(&source);
                need(is_source, format!("{place}.content.{n}.image.source: Field required"))?;
            }
            Ok(())
        }
        _ => refuse(format!(
            "{place}: content must be a non-empty string or a non-empty array"
        )),
    }
}

/// Checks an assistant's calls and returns their ids.
fn calls<'a>(place: &str, content: &'a Value) -> Result<Vec<&'a str>, Box<Refusal>> {
    let mut ids = Vec::new();
    let uses = list(content)
        .enumerate()
        .filter(|(_, block)| block["type"] == "tool_use");
    for (n, block) in uses {
        let id = block["id"].as_str().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let is_id = !id.is_empty() && id.chars().all(allowed);
        let at = format!("{place}.content.{n}.tool_use");
        need(
            is_id,
            format!("{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'"),
        )?;
        need(block["name"].is_string(), format!("{at}.name: Field required"))?;
        need(
            block["input"].is_object(),
            format!("{at}.input: Input should be a valid dictionary"),
        )?;
        need(!ids.contains(&id), format!("{place}: `tool_use` ids must be unique"))?;
        ids.push(id);
    }
    Ok(ids)
}

/// Checks that tool results answer the previous message, each call once, before any other content.
fn results(at: usize, content: &Value, mut waiting: Vec<&str>) -> Checked {
    let mut said = false;
    for (n, block) in list(content).enumerate() {
        if block["type"] != "tool_result" {
            said = true;
            continue;
        }
        let id = block["tool_use_id"].as_str().unwrap_or_default();
        let Some(found) = waiting.iter().position(|call| *call == id) else {
            return refuse(format!(
                "messages.{at}.content.{n}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            ));
        };
        need(!said, format!("messages.{at}: `tool_result` blocks must come first"))?;
        waiting.remove(found);
    }
    unanswered(at, &waiting)
}

fn unanswered(at: usize, waiting: &[&str]) -> Checked {
    need(
        waiting.is_empty(),
        format!(
            "messages.{}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
            at.saturating_sub(1),
            waiting.join(", ")
        ),
    )
}
