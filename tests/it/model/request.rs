//! What is sent: against tables, and against OpenAI's own description of the request.

use std::path::PathBuf;
use std::sync::Arc;

use copilotd::adapters::llm::openai::{AddedParameters, Dialect, MaxTokensField, write};
use copilotd_actors::domain::context::prompt::{PromptCall, PromptMessage};
use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::ModelRequest;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::request::model_request::user as user_hash;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{PATIENT, call, request, weather};

const OPENAI: &str = "https://api.openai.com/v1";
const OTHER: &str = "http://gpu:8000/v1";

fn build(base_url: &str, request: &ModelRequest) -> Value {
    built(&Dialect::of(base_url), request)
}

fn built(dialect: &Dialect, request: &ModelRequest) -> Value {
    serde_json::from_slice(
        &write(
            &call(request, PATIENT),
            "gpt-test",
            dialect,
            true,
            AddedParameters::default(),
        )
        .0,
    )
    .unwrap()
}

/// A request in which everything is used.
pub fn full() -> ModelRequest {
    let id = |n| CallId::new(Uuid::from_u128(n));
    let call = |n, name: &str| PromptCall {
        id: id(n),
        name: name.to_owned(),
        arguments: json!({"city": "Łódź", "days": 2}),
    };
    let user = |text: &str| PromptMessage::User { text: text.into() };
    ModelRequest {
        messages: Arc::new(vec![
            PromptMessage::System {
                text: "Be brief.".into(),
            },
            user("Hello?"),
            PromptMessage::Assistant {
                text: "Let me see.".into(),
                calls: vec![call(1, "get_weather"), call(2, "get_weather")],
            },
            PromptMessage::Tool {
                call: id(1),
                content: "rain".into(),
            },
            PromptMessage::Tool {
                call: id(2),
                content: "sun".into(),
            },
            PromptMessage::Assistant {
                text: "It rains.".into(),
                calls: vec![],
            },
            user("And now?"),
            PromptMessage::Assistant {
                text: String::new(),
                calls: vec![call(3, "get_weather")],
            },
            PromptMessage::Tool {
                call: id(3),
                content: "hail".into(),
            },
        ]),
        tools: Arc::new(vec![weather()]),
        response_schema: Some(json!({
            "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false,
        })),
        ..request()
    }
}

#[test]
fn a_full_request_says_everything_once() {
    let body = build(OPENAI, &full());
    assert_eq!(
        body,
        json!({
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello?"},
                {"role": "assistant", "content": "Let me see.", "tool_calls": [
                    {"type": "function", "id": "call_00000000000000000000000000000001",
                     "function": {"name": "get_weather", "arguments": "{\"city\":\"Łódź\",\"days\":2}"}},
                    {"type": "function", "id": "call_00000000000000000000000000000002",
                     "function": {"name": "get_weather", "arguments": "{\"city\":\"Łódź\",\"days\":2}"}},
                ]},
                {"role": "tool", "content": "rain", "tool_call_id": "call_00000000000000000000000000000001"},
                {"role": "tool", "content": "sun", "tool_call_id": "call_00000000000000000000000000000002"},
                {"role": "assistant", "content": "It rains."},
                {"role": "user", "content": "And now?"},
                {"role": "assistant", "tool_calls": [
                    {"type": "function", "id": "call_00000000000000000000000000000003",
                     "function": {"name": "get_weather", "arguments": "{\"city\":\"Łódź\",\"days\":2}"}},
                ]},
                {"role": "tool", "content": "hail", "tool_call_id": "call_00000000000000000000000000000003"},
            ],
            "model": "gpt-test",
            "max_completion_tokens": 100,
            "response_format": {"type": "json_schema", "json_schema": {
                "name": "answer", "strict": true,
                "schema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
                           "additionalProperties": false},
            }},
            "stream": true,
            "stream_options": {"include_usage": true},
            "tools": [{"type": "function", "function": {
                "name": "get_weather", "description": "Tells the weather.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            }}],
            "parallel_tool_calls": true,
            "user": user_hash(&full().scope, &full().user),
            "prompt_cache_key": "conv_00000000000000000000000000000007",
        })
    );
}

#[test]
fn what_is_sent_depends_on_the_host_and_the_request() {
    let with = |change: fn(&mut ModelRequest)| {
        let mut request = request();
        change(&mut request);
        request
    };
    let loose = |request: &mut ModelRequest| request.response_schema = Some(json!({"type": "object"}));
    for (what, base_url, request, pointer, expected) in [
        (
            "new name at OpenAI",
            OPENAI,
            request(),
            "/max_completion_tokens",
            Some(json!(100)),
        ),
        ("no old name at OpenAI", OPENAI, request(), "/max_tokens", None),
        ("old name elsewhere", OTHER, request(), "/max_tokens", Some(json!(100))),
        (
            "no new name elsewhere",
            OTHER,
            request(),
            "/max_completion_tokens",
            None,
        ),
        (
            "no limit, no field",
            OTHER,
            with(|r| r.max_tokens = None),
            "/max_tokens",
            None,
        ),
        (
            "a wild limit is cut",
            OTHER,
            with(|r| r.max_tokens = Some(u64::MAX)),
            "/max_tokens",
            Some(json!(u32::MAX)),
        ),
        ("the cache key is OpenAI's", OTHER, request(), "/prompt_cache_key", None),
        ("no tools, no field", OPENAI, request(), "/tools", None),
        (
            "no tools, no parallel calls",
            OPENAI,
            request(),
            "/parallel_tool_calls",
            None,
        ),
        ("no schema, no format", OPENAI, request(), "/response_format", None),
        (
            "outside the strict part",
            OPENAI,
            with(loose),
            "/response_format/json_schema/strict",
            Some(json!(false)),
        ),
    ] {
        assert_eq!(build(base_url, &request).pointer(pointer), expected.as_ref(), "{what}");
    }
    let dialect = Dialect {
        max_tokens: MaxTokensField::MaxCompletionTokens,
        parallel_tool_calls: false,
        stream_usage: false,
        user: false,
        prompt_cache_key: true,
        ..Dialect::of(OTHER)
    };
    let body = built(&dialect, &full());
    for (pointer, present) in [
        ("/max_completion_tokens", true),
        ("/parallel_tool_calls", false),
        ("/stream_options", false),
        ("/user", false),
        ("/prompt_cache_key", true),
    ] {
        assert_eq!(body.pointer(pointer).is_some(), present, "{pointer}");
    }
}

#[test]
fn users_are_told_apart_and_not_named() {
    let scope = |tenant: &str| TenantScope::from_verified(tenant.parse().unwrap());
    let hash = |tenant: &str, user: &str| user_hash(&scope(tenant), &user.parse().unwrap());
    assert_eq!(hash("acme", "ada"), hash("acme", "ada"));
    assert_ne!(hash("acme", "ada"), hash("acme", "bob"));
    assert_ne!(hash("acme", "ada"), hash("acm", "eada"));
    let body = build(OPENAI, &request()).to_string();
    assert!(!body.contains("ada@acme.example") && !body.contains("acme"), "{body}");
}

#[test]
fn a_longer_conversation_only_appends() {
    let whole = full();
    let messages = |n: usize| {
        let part = ModelRequest {
            messages: Arc::new(whole.messages[..n].to_vec()),
            ..whole.clone()
        };
        let bytes = write(
            &call(&part, PATIENT),
            "m",
            &Dialect::of(OPENAI),
            true,
            AddedParameters::default(),
        )
        .0;
        let bytes = String::from_utf8(bytes.to_vec()).unwrap();
        let end = bytes.find("],\"model\"").unwrap();
        bytes[..end].to_owned()
    };
    for n in 1..whole.messages.len() {
        assert!(messages(n + 1).starts_with(&messages(n)));
    }
}

/// Finds the vendors' descriptions. They are not part of the repository: other runs than CI continue without them.
pub fn specs() -> Option<PathBuf> {
    let root = std::env::var_os("COPILOTD_SPECS").map_or_else(|| "../shared/specs".into(), PathBuf::from);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(root);
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "COPILOTD_SPECS is not a directory");
    println!("skipped: no vendors' descriptions (set COPILOTD_SPECS)");
    None
}

/// Names of all properties of a schema and of its parts.
fn properties(root: &Value, schema: &Value, names: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        properties(root, root.pointer(&reference[1..]).unwrap(), names);
    }
    names.extend(
        schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone()),
    );
    for part in schema["allOf"].as_array().into_iter().flatten() {
        properties(root, part, names);
    }
}

#[test]
fn every_request_satisfies_openais_description() {
    let Some(specs) = specs() else { return };
    let text = std::fs::read_to_string(specs.join("openai/openapi.trimmed.json")).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    let reference = json!({"$ref": "#/components/schemas/CreateChatCompletionRequest"});
    let mut known = Vec::new();
    properties(&document, &reference, &mut known);
    document["$ref"] = reference["$ref"].clone();
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .build(&document)
        .unwrap();
    // The description forbids too little to trust it blindly: it has to reject this.
    assert!(!validator.is_valid(&json!({"model": "m", "messages": []})));
    for request in [request(), full()] {
        for base_url in [OPENAI, OTHER] {
            let body = build(base_url, &request);
            let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{errors:#?}");
            for name in body.as_object().unwrap().keys() {
                assert!(known.contains(name), "{name} is no field of the description");
            }
        }
    }
}
