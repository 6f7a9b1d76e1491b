//! Documents: stored, ingested, searched, changed and deleted over HTTP.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
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
        assert_eq!(found(app, &knowledge(app), "refund").await.len(), cases.len());
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
