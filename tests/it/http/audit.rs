//! The audit log over HTTP, and what is recorded there before it is answered.

use std::sync::atomic::Ordering;

use copilotd::http::auth::Scopes;
use serde_json::{Value, json};

use super::app::{TestApp, with_app};

const REASON: &str = "x-copilotd-reason";

fn admin(app: &TestApp, tenant: &str) -> String {
    app.token_of(tenant, "root", Scopes::CHAT | Scopes::ADMIN)
}

async fn entries(app: &TestApp, tenant: &str) -> Vec<Value> {
    let answer = app.call("GET", "/v1/admin/audit").by(&admin(app, tenant)).send().await;
    answer.expect(200).json()["data"].as_array().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn another_users_turn_is_read_with_a_reason_that_is_recorded() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "a private matter").await;
        app.turn_is(&turn, "completed").await;
        let admin = admin(app, "acme");
        let read = |reason: Option<&str>| {
            let call = app.call("GET", &turn).by(&admin).header("x-request-id", "r-1");
            match reason {
                Some(reason) => call.header(REASON, reason),
                None => call,
            }
        };
        let long = "x".repeat(501);
        for refused in [None, Some(""), Some("  "), Some(long.as_str())] {
            let problem = read(refused).send().await.problem(422, "invalid");
            assert!(!problem.to_string().contains("private"));
        }
        let twice = read(Some("a")).header(REASON, "b").send().await;
        twice.problem(422, "invalid");
        assert_eq!(entries(app, "acme").await, Vec::<Value>::new());
        let shown = read(Some("ticket 4711: « außer Dienst »"))
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(shown["input"], "a private matter");
        let found = entries(app, "acme").await;
        assert_eq!(found.len(), 1);
        let entry = &found[0];
        assert_eq!((&entry["n"], &entry["action"]), (&json!(1), &json!("turn.read")));
        assert_eq!(entry["target"], turn.rsplit('/').next().unwrap());
        assert_eq!((&entry["actor"], &entry["request_id"]), (&json!("root"), &json!("r-1")));
        assert_eq!(entry["reason"], "ticket 4711: « außer Dienst »");
        assert!(entry["credential"].as_str().unwrap().starts_with("jwt:"));
        assert!(!entry.to_string().contains("private"));

        // One's own turn needs no reason and leaves no entry; whoever is no administrator learns nothing, with a reason or without.
        app.get(&turn).await.expect(200);
        let bob = app.token("bob");
        app.call("GET", &turn)
            .by(&bob)
            .header(REASON, "why")
            .send()
            .await
            .problem(404, "not_found");
        let foreign = app.token_of("globex", "root", Scopes::CHAT | Scopes::ADMIN);
        app.call("GET", &turn)
            .by(&foreign)
            .header(REASON, "why")
            .send()
            .await
            .problem(404, "not_found");
        let nowhere = format!("/v1/turns/turn_{}", "0".repeat(32));
        app.call("GET", &nowhere)
            .by(&admin)
            .header(REASON, "why")
            .send()
            .await
            .problem(404, "not_found");
        assert_eq!(entries(app, "acme").await.len(), 1);
        assert_eq!(entries(app, "globex").await.len(), 0, "of its own tenant alone");

        // The scope admin is enough; no scope, and nobody else's scope, is.
        for (scopes, status) in [(Scopes::ADMIN, 200), (Scopes::GATEWAY, 403), (Scopes::OPERATOR, 403)] {
            let token = app.token_of("acme", "root", scopes);
            let answer = app.call("GET", &turn).by(&token).header(REASON, "why").send().await;
            answer.expect(status);
        }
        assert_eq!(entries(app, "acme").await.len(), 2);

        // Acting for the turn's user makes it nobody's own without the scope chat.
        let created = app
            .call("POST", "/v1/admin/api-keys")
            .by(&admin)
            .json(&json!({ "name": "auditor", "scopes": ["admin"] }));
        let key = created.send().await.expect(201).text("/key");
        let acting = || app.call("GET", &turn).by(&key).header("x-copilotd-user", "ada");
        let problem = acting().send().await.problem(422, "invalid");
        assert!(!problem.to_string().contains("private"));
        acting().header(REASON, "why").send().await.expect(200);
        let found = entries(app, "acme").await;
        assert_eq!(found[0]["action"], "turn.read");
        assert_eq!(found.len(), 4);

        // What cannot be recorded is not shown.
        app.audit.away.store(true, Ordering::Relaxed);
        let problem = read(Some("why")).send().await.problem(503, "unavailable");
        assert!(!problem.to_string().contains("private"));
        app.audit.away.store(false, Ordering::Relaxed);
        read(Some("why")).send().await.expect(200);
        assert_eq!(entries(app, "acme").await[0]["n"], 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_administrators_decision_is_recorded_and_shows_content_only_for_a_reason() {
    use copilotd_actors::fakes::model::{calls, says};
    with_app(async |app| {
        let arguments = json!({ "subject": "private words", "body": "private words" });
        let answer = [
            calls(&[("zendesk_create_ticket", arguments)]),
            says(&["private words"], std::time::Duration::ZERO),
        ];
        app.model.on("please", &answer);
        app.system("zendesk");
        let admin = admin(app, "acme");
        for reason in [None, Some("called by ada")] {
            let conversation = app.conversation().await;
            let turn = app.submit(&conversation, "please, private words").await;
            let view = app.turn_is(&turn, "awaiting_approval").await;
            let call = view["tool_calls"][0]["id"].as_str().unwrap();
            let decide = app.call("POST", &format!("{turn}/approvals/{call}")).by(&admin);
            let decide = decide.json(&json!({ "decision": "reject" }));
            let decide = match reason {
                Some(reason) => decide.header(REASON, reason),
                None => decide,
            };
            let decided = decide.send().await.expect(202).json();
            assert_eq!(decided["tool_calls"][0]["status"], "rejected");
            assert_eq!(decided.to_string().contains("private"), reason.is_some(), "{decided:#}");
            let found = entries(app, "acme").await;
            let actions: Vec<&str> = found.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
            match reason {
                None => assert_eq!(actions, ["approval.decided"]),
                Some(reason) => {
                    assert_eq!(actions, ["turn.read", "approval.decided", "approval.decided"]);
                    assert_eq!(found[0]["reason"], reason);
                }
            }
            let turn_id = turn.rsplit('/').next().unwrap();
            assert_eq!(
                found
                    .iter()
                    .find(|entry| entry["action"] == "approval.decided")
                    .unwrap()["target"],
                format!("{turn_id}/{call}")
            );
            app.turn_is(&turn, "completed").await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn erasing_leaves_an_entry_and_lists_page() {
    with_app(async |app| {
        let mut erased = Vec::new();
        for _ in 0..5 {
            let conversation = app.conversation().await;
            app.ada("DELETE", &conversation).send().await.expect(204);
            erased.insert(0, conversation.rsplit('/').next().unwrap().to_owned());
        }
        let admin = admin(app, "acme");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/admin/audit?limit=2{cursor}");
            let page = app.call("GET", &path).by(&admin).send().await.expect(200).json();
            for entry in page["data"].as_array().unwrap() {
                assert_eq!(
                    (&entry["action"], &entry["actor"]),
                    (&json!("conversation.erased"), &json!("ada"))
                );
                found.push(entry["target"].as_str().unwrap().to_owned());
            }
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
            // Another tenant's cursor is none.
            let foreign = app.token_of("globex", "root", Scopes::ADMIN);
            let path = format!("/v1/admin/audit?cursor={next}");
            app.call("GET", &path).by(&foreign).send().await.problem(422, "invalid");
        }
        assert_eq!(found, erased);
        let verified = app
            .call("GET", "/v1/admin/audit/verify")
            .by(&admin)
            .send()
            .await
            .expect(200);
        assert_eq!(verified.json(), json!({ "ok": true, "entries": 5 }));
        app.audit.damage("acme", 3);
        let verified = app
            .call("GET", "/v1/admin/audit/verify")
            .by(&admin)
            .send()
            .await
            .expect(200);
        assert_eq!(
            verified.json(),
            json!({ "ok": false, "entries": 2, "first_bad": 3, "fault": "altered" })
        );

        // Neither a user nor another tenant's administrator gets there.
        for path in ["/v1/admin/audit", "/v1/admin/audit/verify"] {
            app.get(path).await.problem(403, "forbidden");
            app.call("GET", path).send().await.problem(401, "unauthenticated");
            app.call("GET", &format!("{path}?x=1"))
                .by(&admin)
                .send()
                .await
                .expect(if path.ends_with("verify") { 200 } else { 422 });
        }
        assert_eq!(entries(app, "globex").await.len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_erased_that_cannot_be_recorded() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        app.audit.away.store(true, Ordering::Relaxed);
        app.ada("DELETE", &conversation)
            .send()
            .await
            .problem(503, "unavailable");
        app.audit.away.store(false, Ordering::Relaxed);
        app.get(&conversation).await.expect(200);
        app.ada("DELETE", &conversation).send().await.expect(204);
        app.get(&conversation).await.problem(404, "not_found");
    })
    .await;
}
