//! What administrators see.

use std::sync::Arc;

use copilotd::gateway::ledger::UsageStore as _;
use copilotd::http::auth::Scopes;

use super::app::with_app;
use crate::support::usage::record;

#[tokio::test(start_paused = true)]
async fn usage_is_summed_up_for_the_tenants_own_administrators() {
    with_app(async |app| {
        let records = [
            record("2026-11-01T10:00:00Z", "ada", "large", 2_500_000_000),
            record("2026-11-02T10:00:00Z", "bob", "small", 1),
        ];
        app.usage.add_usage(&Arc::new(records.to_vec().into())).await.unwrap();
        let ask = async |tenant: &str, scopes, query: &str| {
            let token = app.token_of(tenant, "root", scopes);
            app.call("GET", &format!("/v1/admin/usage{query}"))
                .by(&token)
                .send()
                .await
        };
        let by_user = ask("acme", Scopes::ADMIN, "?from=2026-11-01&to=2026-11-01&group_by=user")
            .await
            .expect(200);
        let report = by_user.json();
        assert_eq!(report["from"], "2026-11-01T00:00:00Z");
        assert_eq!(report["to"], "2026-11-02T00:00:00Z");
        assert_eq!(report["data"].as_array().unwrap().len(), 1);
        assert_eq!(report["data"][0]["key"], "ada");
        assert_eq!(report["data"][0]["cost_usd"], 2.5);
        let by_day = ask("acme", Scopes::ADMIN, "?from=2026-11-01T00:00:00Z&to=2026-11-30")
            .await
            .expect(200)
            .json();
        assert_eq!(by_day["data"].as_array().unwrap().len(), 2);
        let other = ask("globex", Scopes::ADMIN, "?from=2026-11-01&to=2026-11-30")
            .await
            .expect(200)
            .json();
        assert_eq!(other["data"].as_array().unwrap().len(), 0);
        ask("acme", Scopes::CHAT | Scopes::GATEWAY, "")
            .await
            .problem(403, "forbidden");
        for wrong in [
            "?from=yesterday",
            "?to=2026-13-01",
            "?group_by=cost",
            "?from=2026-11-02&to=2026-10-01",
            "?x=1",
        ] {
            ask("acme", Scopes::ADMIN, wrong).await.problem(422, "invalid");
        }
        ask("acme", Scopes::ADMIN, "").await.expect(200);
        app.call("GET", "/v1/admin/usage")
            .send()
            .await
            .problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn kept_answers_are_forgotten_by_the_tenants_own_administrators() {
    with_app(async |app| {
        let admin = app.token_of("acme", "root", Scopes::ADMIN);
        let forget = async |by: &str, query: &str| {
            let path = format!("/v1/admin/cache{query}");
            app.call("DELETE", &path).by(by).send().await
        };
        for query in ["", "?route=default"] {
            assert_eq!(forget(&admin, query).await.expect(200).json()["forgotten"], 0);
        }
        forget(&admin, "?x=1").await.problem(422, "invalid");
        forget(&app.token("ada"), "").await.problem(403, "forbidden");
    })
    .await;
}
