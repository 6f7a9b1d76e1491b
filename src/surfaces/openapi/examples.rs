//! The examples of bodies: those of the schema files, and texts for bodies that no schema describes.
//!
//! Invariant: every request body and every successful answer has one; a test names the media types that have none, and
//! validates each example against the schema beside it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::http::problems::{Code, Problem};

/// Which of its schema's examples an answer shows, by operation and status: from 0, and the first one if not named here.
const CHOSEN: &[(&str, &str, usize)] = &[
    ("submit_turn", "202", 1),
    ("decide_approval", "202", 1),
    ("cancel_turn", "202", 2),
    ("run_client_tool", "202", 1),
    ("put_document", "202", 1),
    ("create_export", "202", 2),
    ("delete_tenant", "202", 3),
];

const DOCUMENT: &str = "# Refunds\n\nA refund reaches the customer's account within five working days after billing has \
    approved it.\n";

const STREAM: &str = r#": connected
retry: 2000

id: 3
event: turn.started
data: {"seq":3,"turn_id":"turn_01a22bbc8a6d74f0a3c6e9d1b7258e0b","at":"2026-11-30T09:15:06.224Z","attempt":1,"model":"gpt-4o"}

id: 4.6
event: message.delta
data: {"seq":4,"turn_id":"turn_01a22bbc8a6d74f0a3c6e9d1b7258e0b","at":"2026-11-30T09:15:06.633Z","message_id":"msg_01a22bbc8f8a792c4e7a06b5df138c7a","text":"Hello!"}

"#;

const CHUNKS: &str = r#"data: {"id":"chatcmpl-7f1c","object":"chat.completion.chunk","created":1796030104,"model":"gpt-4o","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello!"},"finish_reason":null}]}

data: {"id":"chatcmpl-7f1c","object":"chat.completion.chunk","created":1796030104,"model":"gpt-4o","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: [DONE]

"#;

const MULTIPART: &str = "--boundary\r\nContent-Disposition: form-data; name=\"document\"; filename=\"refunds.md\"\r\n\
    Content-Type: text/markdown\r\n\r\n# Refunds\r\n--boundary\r\nContent-Disposition: form-data; \
    name=\"attributes\"\r\nContent-Type: application/json\r\n\r\n{\"title\":\"Refunds\"}\r\n--boundary--\r\n";

const TOTALS: &str = "key,calls,cache_hits,prompt_tokens,completion_tokens,cached_tokens,cache_write_tokens,\
    reasoning_tokens,cost_usd,estimated_calls\r\nmain/gpt-4o,218,12,301422,24810,90112,0,0,0.889025,0\r\n";

const TOTALS_OF_TENANTS: &str = "tenant,key,calls,cache_hits,prompt_tokens,completion_tokens,cached_tokens,\
    cache_write_tokens,reasoning_tokens,cost_usd,estimated_calls\r\n\
    acme,acme,218,12,301422,24810,90112,0,0,0.889025,0\r\n";

/// Returns the example of a body that no schema file describes. `status` is empty for a request.
fn undescribed(operation: &str, status: &str, media: &str) -> Option<Value> {
    Some(match (operation, status, media) {
        ("create_chat_completion", "", _) => json!({
            "model": "default",
            "messages": [{ "role": "user", "content": "Say hello." }],
            "stream": false,
        }),
        ("create_chat_completion", _, "application/json") => json!({
            "id": "chatcmpl-7f1c",
            "object": "chat.completion",
            "created": 1_796_030_104,
            "model": "gpt-4o",
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": "Hello!" },
                "finish_reason": "stop",
            }],
            "usage": { "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12 },
        }),
        ("create_chat_completion", _, "text/event-stream") => json!(CHUNKS),
        ("create_embeddings", "", _) => json!({ "model": "embeddings", "input": ["How long does a refund take?"] }),
        ("create_embeddings", ..) => json!({
            "object": "list",
            "model": "text-embedding-3-small",
            "data": [{ "object": "embedding", "index": 0, "embedding": [0.0123, -0.0456, 0.0789] }],
            "usage": { "prompt_tokens": 7, "total_tokens": 7 },
        }),
        ("list_models", ..) => json!({ "object": "list", "data": [model()] }),
        ("get_model", ..) => model(),
        ("get_usage", _, "text/csv") => json!(TOTALS),
        ("get_tenants_usage", _, "text/csv") => json!(TOTALS_OF_TENANTS),
        ("get_metrics", ..) => {
            json!("# TYPE copilotd_auth_failures_total counter\ncopilotd_auth_failures_total{reason=\"expired\"} 2\n")
        }
        ("get_problem_page", _, "text/markdown") => json!("# not_found\n\n**Not found.** Status 404.\n"),
        ("get_problem_page", _, "text/html") => json!("<!doctype html><title>not_found</title><h1>not_found</h1>"),
        ("get_description", ..) => json!({ "openapi": "3.1.0", "info": { "title": "copilotd" }, "paths": {} }),
        ("put_document", "", "text/csv") => json!("question,answer\r\nHow long does a refund take?,Five days\r\n"),
        ("put_document", "", "text/html") => json!("<h1>Refunds</h1><p>A refund takes up to five working days.</p>"),
        ("put_document", "", "multipart/form-data") => json!(MULTIPART),
        ("put_document", "", media) if media.starts_with("text/") => json!(DOCUMENT),
        ("upload_file", "", _) => json!({
            "conversation_id": "conv_01a22bbc85f37a3ea1d0c4b2e6f7a889",
            "file": "The printer is on fire.\n",
        }),
        ("get_widget_file", _, "text/plain") => json!("These files contain no code of other packages.\n"),
        ("get_file", _, "application/json") => json!("{\"printer\": \"on fire\"}"),
        ("get_file", _, "text/csv") => json!("printer,state\r\n3,on fire\r\n"),
        ("get_file", _, media) if media.starts_with("text/") => json!("The printer is on fire.\n"),
        ("stream_conversation" | "stream_turn", ..) => json!(STREAM),
        _ => return None,
    })
}

fn model() -> Value {
    json!({ "id": "default", "object": "model", "created": 0, "owned_by": "copilotd", "context_length": 128_000 })
}

/// Adds examples to the bodies of an operation. `examples` has those of the schema files by component.
pub(super) fn add(operation: &mut Value, examples: &HashMap<String, Vec<Value>>) {
    let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
    if let Some(Value::Object(content)) = operation.pointer_mut("/requestBody/content") {
        add_to_content(content, &name, "", examples);
    }
    let Some(Value::Object(responses)) = operation.get_mut("responses") else {
        return;
    };
    for (status, response) in responses {
        match response.get_mut("content") {
            Some(Value::Object(content)) if status.starts_with('2') => add_to_content(content, &name, status, examples),
            Some(Value::Object(content)) => add_problems(content),
            _ => {}
        }
    }
}

fn add_to_content(content: &mut Map<String, Value>, name: &str, status: &str, examples: &HashMap<String, Vec<Value>>) {
    for (media, body) in content {
        let of_schema = body
            .pointer("/schema/$ref")
            .and_then(Value::as_str)
            .and_then(|reference| {
                let all = examples.get(reference.rsplit('/').next()?)?;
                let chosen = CHOSEN
                    .iter()
                    .find(|(operation, of, _)| (*operation, *of) == (name, status));
                all.get(chosen.map_or(0, |(.., index)| *index))
            });
        let example = of_schema.cloned().or_else(|| match (name, media.as_str()) {
            // One JSON document for each line.
            ("get_job_result", _) => Some(json!(format!("{}\n", examples.get("ExportLine")?.first()?))),
            _ => undescribed(name, status, media),
        });
        if let Some(example) = example {
            body["example"] = example;
        }
    }
}

/// Names the problems that an answer may be: one example for each code that its schema allows.
fn add_problems(content: &mut Map<String, Value>) {
    let Some(body) = content.get_mut("application/problem+json") else {
        return;
    };
    let codes = body
        .pointer("/schema/allOf/1/properties/code/enum")
        .and_then(Value::as_array);
    let named = codes.into_iter().flatten().filter_map(Value::as_str).map(|code| {
        let reference = format!("#/components/examples/{code}");
        (code.to_owned(), json!({ "$ref": reference }))
    });
    let examples: Map<String, Value> = named.collect();
    if !examples.is_empty() {
        body["examples"] = Value::Object(examples);
    }
}

/// Returns an example of each problem that `paths` refer to, by its code.
pub(super) fn problems(paths: &Value) -> Map<String, Value> {
    let text = paths.to_string();
    let is_used = |code: &&Code| text.contains(&format!("#/components/examples/{}\"", code.as_str()));
    let example = |code: &Code| {
        let document = Problem::new(*code).document("req_3f9bc7100d5d1a9e84acd495e50f007d");
        let problem: Value = serde_json::from_slice(&document).expect("a problem document is JSON");
        (
            code.as_str().to_owned(),
            json!({ "summary": code.title(), "value": problem }),
        )
    };
    Code::ALL.iter().filter(is_used).map(example).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surfaces::openapi::document;

    /// Media types that have no example: JSON has no place for their bytes, and a script says nothing to a reader.
    const WITHOUT_EXAMPLE: [&str; 3] = [
        "text/javascript",
        "application/pdf",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ];

    fn check(schema: &Value, example: &Value, said: &str) {
        let whole = json!({ "allOf": [schema], "components": document()["components"] });
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&whole)
            .unwrap();
        let faults: Vec<String> = validator
            .iter_errors(example)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "the example of {said} is invalid: {faults:#?}");
    }

    #[test]
    fn every_body_has_an_example_that_its_schema_accepts() {
        let mut checked = 0;
        for (path, item) in document()["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let mut bodies = vec![("request".to_owned(), &operation["requestBody"])];
                for (status, response) in operation["responses"].as_object().unwrap() {
                    if status.starts_with('2') {
                        bodies.push((status.clone(), response));
                    }
                }
                for (part, body) in bodies {
                    for (media, described) in body["content"].as_object().into_iter().flatten() {
                        let said = format!("{method} {path}, {part}, {media}");
                        let example = described.get("example");
                        let has_none = media.starts_with("image/") || WITHOUT_EXAMPLE.contains(&media.as_str());
                        assert_eq!(example.is_none(), has_none, "{said}");
                        if let Some(example) = example {
                            check(described.get("schema").unwrap_or(&json!(true)), example, &said);
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert!(checked > 60, "{checked}");
    }

    #[test]
    fn every_example_of_a_schema_file_is_valid() {
        for (component, examples) in super::super::schemas::examples() {
            let schema = json!({ "$ref": format!("#/components/schemas/{component}") });
            for example in &examples {
                check(&schema, example, &component);
            }
        }
        let problems = document()["components"]["examples"].as_object().unwrap();
        assert!(problems.len() > 15, "{problems:?}");
        for (code, example) in problems {
            check(
                &json!({ "$ref": "#/components/schemas/Problem" }),
                &example["value"],
                code,
            );
        }
    }

    #[test]
    fn a_chosen_example_exists_and_belongs_to_the_answer() {
        for (name, status, index) in CHOSEN {
            let operations = document()["paths"].as_object().unwrap().values();
            let operation = operations
                .flat_map(|item| item.as_object().unwrap().values())
                .find(|operation| operation["operationId"] == *name)
                .unwrap_or_else(|| panic!("there is no operation {name}"));
            let body = &operation["responses"][status]["content"]["application/json"];
            let component = body["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            let examples = super::super::schemas::examples();
            assert_eq!(body["example"], examples[component][*index], "{name}");
        }
    }
}
