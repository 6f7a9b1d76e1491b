//! Tenants: created, changed and suspended by an operator while others are served.

use std::time::Duration;

use copilotd::http::credentials::{Grant, Scopes, mint};
use copilotd_actors::fakes::model::says;
use copilotd_actors::ports::Clock as _;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::app::{KEY, TestApp, with_app};
use super::client::Answer;

const TENANTS: &str = "/v1/operator/tenants";

fn operator(app: &TestApp) -> String {
    app.token_of("acme", "root", Scopes::OPERATOR)
}

async fn ask(app: &TestApp, method: &str, id: &str, body: Value) -> Answer {
    let call = app.call(method, &format!("{TENANTS}/{id}")).by(&operator(app));
    if body.is_null() {
        call.send().await
    } else {
        call.json(&body).send().await
    }
}

fn settings(iss: &str) -> Value {
    json!({
        "issuers": [{
            "iss": iss,
            "alg": "HS256",
            "secret": { "value": "a secret of theirs, at least 32 bytes long" },
        }],
        "copilots": [{ "name": "support", "route": "default" }],
    })
}

/// A token for the live configuration.
fn token(app: &TestApp, tenant: &str) -> String {
    let grant = Grant {
        tenant: tenant.parse().unwrap(),
        user: "ada".parse().unwrap(),
        scopes: Scopes::CHAT,
        life: jiff::SignedDuration::from_hours(1),
    };
    mint(&app.roster.config(), &grant, app.clock.now())
        .unwrap()
        .expose_secret()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_made_changed_and_suspended_without_a_restart() {
    with_app(async |app| {
        // Another tenant's stream stays open throughout.
        let conversation = app.conversation().await;
        let mut others = app.ada("GET", &format!("{conversation}/events")).stream().await;
        others.block().await.unwrap();

        let made = ask(
            app,
            "PUT",
            "initech",
            json!({ "settings": settings("https://initech.example") }),
        )
        .await;
        assert_eq!(made.headers["location"], "/v1/operator/tenants/initech");
        let shown = made.expect(201).json();
        assert_eq!(shown["origin"], "stored");
        assert!(!shown.to_string().contains("a secret of theirs"), "{shown:#}");

        let milton = token(app, "initech");
        let open = async || {
            app.call("POST", "/v1/conversations")
                .by(&milton)
                .json(&json!({}))
                .send()
                .await
        };
        let theirs = open().await.expect(201);
        assert_eq!(theirs.text("/copilot"), "support");
        let path = format!("/v1/conversations/{}", theirs.text("/id"));
        let mut stream = app.call("GET", &format!("{path}/events")).by(&milton).stream().await;
        stream.block().await.unwrap();

        // Another copilot at the top of the list becomes the default at once. The secret stays, referred to as it was
        // shown.
        let copilots = json!([{ "name": "sales", "route": "default" }, { "name": "support", "route": "default" }]);
        let issuers = shown["settings"]["issuers"].clone();
        let patch = json!({ "settings": { "copilots": copilots, "issuers": issuers } });
        ask(app, "PATCH", "initech", patch).await.expect(200);
        assert_eq!(open().await.expect(201).text("/copilot"), "sales");

        ask(app, "PATCH", "initech", json!({ "status": "suspended" }))
            .await
            .expect(200);
        open().await.problem(403, "forbidden");
        while stream.block().await.is_some() {}
        app.call("GET", &path)
            .by(&milton)
            .send()
            .await
            .problem(403, "forbidden");

        ask(app, "PATCH", "initech", json!({ "status": "active" }))
            .await
            .expect(200);
        app.call("GET", &path).by(&milton).send().await.expect(200);

        let answered = app.answered(&conversation, "hello").await;
        assert_eq!(answered["status"], "completed");
        assert!(others.block().await.is_some(), "their stream went on");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_tenants_running_turn_is_cancelled_and_calls_nothing_more() {
    with_app(async |app| {
        app.model
            .on("slowly", &[says(&["One ", "two ", "three"], Duration::from_secs(60))]);
        let eve = app.token_of("globex", "eve", Scopes::CHAT);
        let post = async |path: &str, body: Value| app.call("POST", path).by(&eve).json(&body).send().await;
        let conversation = post("/v1/conversations", json!({})).await.expect(201).text("/id");
        let turns = format!("/v1/conversations/{conversation}/turns");
        let running = post(&turns, json!({ "input": "slowly" })).await.expect(202).text("/id");
        let queued = post(&turns, json!({ "input": "slowly" })).await.expect(202).text("/id");
        app.model.wait_for(|seen| seen.open == 1).await;

        ask(app, "PATCH", "globex", json!({ "status": "suspended" }))
            .await
            .expect(200);
        assert_eq!(app.model.wait_for(|seen| seen.dropped == 1).await.open, 0);
        ask(app, "PATCH", "globex", json!({ "status": "active" }))
            .await
            .expect(200);
        for turn in [running, queued] {
            let path = format!("/v1/turns/{turn}");
            let view = app.call("GET", &path).by(&eve).send().await.expect(200).json();
            assert_eq!(view["status"], "cancelled", "{view:#}");
        }
        assert_eq!(app.model.seen().calls, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_of_the_file_is_changed_and_given_back() {
    with_app(async |app| {
        let tenants = app
            .call("GET", TENANTS)
            .by(&operator(app))
            .send()
            .await
            .expect(200)
            .json();
        let ids: Vec<_> = tenants["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tenant| &tenant["id"])
            .collect();
        assert_eq!(ids, ["acme", "globex"]);
        assert_eq!(tenants["data"][1]["origin"], "file");

        let gone = json!({ "settings": { "zendesk": null, "copilots": [{ "name": "plain", "route": "default" }] } });
        let changed = ask(app, "PATCH", "globex", gone).await.expect(200).json();
        assert_eq!(
            (&changed["origin"], &changed["settings"]["zendesk"]),
            (&json!("stored"), &Value::Null)
        );
        let user = app.token_of("globex", "eve", Scopes::CHAT);
        let open = async || {
            app.call("POST", "/v1/conversations")
                .by(&user)
                .json(&json!({}))
                .send()
                .await
        };
        assert_eq!(open().await.expect(201).text("/copilot"), "plain");

        let back = ask(app, "PATCH", "globex", json!({ "settings": null }))
            .await
            .expect(200)
            .json();
        assert_eq!(back["origin"], "file");
        assert_eq!(open().await.expect(201).text("/copilot"), "support");
        ask(
            app,
            "PUT",
            "initech",
            json!({ "settings": settings("https://initech.example") }),
        )
        .await
        .expect(201);
        ask(app, "PATCH", "initech", json!({ "settings": null }))
            .await
            .problem(409, "conflict");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn systems_are_set_shown_without_secrets_and_changed() {
    with_app(async |app| {
        let system = |name: &str, host: &str, token: Value| {
            json!({
                "kind": "zendesk", "name": name, "base_url": format!("https://{host}.example"), "oauth_token": token,
            })
        };
        let mut given = settings("https://initech.example");
        let secret = |name: &str| json!({ "value": format!("hush of {name}") });
        given["systems"] = json!([
            system("support", "a", secret("support")),
            system("sales", "b", secret("sales")),
            { "kind": "slack", "bot_token": secret("slack") },
        ]);
        given["copilots"][0]["tools"] = json!(["support_get_user", "sales_get_user", "slack_find_user"]);
        let made = ask(app, "PUT", "initech", json!({ "settings": given }))
            .await
            .expect(201)
            .json();
        assert!(!made.to_string().contains("hush"), "{made:#}");
        let shown = made["settings"]["systems"].clone();
        assert!(shown[0]["oauth_token"]["kept"].is_string(), "{made:#}");

        let systems = || -> Vec<String> {
            let config = app.roster.config();
            let systems = &config.tenant("initech").unwrap().systems;
            let token = |system: &copilotd::config::System| {
                let settings = &system.settings;
                settings
                    .text("oauth_token")
                    .or(settings.text("bot_token"))
                    .unwrap()
                    .to_owned()
            };
            systems
                .iter()
                .map(|system| format!("{}: {}", system.name, token(system)))
                .collect()
        };
        let all = [
            "support: hush of support",
            "sales: hush of sales",
            "slack: hush of slack",
        ];
        assert_eq!(systems(), all);
        // What is shown may be given back, also in another order and with the default address written down.
        let mut back = made["settings"].clone();
        back["systems"].as_array_mut().unwrap().reverse();
        back["systems"][0]["base_url"] = json!("https://slack.com/api/");
        ask(app, "PUT", "initech", json!({ "settings": back }))
            .await
            .expect(200);
        assert_eq!(systems(), [all[2], all[1], all[0]]);

        let refused = async |systems: Value| -> Vec<String> {
            let answer = ask(app, "PATCH", "initech", json!({ "settings": { "systems": systems } })).await;
            let problem = answer.problem(422, "invalid");
            assert!(!problem.to_string().contains("hush"), "{problem:#}");
            let errors = problem["errors"].as_array().unwrap().iter();
            errors
                .map(|error| error["pointer"].as_str().unwrap().to_owned())
                .collect()
        };
        let (support, sales, slack) = (&shown[0], &shown[1], &shown[2]);
        let changed = |system: &Value, member: &str, value: Value| {
            let mut system = system.clone();
            system[member] = value;
            system
        };
        for (systems, pointer) in [
            // No secret follows to another address, or to another kind of system.
            (
                json!([
                    changed(support, "base_url", json!("https://evil.example")),
                    sales,
                    slack
                ]),
                "/settings/systems/0/oauth_token",
            ),
            (
                json!([
                    support,
                    sales,
                    changed(slack, "base_url", json!("https://evil.example"))
                ]),
                "/settings/systems/2/bot_token",
            ),
            (
                json!([
                    changed(support, "oauth_token", sales["oauth_token"].clone()),
                    sales,
                    slack
                ]),
                "/settings/systems/0/oauth_token",
            ),
            (
                json!([support, sales, changed(slack, "kind", json!("zendesk"))]),
                "/settings/systems/2/bot_token",
            ),
            (
                json!([changed(support, "oauth_token", json!({ "env": "PATH" })), sales, slack]),
                "/settings/systems/0/oauth_token",
            ),
            (
                json!([support, changed(sales, "name", json!("support")), slack]),
                "/settings/systems/1/name",
            ),
            (
                json!([support, changed(sales, "kind", json!("jira")), slack]),
                "/settings/systems/1",
            ),
            // A copilot uses a tool of the third.
            (json!([support, sales]), "/settings/copilots/0/tools/2"),
        ] {
            let pointers = refused(systems.clone()).await;
            assert!(pointers[0].starts_with(pointer), "{systems:#} {pointers:?}");
        }
        assert_eq!(systems(), [all[2], all[1], all[0]]);
        let moved = changed(support, "base_url", json!("https://new.example"));
        let moved = changed(&moved, "oauth_token", json!({ "value": "hush of new" }));
        let patch = json!({ "settings": { "systems": [moved, sales, slack] } });
        ask(app, "PATCH", "initech", patch).await.expect(200);
        assert_eq!(systems(), ["support: hush of new", all[1], all[2]]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_changes_nothing() {
    with_app(async |app| {
        let pointers = |answer: Answer| -> Vec<String> {
            let problem = answer.problem(422, "invalid");
            let errors = problem["errors"].as_array().unwrap();
            errors
                .iter()
                .map(|error| error["pointer"].as_str().unwrap().to_owned())
                .collect()
        };
        let put = async |settings: Value| ask(app, "PUT", "initech", json!({ "settings": settings })).await;
        let copilot = |route: &str| json!({ "copilots": [{ "name": "support", "route": route }] });
        assert_eq!(pointers(put(copilot("none")).await), ["/settings/copilots/0/route"]);
        assert_eq!(pointers(put(json!({ "colour": "red" })).await), ["/settings/colour"]);
        assert_eq!(pointers(put(json!({ "id": "other" })).await), ["/settings/id"]);
        // Changing a tenant cannot read files of the server.
        let mut spy = settings("https://initech.example");
        spy["issuers"][0]["secret"] = json!({ "file": "/etc/hostname" });
        assert_eq!(pointers(put(spy).await)[0], "/settings/issuers/0/secret");
        // A tenant cannot take another tenant's issuer, in either order.
        assert_eq!(pointers(put(settings("https://acme.example")).await).len(), 1);
        put(settings("https://initech.example")).await.expect(201);
        let taken = json!({ "settings": { "issuers": settings("https://initech.example")["issuers"] } });
        assert_eq!(pointers(ask(app, "PATCH", "acme", taken).await).len(), 1);
        app.get("/v1/conversations").await.expect(200);
        app.call("GET", "/v1/conversations")
            .by(&token(app, "initech"))
            .send()
            .await
            .expect(200);

        ask(app, "PATCH", "nobody", json!({ "status": "suspended" }))
            .await
            .problem(404, "not_found");
        ask(app, "GET", "Not%20An%20Id", Value::Null)
            .await
            .problem(404, "not_found");
        ask(app, "PATCH", "acme", json!({ "status": "gone" }))
            .await
            .problem(422, "invalid");
        let again = app
            .call("PUT", &format!("{TENANTS}/initech"))
            .by(&operator(app))
            .header("if-none-match", "*")
            .json(&json!({ "settings": {} }));
        again.send().await.problem(409, "conflict");
        let other = app
            .call("PUT", &format!("{TENANTS}/initech"))
            .by(&operator(app))
            .header("if-none-match", "\"1\"")
            .json(&json!({ "settings": {} }));
        other.send().await.problem(422, "invalid");
        for scopes in [Scopes::ADMIN, Scopes::CHAT | Scopes::GATEWAY] {
            let token = app.token_of("acme", "root", scopes);
            app.call("GET", TENANTS)
                .by(&token)
                .send()
                .await
                .problem(403, "forbidden");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_changes_nothing_either() {
    with_app(async |app| {
        let away = |away| app.tenants.away.store(away, std::sync::atomic::Ordering::Relaxed);
        away(true);
        let body = json!({ "settings": settings("https://initech.example") });
        ask(app, "PUT", "initech", body.clone())
            .await
            .problem(503, "unavailable");
        ask(app, "GET", "initech", Value::Null).await.problem(404, "not_found");
        away(false);
        ask(app, "PUT", "initech", body).await.expect(201);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tenant_headers_of_a_request_mean_nothing() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        for name in ["x-tenant-id", "x-copilotd-tenant", "x-tenant", "x-org-id"] {
            let created = app
                .ada("POST", "/v1/conversations")
                .header(name, "globex")
                .json(&json!({}));
            let path = format!("/v1/conversations/{}", created.send().await.expect(201).text("/id"));
            app.get(&path).await.expect(200);
            let foreign = app.token_of("globex", "ada", Scopes::CHAT);
            let other = app.call("GET", &conversation).by(&foreign).header(name, "acme");
            other.send().await.problem(404, "not_found");
        }
        let by_key = app.call("GET", &conversation).by(KEY).header("x-tenant-id", "globex");
        by_key.send().await.problem(404, "not_found");
    })
    .await;
}
