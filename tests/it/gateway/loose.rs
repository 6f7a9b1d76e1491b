//! A provider that follows its protocol loosely is not faulty: its answer is the answer, in every requested form.

use std::sync::Arc;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::ports::{Model, ModelEvent, ModelRequest};
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::request::call::Mode;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{CLOCKS, Protocol, Provider, TEXT, at, gateway, read, request};

/// A provider that always answers with `body`.
async fn answering(speaks: Protocol, body: &Value) -> Provider {
    let provider = Provider::speaking(speaks).await;
    provider.knobs(json!({"fault": format!("body={body}")})).await;
    provider
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loose_answer_is_an_answer() {
    let openai = |message: Value, reason: &str, more: Value| {
        let mut body = json!({"choices": [{"message": message, "finish_reason": reason}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let parts = json!([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": TEXT}]);
    for (what, speaks, body) in [
        (
            "plain",
            Protocol::OpenAi,
            openai(json!({"content": TEXT}), "stop", json!({})),
        ),
        (
            "parts",
            Protocol::OpenAi,
            openai(json!({"content": parts}), "STOP", json!({})),
        ),
        (
            "usage",
            Protocol::OpenAi,
            openai(
                json!({"content": TEXT}),
                "stop",
                json!({"usage": {"prompt_tokens": 9.0, "completion_tokens": -35}}),
            ),
        ),
        (
            "names",
            Protocol::OpenAi,
            openai(
                json!({"content": TEXT, "tool_calls": null}),
                "end_turn",
                json!({"created": 1.5, "id": 7, "model": null}),
            ),
        ),
        (
            "a message",
            Protocol::Anthropic,
            json!({"type": "message", "content": [null, {"type": "text", "text": TEXT}], "stop_reason": "END_TURN", "usage": {"input_tokens": "9"}}),
        ),
    ] {
        let provider = answering(speaks, &body).await;
        let (gateway, ledger) = gateway(vec![at("a", &provider)], CLOCKS);
        for (stream, mode) in [(true, Mode::Live), (true, Mode::Buffered), (false, Mode::Live)] {
            let answer = read(gateway.chat(request(stream, mode)).await.unwrap()).await;
            assert!(answer.error.is_none(), "{what} {stream} {mode:?}: {:?}", answer.error);
            assert_eq!(
                (answer.text.as_str(), answer.finished),
                (TEXT, true),
                "{what} {stream} {mode:?}"
            );
        }
        let turn = ModelRequest {
            messages: Arc::new(vec![PromptMessage::User { text: "Say it.".into() }]),
            ..crate::model::request()
        };
        let events: Vec<_> = gateway.stream(turn).await.unwrap().collect().await;
        let events: Vec<ModelEvent> = events.into_iter().map(Result::unwrap).collect();
        assert_eq!(crate::model::text(&events), TEXT, "{what}");
        assert_eq!(events.last(), Some(&ModelEvent::Finished(Finish::Stop)), "{what}");
        assert_eq!(ledger.lines(), vec!["a/gpt ok"; 4], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_none_is_told_as_an_error_and_another_target_is_asked() {
    for reason in ["OTHER", "MALFORMED_FUNCTION_CALL"] {
        let bad = Provider::faulty(&format!("tokens=9 pace_ms=1 finish={reason}")).await;
        let (alone, _) = gateway(vec![at("a", &bad)], CLOCKS);
        let live = read(alone.chat(request(true, Mode::Live)).await.unwrap()).await;
        assert!(!live.finished && !live.text.is_empty(), "{reason}: {live:?}");
        assert_eq!(live.error.unwrap().kind, GatewayErrorKind::Cut, "{reason}");
        let good = Provider::start().await;
        let (both, _) = gateway(vec![at("a", &bad), at("b", &good)], CLOCKS);
        for (stream, mode) in [(true, Mode::Buffered), (false, Mode::Live)] {
            let answer = read(both.chat(request(stream, mode)).await.unwrap()).await;
            assert!(answer.error.is_none(), "{reason}: {:?}", answer.error);
            assert_eq!(
                (answer.text.as_str(), answer.finished),
                (TEXT, true),
                "{reason} {stream}"
            );
        }
    }
}
