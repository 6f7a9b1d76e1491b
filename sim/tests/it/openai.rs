//! The provider against OpenAI's description and its documented examples.

use std::net::{Ipv4Addr, SocketAddr};

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::specs::{Answer, Spec, events, file};
use copilotd_sim::Running;

async fn start() -> Running {
    let provider = copilotd_sim::openai::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .unwrap();
    let knobs = json!({"first_ms": 0, "pace_ms": 0});
    let set = format!("{}/_sim/knobs", provider.base_url());
    let answer = reqwest::Client::new().post(set).json(&knobs).send().await;
    assert!(answer.unwrap().status().is_success());
    provider
}

fn post(provider: &Running, path: &str, body: &Value) -> RequestBuilder {
    reqwest::Client::new()
        .post(format!("{}/v1{path}", provider.base_url()))
        .bearer_auth("key")
        .json(body)
}

async fn chat(spec: &Spec, provider: &Running, body: Value) -> Answer {
    spec.call("/chat/completions", post(provider, "/chat/completions", &body))
        .await
}

fn user(text: &str) -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn documented_requests_are_accepted() {
    let (Some(spec), Some(examples)) = (Spec::openai(), file("openai/documented_examples.json")) else {
        return;
    };
    let provider = start().await;
    let mut tried = 0;
    for (path, examples) in [
        ("/chat/completions", &examples["POST /chat/completions"]),
        ("/embeddings", &json!([examples["POST /embeddings"].clone()])),
    ] {
        for example in examples.as_array().unwrap() {
            let curl = example["request"]["curl"].as_str().unwrap();
            let (_, body) = curl.split_once("-d '").unwrap();
            let body = &body[..body.rfind('\'').unwrap()];
            let body: Value = serde_json::from_str(body).unwrap();
            let answer = spec.call(path, post(&provider, path, &body)).await;
            assert_eq!(answer.status, 200, "{curl}\n{}", answer.text);
            tried += 1;
        }
    }
    assert!(tried >= 6, "only {tried} examples were found");
}

#[tokio::test]
async fn answers_fit_the_description() {
    let Some(spec) = Spec::openai() else { return };
    let provider = start().await;
    let tools = json!([{"type": "function", "function": {
        "name": "zendesk_search_tickets",
        "parameters": {"type": "object", "properties": {"unread": {"type": "boolean"}}},
    }}]);
    for (text, stream) in [
        ("Hello!", false),
        ("Hello!", true),
        ("summarise the unread tickets", false),
        ("summarise the unread tickets", true),
        ("[[sim tokens=30 finish=length]]", true),
        ("[[sim tokens=3 finish=content_filter]]", false),
        ("[[sim status=429 retry_after=2]]", true),
        ("[[sim status=500]]", false),
        ("[[sim status=503 retry_after=1]]", true),
        ("[[sim status=400 code=context_length_exceeded]]", true),
    ] {
        let mut body = user(text);
        body["stream"] = json!(stream);
        body["tools"] = tools.clone();
        body["n"] = json!(2);
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        chat(&spec, &provider, body).await;
    }
    for encoding in ["float", "base64"] {
        let body = json!({"model": "m", "input": ["a b", "c"], "encoding_format": encoding});
        let answer = post(&provider, "/embeddings", &body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["data"][1]["index"], 1);
        assert_eq!(answer["data"][0]["embedding"].is_string(), encoding == "base64");
        // The description has only numbers, although it has `encoding_format`.
        if encoding == "float" {
            let schema = "/components/schemas/CreateEmbeddingResponse";
            spec.check(schema, &answer, "embeddings");
        }
    }
    let get = |path: &str| {
        let url = format!("{}/v1{path}", provider.base_url());
        reqwest::Client::new().get(url).bearer_auth("key")
    };
    spec.call("/models", get("/models")).await;
    spec.call("/models/{model}", get("/models/gpt-4o")).await;
    let missing = spec.call("/models/{model}", get("/models/no-such-model")).await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_stream_is_framed_as_openai_frames_it() {
    let Some(spec) = Spec::openai() else { return };
    let provider = start().await;
    let mut body = user(r#"[[sim tool=look calls=2 args={"place": "number $i"}]]"#);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let answer = chat(&spec, &provider, body).await;
    let events = events(&answer.text);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].as_u64().unwrap() > 0);
    let mut arguments = [String::new(), String::new()];
    for chunk in chunks {
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["created"], chunks[0]["created"]);
        assert!(chunk["usage"].is_null() && chunk.get("usage").is_some());
        for delta in chunk["choices"][0]["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let index = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
            // Only the first delta of a call has its id and name.
            assert_eq!(delta.get("id").is_some(), delta["function"].get("name").is_some());
            arguments[index].push_str(delta["function"]["arguments"].as_str().unwrap());
        }
    }
    assert_eq!(arguments, [r#"{"place": "number 0"}"#, r#"{"place": "number 1"}"#]);
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(last["choices"][0]["delta"], json!({}));
}

#[tokio::test]
async fn what_the_description_forbids_is_refused() {
    let Some(spec) = Spec::openai() else { return };
    let provider = start().await;
    let message = |message: Value| json!({"model": "m", "messages": [message]});
    for body in [
        json!({"model": "m"}),
        json!({"messages": [{"role": "user", "content": "a"}]}),
        json!({"model": "m", "messages": []}),
        json!({"model": "m", "messages": "a"}),
        message(json!({"role": "nobody", "content": "a"})),
        message(json!({"role": "user"})),
        message(json!({"role": "user", "content": null})),
        message(json!({"role": "user", "content": []})),
        message(json!({"role": "tool", "content": "a"})),
        json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 3}),
        json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "n": 0}),
        json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "response_format": {"type": "xml"}}),
        json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema"}}),
        json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {}}]}),
    ] {
        let schema = "/components/schemas/CreateChatCompletionRequest";
        assert!(!spec.faults(schema, &body).is_empty(), "{body} is described as valid");
        let answer = chat(&spec, &provider, body.clone()).await;
        assert_eq!(answer.status, 400, "{body} was accepted");
    }
}

#[tokio::test]
async fn calls_and_results_must_pair() {
    let Some(spec) = Spec::openai() else { return };
    let provider = start().await;
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "t", "arguments": "{}"}});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "done"});
    let asked = json!({"role": "user", "content": "go"});
    let calls = |ids: &[&str]| json!({"role": "assistant", "content": null, "tool_calls": ids.iter().map(|id| call(id)).collect::<Vec<_>>()});
    for (valid, messages) in [
        (
            true,
            vec![
                asked.clone(),
                calls(&["a", "b"]),
                result("b"),
                result("a"),
                asked.clone(),
            ],
        ),
        (false, vec![asked.clone(), calls(&["a", "b"]), result("a")]),
        (false, vec![asked.clone(), calls(&["a"]), asked.clone(), result("a")]),
        (false, vec![asked.clone(), calls(&["a"]), result("a"), result("a")]),
        (false, vec![asked.clone(), calls(&["a"]), result("a"), result("b")]),
        (false, vec![asked.clone(), result("a")]),
        (false, vec![asked.clone(), calls(&["a", "a"]), result("a"), result("a")]),
        (false, vec![asked.clone(), calls(&[])]),
    ] {
        let body = json!({"model": "m", "messages": messages});
        let answer = chat(&spec, &provider, body.clone()).await;
        assert_eq!(
            answer.status,
            if valid { 200 } else { 400 },
            "{body:#}\n{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn a_key_is_needed() {
    let Some(spec) = Spec::openai() else { return };
    let provider = start().await;
    let request = reqwest::Client::new()
        .post(format!("{}/v1/chat/completions", provider.base_url()))
        .json(&user("Hello!"));
    let answer = spec.call("/chat/completions", request).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.body["error"]["code"], "invalid_api_key");
}
