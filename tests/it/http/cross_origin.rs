//! Pages of other origins, through the router.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::says;
use serde_json::json;

use super::app::{TestApp, text, with_config};
use super::client::Answer;

const SHARED: &str = "https://app.example.com";
const ACME: &str = "https://app.acme.example";
const GLOBEX: &str = "https://app.globex.example";

async fn with_origins(test: impl AsyncFnOnce(&TestApp)) {
    let mut file = text("").replace("[server]", &format!("[server]\nallowed_origins = [\"{SHARED}\"]"));
    for (tenant, origin) in [("acme", ACME), ("globex", GLOBEX)] {
        let id = format!("id = \"{tenant}\"\n");
        file = file.replace(&id, &format!("{id}allowed_origins = [\"{origin}\"]\n"));
    }
    with_config(&file, test).await;
}

/// The origin whose pages may read the answer.
fn allowed(answer: &Answer) -> Option<&str> {
    let named = answer.headers.get("access-control-allow-origin")?;
    // It depends on the origin, and cookies never count.
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert!(
        vary.iter().any(|vary| vary.to_str().unwrap().contains("origin")),
        "{vary:?}"
    );
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    Some(named.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_preflight_is_answered_for_the_origins_of_all_tenants() {
    with_origins(async |app| {
        let ask = async |origin: &str| {
            let call = app.call("OPTIONS", "/v1/conversations").header("origin", origin);
            call.header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization,idempotency-key,x-mine")
                .send()
                .await
        };
        for origin in [SHARED, ACME, GLOBEX] {
            let answer = ask(origin).await.expect(204);
            assert_eq!(allowed(&answer), Some(origin));
            let list = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
            let headers = list("access-control-allow-headers");
            for name in [
                "authorization",
                "content-type",
                "idempotency-key",
                "last-event-id",
                "x-mine",
            ] {
                assert!(
                    headers.split([',', ' ']).any(|listed| listed == name),
                    "{name}: {headers}"
                );
            }
            assert_eq!(list("access-control-allow-methods"), "GET, POST, PUT, PATCH, DELETE");
            assert_eq!(list("access-control-max-age"), "7200");
        }
        for other in [
            "https://evil.example",
            "null",
            "https://app.example.com.evil.example",
            "HTTPS://APP.EXAMPLE.COM",
        ] {
            let answer = ask(other).await;
            assert_eq!(allowed(&answer), None, "{other}");
            answer.problem(403, "forbidden");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_readable_for_its_tenants_origins_only() {
    with_origins(async |app| {
        let list = async |credential: Option<&str>, origin: &str| {
            let call = app.call("GET", "/v1/conversations").header("origin", origin);
            let call = match credential {
                Some(credential) => call.by(credential),
                None => call,
            };
            call.send().await
        };
        let [acme, globex] = ["acme", "globex"].map(|tenant| app.token_of(tenant, "ada", Scopes::CHAT));
        let powerless = app.token_of("acme", "ada", Scopes::GATEWAY);
        for (credential, origin, status, readable) in [
            (Some(&acme), ACME, 200, true),
            (Some(&acme), SHARED, 200, true),
            (Some(&acme), GLOBEX, 200, false),
            (Some(&acme), "https://evil.example", 200, false),
            (Some(&globex), GLOBEX, 200, true),
            (Some(&globex), ACME, 200, false),
            // A page has to be able to see why it was refused.
            (Some(&powerless), ACME, 403, true),
            (Some(&powerless), GLOBEX, 403, false),
            (None, GLOBEX, 401, true),
            (None, "https://evil.example", 401, false),
        ] {
            let answer = list(credential.map(String::as_str), origin).await.expect(status);
            assert_eq!(allowed(&answer), readable.then_some(origin), "{status} {origin}");
            let exposed = answer.headers.get("access-control-expose-headers");
            assert_eq!(exposed.is_some(), readable);
            assert!(exposed.is_none_or(|list| list.to_str().unwrap().contains("retry-after")));
        }
        // Without an origin nothing is said.
        let answer = app.call("GET", "/v1/conversations").by(&acme).send().await.expect(200);
        assert_eq!(allowed(&answer), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_readable_with_a_ticket() {
    with_origins(async |app| {
        app.model.on("hi", &[says(&["abc"], Duration::from_secs(1))]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let id = conversation.rsplit('/').next().unwrap();
        let issued = app.post("/v1/stream-tickets", json!({ "conversation_id": id })).await;
        let ticket = issued.expect(200).text("/ticket");
        for (origin, readable) in [(ACME, true), (GLOBEX, false)] {
            let path = format!("{turn}/events?ticket={ticket}");
            let mut stream = app.call("GET", &path).header("origin", origin).stream().await;
            let allowed = stream.headers.get("access-control-allow-origin");
            assert_eq!(allowed.map(|value| value.to_str().unwrap()), readable.then_some(origin));
            stream.rest().await;
        }
    })
    .await;
}
