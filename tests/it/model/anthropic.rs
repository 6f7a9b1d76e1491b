//! Anthropic's adapter against its simulator, and against servers that send exactly what a test wants.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::llm::anthropic::{self, Anthropic, AnthropicConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::{Price, Usage};
use copilotd_actors::ports::{ModelError, ModelEvent, RefusedBy};
use copilotd_gateway::provider::{Piece, Timeouts, Upstream, UpstreamCall};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::model_request;
use copilotd_sim::Running;
use futures::StreamExt;
use serde_json::{Value, json};

use super::server::{Exchange, STREAM, Server};
use super::{KEY, PATIENT, request, text, weather};

/// Three dollars a million in, a tenth when cached, a quarter more when written to the cache, fifteen out.
const PRICE: Price = Price {
    cached_input: 300_000_000,
    cache_write: 3_750_000_000,
    ..Price::flat(3_000_000_000, 15_000_000_000)
};

fn model(base_url: &str) -> Anthropic {
    let mut config = AnthropicConfig::new("main", base_url, KEY.to_owned().into(), "claude-x");
    config.price = Some(PRICE);
    Anthropic::new(config, &ConnectionPool::default()).unwrap()
}

async fn simulator(knobs: Value) -> (Running, Anthropic) {
    let running = copilotd_sim::anthropic::start((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    control(&running, &json!({"first_ms": 0, "pace_ms": 0})).await;
    control(&running, &knobs).await;
    let model = model(&format!("{}/v1", running.base_url()));
    (running, model)
}

async fn control(running: &Running, knobs: &Value) {
    let url = format!("{}/_sim/knobs", running.base_url());
    let set = reqwest::Client::new().post(url).json(knobs).send().await.unwrap();
    assert!(set.status().is_success(), "{knobs}");
}

fn ask(more: &Value) -> UpstreamCall {
    let mut body = json!({"model": "default", "messages": [{"role": "user", "content": "Hello?"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks: true,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    }
}

fn prompt(text: &str) -> Value {
    json!({"stream": true, "messages": [{"role": "user", "content": text}]})
}

/// Reads a stream to its end; returns what came, and the error that ended it.
async fn stream(model: &Anthropic, call: &UpstreamCall) -> (Vec<Piece>, Option<ModelError>) {
    let mut pieces = match model.stream(call).await {
        Ok(pieces) => pieces,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut read = Vec::new();
    while let Some(item) = pieces.next().await {
        match item {
            Ok(piece) => read.push(piece),
            Err(error) => {
                assert!(pieces.next().await.is_none(), "an error is the last word");
                return (read, Some(error));
            }
        }
    }
    (read, None)
}

fn events(pieces: &[Piece]) -> Vec<ModelEvent> {
    pieces.iter().flat_map(|piece| piece.events.clone()).collect()
}

fn used(pieces: &[Piece]) -> Usage {
    let used: Vec<Usage> = events(pieces)
        .into_iter()
        .filter_map(|event| match event {
            ModelEvent::Usage(usage) => Some(usage),
            _ => None,
        })
        .collect();
    assert_eq!(used.len(), 1, "{pieces:?}");
    used[0]
}

#[tokio::test]
async fn a_stream_and_a_document_say_the_same_and_cost_the_same() {
    let (_running, model) = simulator(json!({})).await;
    let more = prompt("[[sim text=\"Käse für Ångström 🧀\"]]");
    let (pieces, error) = stream(&model, &ask(&more)).await;
    assert!(error.is_none(), "{error:?}");
    let said = events(&pieces);
    assert_eq!(said[0], ModelEvent::Model("claude-x".into()));
    assert_eq!(text(&said), "Käse für Ångström 🧀");
    assert_eq!(said.last(), Some(&ModelEvent::Finished(Finish::Stop)));
    let mut more = more;
    more["stream"] = json!(false);
    let whole = model.whole(&ask(&more)).await.unwrap();
    let body: Value = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "Käse für Ångström 🧀");
    assert_eq!(
        (body["object"].as_str(), whole.finish),
        (Some("chat.completion"), Finish::Stop)
    );
    assert!(body["created"].as_i64().unwrap() > 1_700_000_000, "{body}");
    assert_eq!(used(&pieces), whole.usage);
    let usage = whole.usage;
    assert!(usage.prompt_tokens > 0 && usage.completion_tokens > 0, "{usage:?}");
    assert_eq!(
        usage.cost,
        usage.prompt_tokens * 3_000 + usage.completion_tokens * 15_000
    );
}

#[tokio::test]
async fn cache_writes_and_reads_have_their_own_price() {
    let (_running, model) = simulator(json!({})).await;
    let part = json!({"type": "text", "text": "x".repeat(640), "cache_control": {"type": "ephemeral"}});
    let more = json!({"messages": [{"role": "system", "content": [part]}, {"role": "user", "content": "Hello?"}]});
    let first = model.whole(&ask(&more)).await.unwrap().usage;
    let second = model.whole(&ask(&more)).await.unwrap().usage;
    assert_eq!(first.prompt_tokens, second.prompt_tokens);
    assert!(first.cached_tokens == 0 && first.cache_write_tokens >= 160, "{first:?}");
    assert!(
        second.cached_tokens >= 160 && second.cache_write_tokens == 0,
        "{second:?}"
    );
    let cost = |usage: Usage| {
        let fresh = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens;
        fresh * 3_000 + usage.cached_tokens * 300 + usage.cache_write_tokens * 3_750 + usage.completion_tokens * 15_000
    };
    assert_eq!((first.cost, second.cost), (cost(first), cost(second)));
}

#[tokio::test]
async fn thinking_is_passed_on_beside_the_text_and_can_be_sent_back() {
    let (_running, model) = simulator(json!({})).await;
    let mut more = prompt("[[sim text=\"a b\"]]");
    more["thinking"] = json!({"type": "adaptive"});
    let (pieces, error) = stream(&model, &ask(&more)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text(&events(&pieces)), "a b");
    let deltas: Vec<Value> = pieces
        .iter()
        .filter_map(|piece| piece.chunk.as_ref())
        .map(|chunk| serde_json::from_slice::<Value>(chunk).unwrap()["choices"][0]["delta"].clone())
        .collect();
    let thought = "Let me think about that.";
    assert_eq!(deltas[1], json!({"reasoning_content": thought}));
    more["stream"] = json!(false);
    let whole = model.whole(&ask(&more)).await.unwrap();
    let body: Value = serde_json::from_slice(&whole.body).unwrap();
    let message = &body["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], thought);
    assert_eq!(message["thinking_blocks"], deltas[2]["thinking_blocks"]);
    more["messages"] = json!([more["messages"][0], message, {"role": "user", "content": "[[sim text=c]]"}]);
    assert!(model.whole(&ask(&more)).await.is_ok());
}

#[tokio::test]
async fn every_way_to_fail_has_its_class() {
    let (running, model) = simulator(json!({})).await;
    let brisk = Timeouts {
        first_token: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        ..PATIENT
    };
    for (fault, class, has_content) in [
        ("status=401", FailureClass::Key, false),
        ("status=402", FailureClass::Key, false),
        ("status=403", FailureClass::Key, false),
        ("status=404", FailureClass::Rejected, false),
        ("status=413", FailureClass::ContextLength, false),
        (
            "status=400 code=context_length_exceeded",
            FailureClass::ContextLength,
            false,
        ),
        ("status=400 code=content_filter", FailureClass::ContentPolicy, false),
        ("status=400 code=insufficient_quota", FailureClass::Key, false),
        ("status=400", FailureClass::Rejected, false),
        ("status=429 retry_after=7", FailureClass::Rate, false),
        ("status=500", FailureClass::Overload, false),
        ("status=503", FailureClass::Overload, false),
        ("status=529", FailureClass::Overload, false),
        ("tokens=9 cut_after=0", FailureClass::Cut, false),
        ("tokens=9 cut_after=9", FailureClass::Cut, true),
        ("tokens=9 end_without_finish_after=9", FailureClass::Cut, true),
        ("tokens=9 malformed=1", FailureClass::Malformed, true),
        ("tokens=0", FailureClass::Malformed, false),
        ("tokens=9 stream_error=overloaded_error", FailureClass::Overload, true),
        ("tokens=9 stream_error=rate_limit_error", FailureClass::Rate, true),
        ("tokens=9 first_ms=60000", FailureClass::TimedOut, false),
        ("tokens=9 stall_after=0 keepalive_ms=20", FailureClass::TimedOut, false),
        ("tokens=9 stall_after=9 keepalive_ms=20", FailureClass::TimedOut, true),
        ("tool=f args={\"abcdef\":1} cut_after=4", FailureClass::Cut, true),
    ] {
        control(&running, &json!({ "fault": fault })).await;
        let mut call = ask(&prompt("Hello?"));
        call.timeouts = brisk;
        let (pieces, error) = stream(&model, &call).await;
        let error = error.unwrap_or_else(|| panic!("{fault}: {pieces:?}"));
        assert_eq!(error.class, class, "{fault}: {error}");
        assert_eq!(pieces.iter().any(|piece| piece.content), has_content, "{fault}");
        let told = events(&pieces);
        assert!(
            !told.iter().any(|event| matches!(event, ModelEvent::Finished(_))),
            "{fault}"
        );
        assert!(
            error.message.starts_with("model main: ") && !error.message.contains(KEY),
            "{fault}: {error}"
        );
        let wait = fault.contains("retry_after").then_some(Duration::from_secs(7));
        assert_eq!(error.retry_after, wait, "{fault}");
        let ends = pieces.iter().filter_map(|piece| piece.chunk.as_ref());
        let reasons =
            ends.map(|chunk| serde_json::from_slice::<Value>(chunk).unwrap()["choices"][0]["finish_reason"].clone());
        // If there was no content, the end has come; the gateway holds it back until there is content.
        let is_ended = reasons.into_iter().any(|reason| !reason.is_null());
        assert_eq!(
            is_ended,
            fault == "tokens=0",
            "{fault}: an end is sent only once it has come"
        );
        // What had begun is accounted for.
        assert_eq!(
            told.iter().any(|event| matches!(event, ModelEvent::Usage(_))),
            has_content,
            "{fault}"
        );
    }
}

#[tokio::test]
async fn an_end_by_the_content_filter_is_passed_on_in_chunks_and_otherwise_a_failure() {
    let (_running, model) = simulator(json!({})).await;
    let mut call = ask(&prompt("[[sim text=\"a b\" finish=content_filter]]"));
    let (pieces, error) = stream(&model, &call).await;
    assert!(error.is_none(), "{error:?}");
    let last = pieces
        .iter()
        .filter_map(|piece| piece.chunk.as_ref())
        .next_back()
        .unwrap();
    let last: Value = serde_json::from_slice(last).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(events(&pieces).last(), Some(&ModelEvent::Finished(Finish::Length)));
    call.chunks = false;
    let (_, error) = stream(&model, &call).await;
    assert_eq!(error.unwrap().class, FailureClass::ContentPolicy);
}

#[tokio::test]
async fn a_request_carries_the_key_and_the_version_and_is_sent_only_if_supported() {
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut exchange: Exchange| {
        let sender = sender.clone();
        async move {
            sender.send((exchange.head.clone(), exchange.body.clone())).unwrap();
            exchange.write(STREAM).await;
            exchange.closed().await;
            None
        }
    })
    .await;
    let mut config = AnthropicConfig::new("main", &server.url, KEY.to_owned().into(), "claude-x");
    config.headers = vec![("anthropic-beta".to_owned(), "some-beta".to_owned().into())];
    let model = Anthropic::new(config, &ConnectionPool::default()).unwrap();
    let error = model
        .stream(&ask(&json!({"stream": true, "n": 2})))
        .await
        .err()
        .unwrap();
    assert_eq!(error.class, FailureClass::Rejected);
    assert_eq!(error.refusal.unwrap().by, RefusedBy::Adapter);
    let opened = model.stream(&ask(&json!({"stream": true}))).await;
    let (head, body) = heads.recv().await.unwrap();
    drop(opened);
    assert!(head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{head}");
    for header in [
        format!("x-api-key: {KEY}"),
        "anthropic-version: 2023-06-01".to_owned(),
        "anthropic-beta: some-beta".to_owned(),
        "accept: text/event-stream".to_owned(),
    ] {
        assert!(head.contains(&format!("{header}\r\n")), "{header}: {head}");
    }
    assert!(!head.contains("authorization"), "{head}");
    let expected = json!({
        "model": "claude-x", "max_tokens": 4096, "stream": true,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_dropped_stream_closes_the_providers_connection() {
    let (running, model) = simulator(json!({"fault": "tokens=9 stall_after=5"})).await;
    let mut pieces = model.stream(&ask(&prompt("Hello?"))).await.unwrap();
    while !pieces.next().await.unwrap().unwrap().content {}
    drop(pieces);
    let url = format!("{}/_sim/state", running.base_url());
    let left = async {
        loop {
            let state: Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
            if state["closed_by_client"]["count"] == 1 && state["open_streams"] == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), left)
        .await
        .expect("the connection stays open");
}

#[test]
fn every_request_satisfies_anthropics_description() {
    let Some(specs) = request::specs() else { return };
    let text = std::fs::read_to_string(specs.join("anthropic/sdk_2.12.0.schemas.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let schema = &document["MessageCreateParamsStreaming"];
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .build(schema)
        .unwrap();
    // The description forbids too little to trust it blindly: it has to reject this.
    assert!(!validator.is_valid(&json!({"model": "m", "messages": []})));
    let mut offering = request();
    offering.tools = Arc::new(vec![weather()]);
    for request in [request(), request::full(), offering] {
        let manner = anthropic::TranslateOptions {
            model: "claude-x",
            max_tokens: 4096,
            stream: true,
            is_checked: true,
        };
        let body = anthropic::write(&model_request::body(&request).unwrap(), manner).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        for name in body.as_object().unwrap().keys() {
            assert!(
                schema["properties"].get(name).is_some(),
                "{name} is no field of the description"
            );
        }
    }
}
