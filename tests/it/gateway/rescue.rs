//! Answers that break mid-stream: a live stream resumes where another target says the same, a turn is retried on
//! another target.

use std::sync::Arc;

use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::ports::{Model, ModelError, ModelEvent, ModelRequest};
use copilotd_gateway::Gateway;
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::request::call::Mode;
use futures::StreamExt;
use serde_json::json;
use uuid::Uuid;

use super::{CLOCKS, Provider, TEXT, gateway, place, read, request};

/// Ways to break after the first word of [`TEXT`].
const DEATHS: [(&str, GatewayErrorKind); 4] = [
    ("cut_after=9", GatewayErrorKind::Cut),
    ("end_without_finish_after=9", GatewayErrorKind::Cut),
    ("chunk=9 malformed=1", GatewayErrorKind::Cut),
    ("stall_after=9 keepalive_ms=20", GatewayErrorKind::Timeout),
];

fn saying(text: &str, death: &str) -> String {
    format!("text=\"{text}\" {death}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_resumes_seamlessly_where_another_target_says_the_same() {
    for (death, _) in DEATHS {
        // Pieces of another length, so that the seam is in the middle of one.
        let bad = Provider::faulty(&saying(TEXT, &format!("chunk=5 {death}"))).await;
        let good = Provider::faulty(&saying(TEXT, "chunk=7")).await;
        let (gateway, ledger) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
        let read = read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await;
        assert!(read.error.is_none(), "{death}: {:?}", read.error);
        assert_eq!(read.text, TEXT, "{death}");
        assert!(read.finished, "{death}");
        let ids: Vec<_> = read.chunks.iter().map(|chunk| &chunk["id"]).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{death}: {ids:?}");
        let last = read.chunks.last().unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "stop", "{death}");
        assert_eq!(ledger.lines().len(), 2, "{death}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_ends_with_an_error_where_the_other_target_says_something_else() {
    for (death, kind) in DEATHS {
        for other in ["All is lost, they say.", "All", "Nothing."] {
            let bad = Provider::faulty(&saying(TEXT, death)).await;
            let good = Provider::faulty(&saying(other, "")).await;
            let (gateway, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
            let read = read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await;
            let error = read.error.unwrap_or_else(|| panic!("{death}: {}", read.text));
            assert_eq!(error.kind, kind, "{death}");
            assert!(
                TEXT.starts_with(&read.text) && !read.text.is_empty(),
                "{death}: {}",
                read.text
            );
            assert!(!read.finished, "{death}");
            assert_eq!(good.seen().await, 1, "{death}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_may_die_twice_and_still_be_whole() {
    let first = Provider::faulty(&saying(TEXT, "cut_after=9")).await;
    let second = Provider::faulty(&saying(TEXT, "end_without_finish_after=15")).await;
    let third = Provider::faulty(&saying(TEXT, "")).await;
    let places = vec![
        place("a", first.url()),
        place("b", second.url()),
        place("c", third.url()),
    ];
    let (gateway, _) = gateway(places, CLOCKS);
    let read = read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await;
    assert_eq!((read.text.as_str(), read.finished), (TEXT, true), "{:?}", read.error);
}

#[tokio::test]
async fn calls_and_several_choices_are_not_said_again() {
    let bad = Provider::faulty(r#"tool=look args={"a":"a long argument"} cut_after=5"#).await;
    let good = Provider::start().await;
    let (with_tools, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
    let mut call = request(true, Mode::Live);
    let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
    call.body.set("tools", &[tool]).unwrap();
    let cut = read(with_tools.chat(call).await.unwrap()).await;
    assert_eq!(cut.error.unwrap().kind, GatewayErrorKind::Cut);

    let bad = Provider::faulty(&saying(TEXT, "cut_after=9")).await;
    let (gateway, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
    let mut call = request(true, Mode::Live);
    call.body.set("n", &2).unwrap();
    let cut = read(gateway.chat(call).await.unwrap()).await;
    assert_eq!(cut.error.unwrap().kind, GatewayErrorKind::Cut);
    assert_eq!(good.seen().await, 0);
}

fn turn(n: u128) -> ModelRequest {
    ModelRequest {
        turn: Some(TurnId::new(Uuid::from_u128(n))),
        messages: Arc::new(vec![PromptMessage::User {
            text: format!("Say it. [[sim text=\"{TEXT}\"]]"),
        }]),
        ..crate::model::request()
    }
}

/// Makes a call as a turn's agent does.
async fn ask(gateway: &Gateway, request: ModelRequest) -> (String, Vec<ModelEvent>, Option<ModelError>) {
    let mut stream = match gateway.stream(request).await {
        Ok(stream) => stream,
        Err(error) => return (String::new(), Vec::new(), Some(error)),
    };
    let (mut events, mut error) = (Vec::new(), None);
    while let Some(item) = stream.next().await {
        match item {
            Ok(event) => events.push(event),
            Err(failed) => error = Some(failed),
        }
    }
    (crate::model::text(&events), events, error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turns_next_attempt_goes_elsewhere_and_says_so() {
    for (death, _) in DEATHS {
        let (bad, good) = (Provider::faulty(&saying(TEXT, death)).await, Provider::start().await);
        let (gateway, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
        let (text, events, error) = ask(&gateway, turn(1)).await;
        let error = error.unwrap_or_else(|| panic!("{death}: {events:?}"));
        assert!(!text.is_empty() && TEXT.starts_with(&text), "{death}: {text}");
        assert!(
            !events.iter().any(|event| matches!(event, ModelEvent::Finished(_))),
            "{death}"
        );

        let (text, events, none) = ask(&gateway, turn(1)).await;
        assert!(none.is_none(), "{death}: {none:?}");
        assert_eq!(text, TEXT, "{death}");
        let expected = ModelEvent::Fallback {
            from: "a/gpt".to_owned(),
            to: "b/gpt".to_owned(),
            reason: error.class.code().to_owned(),
        };
        assert_eq!(events[0], expected, "{death}");
        assert_eq!((bad.seen().await, good.seen().await), (1, 1), "{death}");

        // Its next steps stay there, and the log does not repeat it.
        let (text, events, none) = ask(&gateway, turn(1)).await;
        assert!(none.is_none() && text == TEXT, "{death}: {none:?}");
        assert!(!matches!(events[0], ModelEvent::Fallback { .. }), "{death}");
        assert_eq!((bad.seen().await, good.seen().await), (1, 2), "{death}");

        // Another turn is not affected.
        assert!(ask(&gateway, turn(2)).await.2.is_some(), "{death}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_falls_back_before_its_first_token_without_an_attempt_of_its_own() {
    for (fault, reason) in [
        ("status=401", FailureClass::Key),
        ("status=429 retry_after=30", FailureClass::Rate),
        ("status=503", FailureClass::Overload),
        ("tokens=9 first_ms=60000", FailureClass::TimedOut),
    ] {
        let (bad, good) = (Provider::faulty(fault).await, Provider::start().await);
        let (gateway, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
        let (text, events, error) = ask(&gateway, turn(1)).await;
        assert!(error.is_none(), "{fault}: {error:?}");
        assert_eq!(text, TEXT, "{fault}");
        assert!(
            matches!(&events[0], ModelEvent::Fallback { reason: said, .. } if said == reason.code()),
            "{fault}: {events:?}"
        );
    }
}

#[tokio::test]
async fn a_turns_rate_limit_is_waited_for_where_its_user_sees_it() {
    let bad = Provider::faulty("status=429 retry_after=2").await;
    let (gateway, _) = gateway(vec![place("a", bad.url())], CLOCKS);
    let started = tokio::time::Instant::now();
    let (_, _, error) = ask(&gateway, turn(1)).await;
    let error = error.unwrap();
    assert_eq!(error.class, FailureClass::Rate);
    assert!(error.retry_after.is_some());
    assert!(started.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(bad.seen().await, 1);
}
