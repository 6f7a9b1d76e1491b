//! Documents: stored, ingested, searched, changed and deleted over HTTP.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::{calls, says};
use copilotd_actors::fakes::system;
use serde_json::{Value, json};

use super::app::{TestApp, with_app, with_globex};
use super::client::Answer;

const DOCUMENT: &str = "/v1/knowledge/handbook/documents/refunds";
const SEARCH: &str = "/v1/knowledge/handbook/search";

fn knowledge(app: &TestApp) -> String {
    app.token_of("acme", "writer", Scopes::KNOWLEDGE)
}

async fn put(app: &TestApp, path: &str, body: Value) -> Answer {
    app.call("PUT", path).by(&knowledge(app)).json(&body).send().await
}

/// Stores a document and waits until searches find it.
async fn stored(app: &TestApp, path: &str, body: Value) -> Value {
    put(app, path, body).await.expect(202);
    settled(app, path).await
}

async fn settled(app: &TestApp, path: &str) -> Value {
    loop {
        let document = app
            .call("GET", path)
            .by(&knowledge(app))
            .send()
            .await
            .expect(200)
            .json();
        if document["status"] != "pending" {
            return document;
        }
        // Paused time: this only lets the ingestion run.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a caller finds, as external ids.
async fn found(app: &TestApp, credential: &str, query: &str) -> Vec<String> {
    let call = app.call("POST", SEARCH).by(credential).json(&json!({ "query": query }));
    let answer = call.send().await.expect(200).json();
    let data = answer["data"].as_array().unwrap().iter();
    data.map(|chunk| chunk["external_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_document_is_stored_found_changed_and_deleted() {
    with_app(async |app| {
        let body =
            json!({ "title": "Refunds", "text": "A refund takes five days.", "metadata": { "product": "shop" } });
        let accepted = put(app, DOCUMENT, body.clone()).await.expect(202);
        let location = accepted.headers["location"].to_str().unwrap().to_owned();
        assert_eq!(accepted.text("/kind"), "ingestion");
        assert_eq!(accepted.text("/document/external_id"), "refunds");
        let document = settled(app, DOCUMENT).await;
        assert_eq!(
            (&document["status"], &document["chunks"]),
            (&json!("searchable"), &json!(1))
        );
        let job = app.call("GET", &location).by(&knowledge(app)).send().await.expect(200);
        assert_eq!(job.text("/status"), "completed");
        assert_eq!(job.json()["progress"], json!({ "done": 1, "total": 1 }));
        // Somebody without the scope does not see it.
        let ada = app.call("GET", &location).by(&app.token("ada")).send().await;
        ada.problem(404, "not_found");

        let same = put(app, DOCUMENT, body).await.expect(200);
        assert_eq!(same.json()["version"], 1);
        let search = json!({ "query": "How long does a refund take?", "filter": { "product": "shop" } });
        let answer = app
            .call("POST", SEARCH)
            .by(&knowledge(app))
            .json(&search)
            .send()
            .await
            .expect(200);
        assert_eq!(answer.text("/data/0/text"), "A refund takes five days.");
        assert_eq!(answer.json()["semantic"], true);
        let chunk = format!("/v1/knowledge/chunks/{}", answer.text("/data/0/chunk_id"));
        let other = json!({ "query": "refund", "filter": { "product": "other" } });
        let other = app
            .call("POST", SEARCH)
            .by(&knowledge(app))
            .json(&other)
            .send()
            .await
            .expect(200);
        assert_eq!(other.json()["data"], json!([]));
        let seen = app.call("GET", &chunk).by(&app.token("ada")).send().await.expect(200);
        assert_eq!(seen.text("/title"), "Refunds");

        let renamed = json!({ "title": "Money back" });
        let call = app.call("PATCH", DOCUMENT).by(&knowledge(app)).json(&renamed);
        let changed = call.send().await.expect(200);
        assert_eq!(changed.text("/title"), "Money back");
        assert_eq!(
            changed.json()["metadata"],
            json!({ "product": "shop" }),
            "what is left out is kept"
        );

        let listed = app
            .call("GET", "/v1/knowledge/handbook/documents")
            .by(&knowledge(app))
            .send()
            .await;
        assert_eq!(listed.expect(200).json()["data"][0]["external_id"], "refunds");
        let chunks = app
            .call("GET", &format!("{DOCUMENT}/chunks"))
            .by(&knowledge(app))
            .send()
            .await;
        assert_eq!(chunks.expect(200).text("/data/0/text"), "A refund takes five days.");

        app.call("DELETE", DOCUMENT)
            .by(&knowledge(app))
            .send()
            .await
            .expect(204);
        assert!(found(app, &knowledge(app), "refund").await.is_empty());
        for path in [DOCUMENT, &format!("{DOCUMENT}/chunks"), &chunk] {
            let gone = app.call("GET", path).by(&knowledge(app)).send().await;
            gone.problem(404, "not_found");
        }
        let gone = app.call("DELETE", DOCUMENT).by(&knowledge(app)).send().await;
        gone.problem(404, "not_found");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn access_lists_hold_from_the_next_search_on() {
    with_app(async |app| {
        let reader = |user: &str| app.token_of("acme", user, Scopes::KNOWLEDGE);
        let admin = app.token_of("acme", "root", Scopes::KNOWLEDGE | Scopes::ADMIN);
        let body = json!({ "text": "The secret refund.", "allowed_users": ["eve"] });
        stored(app, DOCUMENT, body).await;
        assert_eq!(found(app, &reader("eve"), "refund").await, ["refunds"]);
        assert!(found(app, &reader("mallory"), "refund").await.is_empty());
        assert_eq!(found(app, &admin, "refund").await, ["refunds"]);
        let chunks = format!("{DOCUMENT}/chunks");
        app.call("GET", &chunks)
            .by(&reader("mallory"))
            .send()
            .await
            .problem(404, "not_found");
        app.call("GET", &chunks).by(&admin).send().await.expect(200);
        for (lists, eve, mallory) in [
            (json!({ "allowed_users": ["mallory"] }), false, true),
            (json!({ "allowed_users": [] }), false, false),
            (json!({ "allowed_users": null }), true, true),
            (json!({ "allowed_roles": ["nobody"] }), false, false),
        ] {
            app.call("PATCH", DOCUMENT)
                .by(&knowledge(app))
                .json(&lists)
                .send()
                .await
                .expect(200);
            for (user, sees) in [("eve", eve), ("mallory", mallory)] {
                assert_eq!(
                    !found(app, &reader(user), "refund").await.is_empty(),
                    sees,
                    "{user} after {lists}"
                );
            }
        }
    })
    .await;
}

/// A DOCX document with the text `a refund in Word`.
const WORD: &str = "UEsDBBQAAAAIAAAAIVxL/fd5PgAAAFsAAAARAAAAd29yZC9kb2N1bWVudC54bWyzKbdKyU8uzU3NK7GzKbdKyk+pBNEFIKIIRJTYJSoUpaaV5qUoZOYphOcX\
                    pdjog0RBZBGYLACTEJ36SMYBAFBLAQIUAxQAAAAIAAAAIVxL/fd5PgAAAFsAAAARAAAAAAAAAAAAAACAAQAAAAB3b3JkL2RvY3VtZW50LnhtbFBLBQYAAAAA\
                    AQABAD8AAABtAAAAAAA=";

#[tokio::test(start_paused = true)]
async fn formats_are_told_by_their_media_type() {
    with_app(async |app| {
        let cases = [
            ("text/plain; charset=utf-8", "a refund in plain text"),
            ("text/markdown", "# Refund\n\na refund in marks"),
            ("text/html", "<h1>Refund</h1><p>a refund in elements</p>"),
            ("text/csv", "what,days\na refund in columns,5\n"),
        ];
        for (index, (media, body)) in cases.iter().enumerate() {
            let path = format!("/v1/knowledge/handbook/documents/{index}");
            let call = app.call("PUT", &path).by(&knowledge(app)).raw(media, *body);
            call.send().await.expect(202);
            assert_eq!(settled(app, &path).await["status"], "searchable", "{media}");
        }
        let media = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
        let path = "/v1/knowledge/handbook/documents/word";
        let word = BASE64_STANDARD.decode(WORD).unwrap();
        app.call("PUT", path)
            .by(&knowledge(app))
            .raw(media, word)
            .send()
            .await
            .expect(202);
        assert_eq!(settled(app, path).await["format"], "docx");
        assert_eq!(found(app, &knowledge(app), "refund").await.len(), cases.len() + 1);
        let pdf = app
            .call("PUT", DOCUMENT)
            .by(&knowledge(app))
            .raw("application/pdf", "%PDF-1.7");
        pdf.send().await.expect(202);
        let document = settled(app, DOCUMENT).await;
        assert_eq!(
            (&document["status"], &document["error"]["code"]),
            (&json!("failed"), &json!("pdf_unavailable"))
        );
        let job = format!("/v1/jobs/{}", document["job_id"].as_str().unwrap());
        let job = app.call("GET", &job).by(&knowledge(app)).send().await.expect(200);
        assert_eq!(job.text("/status"), "failed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bad_input_says_what_is_wrong() {
    with_globex("[tenants.limits]\ndocuments = 1\ndocument_bytes = 100\n", async |app| {
        let call = |media: &'static str, body: &str| {
            let body = body.to_owned();
            async move {
                app.call("PUT", DOCUMENT)
                    .by(&knowledge(app))
                    .raw(media, body)
                    .send()
                    .await
            }
        };
        call("image/png", "x").await.problem(415, "unsupported_media_type");
        call("text/plain; charset=latin1", "x")
            .await
            .problem(415, "unsupported_media_type");
        call("text/plain", "").await.problem(422, "invalid");
        call("application/json", "{}").await.problem(422, "invalid");
        call("application/json", "{").await.problem(400, "malformed");
        let refused = call("application/json", r#"{"text":"x","metadata":{"a":[1]}}"#)
            .await
            .problem(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], "/metadata/a");
        call("multipart/form-data", "x").await.problem(400, "malformed");
        for path in [
            "/v1/knowledge/Hand%20book/documents/1",
            "/v1/knowledge/handbook/documents/%0a",
        ] {
            put(app, path, json!({ "text": "x" })).await.problem(422, "invalid");
        }
        let no_scope = app
            .call("PUT", DOCUMENT)
            .by(&app.token("ada"))
            .json(&json!({ "text": "x" }))
            .send()
            .await;
        no_scope.problem(403, "forbidden");
        for body in [json!({ "query": "" }), json!({ "query": "x", "limit": 51 }), json!({})] {
            let search = app.call("POST", SEARCH).by(&knowledge(app)).json(&body).send().await;
            search.problem(422, "invalid");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_tenants_with_the_same_document_share_nothing() {
    with_globex("", async |app| {
        let globex = app.token_of("globex", "writer", Scopes::KNOWLEDGE);
        let body = json!({ "text": "The refund of both." });
        stored(app, DOCUMENT, body.clone()).await;
        assert!(found(app, &globex, "refund").await.is_empty());
        app.call("GET", DOCUMENT)
            .by(&globex)
            .send()
            .await
            .problem(404, "not_found");
        let call = app.call("PUT", DOCUMENT).by(&globex).json(&body);
        call.send().await.expect(202);
        app.call("DELETE", DOCUMENT)
            .by(&knowledge(app))
            .send()
            .await
            .expect(204);
        while found(app, &globex, "refund").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A copilot of globex that draws on the handbook and may search tickets.
const READER: &str = r#"
    [[tenants.copilots]]
    name = "reader"
    route = "default"
    tools = ["zendesk_search_tickets"]
    knowledge = ["handbook"]
"#;

/// A user of globex who talks to that copilot.
struct Talk<'a> {
    app: &'a TestApp,
    token: String,
    conversation: String,
}

impl<'a> Talk<'a> {
    async fn new(app: &'a TestApp, tenant: &str, user: &str) -> Self {
        let token = app.token_of(tenant, user, Scopes::CHAT | Scopes::KNOWLEDGE);
        let call = app.call("POST", "/v1/conversations").by(&token);
        let created = call.json(&json!({ "copilot": "reader" })).send().await.expect(201);
        let conversation = format!("/v1/conversations/{}", created.text("/id"));
        Self {
            app,
            token,
            conversation,
        }
    }

    async fn submit(&self, prompt: &str) -> String {
        let call = self
            .app
            .call("POST", &format!("{}/turns", self.conversation))
            .by(&self.token);
        let answer = call.json(&json!({ "input": prompt })).send().await.expect(202);
        answer.headers["location"].to_str().unwrap().to_owned()
    }

    async fn completed(&self, turn: &str) {
        loop {
            let view = self
                .app
                .call("GET", turn)
                .by(&self.token)
                .send()
                .await
                .expect(200)
                .json();
            if view["status"] == "completed" {
                return;
            }
            assert!(view["finished_at"].is_null(), "{view:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn chunk_status(&self, chunk: &str) -> u16 {
        let path = format!("/v1/knowledge/chunks/{chunk}");
        self.app.call("GET", &path).by(&self.token).send().await.status
    }
}

#[tokio::test(start_paused = true)]
async fn access_withdrawn_between_the_steps_of_a_turn_holds_from_the_next_search_on() {
    with_globex(READER, async |app| {
        let writer = app.token_of("globex", "writer", Scopes::KNOWLEDGE | Scopes::ADMIN);
        let body = json!({ "text": "The harbour budget is nine million crowns.", "allowed_users": ["eve"] });
        app.call("PUT", DOCUMENT)
            .by(&writer)
            .json(&body)
            .send()
            .await
            .expect(202);
        while found(app, &writer, "harbour budget").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let search = json!({ "query": "harbour budget" });
        let call = app.call("POST", SEARCH).by(&writer).json(&search);
        let chunk = call.send().await.expect(200).text("/data/0/chunk_id").to_owned();
        let eve = Talk::new(app, "globex", "eve").await;
        assert_eq!(eve.chunk_status(&chunk).await, 200);

        let first = "What is the harbour budget?";
        let step = calls(&[("zendesk_search_tickets", json!({ "query": "budget" }))]);
        app.model.on(first, &[step, says(&["Nine million."], Duration::ZERO)]);
        app.system("zendesk")
            .answer(system::Answer::done(Duration::from_secs(20)));
        let turn = eve.submit(first).await;
        app.system("zendesk").wait_for(|seen| seen.calls == 1).await;
        let nobody = json!({ "allowed_users": [] });
        let call = app.call("PATCH", DOCUMENT).by(&writer).json(&nobody);
        call.send().await.expect(200);
        // The turn's own search ran while the document was hers to read. Nothing else of it is.
        assert_eq!(eve.chunk_status(&chunk).await, 404);
        assert!(found(app, &eve.token, "harbour budget").await.is_empty());
        eve.completed(&turn).await;

        let second = "Tell me the harbour budget in crowns once more, please.";
        app.model.on(second, &[says(&["I do not know."], Duration::ZERO)]);
        let turn = eve.submit(second).await;
        eve.completed(&turn).await;
        let requests = app.model.requests();
        let excerpt =
            |request: &copilotd_actors::ports::ModelRequest| format!("{request:?}").contains("million crowns");
        let shown: Vec<bool> = requests.iter().map(excerpt).collect();
        assert_eq!(shown, [true, true, false], "from the next search on it is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_tenants_with_the_same_document_are_answered_from_their_own() {
    with_globex(READER, async |app| {
        let body = json!({ "title": "Refunds", "text": "A refund takes five days.", "metadata": { "a": "b" } });
        let globex = app.token_of("globex", "writer", Scopes::KNOWLEDGE);
        stored(app, DOCUMENT, body.clone()).await;
        let call = app.call("PUT", DOCUMENT).by(&globex).json(&body);
        call.send().await.expect(202);
        while found(app, &globex, "refund").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let search = async |credential: &str| {
            let call = app
                .call("POST", SEARCH)
                .by(credential)
                .json(&json!({ "query": "How long does a refund take?" }));
            call.send().await.expect(200).json()["data"][0].clone()
        };
        let (of_acme, of_globex) = (search(&knowledge(app)).await, search(&globex).await);
        for same in ["text", "external_id", "title", "score"] {
            assert_eq!(of_acme[same], of_globex[same], "{same}");
        }
        for own in ["chunk_id", "document_id"] {
            assert_ne!(of_acme[own], of_globex[own], "{own}");
        }
        // Ids of the other tenant are unknown, whoever asks.
        let eve = Talk::new(app, "globex", "eve").await;
        assert_eq!(eve.chunk_status(of_globex["chunk_id"].as_str().unwrap()).await, 200);
        assert_eq!(eve.chunk_status(of_acme["chunk_id"].as_str().unwrap()).await, 404);
        // What one changes and deletes leaves the other's answers as they are.
        let changed = json!({ "text": "A refund takes nine days." });
        stored(app, DOCUMENT, changed).await;
        assert_eq!(search(&globex).await, of_globex);
        app.call("DELETE", DOCUMENT)
            .by(&knowledge(app))
            .send()
            .await
            .expect(204);
        assert_eq!(search(&globex).await, of_globex);
        let prompt = "How long does a refund take at your company?";
        app.model.on(prompt, &[says(&["Five days."], Duration::ZERO)]);
        let turn = eve.submit(prompt).await;
        eve.completed(&turn).await;
        let seen = format!("{:?}", app.model.requests());
        assert!(seen.contains("five days") && !seen.contains("nine days"), "{seen}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sources_are_shown_to_administrators_only() {
    with_app(async |app| {
        const SOURCES: &str = "/v1/admin/knowledge/sources";
        let admin = app.token_of("acme", "root", Scopes::ADMIN);
        let listed = app.call("GET", SOURCES).by(&admin).send().await.expect(200);
        assert_eq!(listed.json(), json!({ "data": [] }));
        let writer = app.call("GET", SOURCES).by(&knowledge(app)).send().await;
        writer.problem(403, "forbidden");
    })
    .await;
}
