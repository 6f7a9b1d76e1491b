//! Client tools over HTTP: what a page sends and sees.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::tool::client::CLAIM_TIME;
use copilotd_actors::fakes::model::{calls, says};
use serde_json::{Value, json};

use super::app::{TestApp, text, with_app, with_config};
use super::client::Answer;

fn tool(name: &str) -> Value {
    json!({
        "name": name,
        "description": "Opens a page of the shop.",
        "parameters": { "type": "object", "properties": { "path": { "type": "string" } }, "required": ["path"] },
    })
}

async fn submit(app: &TestApp, conversation: &str, tools: Value) -> Answer {
    let body = json!({ "input": "work", "client_tools": tools });
    app.post(&format!("{conversation}/turns"), body).await
}

/// A turn of ada that waits for a page: its path, and the path of its call.
async fn waiting(app: &TestApp) -> (String, String) {
    let arguments = json!({ "path": "/orders" });
    let steps = [calls(&[("open_page", arguments)]), says(&["done"], Duration::ZERO)];
    app.model.on("work", &steps);
    let conversation = app.conversation().await;
    let accepted = submit(app, &conversation, json!([tool("open_page")])).await.expect(202);
    let turn = accepted.headers["location"].to_str().unwrap().to_owned();
    for _ in 0..1000 {
        let view = app.get(&turn).await.expect(200).json();
        if let Some(call) = view["tool_calls"].as_array().and_then(|calls| calls.first()) {
            let id = call["id"].as_str().unwrap();
            return (turn.clone(), format!("{turn}/client-tools/{id}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the model never called the tool");
}

async fn call_of(app: &TestApp, turn: &str) -> Value {
    app.get(turn).await.expect(200).json()["tool_calls"][0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_page_claims_runs_and_answers() {
    with_app(async |app| {
        let (turn, path) = waiting(app).await;
        let offered = call_of(app, &turn).await;
        assert_eq!(offered["status"], "proposed");
        assert!(offered["expires_at"].is_string(), "{offered}");
        let claimed = app.post(&path, json!({ "claim": true })).await.expect(200).json();
        assert_eq!(
            claimed,
            json!({
                "call_id": offered["id"], "name": "open_page", "arguments": { "path": "/orders" },
                "expires_at": claimed["expires_at"], "claim": claimed["claim"],
            })
        );
        let running = call_of(app, &turn).await;
        assert_eq!(
            (&running["status"], &running["expires_at"]),
            (&json!("running"), &claimed["expires_at"])
        );
        app.post(&path, json!({ "claim": true }))
            .await
            .problem(409, "not_waiting");
        let stolen = json!({ "claim": "not it", "result": 1 });
        app.post(&path, stolen).await.problem(409, "not_waiting");
        let answer = json!({ "claim": claimed["claim"], "result": { "title": "Orders" } });
        let shown = app.post(&path, answer.clone()).await.expect(202).json();
        assert_eq!(shown["tool_calls"][0]["result"], json!({ "title": "Orders" }));
        app.turn_is(&turn, "completed").await;
        // The same answer again is no mistake; another one is.
        app.post(&path, answer).await.expect(202);
        for other in [
            json!({ "claim": claimed["claim"], "result": null }),
            json!({ "claim": true }),
        ] {
            app.post(&path, other).await.problem(409, "not_waiting");
        }
        let prompt = format!("{:?}", app.model.requests()[1].messages.last());
        assert!(prompt.contains("Orders"), "{prompt}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_repeated_under_its_key() {
    with_app(async |app| {
        let (turn, path) = waiting(app).await;
        let claim = async |key: &str| {
            let call = app.ada("POST", &path).header("idempotency-key", key);
            call.json(&json!({ "claim": true })).send().await
        };
        let first = claim("tab-1").await.expect(200).json();
        assert_eq!(claim("tab-1").await.expect(200).json(), first);
        claim("tab-2").await.problem(409, "not_waiting");
        let error = json!({ "claim": first["claim"], "error": "the page is closed" });
        app.post(&path, error).await.expect(202);
        claim("tab-1").await.problem(409, "not_waiting");
        let call = call_of(app, &turn).await;
        assert_eq!(
            (&call["status"], &call["error"]),
            (&json!("failed"), &json!("the page is closed"))
        );
        app.turn_is(&turn, "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_user_claims() {
    with_app(async |app| {
        let (turn, path) = waiting(app).await;
        for other in [
            app.token("bob"),
            app.token_of("acme", "root", Scopes::CHAT | Scopes::ADMIN),
            app.token_of("globex", "ada", Scopes::CHAT),
        ] {
            for body in [json!({ "claim": true }), json!({ "claim": "x", "result": 1 })] {
                let call = app.call("POST", &path).by(&other).json(&body);
                call.send().await.problem(404, "not_found");
            }
        }
        let nobody = format!("{turn}/client-tools/call_{}", "0".repeat(32));
        app.post(&nobody, json!({ "claim": true }))
            .await
            .problem(404, "not_found");
        assert_eq!(call_of(app, &turn).await["status"], "proposed");
        // Nobody claims it in time.
        tokio::time::sleep(CLAIM_TIME).await;
        app.turn_is(&turn, "completed").await;
        assert_eq!(call_of(app, &turn).await["status"], "failed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bodies_that_make_no_sense_are_refused() {
    with_app(async |app| {
        let (turn, path) = waiting(app).await;
        for (body, pointer) in [
            (json!({}), "/claim"),
            (json!({ "claim": false }), "/claim"),
            (json!({ "claim": 1 }), "/claim"),
            (json!({ "claim": "" }), "/claim"),
            (json!({ "claim": true, "result": 1 }), "/claim"),
            (json!({ "claim": "x", "error": "" }), "/error"),
            (json!({ "claim": "x", "by": "bob" }), "/by"),
        ] {
            let problem = app.post(&path, body.clone()).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem:#}");
        }
        let token = app
            .post(&path, json!({ "claim": true }))
            .await
            .expect(200)
            .text("/claim");
        for (body, pointer) in [
            (json!({ "claim": token }), ""),
            (json!({ "claim": token, "result": 1, "error": "e" }), "/error"),
        ] {
            let problem = app.post(&path, body.clone()).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem:#}");
        }
        let large = json!({ "claim": token, "result": "x".repeat(64 * 1024) });
        app.post(&path, large).await.problem(413, "too_large");
        // None of this cost the page its claim.
        app.post(&path, json!({ "claim": token, "result": null }))
            .await
            .expect(202);
        app.turn_is(&turn, "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn client_tools_are_checked_when_they_are_submitted() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let before = app.log.attempts();
        let with = |member: &str, value: Value| {
            let mut tool = tool("open_page");
            tool[member] = value;
            json!([tool])
        };
        let many: Vec<Value> = (0..17).map(|n| tool(&format!("t{n}"))).collect();
        for (tools, pointer) in [
            (json!(many), "/client_tools"),
            (json!([tool("a b")]), "/client_tools/0/name"),
            (json!([tool("a"), tool("a")]), "/client_tools/1/name"),
            (json!([tool("zendesk_create_ticket")]), "/client_tools/0/name"),
            (with("description", json!("")), "/client_tools/0/description"),
            (with("more", json!(1)), "/client_tools/0/more"),
            (with("parameters", json!({})), "/client_tools/0/parameters/type"),
            (
                with("parameters", json!({ "type": "object", "properties": 3 })),
                "/client_tools/0/parameters/properties",
            ),
            (
                with("parameters", json!({ "type": "object", "$ref": "https://example.com" })),
                "/client_tools/0/parameters/$ref",
            ),
        ] {
            let problem = submit(app, &conversation, tools.clone()).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{tools}: {problem:#}");
        }
        let large = with(
            "parameters",
            json!({ "type": "object", "description": "x".repeat(32 * 1024) }),
        );
        submit(app, &conversation, large).await.problem(413, "too_large");
        assert_eq!(app.log.attempts(), before, "nothing was stored");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_copilot_may_forbid_them() {
    let config = text("").replacen("name = \"support\"", "name = \"support\"\nclient_tools = false", 1);
    with_config(&config, async |app| {
        let conversation = app.conversation().await;
        let problem = submit(app, &conversation, json!([tool("open_page")])).await;
        let problem = problem.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["pointer"], "/client_tools", "{problem:#}");
        submit(app, &conversation, json!([])).await.expect(202);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_page_that_was_reloaded_finds_the_call_in_the_stream_and_in_the_messages() {
    with_app(async |app| {
        let (turn, path) = waiting(app).await;
        let id = call_of(app, &turn).await["id"].clone();
        let conversation = app.get(&turn).await.json()["conversation_id"].clone();
        let messages = format!("/v1/conversations/{}/messages", conversation.as_str().unwrap());
        let page = app.get(&messages).await.expect(200).json();
        let shown = &page["turns"][0]["tool_calls"][0];
        assert_eq!((&shown["id"], &shown["status"]), (&id, &json!("proposed")));
        let mut stream = app.ada("GET", &format!("{turn}/events")).stream().await;
        let requested = stream.until("client_tool.requested").await.pop().unwrap();
        assert_eq!(requested.data["call_id"], id);
        assert_eq!(requested.data["arguments"], json!({ "path": "/orders" }));
        assert_eq!(requested.data["expires_at"], shown["expires_at"]);
        app.post(&path, json!({ "claim": true })).await.expect(200);
        let called = stream.until("tool.called").await.pop().unwrap();
        assert_eq!(called.data["call_id"], id);
        assert_eq!(called.data["expires_at"], call_of(app, &turn).await["expires_at"]);
        assert!(
            called.data.get("claim").is_none(),
            "the token is secret: {}",
            called.data
        );
    })
    .await;
}
