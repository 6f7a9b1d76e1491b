//! A damaged conversation gives a clear error, and all others work.

use std::time::Duration;

use serde_json::json;

use super::app::with_app;

#[tokio::test(start_paused = true)]
async fn a_log_with_a_gap_is_refused_and_no_other() {
    with_app(async |app| {
        let (damaged, whole) = (app.conversation().await, app.conversation().await);
        for conversation in [&damaged, &whole] {
            app.answered(conversation, "hello").await;
        }
        let id = damaged.rsplit('/').next().unwrap();
        app.log.lose_record(id.parse().unwrap(), 3);
        // Idle conversations are passivated; the next request replays the log.
        while app.app.state.directory.alive() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        for _ in 0..3 {
            let problem = app
                .post(&format!("{damaged}/turns"), json!({ "input": "x" }))
                .await
                .problem(500, "internal");
            assert_eq!(problem["retry"], "never");
            assert!(problem["detail"].as_str().unwrap().contains("damaged"), "{problem}");
        }
        app.answered(&whole, "hello again").await;
        let list = app.get("/v1/conversations").await.expect(200).json();
        assert_eq!(list["data"].as_array().unwrap().len(), 2);
        // Only its owner can erase it, even when nothing of it is readable.
        let stranger = app.call("DELETE", &damaged).by(&app.token("bob"));
        stranger.send().await.problem(404, "not_found");
        app.ada("DELETE", &damaged).send().await.expect(204);
        app.ada("DELETE", &damaged).send().await.problem(404, "not_found");
        app.get(&damaged).await.problem(404, "not_found");
        app.post(&format!("{damaged}/turns"), json!({ "input": "x" }))
            .await
            .problem(404, "not_found");
        app.answered(&whole, "hello once more").await;
        let list = app.get("/v1/conversations").await.expect(200).json();
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
    })
    .await;
}
