//! Servers that follow Anthropic's protocol loosely: what a turn reads from their streams, and what a client of the
//! endpoint gets.

use std::sync::Arc;

use copilotd::adapters::llm::anthropic::{Anthropic, AnthropicConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelEvent;
use copilotd_gateway::provider::{Upstream, UpstreamCall};
use copilotd_gateway::request::body::ChatBody;
use futures::StreamExt;
use serde_json::{Value, json};

use super::loose::{calls, sent};
use super::server::{Server, UNTIL_CLOSE};
use super::strict_client::{heard, read};
use super::{KEY, PATIENT, text};

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("x"))
}

fn start() -> String {
    event(
        &json!({"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "content": [],
        "usage": {"input_tokens": 25, "output_tokens": 1}}}),
    )
}

fn begin(index: impl Into<Value>, block: Value) -> String {
    event(&json!({"type": "content_block_start", "index": index.into(), "content_block": block}))
}

fn delta(index: impl Into<Value>, delta: Value) -> String {
    event(&json!({"type": "content_block_delta", "index": index.into(), "delta": delta}))
}

fn end(index: impl Into<Value>) -> String {
    event(&json!({"type": "content_block_stop", "index": index.into()}))
}

fn reason(reason: impl Into<Value>) -> String {
    event(&json!({"type": "message_delta", "delta": {"stop_reason": reason.into()}, "usage": {"output_tokens": 9}}))
}

fn stop() -> String {
    event(&json!({"type": "message_stop"}))
}

fn said(index: u64, text: &str) -> String {
    begin(index, json!({"type": "text", "text": ""}))
        + &delta(index, json!({"type": "text_delta", "text": text}))
        + &end(index)
}

fn tool(index: impl Into<Value>, id: &str, name: &str) -> String {
    begin(index, json!({"type": "tool_use", "id": id, "name": name, "input": {}}))
}

fn arguments(index: impl Into<Value>, json: &str) -> String {
    delta(index, json!({"type": "input_json_delta", "partial_json": json}))
}

fn model(url: &str) -> Anthropic {
    Anthropic::new(
        AnthropicConfig::new("main", url, KEY.to_owned().into(), "claude-x"),
        &ConnectionPool::default(),
    )
    .unwrap()
}

fn call(chunks: bool, stream: bool) -> UpstreamCall {
    let body = json!({"model": "route", "messages": [{"role": "user", "content": "hi"}], "stream": stream});
    UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    }
}

/// An answer as a turn reads it.
async fn told(model: &Anthropic) -> (Vec<ModelEvent>, Option<FailureClass>) {
    let mut pieces = match model.stream(&call(false, true)).await {
        Ok(pieces) => pieces,
        Err(error) => return (Vec::new(), Some(error.class)),
    };
    let mut events = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => events.extend(piece.events),
            Err(error) => return (events, Some(error.class)),
        }
    }
    (events, None)
}

const A: &str = r#"{"ticket_id":11}"#;
const B: &str = r#"{"ticket_id":12}"#;

#[tokio::test]
async fn streams_are_read_and_passed_on() {
    let ended = |stream: String| start() + &stream + &reason("end_turn") + &stop();
    let called = |stream: String| start() + &stream + &reason("tool_use") + &stop();
    let both: &[(&str, &str)] = &[("look", A), ("send", B)];
    let document = json!({"type": "message", "id": "msg_1", "model": "claude-x", "content": [{"type": "text", "text": "Bon"}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 2}});
    for (what, stream, expected, tools, finish) in [
        ("plain", ended(said(0, "Bon")), "Bon", &[][..], Finish::Stop),
        (
            "no ends of blocks",
            ended(begin(0, json!({"type": "text", "text": "B"})) + &delta(0, json!({"text": "on"}))),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "A01 blocks that are mixed",
            called(
                tool(0, "a", "look")
                    + &tool(1, "b", "send")
                    + &arguments(1, &B[..5])
                    + &arguments(0, &A[..9])
                    + &arguments(1, &B[5..])
                    + &end(1)
                    + &arguments(0, &A[9..]),
            ),
            "",
            both,
            Finish::ToolCalls,
        ),
        (
            "a text inside a call",
            called(tool(0, "a", "look") + &arguments(0, &A[..4]) + &said(1, "Bon") + &arguments(0, &A[4..])),
            "Bon",
            &[("look", A)],
            Finish::ToolCalls,
        ),
        (
            "every index 0",
            called(tool(0, "a", "look") + &arguments(0, A) + &tool(0, "b", "send") + &arguments(0, B)),
            "",
            both,
            Finish::ToolCalls,
        ),
        (
            "every index 0, and no arguments of the first",
            called(tool(0, "a", "look") + &end(0) + &tool(0, "b", "send") + &arguments(0, B) + &end(0)),
            "",
            &[("look", "{}"), ("send", B)],
            Finish::ToolCalls,
        ),
        (
            "no indexes",
            called(
                tool(Value::Null, "a", "look")
                    + &arguments(Value::Null, A)
                    + &end(Value::Null)
                    + &tool(Value::Null, "b", "send")
                    + &arguments(Value::Null, B),
            ),
            "",
            both,
            Finish::ToolCalls,
        ),
        (
            "indexes as text",
            called(tool("0", "a", "look") + &tool("1", "b", "send") + &arguments("1", B) + &arguments("0", A)),
            "",
            both,
            Finish::ToolCalls,
        ),
        (
            "no ids",
            called(tool(0, "", "look") + &arguments(0, A) + &tool(1, "", "send") + &arguments(1, B)),
            "",
            both,
            Finish::ToolCalls,
        ),
        (
            "arguments at once",
            called(begin(
                0,
                json!({"type": "tool_use", "id": "a", "name": "look", "input": {"ticket_id": 11}}),
            )),
            "",
            &[("look", A)],
            Finish::ToolCalls,
        ),
        (
            "arguments as text",
            called(begin(
                0,
                json!({"type": "tool_use", "id": "a", "name": "look", "input": A}),
            )),
            "",
            &[("look", A)],
            Finish::ToolCalls,
        ),
        (
            "arguments as an object later",
            called(
                tool(0, "a", "look")
                    + &delta(
                        0,
                        json!({"type": "input_json_delta", "partial_json": {"ticket_id": 11}}),
                    ),
            ),
            "",
            &[("look", A)],
            Finish::ToolCalls,
        ),
        (
            "end_turn behind calls",
            start() + &tool(0, "a", "look") + &arguments(0, A) + &reason("end_turn") + &stop(),
            "",
            &[("look", A)],
            Finish::ToolCalls,
        ),
        (
            "no message_stop",
            start() + &said(0, "Bon") + &reason("END_TURN"),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "no reason",
            start() + &said(0, "Bon") + &stop(),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "no reason, and [DONE]",
            start() + &said(0, "Bon") + "data: [DONE]\n\n",
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "a reason that is taken back, and another one",
            ended(said(0, "B") + &reason("end_turn") + &said(1, "on")),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "MAX_TOKENS",
            start() + &said(0, "Bon") + &reason("MAX_TOKENS") + &stop(),
            "Bon",
            &[],
            Finish::Length,
        ),
        (
            "a call that was cut before its arguments",
            start() + &said(0, "Bon") + &tool(1, "a", "look") + &end(1) + &reason("max_tokens") + &stop(),
            "Bon",
            &[],
            Finish::Length,
        ),
        (
            "odd usage",
            start().replace("25", "-25") + &said(0, "Bon") + &reason("end_turn").replace("9", "9.5") + &stop(),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "nulls",
            ended(
                begin(0, json!({"type": "text", "text": null, "citations": null}))
                    + &delta(0, json!({"type": "text_delta", "text": "Bon"}))
                    + &delta(0, Value::Null),
            ),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "blocks that are nothing",
            ended(
                begin(0, Value::Null)
                    + &begin(1, json!("x"))
                    + &begin(2, json!({"type": "new"}))
                    + &delta(2, json!({"text": "x"}))
                    + &said(3, "Bon"),
            ),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "a block without a type",
            ended(begin(0, json!({"text": "Bon"}))),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "a block without a beginning",
            ended(delta(0, json!({"type": "text_delta", "text": "Bon"}))),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "an end too many",
            ended(said(0, "Bon") + &end(0) + &end(7)),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "pings",
            ended(format!(
                "event: ping\ndata:\n\nevent: ping\ndata: {{\"type\": \"ping\"}}\n\ndata:\n\n{}",
                said(0, "Bon")
            )),
            "Bon",
            &[],
            Finish::Stop,
        ),
        (
            "a pair cut in two",
            start()
                + "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"\\ud83d\"}}\n\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"\\ude80\"}}\n\n"
                + &reason("end_turn")
                + &stop(),
            "🚀",
            &[],
            Finish::Stop,
        ),
        (
            "a type that only the event has",
            ended(said(0, "Bon")).replace("\"type\":\"content_block_delta\",", ""),
            "Bon",
            &[],
            Finish::Stop,
        ),
        ("a document", document.to_string(), "Bon", &[], Finish::Stop),
        ("a document in an event", event(&document), "Bon", &[], Finish::Stop),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let (events, error) = told(&model(&server.url)).await;
        assert_eq!(error, None, "{what}");
        assert_eq!(text(&events), expected, "{what}");
        let tools: Vec<(String, String)> = tools.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        assert_eq!(calls(&events), tools, "{what}");
        assert_eq!(events.last(), Some(&ModelEvent::Finished(finish)), "{what}");

        let (chunks, error) = sent(&model(&server.url)).await;
        assert!(error.is_none(), "{what}: {error:?}");
        let heard = heard(&chunks);
        assert_eq!(heard.text, expected, "{what}: {chunks:#?}");
        let word = match finish {
            Finish::Stop => "stop",
            Finish::ToolCalls => "tool_calls",
            _ => "length",
        };
        assert_eq!(heard.finish.as_deref(), Some(word), "{what}: {chunks:#?}");
        if finish == Finish::Length {
            assert!(
                heard.calls.iter().all(|(_, arguments)| arguments.is_empty()),
                "{what}: {chunks:#?}"
            );
        } else {
            assert_eq!(heard.calls, tools, "{what}: {chunks:#?}");
        }
    }
}

#[tokio::test]
async fn a_bad_stop_reason_is_a_failure() {
    for (what, stream, class) in [
        (
            "taken back",
            said(0, "so") + &reason("end_turn") + &said(1, " far"),
            FailureClass::Cut,
        ),
        (
            "taken back, and message_stop",
            said(0, "so") + &reason("end_turn") + &said(1, " far") + &stop(),
            FailureClass::Cut,
        ),
        ("cut", said(0, "so far"), FailureClass::Cut),
        (
            "unknown",
            said(0, "so far") + &reason("compaction") + &stop(),
            FailureClass::Cut,
        ),
        (
            "arguments without a name",
            said(0, "so far") + &arguments(1, A) + &reason("tool_use") + &stop(),
            FailureClass::Malformed,
        ),
        (
            "two calls that nothing tells apart",
            said(0, "so far")
                + &tool(1, "a", "look")
                + &arguments(1, "{")
                + &tool(1, "b", "send")
                + &arguments(1, B)
                + &reason("tool_use"),
            FailureClass::Malformed,
        ),
        (
            "an error as text",
            said(0, "so far") + "event: error\ndata: the engine died\n\n",
            FailureClass::Overload,
        ),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{}{stream}", start())).await;
        let (events, error) = told(&model(&server.url)).await;
        assert_eq!(error, Some(class), "{what}");
        assert_eq!((text(&events).as_str(), calls(&events)), ("so far", vec![]), "{what}");
        let (chunks, error) = sent(&model(&server.url)).await;
        assert_eq!(error.map(|error| error.class), Some(class), "{what}");
        assert_eq!(heard(&chunks).finish, None, "{what}");
    }
}

#[tokio::test]
async fn documents_are_read_and_passed_on() {
    let look = vec![("look".to_owned(), A.to_owned())];
    for (what, content, reason, expected, tools) in [
        (
            "plain",
            json!([{"type": "text", "text": "Bon"}]),
            "end_turn",
            "Bon",
            vec![],
        ),
        ("a text", json!("Bon"), "END_TURN", "Bon", vec![]),
        (
            "odd blocks",
            json!([null, 7, {"type": "new"}, {"text": "Bon"}]),
            "stop",
            "Bon",
            vec![],
        ),
        (
            "no id",
            json!([{"type": "tool_use", "name": "look", "input": {"ticket_id": 11}}]),
            "tool_use",
            "",
            look.clone(),
        ),
        (
            "a text for an object",
            json!([{"type": "tool_use", "id": "a", "name": "look", "input": A}]),
            "TOOL_USE",
            "",
            look,
        ),
    ] {
        let body = json!({"id": 7, "model": "m", "content": content, "stop_reason": reason, "usage": {"input_tokens": 9.0, "output_tokens": "2"}});
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let server = Server::canned(head + &body).await;
        let answer = model(&server.url).whole(&call(true, false)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.usage.total_tokens(), 11, "{what}");
        let heard = read(&answer.body);
        assert_eq!((heard.text.as_str(), heard.calls), (expected, tools), "{what}");
    }
}
