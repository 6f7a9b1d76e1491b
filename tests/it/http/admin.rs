//! Usage reports and cache deletion.

use std::sync::Arc;

use copilotd::http::credentials::Scopes;
use copilotd_gateway::ledger::UsageStore as _;

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
async fn usage_is_available_as_csv() {
    with_app(async |app| {
        let mut odd = record("2026-11-02T10:00:00Z", "=cmd()", "large", 1_500_000_000);
        odd.api_key = Some("backend".to_owned());
        let records = vec![record("2026-11-01T10:00:00Z", "ada, b", "large", 0), odd];
        app.usage.add_usage(&Arc::new(records.into())).await.unwrap();
        let admin = app.token_of("acme", "root", Scopes::ADMIN);
        let ask = async |by: &str, path: &str, accept: &str| {
            let path = format!("{path}&from=2026-11-01&to=2026-11-30");
            app.call("GET", &path).by(by).header("accept", accept).send().await
        };
        let head = "key,calls,cache_hits,prompt_tokens,completion_tokens,cached_tokens,cache_write_tokens,reasoning_tokens,cost_usd,estimated_calls";
        let users = ask(&admin, "/v1/admin/usage?group_by=user", "text/csv").await.expect(200);
        assert_eq!(users.headers["content-type"], "text/csv; charset=utf-8; header=present");
        let sums = "1,0,100,10,40,5,3";
        let expected = format!("{head}\r\n\"'=cmd()\",{sums},1.5,0\r\n\"ada, b\",{sums},0,0\r\n");
        assert_eq!(String::from_utf8_lossy(&users.body), expected);
        for (group, keys) in [("key", ["", "backend"].as_slice()), ("route", &["default"])] {
            let report = ask(&admin, &format!("/v1/admin/usage?group_by={group}"), "application/json").await.expect(200).json();
            let found: Vec<&str> = report["data"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
            assert_eq!(found, keys, "{group}");
        }
        ask(&admin, "/v1/admin/usage?group_by=user", "text/html").await.problem(406, "not_acceptable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_sees_the_usage_of_all_tenants_and_no_user() {
    with_app(async |app| {
        let of = |tenant: &str, key: Option<&str>, cost| {
            let mut record = record("2026-11-02T10:00:00Z", "ada", "large", cost);
            record.tenant = tenant.parse().unwrap();
            record.api_key = key.map(str::to_owned);
            record
        };
        let records = vec![
            of("acme", None, 1_000_000_000),
            of("acme", Some("backend"), 0),
            of("globex", None, 500_000_000),
        ];
        app.usage.add_usage(&Arc::new(records.into())).await.unwrap();
        let operator = app.token_of("acme", "root", Scopes::OPERATOR);
        let ask = async |by: &str, query: &str, accept: &str| {
            let path = format!("/v1/operator/usage?from=2026-11-01&to=2026-11-30{query}");
            app.call("GET", &path).by(by).header("accept", accept).send().await
        };
        let rows = async |query: &str| {
            let report = ask(&operator, query, "*/*").await.expect(200).json();
            let row = |row: &serde_json::Value| {
                format!("{} {} {} {}", row["tenant"], row["key"], row["calls"], row["cost_usd"])
            };
            report["data"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        };
        let by_tenant = ["\"acme\" \"acme\" 2 1.0", "\"globex\" \"globex\" 1 0.5"];
        assert_eq!(rows("").await, by_tenant);
        assert_eq!(rows("&group_by=tenant").await, by_tenant);
        assert_eq!(
            rows("&group_by=key").await,
            [
                "\"acme\" \"\" 1 1.0",
                "\"acme\" \"backend\" 1 0.0",
                "\"globex\" \"\" 1 0.5"
            ]
        );
        assert_eq!(rows("&group_by=route").await, ["null \"default\" 3 1.5"]);
        assert_eq!(rows("&group_by=day&tenant=globex").await, ["null \"2026-11-02\" 1 0.5"]);
        let csv = ask(&operator, "&group_by=key&tenant=acme", "text/csv")
            .await
            .expect(200);
        let csv = String::from_utf8_lossy(&csv.body).into_owned();
        assert!(
            csv.starts_with("tenant,key,calls,") && csv.contains("\r\nacme,backend,1,0,"),
            "{csv}"
        );
        assert!(!csv.contains("ada"));
        for wrong in ["&group_by=user", "&group_by=copilot", "&tenant=A%20b", "&x=1"] {
            ask(&operator, wrong, "*/*").await.problem(422, "invalid");
        }
        // Other scopes are refused.
        for scopes in [Scopes::ADMIN, Scopes::CHAT | Scopes::GATEWAY] {
            ask(&app.token_of("acme", "root", scopes), "", "*/*")
                .await
                .problem(403, "forbidden");
        }
        ask(&app.signed("globex", "root", "operator"), "", "*/*")
            .await
            .problem(403, "forbidden");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn administrators_delete_their_tenants_cached_answers() {
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
