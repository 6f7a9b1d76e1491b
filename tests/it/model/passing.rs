//! What a caller wrote reaches the provider, and what the provider wrote reaches the caller, byte for byte.

use std::sync::Arc;

use copilotd::adapters::llm::openai::{Auth, OpenAi, OpenAiConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::ports::ModelEvent;
use copilotd_gateway::provider::{Upstream, UpstreamCall};
use copilotd_gateway::request::body::ChatBody;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::server::{DONE, Exchange, Server, UNTIL_CLOSE, event, finish, said, usage};
use super::{PATIENT, config};

fn call(body: &str) -> UpstreamCall {
    UpstreamCall {
        body: Arc::new(ChatBody::parse(body.as_bytes()).unwrap()),
        timeouts: PATIENT,
        chunks: true,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    }
}

/// Sends `answer` to everybody, and reports the requests.
async fn server(answer: String) -> (Server, mpsc::UnboundedReceiver<(String, Value)>) {
    let (sender, asked) = mpsc::unbounded_channel();
    let server = Server::start(move |mut exchange: Exchange| {
        let (answer, sender) = (answer.clone(), sender.clone());
        async move {
            sender.send((exchange.head.clone(), exchange.body.clone())).unwrap();
            exchange.write(answer).await;
            None
        }
    })
    .await;
    (server, asked)
}

/// The chunks of a streamed answer, and its events.
async fn stream(url: &str, body: &str) -> (Vec<String>, Vec<ModelEvent>) {
    let upstream = OpenAi::new(config(url, PATIENT), &ConnectionPool::default()).unwrap();
    let mut pieces = upstream.stream(&call(body)).await.unwrap();
    let (mut chunks, mut events) = (Vec::new(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        chunks.extend(piece.chunk.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()));
        events.extend(piece.events);
    }
    (chunks, events)
}

const PLAIN: &str = r#"{"model":"route","messages":[{"role":"user","content":"hi"}],"stream":true}"#;

#[tokio::test]
async fn unknown_fields_are_passed_on_and_only_the_deployments_own_fields_change() {
    let (server, mut asked) = server(format!("{UNTIL_CLOSE}{}{}{DONE}", said("a"), finish("stop"))).await;
    let body = r#"{"seed":7,"model":"route","x_new":{"b":1.0,"a":[null]},"messages":[],"stream":true,
        "stream_options":{"include_obfuscation":false},"max_completion_tokens":9,"parallel_tool_calls":false}"#;
    stream(&server.url, body).await;
    let (_, body) = asked.recv().await.unwrap();
    let expected = json!({
        "seed": 7, "model": "gpt-test", "x_new": {"b": 1.0, "a": [null]}, "messages": [], "stream": true,
        "stream_options": {"include_obfuscation": false, "include_usage": true},
        "parallel_tool_calls": false, "max_tokens": 9,
    });
    assert_eq!(body, expected);
    let order: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(order[..4], ["seed", "model", "x_new", "messages"]);
}

#[tokio::test]
async fn chunks_are_passed_on_unchanged_and_usage_only_on_request() {
    let odd = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"caf\\u00e9\",\"x\":1.50}}], \"own\":{ }}\n\n";
    let answer = [odd, &finish("stop"), &usage(9, 2, 1), DONE].concat();
    let (server, _asked) = server(format!("{UNTIL_CLOSE}{answer}")).await;
    let (chunks, events) = stream(&server.url, PLAIN).await;
    assert_eq!(chunks[0], odd.trim_start_matches("data: ").trim_end());
    assert_eq!(chunks.len(), 2, "{chunks:?}");
    assert!(events.contains(&ModelEvent::Text("café".to_owned())));
    assert_eq!(events.last(), Some(&ModelEvent::Finished(Finish::Stop)));

    let asking = PLAIN.replace("true}", r#"true,"stream_options":{"include_usage":true}}"#);
    let (chunks, _) = stream(&server.url, &asking).await;
    let last: Value = serde_json::from_str(chunks.last().unwrap()).unwrap();
    assert_eq!((chunks.len(), &last["usage"]["prompt_tokens"]), (3, &json!(9)));
}

#[tokio::test]
async fn requested_usage_that_is_not_reported_is_estimated() {
    let (server, _asked) = server(format!(
        "{UNTIL_CLOSE}{}{}{DONE}",
        said("one two three"),
        finish("stop")
    ))
    .await;
    let asking = PLAIN.replace("true}", r#"true,"stream_options":{"include_usage":true}}"#);
    let (chunks, _) = stream(&server.url, &asking).await;
    let last: Value = serde_json::from_str(chunks.last().unwrap()).unwrap();
    assert_eq!(last["object"], "chat.completion.chunk");
    assert_eq!(
        (&last["id"], &last["model"]),
        (&json!("chatcmpl-1"), &json!("gpt-test-0613"))
    );
    assert_eq!(
        (&last["choices"], &last["usage"]["completion_tokens"]),
        (&json!([]), &json!(3))
    );
}

#[tokio::test]
async fn every_choice_is_waited_for() {
    let choice = |index: u64, delta: Value, finish: Value| {
        event(
            json!([{"index": index, "delta": delta, "finish_reason": finish}]),
            Value::Null,
        )
    };
    let answer = [
        choice(0, json!({"content": "a"}), Value::Null),
        choice(1, json!({"content": "b"}), Value::Null),
        choice(0, json!({}), json!("stop")),
        choice(1, json!({"content": "c"}), json!("stop")),
        DONE.to_owned(),
    ]
    .concat();
    let (whole, _asked) = server(format!("{UNTIL_CLOSE}{answer}")).await;
    let two = PLAIN.replace("true}", r#"true,"n":2}"#);
    let (chunks, events) = stream(&whole.url, &two).await;
    // The text of the last one is sent at once, and its finish reason when nothing followed.
    assert_eq!(chunks.len(), 5, "{chunks:?}");
    let texts: Vec<&ModelEvent> = events
        .iter()
        .filter(|event| matches!(event, ModelEvent::Text(_)))
        .collect();
    assert_eq!(texts, [&ModelEvent::Text("a".to_owned())]);

    let half = answer.split_inclusive("\n\n").take(3).collect::<String>();
    let (cut, _asked) = server(format!("{UNTIL_CLOSE}{half}{DONE}")).await;
    let upstream = OpenAi::new(config(&cut.url, PATIENT), &ConnectionPool::default()).unwrap();
    let pieces: Vec<_> = upstream.stream(&call(&two)).await.unwrap().collect().await;
    assert!(pieces.last().unwrap().is_err(), "one choice has not ended");
}

#[tokio::test]
async fn what_a_provider_says_to_the_caller_is_the_callers_to_read() {
    let refusal = event(
        json!([{"index": 0, "delta": {"refusal": "I can't."}, "finish_reason": null}]),
        Value::Null,
    );
    for (answer, ending) in [
        (said("so") + &finish("content_filter"), Finish::Length),
        (refusal + &finish("stop"), Finish::Stop),
    ] {
        let (server, _asked) = server(format!("{UNTIL_CLOSE}{answer}{DONE}")).await;
        let body = PLAIN.replace(
            "true}",
            r#"true,"response_format":{"type":"json_schema","json_schema":{}}}"#,
        );
        let (chunks, events) = stream(&server.url, &body).await;
        assert_eq!(chunks.len(), 2);
        assert_eq!(events.last(), Some(&ModelEvent::Finished(ending)));
    }
}

#[tokio::test]
async fn a_document_is_passed_on_unchanged() {
    let document = r#"{"id":"x", "model":"gpt-0613","choices":[{"message":{"content":"hi","x":1.50},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":9,"completion_tokens":2},"own":[ ]}"#;
    let length = document.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    let (server, mut asked) = server(head + document).await;
    let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
    let answer = upstream
        .whole(&call(&PLAIN.replace(r#","stream":true"#, "")))
        .await
        .unwrap();
    assert_eq!(answer.body, document);
    assert_eq!((answer.model.as_str(), answer.finish), ("gpt-0613", Finish::Stop));
    assert_eq!((answer.usage.prompt_tokens, answer.usage.completion_tokens), (9, 2));
    assert!(answer.usage.cost > 0);
    let (_, body) = asked.recv().await.unwrap();
    assert_eq!(
        body,
        json!({"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]})
    );
}

#[tokio::test]
async fn azure_gets_its_version_and_its_header() {
    let (server, mut asked) = server(format!("{UNTIL_CLOSE}{}{}{DONE}", said("a"), finish("stop"))).await;
    let url = format!(
        "{}?api-version=2024-10-21",
        server.url.replace("/v1", "/openai/deployments/d")
    );
    let mut config = OpenAiConfig::new("azure", &url, "sk-azure".to_owned().into(), "gpt");
    assert_eq!(config.auth, Auth::Bearer);
    assert_eq!(
        Auth::of("https://x.openai.azure.com/openai/deployments/d"),
        Auth::ApiKey
    );
    config.auth = Auth::ApiKey;
    let upstream = OpenAi::new(config, &ConnectionPool::default()).unwrap();
    let _pieces: Vec<_> = upstream.stream(&call(PLAIN)).await.unwrap().collect().await;
    let (head, _) = asked.recv().await.unwrap();
    assert!(
        head.starts_with("POST /openai/deployments/d/chat/completions?api-version=2024-10-21 "),
        "{head}"
    );
    assert!(
        head.contains("api-key: sk-azure\r\n") && !head.contains("authorization"),
        "{head}"
    );
}
