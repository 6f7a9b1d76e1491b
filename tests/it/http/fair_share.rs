//! Fair sharing: one tenant's flood does not slow down another tenant.

use std::cell::RefCell;
use std::time::Duration;

use copilotd::http::credentials::Scopes;
use serde_json::json;

use super::app::with_app;

#[tokio::test]
async fn a_tenant_above_its_share_waits_and_another_does_not() {
    with_app(async |app| {
        let acme = app.token_of("acme", "ada", Scopes::CHAT);
        let globex = app.token_of("globex", "ada", Scopes::CHAT);
        // While alone, a tenant may use everything.
        let list = |token: &str| app.call("GET", "/v1/conversations").by(token).send();
        list(&globex).await.expect(200);
        let share = app.app.state.shared.shares.of(&"acme".parse().unwrap());
        share.charge(Duration::from_secs(1));
        let order = RefCell::new(Vec::new());
        let listed = async |name, token: &str| {
            list(token).await.expect(200);
            order.borrow_mut().push(name);
        };
        futures::join!(listed("acme", &acme), listed("globex", &globex));
        assert_eq!(order.into_inner(), ["globex", "acme"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_administrator_does_not_stand_behind_a_flood() {
    with_app(async |app| {
        let globex = app.token_of("globex", "ada", Scopes::CHAT);
        let another_is_active = async || {
            let list = app.call("GET", "/v1/conversations").by(&globex);
            list.send().await.expect(200);
        };
        let admin = app.token_of("acme", "root", Scopes::ADMIN);
        let key = app.call("POST", "/v1/admin/api-keys").by(&admin);
        let key = key
            .json(&json!({ "name": "new", "scopes": ["chat"] }))
            .send()
            .await
            .expect(201);
        another_is_active().await;
        let share = app.app.state.shared.shares.of(&"acme".parse().unwrap());
        share.charge(Duration::from_secs(1));
        let begun = tokio::time::Instant::now();
        let user = app
            .call("POST", "/v1/admin/revocations")
            .by(&admin)
            .json(&json!({ "user": "ada" }));
        user.send().await.expect(201);
        let revoked = app
            .call("DELETE", &format!("/v1/admin/api-keys/{}", key.text("/id")))
            .by(&admin);
        revoked.send().await.expect(204);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        // Lists and reports wait like any other work.
        for path in ["api-keys", "audit", "audit/verify", "usage"] {
            another_is_active().await;
            share.charge(Duration::from_secs(1));
            let begun = tokio::time::Instant::now();
            app.call("GET", &format!("/v1/admin/{path}"))
                .by(&admin)
                .send()
                .await
                .expect(200);
            assert!(begun.elapsed() > Duration::ZERO, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_tenant_does_is_charged_to_it() {
    with_app(async |app| {
        let share = app.app.state.shared.shares.of(&"acme".parse().unwrap());
        let before = share.current_debt();
        let made = app.post("/v1/conversations", json!({})).await.expect(201);
        let turns = format!("/v1/conversations/{}/turns", made.text("/id"));
        app.post(&turns, json!({ "input": "hi" })).await.expect(202);
        assert!(share.current_debt() > before);
        let other = app.app.state.shared.shares.of(&"globex".parse().unwrap());
        assert_eq!(other.current_debt(), Duration::ZERO);
    })
    .await;
}
