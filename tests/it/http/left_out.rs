//! A tenant that one reload leaves out because of a fault in its settings, and another brings back, while a turn is
//! open.

use std::path::Path;
use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::Answer as Told;
use serde_json::{Value, json};

use super::app::{TestApp, config, with_globex};
use super::client::Answer;

/// An API key of globex, with the scopes chat and gateway.
const GLOBEX: &str = "cpk_GGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGG";

/// Additional settings of globex: a key, and a secret in a file.
fn change(secret: &Path) -> String {
    let hash = KeyHash::of(GLOBEX);
    format!(
        "[tenants.slack]\nbase_url = \"http://127.0.0.1:1\"\nbot_token = {{ file = {secret:?} }}\n\
         [[tenants.api_keys]]\nname = \"backend\"\nhash = \"{hash}\"\nscopes = [\"chat\", \"gateway\"]\n"
    )
}

/// Reloads the configuration, as SIGHUP does.
async fn reload(app: &TestApp, secret: &Path, left_out: &[&str]) {
    app.roster.reload(config(&change(secret))).await.unwrap();
    assert_eq!(app.roster.left_out(), left_out);
}

async fn with_secret(test: impl AsyncFnOnce(&TestApp, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "xoxb-1").unwrap();
    with_globex(&change(&secret), async |app| test(app, &secret).await).await;
}

struct Eve<'a> {
    app: &'a TestApp,
    token: String,
}

impl<'a> Eve<'a> {
    fn new(app: &'a TestApp) -> Self {
        let token = app.token_of("globex", "eve", Scopes::CHAT);
        Self { app, token }
    }

    async fn get(&self, path: &str) -> Answer {
        self.app.call("GET", path).by(&self.token).send().await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.app.call("POST", path).by(&self.token).json(&body).send().await
    }

    /// Waits until a turn has ended, and returns its status and last attempt.
    async fn end_of(&self, turn: &str) -> (String, Value) {
        for _ in 0..10_000 {
            let view = self.get(&format!("/v1/turns/{turn}")).await.expect(200).json();
            if !view["finished_at"].is_null() {
                return (view["status"].as_str().unwrap().to_owned(), view["attempt"].clone());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the turn never ended");
    }
}

/// Answers only after a while, and then with a tool call.
fn slowly_asks(app: &TestApp) {
    let mut asks = calls(&[("zendesk_search_tickets", json!({ "query": "printer" }))]);
    asks.insert(0, Act::Wait(Duration::from_secs(60)));
    app.model.on("slowly", &[asks, says(&["done"], Duration::ZERO)]);
    app.system("zendesk").answer_all(Told::done(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn its_open_turns_wait_and_go_on_once_it_is_mended() {
    with_secret(async |app, secret| {
        slowly_asks(app);
        let eve = Eve::new(app);
        let conversation = eve.post("/v1/conversations", json!({})).await.expect(201).text("/id");
        let turns = format!("/v1/conversations/{conversation}/turns");
        let running = eve
            .post(&turns, json!({ "input": "slowly" }))
            .await
            .expect(202)
            .text("/id");
        let queued = eve
            .post(&turns, json!({ "input": "hello" }))
            .await
            .expect(202)
            .text("/id");
        app.model.wait_for(|seen| seen.open == 1).await;
        let mut stream = app
            .call("GET", &format!("/v1/conversations/{conversation}/events"))
            .by(&eve.token)
            .stream()
            .await;
        stream.block().await.unwrap();

        std::fs::remove_file(secret).unwrap();
        reload(app, secret, &["globex"]).await;
        while stream.block().await.is_some() {}
        // Other tenants are served, and the running call ends; nothing else happens for longer than a turn may take.
        let ours = app.conversation().await;
        app.answered(&ours, "hello").await;
        tokio::time::sleep(Duration::from_secs(40 * 60)).await;
        let (model, zendesk) = (app.model.seen(), app.system("zendesk").seen());
        assert_eq!((model.calls, model.dropped, zendesk.calls), (2, 0, 0));
        assert_eq!(app.app.state.shared.admission.working(), 0);

        std::fs::write(secret, "xoxb-2").unwrap();
        reload(app, secret, &[]).await;
        let completed = ("completed".to_owned(), json!(1));
        assert_eq!(eve.end_of(&running).await, completed);
        assert_eq!(eve.end_of(&queued).await, completed);
        assert_eq!((app.model.seen().calls, app.system("zendesk").seen().calls), (4, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn suspended_meanwhile_its_open_turns_are_cancelled() {
    with_secret(async |app, secret| {
        slowly_asks(app);
        let eve = Eve::new(app);
        let conversation = eve.post("/v1/conversations", json!({})).await.expect(201).text("/id");
        let turns = format!("/v1/conversations/{conversation}/turns");
        let running = eve
            .post(&turns, json!({ "input": "slowly" }))
            .await
            .expect(202)
            .text("/id");
        app.model.wait_for(|seen| seen.open == 1).await;
        std::fs::remove_file(secret).unwrap();
        reload(app, secret, &["globex"]).await;
        tokio::time::sleep(Duration::from_secs(40 * 60)).await;
        let root = app.token_of("acme", "root", Scopes::OPERATOR);
        let change = async |status: &str| {
            let call = app.call("PATCH", "/v1/operator/tenants/globex").by(&root);
            call.json(&json!({ "status": status })).send().await.expect(200);
        };
        change("suspended").await;
        eve.get("/v1/conversations").await.problem(403, "forbidden");
        std::fs::write(secret, "xoxb-2").unwrap();
        reload(app, secret, &[]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        change("active").await;
        assert_eq!(eve.end_of(&running).await.0, "cancelled");
        assert_eq!((app.model.seen().calls, app.system("zendesk").seen().calls), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_known_credential_of_the_tenant_gets_the_reason() {
    with_secret(async |app, secret| {
        let eve = Eve::new(app);
        let conversation = eve.post("/v1/conversations", json!({})).await.expect(201).text("/id");
        let ticket = eve
            .post("/v1/stream-tickets", json!({ "conversation_id": conversation }))
            .await
            .expect(200)
            .text("/ticket");
        let unseen = app.token_of("globex", "bob", Scopes::CHAT);
        let gone = app.token_for("globex", "dan", Scopes::CHAT, jiff::SignedDuration::from_secs(600));
        app.call("GET", "/v1/conversations").by(&gone).send().await.expect(200);
        std::fs::remove_file(secret).unwrap();
        reload(app, secret, &["globex"]).await;

        let told = |answer: Answer| {
            assert!(answer.headers.contains_key("retry-after"));
            let problem = answer.problem(503, "unavailable");
            let detail = problem["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("settings"), "{detail}");
        };
        told(eve.get("/v1/conversations").await);
        told(eve.post("/v1/conversations", json!({})).await);
        told(app.call("GET", "/v1/conversations").by(GLOBEX).send().await);
        let stream = format!("/v1/conversations/{conversation}/events?ticket={ticket}");
        told(app.call("GET", &stream).send().await);
        let chat = app.call("POST", "/v1/chat/completions").by(GLOBEX);
        let body = json!({ "model": "default", "messages": [{ "role": "user", "content": "hello" }] });
        chat.json(&body).send().await.expect(503);
        // The tenant of these is unknown.
        for unknown in [unseen.as_str(), "cpk_HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH"] {
            let answer = app.call("GET", "/v1/conversations").by(unknown).send().await;
            answer.problem(401, "unauthenticated");
        }
        // Credentials refused for another reason say so.
        tokio::time::sleep(Duration::from_secs(700)).await;
        let answer = app.call("GET", "/v1/conversations").by(&gone).send().await;
        answer.problem(401, "unauthenticated");
        assert_eq!(app.model.seen().calls, 0);

        std::fs::write(secret, "xoxb-2").unwrap();
        reload(app, secret, &[]).await;
        for known in [eve.token.as_str(), unseen.as_str(), GLOBEX] {
            let answer = app.call("GET", "/v1/conversations").by(known).send().await;
            answer.expect(200);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_an_id_cannot_be_read_unknown_tenants_wait_too() {
    with_secret(async |app, secret| {
        slowly_asks(app);
        let eve = Eve::new(app);
        let conversation = eve.post("/v1/conversations", json!({})).await.expect(201).text("/id");
        let turns = format!("/v1/conversations/{conversation}/turns");
        let running = eve
            .post(&turns, json!({ "input": "slowly" }))
            .await
            .expect(202)
            .text("/id");
        app.model.wait_for(|seen| seen.open == 1).await;
        let renamed = super::app::text(&change(secret)).replace("id = \"globex\"", "id = \"glob ex\"");
        app.roster.reload(super::app::parsed(&renamed)).await.unwrap();
        assert_eq!(app.roster.left_out(), ["tenants[1].id"]);
        tokio::time::sleep(Duration::from_secs(40 * 60)).await;
        assert_eq!((app.model.seen().calls, app.system("zendesk").seen().calls), (1, 0));
        reload(app, secret, &[]).await;
        assert_eq!(eve.end_of(&running).await.0, "completed");
    })
    .await;
}
