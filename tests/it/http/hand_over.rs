//! Responses while a process hands over to its standby.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::Act;
use serde_json::json;
use tokio::time::Instant;

use super::app::{with_app, with_providers};
use crate::gateway::Provider;

#[tokio::test(start_paused = true)]
async fn everything_new_is_left_to_the_standby_and_streams_end() {
    with_app(async |app| {
        app.model.on("hi", &[vec![Act::Text("once upon".into()), Act::Stall]]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let mut stream = app.ada("GET", &format!("{conversation}/events?after=0")).stream().await;
        stream.until("message.delta").await;
        app.app.state.shutdown.hand_over();
        for (method, path) in [
            ("GET", turn.clone()),
            ("GET", conversation.clone()),
            ("POST", format!("{conversation}/turns")),
            ("POST", "/v1/conversations".to_owned()),
            ("GET", format!("{conversation}/events")),
        ] {
            let mut call = app.ada(method, &path);
            if method == "POST" {
                call = call.json(&json!({ "input": "x" }));
            }
            let answer = call.send().await;
            assert_eq!(answer.headers["retry-after"], "1", "{method} {path}");
            let problem = answer.problem(503, "unavailable");
            assert_eq!(problem["retry"], "safe", "{method} {path}");
        }
        let ready = app.call("GET", "/readyz").send().await.expect(503).json();
        assert_eq!(ready["status"], "draining");
        app.call("GET", "/healthz").send().await.expect(200);
        let begun = Instant::now();
        let (calls, end) = (begun + Duration::from_secs(1), begun + Duration::from_secs(2));
        app.app.state.directory.hand_over(calls, end).await;
        assert_eq!(
            (begun.elapsed() < Duration::from_secs(1), app.model.seen().open),
            (true, 0)
        );
        app.app.state.shutdown.close();
        assert_eq!(stream.rest().await, []);
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_the_openai_endpoint_ends_with_an_error_and_not_like_a_whole_answer() {
    for hands_over in [true, false] {
        let provider = Provider::start().await;
        let change = format!(
            r#"
            [[providers]]
            name = "sim"
            kind = "openai"
            base_url = "{}"
            api_key = {{ value = "sk-one" }}
            [[routes]]
            name = "sim"
            targets = [{{ provider = "sim", model = "gpt", context_tokens = 128000 }}]
            "#,
            provider.url()
        );
        with_providers(&change, async |app| {
            let prompt = "Tell me. [[sim text=\"Once upon a time\" chunk=4 stall_after=9 keepalive_ms=20]]";
            let body = json!({ "model": "sim", "stream": true, "messages": [{ "role": "user", "content": prompt }] });
            let token = app.token_of("globex", "ada", Scopes::GATEWAY);
            let asked = app.call("POST", "/v1/chat/completions").by(&token).json(&body).send();
            let stopped = async {
                while provider.seen().await == 0 {
                    tokio::task::yield_now().await;
                }
                match hands_over {
                    true => app.app.state.shutdown.hand_over(),
                    false => app.app.state.shutdown.drain(),
                }
                app.app.state.shutdown.close();
            };
            let (answer, ()) = tokio::join!(asked, stopped);
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            assert!(!text.contains("[DONE]"), "{text}");
            assert!(
                text.contains("\"error\"") || answer.status == 503,
                "{} {text}",
                answer.status
            );
        })
        .await;
    }
}
