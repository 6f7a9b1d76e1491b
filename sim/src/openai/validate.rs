//! Rejects what OpenAI rejects, with its messages: clients must not get used to a lenient simulator.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::model::step::Refusal;

/// All fields of a chat completion request in the published description.
const FIELDS: [&str; 37] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

type Checked = Result<(), Box<Refusal>>;

/// Checks a chat completion request.
pub(crate) fn chat(request: &Value) -> Checked {
    let Value::Object(fields) = request else {
        return refuse("The request body must be a JSON object.", None);
    };
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return refuse(format!("Unrecognized request argument supplied: {unknown}"), None);
    }
    if request["model"].as_str().is_none_or(str::is_empty) {
        return refuse("you must provide a model parameter", None);
    }
    numbers(fields)?;
    if !request["stream_options"].is_null() && request["stream"] != true {
        return refuse(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            Some("stream_options"),
        );
    }
    let names = tools(request)?;
    tool_choice(request, &names)?;
    messages(&request["messages"])?;
    response_format(request)
}

fn refuse(message: impl Into<String>, param: Option<&str>) -> Checked {
    Err(Refusal::invalid(message, param))
}

fn numbers(fields: &Map<String, Value>) -> Checked {
    let ranges = [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
    ];
    for (name, least, most) in ranges {
        let value = fields.get(name).unwrap_or(&Value::Null);
        if value.is_null() {
            continue;
        }
        let valid = value.as_f64().is_some_and(|x| (least..=most).contains(&x));
        if !valid {
            return refuse(
                format!("Invalid '{name}': expected a number between {least} and {most}."),
                Some(name),
            );
        }
    }
    for (name, most) in [
        ("n", 128),
        ("max_tokens", u64::MAX),
        ("max_completion_tokens", u64::MAX),
    ] {
        let value = fields.get(name).unwrap_or(&Value::Null);
        let valid = value.as_u64().is_some_and(|x| (1..=most).contains(&x));
        if !value.is_null() && !valid {
            return refuse(
                format!(
                    "Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
                ),
                Some(name),
            );
        }
    }
    Ok(())
}

/// Checks the tools and returns their names.
fn tools(request: &Value) -> Result<HashSet<&str>, Box<Refusal>> {
    let mut names = HashSet::new();
    let tools = match &request["tools"] {
        Value::Null => return Ok(names),
        Value::Array(tools) if !tools.is_empty() => tools,
        _ => {
            return Err(Refusal::invalid(
                "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.",
                Some("tools"),
            ));
        }
    };
    for (at, tool) in tools.iter().enumerate() {
        if tool["type"] == "custom" {
            continue;
        }
        let param = format!("tools[{at}].function.name");
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            return Err(Refusal::invalid(
                format!(
                    "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
                ),
                Some(&param),
            ));
        }
        let parameters = &tool["function"]["parameters"];
        if !parameters.is_null() && parameters["type"] != "object" {
            return Err(Refusal::invalid(
                format!(
                    "Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', got 'type: {}'.",
                    parameters["type"]
                ),
                Some(&format!("tools[{at}].function.parameters")),
            ));
        }
        if tool["function"]["strict"] == true {
            strict(parameters, &format!("function '{name}'"), &mut Vec::new())?;
        }
        names.insert(name);
    }
    Ok(names)
}

fn tool_choice(request: &Value, names: &HashSet<&str>) -> Checked {
    let choice = &request["tool_choice"];
    if choice.is_null() {
        return Ok(());
    }
    if names.is_empty() && choice != "none" {
        return refuse(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            Some("tool_choice"),
        );
    }
    match choice["function"]["name"].as_str() {
        Some(name) if !names.contains(name) => refuse(
            format!("Tool choice '{name}' not found in 'tools' parameter."),
            Some("tool_choice"),
        ),
        _ => Ok(()),
    }
}

fn messages(messages: &Value) -> Checked {
    let list = match messages {
        Value::Array(list) if !list.is_empty() => list,
        Value::Array(_) => {
            return refuse(
                "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
                Some("messages"),
            );
        }
        _ => return refuse("Missing required parameter: 'messages'.", Some("messages")),
    };
    // Calls of the last assistant message that have no result yet.
    let mut waiting: Vec<&str> = Vec::new();
    for (at, message) in list.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            tool_result(at, message, &mut waiting)?;
            continue;
        }
        answered(&waiting)?;
        waiting.clear();
        match role {
            "system" | "developer" | "user" => content(at, message, false)?,
            "assistant" => {
                let calls = calls(at, message)?;
                let needed = calls.is_empty()
                    && message["refusal"].is_null()
                    && message["function_call"].is_null()
                    && message["audio"].is_null();
                content(at, message, !needed)?;
                waiting = calls;
            }
            "function" => {}
            other => {
                return refuse(
                    format!(
                        "Invalid value: '{other}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
                    ),
                    Some(&format!("messages[{at}].role")),
                );
            }
        }
    }
    answered(&waiting)
}

fn tool_result<'a>(at: usize, message: &'a Value, waiting: &mut Vec<&'a str>) -> Checked {
    let Some(id) = message["tool_call_id"].as_str() else {
        return refuse(
            format!("Missing required parameter: 'messages[{at}].tool_call_id'."),
            Some(&format!("messages[{at}].tool_call_id")),
        );
    };
    match waiting.iter().position(|call| *call == id) {
        Some(found) => waiting.remove(found),
        None => {
            return refuse(
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                Some(&format!("messages.[{at}].role")),
            );
        }
    };
    content(at, message, false)
}

fn answered(waiting: &[&str]) -> Checked {
    if waiting.is_empty() {
        return Ok(());
    }
    refuse(
        format!(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
            waiting.join(", ")
        ),
        Some("messages"),
    )
}

fn content(at: usize, message: &Value, may_be_null: bool) -> Checked {
    let param = format!("messages[{at}].content");
    match &message["content"] {
        Value::String(_) => Ok(()),
        Value::Null if may_be_null => Ok(()),
        Value::Array(parts) if !parts.is_empty() => {
            let valid = |part: &Value| match part["type"].as_str() {
                Some("text") => part["text"].is_string(),
                Some("refusal") => part["refusal"].is_string(),
                Some(kind) => ["image_url", "input_audio", "file"].contains(&kind),
                None => false,
            };
            if parts.iter().all(valid) {
                Ok(())
            } else {
                refuse(format!("Invalid content part in '{param}'."), Some(&param))
            }
        }
        other => {
            let got = match other {
                Value::Null => "null",
                Value::Array(_) => "an empty array",
                _ => "another type",
            };
            refuse(
                format!("Invalid value for 'content': expected a string, got {got}."),
                Some(&param),
            )
        }
    }
}

/// Checks an assistant message's calls and returns their ids.
fn calls(at: usize, message: &Value) -> Result<Vec<&str>, Box<Refusal>> {
    let calls = match &message["tool_calls"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(calls) if !calls.is_empty() => calls,
        _ => {
            let param = format!("messages[{at}].tool_calls");
            return Err(Refusal::invalid(
                format!(
                    "Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead."
                ),
                Some(&param),
            ));
        }
    };
    let mut ids = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let missing = |part: &str| {
            let param = format!("messages[{at}].tool_calls[{number}].{part}");
            Refusal::invalid(format!("Missing required parameter: '{param}'."), Some(&param))
        };
        let id = call["id"].as_str().ok_or_else(|| missing("id"))?;
        if call["type"] != "function" && call["type"] != "custom" {
            return Err(missing("type"));
        }
        if call["type"] == "function" {
            let function = &call["function"];
            function["name"].as_str().ok_or_else(|| missing("function.name"))?;
            function["arguments"]
                .as_str()
                .ok_or_else(|| missing("function.arguments"))?;
        }
        if ids.contains(&id) {
            let param = format!("messages[{at}].tool_calls");
            return Err(Refusal::invalid(
                format!("Duplicate value for 'tool_call_id' of '{id}' in message[{at}]"),
                Some(&param),
            ));
        }
        ids.push(id);
    }
    Ok(ids)
}

fn response_format(request: &Value) -> Checked {
    let format = &request["response_format"];
    match format["type"].as_str() {
        None if format.is_null() => Ok(()),
        Some("text") => Ok(()),
        Some("json_object") => {
            if request["messages"].to_string().to_lowercase().contains("json") {
                return Ok(());
            }
            refuse(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
                Some("messages"),
            )
        }
        Some("json_schema") => {
            let inner = &format["json_schema"];
            if inner["name"].as_str().is_none_or(str::is_empty) {
                return refuse(
                    "Missing required parameter: 'response_format.json_schema.name'.",
                    Some("response_format.json_schema.name"),
                );
            }
            if !inner["schema"].is_object() {
                return refuse(
                    "Missing required parameter: 'response_format.json_schema.schema'.",
                    Some("response_format.json_schema.schema"),
                );
            }
            if inner["strict"] != true {
                return Ok(());
            }
            let name = inner["name"].as_str().unwrap_or_default();
            strict(&inner["schema"], &format!("response_format '{name}'"), &mut Vec::new())
        }
        _ => refuse(
            "Invalid value for 'response_format.type'. Supported values are: 'json_object', 'json_schema', and 'text'.",
            Some("response_format.type"),
        ),
    }
}

/// Checks the rules of strict schemas: closed objects, every property required.
fn strict(schema: &Value, what: &str, path: &mut Vec<String>) -> Checked {
    if let Some(properties) = schema["properties"].as_object() {
        let fault = |fault: String, path: &[String]| {
            let message = format!("Invalid schema for {what}: In context=({}), {fault}", path.join(", "));
            {
                let of_tool = what.starts_with("function");
                refuse(message, Some(if of_tool { "tools" } else { "response_format" }))
            }
        };
        if schema["additionalProperties"] != false {
            return fault(
                "'additionalProperties' is required to be supplied and to be false.".to_owned(),
                path,
            );
        }
        let required = schema["required"].as_array();
        let is_required = |name: &str| required.is_some_and(|list| list.iter().any(|x| x == name));
        if let Some(missing) = properties.keys().find(|name| !is_required(name)) {
            return fault(
                format!(
                    "'required' is required to be supplied and to be an array including every key in properties. Missing '{missing}'."
                ),
                path,
            );
        }
    }
    let mut below = |key: &str, schema: &Value| {
        path.push(format!("'{key}'"));
        let checked = strict(schema, what, path);
        path.pop();
        checked
    };
    for key in ["properties", "$defs"] {
        for (name, schema) in schema[key].as_object().into_iter().flatten() {
            below(name, schema)?;
        }
    }
    for schema in schema["anyOf"].as_array().into_iter().flatten() {
        below("anyOf", schema)?;
    }
    if schema["items"].is_object() {
        below("items", &schema["items"])?;
    }
    Ok(())
}
