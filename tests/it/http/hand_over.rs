//! A process that hands over to its standby: what it answers meanwhile.

use std::time::Duration;

use copilotd_actors::fakes::model::Act;
use serde_json::json;
use tokio::time::Instant;

use super::app::with_app;

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
