//! Revoked user tokens are refused at once and after a restart, with their streams and tickets, and no others are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd::revocations::Revocations;
use copilotd_actors::ports::Clock;
use serde_json::{Value, json};

use super::app::{KEY, TestApp, with_app};
use super::client::Answer;

const REVOCATIONS: &str = "/v1/admin/revocations";

async fn revoke(app: &TestApp, tenant: &str, body: Value) -> Answer {
    let admin = app.token_of(tenant, "root", Scopes::ADMIN);
    app.call("POST", REVOCATIONS).by(&admin).json(&body).send().await
}

async fn listed(app: &TestApp, tenant: &str, query: &str) -> Value {
    let admin = app.token_of(tenant, "root", Scopes::ADMIN);
    let page = app
        .call("GET", &format!("{REVOCATIONS}{query}"))
        .by(&admin)
        .send()
        .await;
    page.expect(200).json()
}

async fn status(app: &TestApp, token: &str) -> u16 {
    app.call("GET", "/v1/conversations").by(token).send().await.status
}

/// Advances time, so that the next token of a user is a different one.
async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

/// A token of ada with some claims replaced.
fn token_with(app: &TestApp, change: &Value) -> String {
    let now = app.now().as_second();
    let mut claims = json!({
        "iss": "https://acme.example", "aud": "copilotd", "sub": "ada", "tenant": "acme", "scope": "chat",
        "iat": now, "exp": now + 3_600,
    });
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of acme, at least 32 bytes long");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_user_s_tokens_end_with_their_streams_and_tickets() {
    with_app(async |app| {
        let old = app.token("ada");
        let undated = token_with(app, &json!({ "iat": null, "jti": "x" }));
        let odd = token_with(app, &json!({ "iat": "yesterday", "jti": "y" }));
        let bob = app.token("bob");
        let namesake = app.token_of("globex", "ada", Scopes::CHAT);
        let conversation = app.conversation().await;
        let events = format!("{conversation}/events");
        let id = conversation.rsplit('/').next().unwrap();
        let issued = app.post("/v1/stream-tickets", json!({ "conversation_id": id })).await;
        let ticket = issued.expect(200).text("/ticket");
        let by_ticket = format!("{events}?ticket={ticket}");
        // The tokens are cached, the streams are open.
        for token in [&old, &undated, &odd, &bob, &namesake] {
            assert_eq!(status(app, token).await, 200);
        }
        let mut streams = [
            app.call("GET", &events).by(&old).stream().await,
            app.call("GET", &by_ticket).stream().await,
        ];
        let for_ada = app.call("GET", &events).by(KEY).header("x-copilotd-user", "ada");
        let mut of_key = for_ada.stream().await;
        of_key.block().await.unwrap();

        let answer = revoke(app, "acme", json!({ "user": "ada", "reason": "laptop stolen" }))
            .await
            .expect(201);
        let shown = answer.json();
        assert_eq!((&shown["user"], &shown["token_id"]), (&json!("ada"), &Value::Null));
        assert_eq!(shown["reason"], "laptop stolen");
        assert!(shown["revoked_by"].as_str().unwrap().starts_with("root (jwt:"));
        let begun = app.now();
        for stream in &mut streams {
            while stream.block().await.is_some() {}
        }
        assert_eq!(app.now(), begun, "at once");
        for token in [&old, &undated, &odd] {
            app.call("GET", "/v1/conversations")
                .by(token)
                .send()
                .await
                .problem(401, "unauthenticated");
        }
        app.call("GET", &by_ticket).send().await.problem(401, "unauthenticated");
        // Others are not affected: another user, the same name in another tenant, and keys that act for the user.
        assert_eq!((status(app, &bob).await, status(app, &namesake).await), (200, 200));
        let for_ada = app.call("GET", &events).by(KEY).header("x-copilotd-user", "ada");
        for_ada.stream().await;
        assert!(of_key.block().await.is_some(), "it goes on");

        // Tokens issued later are accepted; tokens without iat or with an iat in the future are not.
        pass(1).await;
        assert_eq!(status(app, &app.token("ada")).await, 200);
        assert_eq!(status(app, &token_with(app, &json!({ "iat": null }))).await, 401);
        let ahead = token_with(app, &json!({ "iat": app.now().as_second() + 3_000 }));
        assert_eq!(status(app, &ahead).await, 401);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_token_ends_by_its_jti_or_its_name() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let events = format!("{conversation}/events");
        let (one, other) = (
            token_with(app, &json!({ "jti": "j-1" })),
            token_with(app, &json!({ "jti": "j-2" })),
        );
        let number = token_with(app, &json!({ "jti": 7 }));
        let id = conversation.rsplit('/').next().unwrap();
        let issue = app
            .call("POST", "/v1/stream-tickets")
            .by(&one)
            .json(&json!({ "conversation_id": id }));
        let by_ticket = format!("{events}?ticket={}", issue.send().await.expect(200).text("/ticket"));
        let mut stream = app.call("GET", &by_ticket).stream().await;
        let mut others = app.call("GET", &events).by(&other).stream().await;
        assert_eq!(status(app, &number).await, 200);

        revoke(app, "globex", json!({ "token_id": "j-1" })).await.expect(201);
        assert_eq!(status(app, &one).await, 200, "another tenant's revocation");
        revoke(app, "acme", json!({ "token_id": "j-1" })).await.expect(201);
        while stream.block().await.is_some() {}
        assert_eq!((status(app, &one).await, status(app, &other).await), (401, 200));
        app.call("GET", &by_ticket).send().await.problem(401, "unauthenticated");

        let caller = app.app.state.auth.verifier.verify(&other, None, app.now()).unwrap();
        revoke(app, "acme", json!({ "token_id": caller.credential.as_str() }))
            .await
            .expect(201);
        while others.block().await.is_some() {}
        assert_eq!(status(app, &other).await, 401);
        revoke(app, "acme", json!({ "token_id": "7" })).await.expect(201);
        assert_eq!(status(app, &number).await, 401);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_revocation_survives_a_restart_and_is_kept_as_long_as_tokens_live() {
    with_app(async |app| {
        let old = token_with(app, &json!({ "exp": app.now().as_second() + 24 * 3_600 }));
        revoke(app, "acme", json!({ "user": "ada" })).await.expect(201);
        // As the next process loads it.
        let clock = Arc::clone(&app.clock) as Arc<dyn Clock>;
        let list = Revocations::open(Arc::clone(&app.revocations) as _, Arc::clone(&clock))
            .await
            .unwrap()
            .list();
        let verifier = copilotd::http::credentials::Verifier::with_revocations(&app.config, list).unwrap();
        assert!(verifier.verify(&old, None, app.now()).is_err());
        pass(24 * 3_600 + 59).await;
        assert_eq!(status(app, &old).await, 401);
        assert_eq!(listed(app, "acme", "").await["data"].as_array().unwrap().len(), 1);
        pass(62).await;
        assert_eq!(listed(app, "acme", "").await["data"], json!([]));
        assert_eq!(status(app, &old).await, 401, "it has ended by itself");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_refuses_the_token_all_the_same() {
    with_app(async |app| {
        let old = app.token("ada");
        app.revocations.away.store(true, Ordering::Relaxed);
        let problem = revoke(app, "acme", json!({ "user": "ada" }))
            .await
            .problem(503, "unavailable");
        assert_eq!(problem["retry"], "safe");
        assert_eq!(status(app, &old).await, 401);
        app.revocations.away.store(false, Ordering::Relaxed);
        revoke(app, "acme", json!({ "user": "ada" })).await.expect(201);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_in_the_audit_log_before_it_takes_effect() {
    with_app(async |app| {
        let old = app.token("ada");
        app.audit.away.store(true, Ordering::Relaxed);
        revoke(app, "acme", json!({ "user": "ada" }))
            .await
            .problem(503, "unavailable");
        assert_eq!(status(app, &old).await, 200, "what cannot be recorded does not happen");
        app.audit.away.store(false, Ordering::Relaxed);
        let made = revoke(app, "acme", json!({ "user": "ada", "reason": "laptop stolen" }))
            .await
            .expect(201);
        let admin = app.token_of("acme", "root", Scopes::ADMIN);
        let path = format!("{REVOCATIONS}/{}", made.text("/id"));
        app.call("DELETE", &path).by(&admin).send().await.expect(204);
        let audit = app
            .call("GET", "/v1/admin/audit")
            .by(&admin)
            .send()
            .await
            .expect(200)
            .json();
        let entry = |n: usize, member: &str| audit["data"][n][member].clone();
        assert_eq!(
            (entry(0, "action"), entry(0, "target")),
            (json!("token.restored"), json!(made.text("/id")))
        );
        assert_eq!(
            (entry(1, "action"), entry(1, "target")),
            (json!("token.revoked"), json!("user:ada"))
        );
        assert_eq!(
            (entry(1, "actor"), entry(1, "reason")),
            (json!("root"), json!("laptop stolen"))
        );
        assert_eq!(
            entry(1, "request_id"),
            json!(made.headers["x-request-id"].to_str().unwrap())
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn revoking_does_not_depend_on_the_tenants_settings() {
    with_app(async |app| {
        let old = app.token("ada");
        app.tenants.away.store(true, Ordering::Relaxed);
        revoke(app, "acme", json!({ "user": "ada" })).await.expect(201);
        assert_eq!(status(app, &old).await, 401);
        app.tenants.away.store(false, Ordering::Relaxed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn revocations_are_listed_in_pages_and_lifted_by_their_own_tenant() {
    with_app(async |app| {
        for user in ["u1", "u2", "u3"] {
            revoke(app, "acme", json!({ "user": user })).await.expect(201);
            pass(1).await;
        }
        revoke(app, "globex", json!({ "user": "u1" })).await.expect(201);
        // Revoking again moves the time and does not add a second revocation.
        let again = revoke(app, "acme", json!({ "user": "u1" })).await.expect(201);
        let users = |page: &Value| -> Vec<String> {
            let data = page["data"].as_array().unwrap();
            data.iter()
                .map(|one| one["user"].as_str().unwrap().to_owned())
                .collect()
        };
        let first = listed(app, "acme", "?limit=2").await;
        assert_eq!(users(&first), ["u1", "u3"]);
        let cursor = first["next_cursor"].as_str().unwrap();
        let second = listed(app, "acme", &format!("?limit=2&cursor={cursor}")).await;
        assert_eq!(
            (users(&second), &second["next_cursor"]),
            (vec!["u2".to_owned()], &Value::Null)
        );
        let foreign = app.token_of("globex", "root", Scopes::ADMIN);
        let page = format!("{REVOCATIONS}?cursor={cursor}");
        app.call("GET", &page).by(&foreign).send().await.problem(422, "invalid");

        let path = format!("{REVOCATIONS}/{}", again.text("/id"));
        app.call("DELETE", &path)
            .by(&foreign)
            .send()
            .await
            .problem(404, "not_found");
        let token = app.token_of("acme", "u1", Scopes::CHAT);
        assert_eq!(status(app, &token).await, 401);
        let admin = app.token_of("acme", "root", Scopes::ADMIN);
        app.call("DELETE", &path).by(&admin).send().await.expect(204);
        assert_eq!(status(app, &token).await, 200);
        app.call("DELETE", &path)
            .by(&admin)
            .send()
            .await
            .problem(404, "not_found");
        for bad in ["rev_x", "u1", &again.text("/id").to_uppercase()] {
            let path = format!("{REVOCATIONS}/{bad}");
            app.call("DELETE", &path)
                .by(&admin)
                .send()
                .await
                .problem(404, "not_found");
        }
        assert_eq!(users(&listed(app, "globex", "").await), ["u1"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_revokes_nothing() {
    with_app(async |app| {
        let long = "x".repeat(1_025);
        for body in [
            json!({}),
            json!({ "user": "ada", "token_id": "j" }),
            json!({ "user": null }),
            json!({ "user": "" }),
            json!({ "user": "a\u{7}" }),
            json!({ "user": "x".repeat(257) }),
            json!({ "user": "ü".repeat(200) }),
            json!({ "token_id": "" }),
            json!({ "token_id": "a\n" }),
            json!({ "token_id": long }),
            json!({ "token_id": "key:acme/backend:0123456789abcdef" }),
            json!({ "token_id": format!("key_{}", "0".repeat(32)) }),
            json!({ "token_id": KEY }),
            json!({ "user": "ada", "reason": "" }),
            json!({ "user": "ada", "reason": "x".repeat(501) }),
            json!({ "user": "ada", "tenant": "globex" }),
        ] {
            let answer = revoke(app, "acme", body.clone()).await;
            let problem = answer.problem(422, "invalid");
            assert!(!problem.to_string().contains("cpk_"), "{body}");
        }
        assert_eq!(listed(app, "acme", "").await["data"], json!([]));
        for scopes in [Scopes::CHAT, Scopes::OPERATOR | Scopes::GATEWAY] {
            let token = app.token_of("acme", "root", scopes);
            for method in ["GET", "POST"] {
                app.call(method, REVOCATIONS)
                    .by(&token)
                    .json(&json!({ "user": "ada" }))
                    .send()
                    .await
                    .problem(403, "forbidden");
            }
        }
        // An administrator can revoke their own tokens too.
        revoke(app, "acme", json!({ "user": "root" })).await.expect(201);
        revoke(app, "acme", json!({ "user": "ada" }))
            .await
            .problem(401, "unauthenticated");
    })
    .await;
}
