//! The provider with Anthropic's protocol, checked against a description generated from Anthropic's own client.

use std::net::{Ipv4Addr, SocketAddr};

use copilotd_sim::Running;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::specs::file;

struct Spec(Value);

impl Spec {
    fn read() -> Option<Self> {
        file("anthropic/sdk_2.12.0.schemas.json").map(Self)
    }

    fn faults(&self, schema: &str, value: &Value) -> Vec<String> {
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .build(&self.0[schema])
            .unwrap();
        validator.iter_errors(value).map(|error| error.to_string()).collect()
    }

    fn check(&self, schema: &str, value: &Value) {
        let faults = self.faults(schema, value);
        assert!(faults.is_empty(), "{schema}: {}\n{value:#}", faults.join("\n"));
    }
}

async fn start() -> Running {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let provider = copilotd_sim::anthropic::start(listen).await.unwrap();
    control(&provider, "knobs", &json!({"first_ms": 0, "pace_ms": 0})).await;
    provider
}

async fn control(provider: &Running, what: &str, body: &Value) {
    let url = format!("{}/_sim/{what}", provider.base_url());
    let answer = reqwest::Client::new().post(url).json(body).send().await.unwrap();
    assert!(answer.status().is_success(), "{body}");
}

fn post(provider: &Running, body: &Value) -> RequestBuilder {
    reqwest::Client::new()
        .post(format!("{}/v1/messages", provider.base_url()))
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .json(body)
}

fn user(text: &str) -> Value {
    json!({"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": text}]})
}

/// The events of a stream: names and data.
fn events(stream: &str) -> Vec<(&str, Value)> {
    let events = stream.split("\n\n").filter(|event| !event.is_empty());
    events
        .map(|event| {
            let (name, data) = event.split_once("\ndata: ").unwrap();
            (
                name.strip_prefix("event: ").unwrap(),
                serde_json::from_str(data).unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn answers_fit_the_description() {
    let Some(spec) = Spec::read() else { return };
    let provider = start().await;
    for (text, stream) in [
        ("Hello!", false),
        ("Hello!", true),
        ("summarise the unread tickets", false),
        ("summarise the unread tickets", true),
        ("[[sim tool=f calls=2 args={} ]]", true),
        ("[[sim tokens=30 finish=length]]", true),
        ("[[sim tokens=3 finish=content_filter]]", false),
        ("[[sim tokens=3 stream_error=overloaded_error]]", true),
        ("[[sim status=401]]", true),
        ("[[sim status=402]]", true),
        ("[[sim status=403]]", true),
        ("[[sim status=404]]", true),
        ("[[sim status=429 retry_after=2]]", true),
        ("[[sim status=500]]", false),
        ("[[sim status=504]]", false),
        ("[[sim status=529 retry_after=1]]", true),
        ("[[sim status=400 code=context_length_exceeded]]", true),
    ] {
        let mut body = user(text);
        body["stream"] = json!(stream);
        body["thinking"] = json!({"type": "adaptive"});
        body["tools"] = json!([{"name": "zendesk_search_tickets", "input_schema": {"type": "object"}}]);
        spec.check(
            "MessageCreateParamsStreaming",
            &json!({"stream": true, "model": "m", "max_tokens": 1, "messages": body["messages"]}),
        );
        let answer = post(&provider, &body).send().await.unwrap();
        let status = answer.status().as_u16();
        assert!(answer.headers().contains_key("request-id"), "{text}");
        let answer = answer.text().await.unwrap();
        if status != 200 {
            spec.check("ErrorResponse", &serde_json::from_str(&answer).unwrap());
        } else if stream {
            for (name, data) in events(&answer) {
                assert_eq!(data["type"], name);
                match name {
                    "ping" => assert_eq!(data, json!({"type": "ping"})),
                    "error" => spec.check("ErrorResponse", &data),
                    _ => spec.check("RawMessageStreamEvent", &data),
                }
            }
        } else {
            spec.check("Message", &serde_json::from_str(&answer).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_is_framed_as_anthropic_frames_it() {
    let provider = start().await;
    let mut body = user("[[sim tool=f args={\"a\":1} ]]");
    body["stream"] = json!(true);
    let stream = post(&provider, &body).send().await.unwrap().text().await.unwrap();
    let names: Vec<&str> = events(&stream).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    body["messages"] = json!([{"role": "user", "content": "[[sim text=\"a b\"]]"}]);
    let stream = post(&provider, &body).send().await.unwrap().text().await.unwrap();
    let said: Vec<_> = events(&stream);
    let text: String = said
        .iter()
        .filter_map(|(_, data)| data["delta"]["text"].as_str())
        .collect();
    assert_eq!(text, "a b");
    assert!(said.iter().any(|(name, _)| *name == "ping"));
    assert_eq!(said[said.len() - 2].1["delta"]["stop_reason"], "end_turn");
}

#[tokio::test]
async fn what_anthropic_refuses_is_refused_in_its_words() {
    let provider = start().await;
    let text = |text: &str| json!({"type": "text", "text": text});
    let tool = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let called =
        |id: &str| json!({"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "f", "input": {}}]});
    let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "r"});
    let hello = json!({"role": "user", "content": "Hello?"});
    let history = |messages: Value| json!({"tools": tool, "messages": messages});
    for (more, part) in [
        (json!({"max_tokens": null}), "max_tokens: Field required"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"model": ""}), "model: Field required"),
        (json!({"n": 2}), "n: Extra inputs"),
        (json!({"temperature": 1.5}), "temperature: range: 0..1"),
        (json!({"temperature": 0.5, "top_p": 0.5}), "cannot both"),
        (json!({"stop_sequences": [" "]}), "non-whitespace"),
        (json!({"tool_choice": {"type": "auto"}}), "while providing tools"),
        (json!({"tools": [{"name": "f"}]}), "tools.0.custom.input_schema"),
        (
            json!({"tools": [{"name": "f g", "input_schema": {"type": "object"}}]}),
            "pattern",
        ),
        (json!({"tools": [tool[0], tool[0]]}), "unique"),
        (
            json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
            "additionalProperties",
        ),
        (json!({"messages": []}), "at least one message"),
        (
            json!({"messages": [{"role": "assistant", "content": "a"}]}),
            "first message must use",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}),
            "Unexpected role",
        ),
        (json!({"messages": [{"role": "user", "content": ""}]}), "non-empty"),
        (
            json!({"messages": [{"role": "user", "content": [text(" ")]}]}),
            "non-whitespace",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "image_url",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a", "name": "x"}]}),
            "messages.0.name",
        ),
        (history(json!([hello, called("1")])), "without `tool_result`"),
        (history(json!([hello, called("1"), hello])), "without `tool_result`"),
        (
            history(json!([hello, called("1"), {"role": "user", "content": [result("2")]}])),
            "unexpected `tool_use_id`",
        ),
        (
            history(json!([{"role": "user", "content": [result("1")]}])),
            "unexpected `tool_use_id`",
        ),
        (
            history(json!([hello, called("1"), {"role": "user", "content": [text("a"), result("1")]}])),
            "must come first",
        ),
        (
            history(json!([hello, called("a.b"), {"role": "user", "content": [result("a.b")]}])),
            "pattern",
        ),
        (
            json!({"messages": [hello, called("1"), {"role": "user", "content": [result("1")]}]}),
            "must define tools",
        ),
    ] {
        let mut body = user("Hello?");
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = post(&provider, &body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{more}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(
            (&error["type"], &error["error"]["type"]),
            (&json!("error"), &json!("invalid_request_error"))
        );
        assert!(
            error["error"]["message"].as_str().unwrap().contains(part),
            "{more}: {error}"
        );
    }
    let whole = history(json!([hello, called("1"), {"role": "user", "content": [result("1"), text("And?")]}]));
    let mut body = user("");
    for (name, value) in whole.as_object().unwrap() {
        body[name] = value.clone();
    }
    assert_eq!(post(&provider, &body).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_key_and_a_version_are_needed() {
    let provider = start().await;
    control(&provider, "knobs", &json!({"require_key": "right"})).await;
    for (key, version, status, kind) in [
        ("", "2023-06-01", 401, "authentication_error"),
        ("wrong", "2023-06-01", 401, "authentication_error"),
        ("right", "", 400, "invalid_request_error"),
        ("right", "2031-01-01", 400, "invalid_request_error"),
    ] {
        let mut request = reqwest::Client::new().post(format!("{}/v1/messages", provider.base_url()));
        for (name, value) in [("x-api-key", key), ("anthropic-version", version)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        let answer = request.json(&user("Hello?")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{key} {version}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["type"], kind);
    }
}
