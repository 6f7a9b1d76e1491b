//! Servers that follow OpenAI's protocol loosely: what a turn reads from their streams, and what a client of the
//! endpoint gets.

use std::sync::Arc;

use copilotd::adapters::llm::openai::OpenAi;
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::{Upstream, UpstreamCall};
use copilotd_gateway::request::body::ChatBody;
use futures::StreamExt;
use serde_json::{Value, json};

use super::server::{DONE, Server, UNTIL_CLOSE, delta, event, finish, said, usage};
use super::strict_client::{Heard, heard};
use super::{PATIENT, ask, config, model, request, text, weather};

/// The calls of an answer as a turn's agent reads them.
pub fn calls(events: &[ModelEvent]) -> Vec<(String, String)> {
    let mut calls = std::collections::BTreeMap::<usize, (String, String)>::new();
    for event in events {
        if let ModelEvent::ToolCall { index, name, arguments } = event {
            let call = calls.entry(*index).or_default();
            if let Some(name) = name {
                call.0.clone_from(name);
            }
            call.1 += arguments;
        }
    }
    calls.into_values().filter(|(name, _)| !name.is_empty()).collect()
}

/// What a client of the endpoint gets: chunks, and the error that ends them.
pub async fn sent(upstream: &dyn Upstream) -> (Vec<String>, Option<ModelError>) {
    let body = json!({
        "model": "route", "messages": [{"role": "user", "content": "hi"}], "stream": true,
        "stream_options": {"include_usage": true},
        "tools": [
            {"type": "function", "function": {"name": "look"}},
            {"type": "function", "function": {"name": "send"}},
            {"type": "function", "function": {"name": "get_weather"}},
        ],
    });
    let call = UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks: true,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    };
    let mut pieces = match upstream.stream(&call).await {
        Ok(pieces) => pieces,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut chunks = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => chunks.extend(piece.chunk.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap())),
            Err(error) => return (chunks, Some(error)),
        }
    }
    (chunks, None)
}

fn data(value: Value) -> String {
    format!("data: {value}\n\n")
}

/// A chunk with one piece of a call.
pub fn call(call: Value) -> String {
    delta(json!({"tool_calls": [call]}))
}

/// The expected result of a stream.
pub struct Case {
    what: &'static str,
    stream: Vec<u8>,
    text: &'static str,
    calls: &'static [(&'static str, &'static str)],
    finish: Finish,
}

fn case(what: &'static str, stream: impl Into<Vec<u8>>, text: &'static str) -> Case {
    Case {
        what,
        stream: stream.into(),
        text,
        calls: &[],
        finish: Finish::Stop,
    }
}

pub fn calling(what: &'static str, stream: impl Into<Vec<u8>>, calls: &'static [(&'static str, &'static str)]) -> Case {
    Case {
        calls,
        finish: Finish::ToolCalls,
        ..case(what, stream, "")
    }
}

pub const A: &str = r#"{"ticket_id":11}"#;
pub const B: &str = r#"{"ticket_id":12}"#;

fn texts() -> Vec<Case> {
    let end = || finish("stop") + DONE;
    let with = |members: Value| {
        let mut chunk = json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {"content": "Bon"}, "finish_reason": null}]});
        for (name, value) in members.as_object().unwrap() {
            chunk[name] = value.clone();
        }
        data(chunk) + &end()
    };
    let choice = |choice: Value| data(json!({"id": "x", "created": 1, "model": "m", "choices": choice})) + &end();
    let parts =
        json!([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Bon"}]);
    let mut cases = vec![
        case(
            "F03 a pair cut in two",
            r#"data: {"choices":[{"index":0,"delta":{"content":"go \ud83d"}}]}

data: {"choices":[{"index":0,"delta":{"content":"\ude80 now"}}]}

"#
            .to_owned()
                + &end(),
            "go 🚀 now",
        ),
        case(
            "half a pair",
            r#"data: {"choices":[{"index":0,"delta":{"content":"go \ud83d"}}]}

"#
            .to_owned()
                + &end(),
            "go \u{fffd}",
        ),
        case("F04 parts", delta(json!({"content": parts})) + &end(), "Bon"),
        case("F10 a float", with(json!({"created": 1_746_709_563.49})), "Bon"),
        case("F10 a text", with(json!({"created": "yesterday"})), "Bon"),
        case(
            "numbers for names",
            with(json!({"id": 7, "model": 7, "system_fingerprint": [1], "service_tier": {}})),
            "Bon",
        ),
        case(
            "nulls for names",
            with(json!({"id": null, "model": null, "object": null, "created": null, "usage": null})),
            "Bon",
        ),
        case("another object", with(json!({"object": "text_completion"})), "Bon"),
        case("no error", with(json!({"error": null})), "Bon"),
        case(
            "an empty error",
            with(json!({"error": {"code": 0, "message": ""}})),
            "Bon",
        ),
        case(
            "F11 empty data",
            format!("data:\n\n{}data: \n\n{}", said("B"), said("on")) + &end(),
            "Bon",
        ),
        case(
            "F11 a ping",
            format!("event: ping\ndata: \n\n{}event: ping\ndata: {{}}\n\n", said("Bon")) + &end(),
            "Bon",
        ),
        case(
            "comments, ids, retries, names",
            format!(": x\n\nid: 1\nretry: 5\nevent: message\n{}:\n", said("Bon")) + &end(),
            "Bon",
        ),
        case(
            "a heartbeat without choices",
            data(json!({"type": "ping"})) + &said("Bon") + &end(),
            "Bon",
        ),
        case(
            "no choices at the beginning",
            data(json!({"choices": [], "prompt_filter_results": []})) + &said("Bon") + &end(),
            "Bon",
        ),
        case(
            "null choices",
            data(json!({"choices": null})) + &said("Bon") + &end(),
            "Bon",
        ),
        case(
            "odd choices",
            choice(json!([null, 7, {"index": 0, "delta": {"content": "Bon"}}])),
            "Bon",
        ),
        case(
            "one choice, and no list",
            choice(json!({"index": 0, "delta": {"content": "Bon"}})),
            "Bon",
        ),
        case(
            "no delta",
            choice(json!([{"index": 0, "delta": null}])).replace(&end(), "") + &said("Bon") + &end(),
            "Bon",
        ),
        case("no index", choice(json!([{"delta": {"content": "Bon"}}])), "Bon"),
        case(
            "an index as text",
            choice(json!([{"index": "0", "delta": {"content": "Bon"}}])),
            "Bon",
        ),
        case(
            "an index as float",
            choice(json!([{"index": 0.0, "delta": {"content": "Bon"}}])),
            "Bon",
        ),
        case(
            "a role in every chunk",
            delta(json!({"role": "assistant", "content": "B"}))
                + &delta(json!({"role": "assistant", "content": "on"}))
                + &end(),
            "Bon",
        ),
        case(
            "an odd role",
            delta(json!({"role": 7, "content": "Bon"})) + &end(),
            "Bon",
        ),
        case(
            "nulls everywhere",
            delta(
                json!({"role": null, "content": "Bon", "refusal": null, "tool_calls": null, "function_call": null, "reasoning": null, "reasoning_content": null, "audio": null}),
            ) + &end(),
            "Bon",
        ),
        case(
            "no calls",
            delta(json!({"content": "Bon", "tool_calls": []})) + &end(),
            "Bon",
        ),
        case(
            "calls that are nothing",
            delta(json!({"content": "Bon", "tool_calls": [null, 7, {"index": 0, "function": null}]})) + &end(),
            "Bon",
        ),
        case(
            "a text of a number",
            delta(json!({"content": "Bon "})) + &delta(json!({"content": 12})) + &end(),
            "Bon 12",
        ),
        case(
            "a message",
            choice(json!([{"index": 0, "message": {"role": "assistant", "content": "Bon"}}])),
            "Bon",
        ),
        case(
            "all of it again at the end",
            said("Bon") + &choice(json!([{"index": 0, "message": {"content": "Bon"}, "finish_reason": "stop"}])),
            "Bon",
        ),
        case("an old completion", choice(json!([{"index": 0, "text": "Bon"}])), "Bon"),
        case(
            "odd probabilities",
            choice(json!([{"index": 0, "delta": {"content": "Bon"}, "logprobs": "none", "x": {"y": []}}])),
            "Bon",
        ),
        case(
            "NaN",
            r#"data: {"choices":[{"index":0,"delta":{"content":"Bon"},"logprobs":{"x":NaN}}]}

"#
            .to_owned()
                + &end(),
            "Bon",
        ),
        case(
            "a member twice",
            r#"data: {"choices":[{"index":0,"delta":{"content":"x","content":"Bon"}}]}

"#
            .to_owned()
                + &end(),
            "Bon",
        ),
        case(
            "half a pair in a member that is passed on",
            r#"data: {"x":"\ud83d","choices":[{"index":0,"delta":{"content":"Bon","y":"\ude80"}}]}

"#
            .to_owned()
                + &end(),
            "Bon",
        ),
        case(
            "no UTF-8 in a member that is passed on",
            [
                b"data: {\"model\":\"\xff\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Bon\"}}]}\n\n".to_vec(),
                end().into_bytes(),
            ]
            .concat(),
            "Bon",
        ),
        case(
            "CR alone",
            said("Bon").replace('\n', "\r") + &end().replace('\n', "\r"),
            "Bon",
        ),
        case("a byte order mark", format!("\u{feff}{}", said("Bon")) + &end(), "Bon"),
        case(
            "data in several lines",
            "data: {\"choices\":[\ndata: {\"index\":0,\ndata: \"delta\":{\"content\":\"Bon\"}}]}\n\n".to_owned()
                + &end(),
            "Bon",
        ),
        case(
            "no empty lines between",
            (said("B") + &said("on") + &end()).replace("\n\n", "\n"),
            "Bon",
        ),
        case(
            "one choice in two parts",
            choice(json!([{"index": 0, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "on"}}])),
            "Bon",
        ),
        case(
            "a delta that is a text",
            choice(json!([{"index": 0, "delta": "Bon"}])),
            "Bon",
        ),
        case(
            "no space, no last line",
            said("Bon").replace("data: ", "data:") + end().trim_end(),
            "Bon",
        ),
        case("[done]", said("Bon") + &finish("stop") + "data: \"[done]\"\n\n", "Bon"),
        case(
            "a reason in every chunk",
            event(
                json!([{"index": 0, "delta": {"content": "B"}, "finish_reason": "stop"}]),
                Value::Null,
            ) + &event(
                json!([{"index": 0, "delta": {"content": "on"}, "finish_reason": "stop"}]),
                Value::Null,
            ) + DONE,
            "Bon",
        ),
        case(
            "an empty reason in every chunk",
            event(
                json!([{"index": 0, "delta": {"content": "B"}, "finish_reason": ""}]),
                Value::Null,
            ) + &event(
                json!([{"index": 0, "delta": {"content": "on"}, "finish_reason": "null"}]),
                Value::Null,
            ) + &end(),
            "Bon",
        ),
        case(
            "a reason that is taken back, and another one",
            said("B") + &finish("stop") + &said("on") + &end(),
            "Bon",
        ),
        case("a reason twice", said("Bon") + &finish("stop") + &end(), "Bon"),
        case(
            "an empty delta behind the reason",
            said("Bon") + &finish("stop") + &delta(json!({"content": ""})) + DONE,
            "Bon",
        ),
        case("STOP", said("Bon") + &finish("STOP") + DONE, "Bon"),
        case("end_turn", said("Bon") + &finish("end_turn"), "Bon"),
        case("no reason, and [DONE]", said("Bon") + DONE, "Bon"),
        case(
            "an error behind the end",
            said("Bon") + &finish("stop") + &data(json!({"error": {"message": "x"}})),
            "Bon",
        ),
        case(
            "a list of chunks",
            format!(
                "data: [{}]\n\n",
                json!({"choices": [{"index": 0, "delta": {"content": "Bon"}}]})
            ) + &end(),
            "Bon",
        ),
        case(
            "n: 1 answered with two",
            choice(json!([{"index": 0, "delta": {"content": "Bon"}}, {"index": 1, "delta": {"content": "x"}}])),
            "Bon",
        ),
    ];
    for reported in [
        json!({"prompt_tokens": 9, "completion_tokens": -35, "total_tokens": -26}),
        json!({"prompt_tokens": 9.0, "completion_tokens": 12.0}),
        json!({"prompt_tokens": "9", "completion_tokens": "2"}),
        json!({"prompt_tokens": null, "completion_tokens": null, "prompt_tokens_details": null}),
        json!({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": null}, "completion_tokens_details": []}),
        json!({"prompt_tokens": {}, "completion_tokens": [], "total_tokens": true}),
        json!({"completion_tokens": 1e300}),
        json!(7),
        json!("none"),
        json!([]),
    ] {
        let beside = event(json!([{"index": 0, "delta": {"content": "Bon"}}]), reported.clone());
        let last = event(json!([]), reported);
        cases.push(case("F08 usage beside a chunk", beside + &end(), "Bon"));
        cases.push(case(
            "F08 usage at the end",
            said("Bon") + &finish("stop") + &last + DONE,
            "Bon",
        ));
    }
    for (what, reason) in [
        ("F05 MAX_TOKENS", "MAX_TOKENS"),
        ("max_output_tokens", "max_output_tokens"),
        ("Length", "Length"),
    ] {
        let stream = said("Bon") + &finish(reason) + DONE;
        cases.push(Case {
            finish: Finish::Length,
            ..case(what, stream, "Bon")
        });
    }
    cases.push(Case {
        finish: Finish::Length,
        ..case(
            "the worse of two reasons",
            said("Bon") + &finish("length") + &finish("stop") + DONE,
            "Bon",
        )
    });
    cases.push(Case {
        finish: Finish::Length,
        ..case(
            "F16 a call that was cut before its arguments",
            said("Bon")
                + &call(json!({"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}))
                + &finish("length")
                + DONE,
            "Bon",
        )
    });
    cases
}

pub async fn check(case: &Case) {
    let what = case.what;
    let body = [UNTIL_CLOSE.as_bytes(), &case.stream].concat();
    let server = Server::canned(body).await;
    let mut request = request();
    let tool = |name: &str| copilotd_actors::domain::sent_prompt::ToolOffer {
        name: name.to_owned(),
        ..weather()
    };
    request.tools = Arc::new(vec![tool("look"), tool("send"), tool("get_weather")]);
    let (events, error) = ask(&model(&server.url, PATIENT), request).await;
    assert!(error.is_none(), "{what}: {error:?}");
    assert_eq!(text(&events), case.text, "{what}");
    let expected: Vec<(String, String)> = case.calls.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
    assert_eq!(calls(&events), expected, "{what}");
    assert_eq!(events.last(), Some(&ModelEvent::Finished(case.finish)), "{what}");
    let used = events.iter().find_map(|event| match event {
        ModelEvent::Usage(usage) => Some(*usage),
        _ => None,
    });
    let used = used.unwrap_or_else(|| panic!("{what}: {events:?}"));
    assert!(
        used.completion_tokens < 1_000 && used.total_tokens() > 0,
        "{what}: {used:?}"
    );

    let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
    let (chunks, error) = sent(&upstream).await;
    assert!(error.is_none(), "{what}: {error:?}");
    let Heard {
        text, calls, finish, ..
    } = heard(&chunks);
    assert_eq!(text, case.text, "{what}: {chunks:#?}");
    let reason = match case.finish {
        Finish::Stop => "stop",
        Finish::ToolCalls => "tool_calls",
        _ => "length",
    };
    assert_eq!(finish.as_deref(), Some(reason), "{what}: {chunks:#?}");
    if case.finish != Finish::Length {
        assert_eq!(calls, expected, "{what}: {chunks:#?}");
    }
    let last: Value = serde_json::from_str(chunks.last().unwrap()).unwrap();
    assert!(last["usage"]["cost_usd"].is_number(), "{what}: {chunks:#?}");
}

#[tokio::test]
async fn texts_are_read_and_passed_on() {
    for case in texts() {
        check(&case).await;
    }
}

#[tokio::test]
async fn a_bad_finish_reason_is_an_error_for_a_client_too() {
    for (what, stream, class) in [
        (
            "taken back",
            said("so") + &finish("stop") + &said(" far"),
            FailureClass::Cut,
        ),
        (
            "taken back, and [DONE]",
            said("so") + &finish("stop") + &said(" far") + DONE,
            FailureClass::Cut,
        ),
        ("unknown", said("so far") + &finish("OTHER") + DONE, FailureClass::Cut),
        (
            "malformed call",
            said("so far") + &finish("MALFORMED_FUNCTION_CALL") + DONE,
            FailureClass::Malformed,
        ),
        (
            "broken",
            said("so far") + &finish("error") + DONE,
            FailureClass::Overload,
        ),
        (
            "an open call, and [DONE]",
            said("so far")
                + &call(
                    json!({"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": "{"}}),
                )
                + DONE,
            FailureClass::Cut,
        ),
        (
            "an error as text",
            said("so far") + "event: error\ndata: the engine died\n\n",
            FailureClass::Overload,
        ),
        (
            "an error with a name",
            said("so far") + &data(json!({"object": "error", "message": "x", "code": 500})),
            FailureClass::Overload,
        ),
        (
            "an error without one",
            said("so far") + &data(json!({"message": "x", "code": 429})),
            FailureClass::Rate,
        ),
        (
            "errors in a list",
            said("so far") + &format!("data: [{}]\n\n", json!({"error": {"code": 429, "message": "x"}})),
            FailureClass::Rate,
        ),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert_eq!(error.map(|error| error.class), Some(class), "{what}");
        assert_eq!((text(&events).as_str(), calls(&events)), ("so far", vec![]), "{what}");
        let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
        let (chunks, error) = sent(&upstream).await;
        assert_eq!(error.map(|error| error.class), Some(class), "{what}");
        let heard = heard(&chunks);
        assert_eq!(
            (heard.text.as_str(), heard.finish),
            ("so far", None),
            "{what}: {chunks:#?}"
        );
    }
    // A filtered end is a client's own to read, and a turn's failure.
    let server = Server::canned(format!("{UNTIL_CLOSE}{}{}", said("so far"), finish("SAFETY"))).await;
    let (_, error) = ask(&model(&server.url, PATIENT), request()).await;
    assert_eq!(error.map(|error| error.class), Some(FailureClass::ContentPolicy));
    let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
    let (chunks, error) = sent(&upstream).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(heard(&chunks).finish.as_deref(), Some("content_filter"));
}

#[tokio::test]
async fn an_answer_is_read_in_whatever_form_it_comes() {
    let document = json!({
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Bon", "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": A}},
            {"id": "call_b", "type": "function", "function": {"name": "send", "arguments": B}},
        ]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    });
    let lines = [
        json!({"choices": [{"index": 0, "delta": {"content": "Bon"}}]}),
        json!({"choices": [{"index": 0, "delta": {"tool_calls": document["choices"][0]["message"]["tool_calls"]}}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ];
    let lines = lines.map(|line| line.to_string() + "\n").concat();
    let stream = said("Bon")
        + &delta(json!({"tool_calls": document["choices"][0]["message"]["tool_calls"]}))
        + &finish("tool_calls")
        + DONE;
    for (what, kind, body) in [
        ("a document", "application/json", document.to_string()),
        ("a document as a stream", "text/event-stream", document.to_string()),
        ("a document without a type", "", format!("\u{feff} {document:#}\n")),
        ("a document in an event", "text/event-stream", data(document.clone())),
        ("lines", "application/x-ndjson", lines),
        ("a stream as JSON", "application/json", stream.clone()),
        ("a stream as a page", "text/html", stream.clone()),
        ("a stream as text", "text/plain", stream),
    ] {
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        let server = Server::canned(head + &body).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert!(error.is_none(), "{what}: {error:?}");
        assert_eq!(text(&events), "Bon", "{what}");
        let both = vec![("look".to_owned(), A.to_owned()), ("send".to_owned(), B.to_owned())];
        assert_eq!(calls(&events), both, "{what}");
        let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
        let (chunks, error) = sent(&upstream).await;
        assert!(error.is_none(), "{what}: {error:?}");
        let heard = heard(&chunks);
        assert_eq!((heard.text.as_str(), heard.calls), ("Bon", both), "{what}: {chunks:#?}");
        assert_eq!(heard.finish.as_deref(), Some("tool_calls"), "{what}");
    }
}

#[tokio::test]
async fn a_truncated_document_is_a_cut_and_one_without_an_answer_is_malformed() {
    let half = json!({"choices": [{"message": {"content": "so far"}, "finish_reason": "stop"}]}).to_string();
    for (body, class) in [
        (half[..half.len() - 9].to_owned(), FailureClass::Cut),
        ("{\"choices\":[]}".to_owned(), FailureClass::Malformed),
        ("{}".to_owned(), FailureClass::Malformed),
        ("[]".to_owned(), FailureClass::Malformed),
        ("{oops}".to_owned(), FailureClass::Malformed),
        ("<html>Bad gateway</html>".to_owned(), FailureClass::Malformed),
        ("Internal error".to_owned(), FailureClass::Malformed),
        (
            r#"[{"error":{"code":429,"message":"x"}}]"#.to_owned(),
            FailureClass::Rate,
        ),
        (r#"{"error":"the engine died"}"#.to_owned(), FailureClass::Overload),
    ] {
        let server = Server::canned(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}")).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert_eq!(error.map(|error| error.class), Some(class), "{body}");
        assert_eq!(text(&events), "", "{body}");
    }
}

#[tokio::test]
async fn large_events_are_read_and_compressed_ones_too() {
    use std::io::Write as _;
    let long = "x".repeat(3 * 1024 * 1024);
    let stream = said(&long) + &finish("stop") + &usage(9, 2, 0) + DONE;
    let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
    let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text(&events).len(), long.len());

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all((said("Bon") + &finish("stop") + DONE).as_bytes())
        .unwrap();
    let body = gzip.finish().unwrap();
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n";
    let server = Server::canned([head.as_bytes(), &body].concat()).await;
    let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text(&events), "Bon");
}
