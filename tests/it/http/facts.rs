//! What is remembered about a user: learned from turns, listed, corrected and deleted over HTTP.

use std::sync::atomic::Ordering;
use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::fakes::model::says;
use serde_json::{Value, json};

use super::app::{KEY, TestApp, with_app, with_globex};

const FACTS: &str = "/v1/memory/facts";
const REASON: &str = "x-copilotd-reason";

/// Appended to globex: a copilot that remembers, with a small model of its own.
const REMEMBERING: &str = r#"
    [[tenants.copilots]]
    name = "friend"
    route = "default"
    memory = { facts = true }
    deny_input = [{ name = "secret", literal = "Bluebird", action = "block" }]
"#;

async fn list(app: &TestApp, credential: &str) -> Vec<Value> {
    let answer = app.call("GET", FACTS).by(credential).send().await.expect(200).json();
    answer["data"].as_array().unwrap().clone()
}

/// Submits a turn to globex's copilot `friend` and waits for its end.
async fn say(app: &TestApp, user: &str, text: &str) {
    let token = app.token_of("globex", user, Scopes::CHAT);
    let created = app
        .call("POST", "/v1/conversations")
        .by(&token)
        .json(&json!({ "copilot": "friend" }));
    let id = created.send().await.expect(201).text("/id");
    let path = format!("/v1/conversations/{id}/turns");
    let turn = app.call("POST", &path).by(&token).json(&json!({ "input": text }));
    let turn = format!("/v1/turns/{}", turn.send().await.expect(202).text("/id"));
    loop {
        let state = app
            .call("GET", &turn)
            .by(&token)
            .send()
            .await
            .expect(200)
            .text("/status");
        if state == "completed" {
            return;
        }
        assert!(["queued", "running"].contains(&state.as_str()), "{state}");
        // Paused time: this only lets the turn run.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets the small model propose a fact when it reads this message. It answers the user the same, which nobody learns from.
fn propose(app: &TestApp, message: &str, text: &str) {
    let answer = json!({ "facts": [{ "text": text, "quote": message }] }).to_string();
    app.model.on(message, &[says(&[&answer], Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn a_fact_is_learned_used_listed_corrected_and_deleted() {
    with_globex(REMEMBERING, async |app| {
        propose(app, "I live in Oslo.", "User lives in Oslo");
        say(app, "ada", "I live in Oslo.").await;
        say(app, "ada", "What do you know?").await;
        let read = |request: &copilotd_actors::ports::ModelRequest| -> String {
            let texts: Vec<&str> = request.messages.iter().filter_map(PromptMessage::text).collect();
            texts.join("\n")
        };
        let prompts: Vec<String> = app.model.requests().iter().map(read).collect();
        let used = |text: &str| {
            prompts
                .iter()
                .any(|prompt| prompt.contains(text) && prompt.contains("<user_fact"))
        };
        assert!(used("User lives in Oslo"), "{prompts:#?}");

        let ada = app.token_of("globex", "ada", Scopes::CHAT);
        let facts = list(app, &ada).await;
        assert_eq!(facts.len(), 1, "{facts:?}");
        assert_eq!(
            (&facts[0]["text"], &facts[0]["valid_to"]),
            (&json!("User lives in Oslo"), &Value::Null)
        );
        let path = format!("{FACTS}/{}", facts[0]["id"].as_str().unwrap());

        // Nobody else sees it, and what is no fact of the caller is answered 404.
        let acme = app.token("ada");
        let bob = app.token_of("globex", "bob", Scopes::CHAT);
        for other in [&bob, &acme] {
            assert_eq!(list(app, other).await, Vec::<Value>::new());
            let body = json!({ "text": "User lives in Rome" });
            let call = app.call("PATCH", &path).by(other).json(&body);
            call.send().await.problem(404, "not_found");
            app.call("DELETE", &path)
                .by(other)
                .send()
                .await
                .problem(404, "not_found");
        }

        for bad in ["", " ", "two\nlines", &"\u{e4}".repeat(200), &"x".repeat(301)] {
            let call = app.call("PATCH", &path).by(&ada).json(&json!({ "text": bad }));
            call.send().await.problem(422, "invalid");
        }
        let call = app
            .call("PATCH", &path)
            .by(&ada)
            .json(&json!({ "text": "User lives in Bergen" }));
        let corrected = call.send().await.expect(200);
        assert_eq!(corrected.text("/text"), "User lives in Bergen");
        assert_eq!(list(app, &ada).await, [corrected.json()]);
        app.call("DELETE", &path).by(&ada).send().await.expect(204);
        app.call("DELETE", &path)
            .by(&ada)
            .send()
            .await
            .problem(404, "not_found");
        assert_eq!(list(app, &ada).await, Vec::<Value>::new());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_administrator_reads_facts_with_a_reason_that_is_recorded() {
    with_globex(REMEMBERING, async |app| {
        for (message, text) in [
            ("I live in Oslo.", "User lives in Oslo"),
            ("I like tea.", "User likes tea"),
            ("I play chess.", "User plays chess"),
        ] {
            propose(app, message, text);
            say(app, "ada", message).await;
        }
        say(app, "ada", "Hello.").await;
        let root = app.token_of("globex", "root", Scopes::CHAT | Scopes::ADMIN);
        let of_ada = format!("{FACTS}?user=ada");
        let problem = app.call("GET", &of_ada).by(&root).send().await.problem(422, "invalid");
        assert!(!problem.to_string().contains("Oslo"));
        // A user is no administrator, and may name oneself.
        let ada = app.token_of("globex", "ada", Scopes::CHAT);
        let bob = app.token_of("globex", "bob", Scopes::CHAT);
        let call = app.call("GET", &of_ada).by(&bob).header(REASON, "why");
        call.send().await.problem(403, "forbidden");
        let own = app.call("GET", &of_ada).by(&ada).send().await.expect(200).json();
        assert_eq!(own["data"].as_array().unwrap().len(), 3);
        // What cannot be recorded is not shown.
        app.audit.away.store(true, Ordering::Relaxed);
        let call = app.call("GET", &of_ada).by(&root).header(REASON, "ticket 7");
        let problem = call.send().await.problem(503, "unavailable");
        assert!(!problem.to_string().contains("Oslo"));
        app.audit.away.store(false, Ordering::Relaxed);

        let mut texts = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("{of_ada}&limit=2{cursor}");
            let page = app.call("GET", &path).by(&root).header(REASON, "ticket 7").send().await;
            let page = page.expect(200).json();
            texts.extend(page["data"].as_array().unwrap().iter().map(|fact| fact["text"].clone()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(texts, ["User plays chess", "User likes tea", "User lives in Oslo"]);
        // A cursor is of one user's list.
        let call = app
            .call("GET", &format!("{FACTS}?user=bob{cursor}"))
            .by(&root)
            .header(REASON, "x");
        call.send().await.problem(422, "invalid");
        let id = own["data"][0]["id"].as_str().unwrap();
        let path = format!("{FACTS}/{id}?user=ada");
        let call = app
            .call("PATCH", &path)
            .by(&root)
            .json(&json!({ "text": "User plays go" }));
        call.send().await.expect(200);
        app.call("DELETE", &path).by(&root).send().await.expect(204);
        let audit = app
            .call("GET", "/v1/admin/audit")
            .by(&root)
            .send()
            .await
            .expect(200)
            .json();
        let entries = audit["data"].as_array().unwrap();
        let actions: Vec<&str> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["fact.deleted", "fact.corrected", "facts.read", "facts.read"]);
        assert_eq!(
            (&entries[3]["target"], &entries[3]["reason"]),
            (&json!("ada"), &json!("ticket 7"))
        );
        assert!(!audit.to_string().contains("chess"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_copilot_without_the_setting_learns_nothing_and_a_key_without_a_user_has_no_facts() {
    with_app(async |app| {
        propose(app, "I live in Oslo.", "User lives in Oslo");
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "I live in Oslo.").await;
        app.turn_is(&turn, "completed").await;
        assert_eq!(app.model.requests().len(), 1);
        assert_eq!(list(app, &app.token("ada")).await, Vec::<Value>::new());
        assert_eq!(list(app, KEY).await, Vec::<Value>::new());
        let nowhere = format!("{FACTS}/fact_{}", "0".repeat(32));
        app.call("DELETE", &nowhere)
            .by(KEY)
            .send()
            .await
            .problem(404, "not_found");
        let call = app
            .call("GET", FACTS)
            .by(&app.token_of("acme", "root", Scopes::GATEWAY));
        call.send().await.problem(403, "forbidden");
    })
    .await;
}
