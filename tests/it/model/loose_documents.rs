//! Nonstandard documents: what they mean, and what a client of the endpoint gets.

use std::sync::Arc;

use copilotd::adapters::llm::openai::OpenAi;
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelError;
use copilotd_gateway::provider::{Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::body::ChatBody;
use serde_json::{Value, json};

use super::server::{DONE, Server, delta, finish, usage};
use super::strict_client::read;
use super::{PATIENT, config};

async fn ask(kind: &str, body: &str) -> Result<WholeAnswer, ModelError> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let server = Server::canned(head + body).await;
    let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
    let body = json!({"model": "route", "messages": [{"role": "user", "content": "hi"}]});
    let call = UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks: true,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    };
    upstream.whole(&call).await
}

/// A document with one choice, and additional members.
fn document(message: Value, reason: Value, more: Value) -> String {
    let mut document = json!({
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    });
    for (name, value) in more.as_object().unwrap() {
        document[name] = value.clone();
    }
    document.to_string()
}

fn said(more: Value) -> String {
    document(json!({"role": "assistant", "content": "Bon"}), json!("stop"), more)
}

#[tokio::test]
async fn documents_are_read_and_passed_on() {
    let call = |arguments: Value| json!({"content": null, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": arguments}}]});
    let message = |content: Value| {
        document(
            json!({"role": "assistant", "content": content}),
            json!("stop"),
            json!({}),
        )
    };
    let look = vec![("look".to_owned(), r#"{"x":1}"#.to_owned())];
    for (what, body, text, calls, finish) in [
        ("plain", said(json!({})), "Bon", vec![], Finish::Stop),
        (
            "F04 parts",
            message(
                json!([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Bon"}]),
            ),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "an object",
            message(json!({"type": "text", "text": "Bon"})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "F08 usage",
            said(json!({"usage": {"prompt_tokens": 9.0, "completion_tokens": -35}})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "usage as text",
            said(json!({"usage": {"prompt_tokens": "9", "completion_tokens": "2"}})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "usage as a list",
            said(json!({"usage": []})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        ("usage null", said(json!({"usage": null})), "Bon", vec![], Finish::Stop),
        (
            "F10 a float",
            said(json!({"created": 1.5})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "F10 a text",
            said(json!({"created": "now", "id": 7, "model": null})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        ("no error", said(json!({"error": null})), "Bon", vec![], Finish::Stop),
        (
            "nulls",
            document(
                json!({"role": null, "content": "Bon", "refusal": null, "tool_calls": null, "function_call": null, "audio": null}),
                json!("stop"),
                json!({}),
            ),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "STOP",
            document(json!({"content": "Bon"}), json!("STOP"), json!({})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "F05 MAX_TOKENS",
            document(json!({"content": "Bon"}), json!("MAX_TOKENS"), json!({})),
            "Bon",
            vec![],
            Finish::Length,
        ),
        (
            "odd choices",
            said(json!({"choices": [null, {"message": {"content": "Bon"}, "finish_reason": "stop"}]})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "one choice, and no list",
            said(json!({"choices": {"message": {"content": "Bon"}, "finish_reason": "stop"}})),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "F02 an object",
            document(call(json!({"x": 1})), json!("tool_calls"), json!({})),
            "",
            look.clone(),
            Finish::ToolCalls,
        ),
        (
            "a text",
            document(call(json!(r#"{"x":1}"#)), json!("tool_calls"), json!({})),
            "",
            look.clone(),
            Finish::ToolCalls,
        ),
        (
            "stop behind calls",
            document(call(json!(r#"{"x":1}"#)), json!("stop"), json!({})),
            "",
            look.clone(),
            Finish::ToolCalls,
        ),
        (
            "no id",
            document(
                json!({"tool_calls": [{"function": {"name": "look", "arguments": r#"{"x":1}"#}}]}),
                json!("tool_calls"),
                json!({}),
            ),
            "",
            look.clone(),
            Finish::ToolCalls,
        ),
        (
            "a null among calls",
            document(
                json!({"tool_calls": [null, {"id": "a", "type": "function", "function": {"name": "look", "arguments": r#"{"x":1}"#}}]}),
                json!("tool_calls"),
                json!({}),
            ),
            "",
            look.clone(),
            Finish::ToolCalls,
        ),
        (
            "no arguments",
            document(call(Value::Null), json!("tool_calls"), json!({})),
            "",
            vec![("look".to_owned(), "{}".to_owned())],
            Finish::ToolCalls,
        ),
        (
            "half a pair",
            said(json!({})).replace("Bon", "Bon\\ud83d"),
            "Bon\u{fffd}",
            vec![],
            Finish::Stop,
        ),
        (
            "half a pair in a member that is passed on",
            said(json!({"x": 1})).replace("\"x\":1", "\"x\":\"\\ud83d\""),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "NaN",
            said(json!({"x": 1})).replace("\"x\":1", "\"x\":NaN"),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        (
            "a byte order mark",
            format!("\u{feff}{}", said(json!({}))),
            "Bon",
            vec![],
            Finish::Stop,
        ),
        ("a list", format!("[{}]", said(json!({}))), "Bon", vec![], Finish::Stop),
    ] {
        for kind in ["application/json", "text/html", "text/event-stream"] {
            let answer = ask(kind, &body).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(answer.finish, finish, "{what}");
            assert!(
                answer.usage.total_tokens() > 0 && answer.usage.total_tokens() < 1_000,
                "{what}: {:?}",
                answer.usage
            );
            let heard = read(&answer.body);
            let shown = String::from_utf8_lossy(&answer.body);
            assert_eq!((heard.text.as_str(), &heard.calls), (text, &calls), "{what}: {shown}");
        }
    }
    let plain = said(json!({"own": [1.50]}));
    assert_eq!(
        ask("application/json", &plain).await.unwrap().body,
        plain,
        "byte for byte"
    );
}

#[tokio::test]
async fn a_stream_in_answer_to_a_document_request_is_assembled() {
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let stream = delta(json!({"role": "assistant", "content": "B", "reasoning_content": "H"}))
        + &delta(json!({"content": "on", "reasoning_content": "m"}))
        + &call(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": "{"}}))
        + &call(json!({"index": 0, "function": {"arguments": "}"}}))
        + &call(json!({"index": 0, "id": "b", "function": {"name": "send", "arguments": {"x": 1}}}));
    let whole = stream.clone() + &finish("tool_calls") + &usage(9, 2, 0) + DONE;
    for kind in ["text/event-stream", "application/json"] {
        let answer = ask(kind, &whole).await.unwrap();
        assert_eq!((answer.finish, answer.usage.total_tokens()), (Finish::ToolCalls, 11));
        let heard = read(&answer.body);
        assert_eq!((heard.text.as_str(), heard.thought.as_str()), ("Bon", "Hm"));
        let calls = [("look", "{}"), ("send", r#"{"x":1}"#)].map(|(name, json)| (name.to_owned(), json.to_owned()));
        assert_eq!(heard.calls, calls);
    }
    assert_eq!(ask("", &stream).await.unwrap_err().class, FailureClass::Cut);
    let broken = stream + "data: {\"error\":{\"code\":429}}\n\n";
    assert_eq!(ask("", &broken).await.unwrap_err().class, FailureClass::Rate);
}

#[tokio::test]
async fn a_document_with_a_bad_finish_reason_is_a_failure() {
    let one = |reason: Value| document(json!({"content": "Bon"}), reason, json!({}));
    for (body, class) in [
        (one(json!("OTHER")), FailureClass::Cut),
        (one(json!(7)), FailureClass::Cut),
        (one(Value::Null), FailureClass::Cut),
        (one(json!("MALFORMED_FUNCTION_CALL")), FailureClass::Malformed),
        (one(json!("network_error")), FailureClass::Overload),
        (
            r#"[{"error":{"code":429,"message":"x"}}]"#.to_owned(),
            FailureClass::Rate,
        ),
        (
            r#"{"object":"error","message":"x","code":429}"#.to_owned(),
            FailureClass::Rate,
        ),
        ("[]".to_owned(), FailureClass::Malformed),
        ("<html>".to_owned(), FailureClass::Malformed),
    ] {
        let error = ask("application/json", &body).await.unwrap_err();
        assert_eq!(error.class, class, "{body}");
    }
}
