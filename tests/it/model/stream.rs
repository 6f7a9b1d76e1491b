//! Answers that succeed.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelEvent;
use serde_json::{Value, json};

use super::server::{DONE, Exchange, STREAM, Server, UNTIL_CLOSE, chunked, delta, event, finish, said, usage};
use super::{KEY, PATIENT, ask, model, request, text, weather};

fn call(index: usize, name: Option<&str>, arguments: &str) -> ModelEvent {
    ModelEvent::ToolCall {
        index,
        name: name.map(str::to_owned),
        arguments: arguments.to_owned(),
    }
}

/// The assembled calls of an answer.
fn calls(events: &[ModelEvent]) -> Vec<ModelEvent> {
    let mut calls: std::collections::BTreeMap<usize, (Option<String>, String)> = std::collections::BTreeMap::new();
    for event in events {
        if let ModelEvent::ToolCall { index, name, arguments } = event {
            let call = calls.entry(*index).or_default();
            call.0 = name.clone().or(call.0.take());
            call.1 += arguments;
        }
    }
    let whole = calls.into_iter();
    whole
        .map(|(index, (name, arguments))| call(index, name.as_deref(), &arguments))
        .collect()
}

fn used(events: &[ModelEvent]) -> Usage {
    let usages: Vec<Usage> = events
        .iter()
        .filter_map(|event| match event {
            ModelEvent::Usage(usage) => Some(*usage),
            _ => None,
        })
        .collect();
    assert_eq!(usages.len(), 1, "{events:?}");
    usages[0]
}

#[tokio::test]
async fn an_answer_is_its_model_texts_usage_and_finish_in_this_order() {
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut exchange: Exchange| {
        let sender = sender.clone();
        async move {
            sender.send((exchange.head.clone(), exchange.body.clone())).unwrap();
            exchange.write(STREAM).await;
            exchange
                .chunk(delta(json!({"role": "assistant", "content": "", "refusal": null})))
                .await;
            exchange.chunk(": ping\n\n").await;
            exchange.chunk(said("Hel") + &said("lo 🧀")).await;
            exchange.chunk(finish("stop")).await;
            exchange.chunk(usage(1_000, 2, 400)).await;
            exchange.chunk(DONE).await;
            exchange.write("0\r\n\r\n").await;
            Some(exchange)
        }
    })
    .await;
    let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        events,
        [
            ModelEvent::Model("gpt-test-0613".into()),
            ModelEvent::Text("Hel".into()),
            ModelEvent::Text("lo 🧀".into()),
            ModelEvent::Usage(Usage {
                prompt_tokens: 1_000,
                completion_tokens: 2,
                cached_tokens: 400,
                cost: 600 * 2_500 + 400 * 250 + 2 * 10_000,
                ..Usage::default()
            }),
            ModelEvent::Finished(Finish::Stop),
        ]
    );
    let (head, body) = heads.recv().await.unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {KEY}\r\n")), "{head}");
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn bytes_may_be_split_anywhere() {
    let stream = format!(
        "\u{feff}: hi\r\n\r\n{}{}{}{}{}",
        said("Käse 🧀"),
        said("für Ångström").replace('\n', "\r\n"),
        delta(
            json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "get_weather", "arguments": "{\"city\":\"Łódź\"}"}}]})
        ),
        finish("tool_calls"),
        usage(10, 5, 0),
    );
    for step in [1, 2, 3, 7] {
        let mut body = STREAM.as_bytes().to_vec();
        body.extend(stream.as_bytes().chunks(step).flat_map(chunked));
        body.extend(b"0\r\n\r\n");
        let server = Server::canned(body).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(text(&events), "Käse 🧀für Ångström");
        assert_eq!(calls(&events), [call(0, Some("get_weather"), "{\"city\":\"Łódź\"}")]);
    }
}

#[tokio::test]
async fn calls_come_in_pieces_and_dialects() {
    let piece = |call: Value| delta(json!({"tool_calls": [call]}));
    let openai = [
        piece(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "get_weather", "arguments": ""}})),
        piece(json!({"index": 0, "function": {"arguments": "{\"city\":"}})),
        piece(json!({"index": 1, "id": "b", "type": "function", "function": {"name": "get_time", "arguments": "{}"}})),
        piece(json!({"index": 0, "function": {"arguments": "\"Bonn\"}"}})),
    ];
    let repeated_names = [
        piece(json!({"index": 0, "id": "a", "function": {"name": "get_weather", "arguments": "{\"city\":"}})),
        piece(json!({"index": 0, "id": "a", "function": {"name": "get_weather", "arguments": "\"Bonn\"}"}})),
        piece(json!({"index": 0, "id": null, "function": {"name": "", "arguments": null}})),
    ];
    let without_index = [
        piece(json!({"id": "a", "function": {"name": "get_weather", "arguments": "{}"}})),
        piece(json!({"id": "b", "function": {"name": "get_time", "arguments": "{"}})),
        piece(json!({"function": {"arguments": "}"}})),
    ];
    for (pieces, reason, expected) in [
        (
            openai.concat(),
            "tool_calls",
            vec![
                call(0, Some("get_weather"), "{\"city\":\"Bonn\"}"),
                call(1, Some("get_time"), "{}"),
            ],
        ),
        (
            repeated_names.concat(),
            "stop",
            vec![call(0, Some("get_weather"), "{\"city\":\"Bonn\"}")],
        ),
        (
            without_index.concat(),
            "tool_calls",
            vec![call(0, Some("get_weather"), "{}"), call(1, Some("get_time"), "{}")],
        ),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{pieces}{}", finish(reason))).await;
        let mut request = request();
        request.tools = Arc::new(vec![weather()]);
        let (events, error) = ask(&model(&server.url, PATIENT), request).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(calls(&events), expected);
        assert_eq!(events.last(), Some(&ModelEvent::Finished(Finish::ToolCalls)));
    }
}

#[tokio::test]
async fn servers_may_say_less_or_more_than_the_protocol() {
    let bare = |choice: Value| format!("data: {}\n\n", json!({"choices": [choice]}));
    for (what, stream, expected, ending) in [
        ("no [DONE]", said("a") + &finish("stop"), "a", Finish::Stop),
        ("[DONE] and no reason", said("a") + DONE, "a", Finish::Stop),
        (
            "no last empty line",
            said("a") + finish("length").trim_end(),
            "a",
            Finish::Length,
        ),
        (
            "no ids, no nulls",
            bare(json!({"delta": {"content": "a"}})) + &bare(json!({"finish_reason": "stop"})),
            "a",
            Finish::Stop,
        ),
        (
            "text beside the end",
            bare(json!({"delta": {"content": "a"}, "finish_reason": "stop"})),
            "a",
            Finish::Stop,
        ),
        ("a word of its own", said("a") + &finish("eos_token"), "a", Finish::Stop),
        (
            "reasoning is not text",
            delta(json!({"reasoning_content": "hm", "content": null})) + &said("a") + &finish("stop"),
            "a",
            Finish::Stop,
        ),
        (
            "a refusal without schema",
            delta(json!({"refusal": "I can't."})) + &finish("stop"),
            "I can't.",
            Finish::Stop,
        ),
        (
            "a second choice",
            bare(json!({"index": 1, "delta": {"content": "x"}})) + &said("a") + &finish("stop"),
            "a",
            Finish::Stop,
        ),
        (
            "error: null",
            format!("data: {}\n\n", json!({"choices": [], "error": null})) + &said("a") + &finish("stop"),
            "a",
            Finish::Stop,
        ),
        (
            "nonsense after the end",
            said("a") + &finish("stop") + "data: oops\n\n",
            "a",
            Finish::Stop,
        ),
        (
            "nothing but an end, and tokens for it",
            finish("stop") + &usage(9, 1, 0),
            "",
            Finish::Stop,
        ),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert!(error.is_none(), "{what}: {error:?}");
        assert_eq!(text(&events), expected, "{what}");
        assert_eq!(events.last(), Some(&ModelEvent::Finished(ending)), "{what}");
    }
}

#[tokio::test]
async fn unreported_usage_is_estimated() {
    for report in [String::new(), usage(0, 0, 0)] {
        let stream = said("one two three") + &finish("stop") + &report + DONE;
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert!(error.is_none(), "{error:?}");
        let used = used(&events);
        assert_eq!(used.completion_tokens, 3);
        // "Be brief." and "Hello?" are five tokens; the protocol adds its own.
        assert!((10..=16).contains(&used.prompt_tokens), "{used:?}");
        assert_eq!(used.cost, used.prompt_tokens * 2_500 + 3 * 10_000);
    }
}

#[tokio::test]
async fn usage_beside_each_chunk_is_taken_once_and_last() {
    let with_usage = |text: &str, completion: u64| {
        event(
            json!([{"index": 0, "delta": {"content": text}}]),
            json!({"prompt_tokens": 9, "completion_tokens": completion, "total_tokens": 9 + completion}),
        )
    };
    let stream = with_usage("a", 1) + &with_usage("b", 2) + &finish("stop");
    let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
    let (events, _) = ask(&model(&server.url, PATIENT), request()).await;
    assert_eq!((used(&events).prompt_tokens, used(&events).completion_tokens), (9, 2));
}

#[tokio::test]
async fn an_answer_that_is_whole_does_not_wait_for_a_connection_that_stays_open() {
    let server = Server::start(|mut exchange: Exchange| async move {
        exchange.write(STREAM).await;
        exchange.chunk(said("a") + &finish("stop")).await;
        exchange.closed().await;
        None
    })
    .await;
    let model = model(&server.url, PATIENT);
    let asked = ask(&model, request());
    let (events, error) = tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text(&events), "a");
}

#[tokio::test]
async fn a_finished_connection_serves_the_next_request() {
    let server = Server::start(|mut exchange: Exchange| async move {
        exchange.write(STREAM).await;
        exchange
            .chunk([said("a"), finish("stop"), usage(1, 1, 0), DONE.to_owned()].concat())
            .await;
        // Frameworks end the body a moment after the last event.
        tokio::task::yield_now().await;
        exchange.write("0\r\n\r\n").await;
        Some(exchange)
    })
    .await;
    let model = model(&server.url, PATIENT);
    for _ in 0..50 {
        let (events, error) = ask(&model, request()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(text(&events), "a");
    }
    // The next request may be faster than the end of the last body, so it may find that connection still busy.
    assert!(server.connections() < 10, "{} connections", server.connections());
}
