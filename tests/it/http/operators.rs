//! Operators: who is one, what they may do, and what no request can do.

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::tenant::StoredKey;
use copilotd_actors::ports::TenantStore as _;
use serde_json::{Value, json};

use super::app::{TestApp, with_app, with_globex};
use super::client::Answer;
use crate::support::talk::scope;

const TENANTS: &str = "/v1/operator/tenants";

async fn ask(app: &TestApp, method: &str, path: &str, body: Value) -> Answer {
    let operator = app.token_of("acme", "root", Scopes::OPERATOR);
    let call = app.call(method, &format!("{TENANTS}/{path}")).by(&operator);
    if body.is_null() {
        call.send().await
    } else {
        call.json(&body).send().await
    }
}

fn pointers(answer: Answer) -> Vec<String> {
    let problem = answer.problem(422, "invalid");
    let errors = problem["errors"].as_array().unwrap().iter();
    errors
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect()
}

fn copilots() -> Value {
    json!([{ "name": "support", "route": "default" }])
}

/// A tenant with its own Zendesk, created at run time.
async fn initech(app: &TestApp) {
    let settings = json!({
        "copilots": copilots(),
        "zendesk": { "base_url": "https://initech.zendesk.example", "oauth_token": { "value": "hunter2-zendesk" } },
        "slack": { "bot_token": { "value": "hunter2-slack" } },
    });
    ask(app, "PUT", "initech", json!({ "settings": settings }))
        .await
        .expect(201);
}

fn zendesk_token(app: &TestApp, tenant: &str) -> Option<String> {
    let config = app.roster.config();
    let mut systems = config.tenant(tenant)?.systems.iter();
    let settings = &systems.find(|system| system.name == "zendesk")?.settings;
    let token = settings.text("oauth_token").or(settings.text("token"))?;
    Some(token.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_signs_operator_is_no_operator() {
    with_app(async |app| {
        let forged = app.signed("globex", "root", "chat admin operator");
        let key = "cpk_CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC";
        // A key stored by an older release, or by someone with access to the database.
        let stored = StoredKey {
            tenant: "globex".parse().unwrap(),
            hash: KeyHash::of(key),
            name: "ops".to_owned(),
            scopes: Scopes::ALL,
            created_at: app.now(),
            created_by: Some("root".to_owned()),
            expires_at: None,
            revoked_at: None,
        };
        app.tenants.put_key(&stored).await.unwrap();
        initech(app).await;
        for credential in [forged.as_str(), key] {
            for (method, path, body) in [
                ("GET", TENANTS.to_owned(), Value::Null),
                ("GET", format!("{TENANTS}/acme"), Value::Null),
                ("PATCH", format!("{TENANTS}/acme"), json!({ "status": "suspended" })),
                ("PUT", format!("{TENANTS}/new"), json!({ "settings": {} })),
            ] {
                let call = app.call(method, &path).by(credential);
                let answer = if body.is_null() {
                    call.send().await
                } else {
                    call.json(&body).send().await
                };
                answer.problem(403, "forbidden");
            }
        }
        // They keep their other scopes, and nobody in the tenant can grant more.
        app.call("GET", "/v1/conversations").by(key).send().await.expect(200);
        let new = json!({ "name": "more", "scopes": ["operator"] });
        for credential in [forged.as_str(), key] {
            app.call("POST", "/v1/admin/api-keys")
                .by(credential)
                .json(&new)
                .send()
                .await
                .problem(403, "forbidden");
        }
        let listed = app
            .call("GET", "/v1/admin/api-keys")
            .by(&forged)
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(
            listed["data"][0]["scopes"],
            json!(["chat", "gateway", "knowledge", "admin"])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_request_makes_an_operator() {
    with_app(async |app| {
        let issuer = |scopes: Value| {
            json!([{ "iss": "https://new.example", "alg": "HS256", "scopes": scopes,
                     "secret": { "value": "a secret of globex, at least 32 bytes long" } }])
        };
        let hash = KeyHash::of("cpk_DDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDD").to_string();
        let key = json!([{ "name": "ops", "hash": hash, "scopes": ["operator"] }]);
        for tenant in ["globex", "acme", "new"] {
            for (settings, pointer) in [
                (json!({ "operator": true }), "/settings/operator"),
                (json!({ "operator": false }), "/settings/operator"),
                (json!({ "operator": null }), "/settings/operator"),
                (
                    json!({ "issuers": issuer(json!(["chat", "operator"])) }),
                    "/settings/issuers/0/scopes",
                ),
                (json!({ "api_keys": key }), "/settings/api_keys/0/scopes"),
            ] {
                for method in ["PUT", "PATCH"] {
                    if (method, tenant) == ("PATCH", "new") {
                        continue;
                    }
                    let found = pointers(ask(app, method, tenant, json!({ "settings": settings })).await);
                    assert_eq!(found, [pointer], "{method} {tenant} {settings}");
                }
            }
        }
        // The operator's tenant stays one when its other settings change, and keeps the issuer from the file.
        let changed = ask(
            app,
            "PATCH",
            "acme",
            json!({ "settings": { "knowledge_version": "2" } }),
        )
        .await;
        assert_eq!(changed.expect(200).json()["operator"], true);
        let shown = ask(app, "GET", "acme", Value::Null).await.expect(200).json();
        assert_eq!(
            (&shown["origin"], &shown["settings"]["operator"]),
            (&json!("stored"), &Value::Null)
        );
        let globex = ask(app, "GET", "globex", Value::Null).await.expect(200).json();
        assert_eq!(globex["operator"], false);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_does_not_suspend_himself_by_mistake() {
    with_app(async |app| {
        let suspended = json!({ "status": "suspended" });
        ask(app, "PATCH", "acme", suspended.clone())
            .await
            .problem(409, "conflict");
        ask(app, "PATCH", "acme?force=false", suspended.clone())
            .await
            .problem(409, "conflict");
        ask(app, "PATCH", "acme?force=maybe", suspended.clone())
            .await
            .problem(422, "invalid");
        let settings = json!({ "status": "suspended", "settings": { "copilots": copilots() } });
        ask(app, "PUT", "acme", settings).await.problem(409, "conflict");
        ask(app, "PATCH", "globex", suspended.clone()).await.expect(200);
        ask(app, "PATCH", "acme?force=true", suspended).await.expect(200);
        ask(app, "GET", "acme", Value::Null).await.problem(403, "forbidden");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_does_not_follow_a_changed_address() {
    with_app(async |app| {
        initech(app).await;
        let shown = ask(app, "GET", "initech", Value::Null).await.expect(200).json()["settings"].clone();
        assert!(!shown.to_string().contains("hunter2"), "{shown:#}");
        let mut moved = shown.clone();
        moved["zendesk"]["base_url"] = json!("https://evil.example");
        for (method, settings, pointer) in [
            (
                "PATCH",
                json!({ "zendesk": { "base_url": "https://evil.example" } }),
                "/settings/zendesk/oauth_token",
            ),
            (
                "PATCH",
                json!({ "slack": { "base_url": "https://evil.example" } }),
                "/settings/slack/bot_token",
            ),
            ("PATCH", moved.clone(), "/settings/zendesk/oauth_token"),
            ("PUT", moved, "/settings/zendesk/oauth_token"),
            (
                "PATCH",
                json!({ "zendesk": { "oauth_token": null, "email": "a", "token": shown["zendesk"]["oauth_token"] } }),
                "/settings/zendesk/token",
            ),
            (
                "PATCH",
                json!({ "slack": { "bot_token": shown["zendesk"]["oauth_token"] } }),
                "/settings/slack/bot_token",
            ),
        ] {
            let found = pointers(ask(app, method, "initech", json!({ "settings": settings })).await);
            assert_eq!(found, [pointer], "{method} {settings:#}");
        }
        // After removing the secret, it cannot be brought back.
        ask(app, "PATCH", "initech", json!({ "settings": { "zendesk": null } }))
            .await
            .expect(200);
        let again = json!({ "settings": { "zendesk": shown["zendesk"] } });
        assert_eq!(
            pointers(ask(app, "PATCH", "initech", again).await),
            ["/settings/zendesk/oauth_token"]
        );
        // The address may change if the secret is given again.
        let given = json!({ "base_url": "https://new.example", "oauth_token": { "value": "given" } });
        ask(app, "PATCH", "initech", json!({ "settings": { "zendesk": given } }))
            .await
            .expect(200);
        assert_eq!(zendesk_token(app, "initech").as_deref(), Some("given"));
        // Another tenant's secret cannot be referred to.
        let foreign = json!({ "settings": { "slack": { "bot_token": shown["slack"]["bot_token"] } } });
        assert_eq!(
            pointers(ask(app, "PATCH", "globex", foreign).await),
            ["/settings/slack/bot_token"]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_request_reads_the_environment_or_files() {
    with_app(async |app| {
        initech(app).await;
        for secret in [
            json!({ "file": "/etc/hostname" }),
            json!({ "file": "/etc/hostname", "value": null, "env": null }),
            json!({ "file": "/no/such/file", "value": null, "kept": null }),
            json!({ "env": "PATH", "value": null }),
            json!({ "env": "NOT_SET", "kept": null }),
        ] {
            for settings in [
                json!({ "zendesk": { "oauth_token": secret } }),
                json!({ "slack": { "bot_token": secret, "base_url": "https://evil.example" } }),
                json!({ "issuers": [{ "iss": "https://i.example", "alg": "HS256", "secret": secret }] }),
                json!({ "provider_keys": [{ "provider": "main", "api_keys": [secret] }] }),
            ] {
                for method in ["PATCH", "PUT"] {
                    let answer = ask(app, method, "initech", json!({ "settings": settings })).await;
                    let problem = answer.problem(422, "invalid").to_string();
                    // The same answer whether or not the file exists, without the operating system's error.
                    assert!(
                        !problem.contains("os error") && !problem.contains("not set"),
                        "{problem}"
                    );
                }
            }
        }
        assert_eq!(zendesk_token(app, "initech").as_deref(), Some("hunter2-zendesk"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_tenant_takes_an_issuer_in_another_spelling() {
    with_app(async |app| {
        for iss in [
            "https://acme.example",
            "https://acme.example/",
            "HTTPS://ACME.example:443",
            "https://acme。example",
            "https://ａcme.example",
            "https://acme.example/./",
            "https://acme.example/x/..",
            "https://acme.example/%2e",
            "https://ac\u{ad}me.example",
        ] {
            let issuers = json!([{ "iss": iss, "alg": "HS256", "secret": { "value": "a secret of theirs, at least 32 bytes long" } }]);
            for (method, tenant) in [("PUT", "initech"), ("PATCH", "globex")] {
                let found = pointers(ask(app, method, tenant, json!({ "settings": { "issuers": issuers } })).await);
                assert_eq!(found, ["/settings/issuers/0/iss"], "{method} {iss}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_in_money_without_prices_is_named() {
    with_globex("[tenants.limits]\nusd_per_month = 5.0\n", async |app| {
        let ready = app.call("GET", "/readyz").send().await.expect(200).json();
        assert_eq!(ready["dependencies"]["tenant_warnings"], "unavailable");
        let globex = ask(app, "GET", "globex", Value::Null).await.expect(200).json();
        let warning = globex["warnings"][0].as_str().unwrap();
        assert!(
            warning.starts_with("/limits: ") && warning.contains("main/fake-1"),
            "{warning}"
        );
        ask(app, "PATCH", "globex", json!({ "settings": { "limits": null } }))
            .await
            .expect(200);
        let ready = app.call("GET", "/readyz").send().await.expect(200).json();
        assert_eq!(ready["dependencies"]["tenant_warnings"], Value::Null);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_change_is_in_the_changed_tenants_audit_log_before_it_holds() {
    with_app(async |app| {
        initech(app).await;
        let body = json!({ "settings": { "slack": null, "zendesk": { "oauth_token": { "value": "hunter2-new" } } } });
        let operator = app.token_of("acme", "root", Scopes::OPERATOR);
        let call = app
            .call("PATCH", &format!("{TENANTS}/initech"))
            .by(&operator)
            .header("x-request-id", "req-1");
        call.json(&body).send().await.expect(200);
        ask(app, "PATCH", "globex", json!({ "status": "suspended" }))
            .await
            .expect(200);
        ask(app, "PATCH", "globex", json!({ "status": "suspended" }))
            .await
            .expect(200);
        ask(app, "PATCH", "globex", json!({ "status": "active" }))
            .await
            .expect(200);
        let admin = app.token_of("globex", "boss", Scopes::ADMIN);
        let new = json!({ "name": "ci", "scopes": ["chat"] });
        let made = app
            .call("POST", "/v1/admin/api-keys")
            .by(&admin)
            .json(&new)
            .send()
            .await
            .expect(201);
        let revoke = format!("/v1/admin/api-keys/{}", made.text("/id"));
        app.call("DELETE", &revoke).by(&admin).send().await.expect(204);
        app.call("DELETE", &revoke).by(&admin).send().await.expect(204);

        let log = app
            .call("GET", "/v1/admin/audit")
            .by(&admin)
            .send()
            .await
            .expect(200)
            .json();
        let entries: Vec<(&str, &str)> = log["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["action"].as_str().unwrap(), entry["actor"].as_str().unwrap()))
            .collect();
        assert_eq!(
            entries,
            [
                ("key.revoked", "boss"),
                ("key.created", "boss"),
                ("tenant.resumed", "acme/root"),
                ("tenant.suspended", "acme/root"),
            ]
        );
        assert!(
            log["data"][0]["credential"].as_str().unwrap().starts_with("jwt:"),
            "{log:#}"
        );
        let (initech, _) = app.app.state.audit.page(&scope("initech"), None, 10).await.unwrap();
        let (updated, created) = (&initech[0].body, &initech[1].body);
        assert_eq!(
            (updated.action.as_str(), created.action.as_str()),
            ("tenant.updated", "tenant.created")
        );
        assert_eq!(updated.request_id.as_deref(), Some("req-1"));
        assert_eq!(updated.changed, ["/slack", "/zendesk/oauth_token"]);
        assert_eq!(created.changed, ["/copilots", "/slack", "/zendesk"]);

        // A change that cannot be recorded is not made.
        let away = |away| app.audit.away.store(away, std::sync::atomic::Ordering::Relaxed);
        away(true);
        ask(app, "PATCH", "globex", json!({ "status": "suspended" }))
            .await
            .problem(503, "unavailable");
        ask(app, "PATCH", "globex", json!({ "settings": { "copilots": [] } }))
            .await
            .problem(503, "unavailable");
        let again = json!({ "name": "ci-2", "scopes": ["chat"] });
        app.call("POST", "/v1/admin/api-keys")
            .by(&admin)
            .json(&again)
            .send()
            .await
            .problem(503, "unavailable");
        away(false);
        let globex = ask(app, "GET", "globex", Value::Null).await.expect(200).json();
        assert_eq!(
            (&globex["status"], &globex["origin"]),
            (&json!("active"), &json!("file"))
        );
    })
    .await;
}
