//! The simulated Zendesk's incremental exports and help centre.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use copilotd_sim::Running;
use serde_json::{Value, json};

struct Zendesk(Running);

impl Zendesk {
    async fn start() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self(copilotd_sim::zendesk::start(listen, true).await.unwrap())
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method: reqwest::Method = method.parse().unwrap();
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.0.base_url()));
        let answer = request.bearer_auth("token").json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", &format!("/api/v2/{path}"), Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn knobs(&self, knobs: Value) {
        self.call("POST", "/_sim/knobs", knobs).await;
    }
}

fn ids(page: &Value, list: &str) -> Vec<u64> {
    let items = page[list].as_array().unwrap();
    items.iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn tickets_are_exported_page_by_page_and_again_when_they_change() {
    let zendesk = Zendesk::start().await;
    zendesk
        .knobs(json!({ "export_page": 3, "exports_per_minute": 10_000 }))
        .await;
    let mut page = zendesk.get("incremental/tickets/cursor.json?start_time=0").await;
    let mut seen = ids(&page, "tickets");
    while page["end_of_stream"] == false {
        let cursor = page["after_cursor"].as_str().unwrap();
        page = zendesk
            .get(&format!("incremental/tickets/cursor.json?cursor={cursor}"))
            .await;
        seen.extend(ids(&page, "tickets"));
    }
    assert_eq!(seen, [101, 102, 103, 104, 105, 106, 107, 108]);
    let cursor = page["after_cursor"].as_str().unwrap();
    let next = format!("incremental/tickets/cursor.json?cursor={cursor}");
    assert_eq!(zendesk.get(&next).await["tickets"], json!([]));
    let body = json!({ "ticket": { "comment": { "body": "Internal.", "public": false } } });
    zendesk.call("PUT", "/api/v2/tickets/101.json", body).await;
    assert_eq!(
        zendesk.call("DELETE", "/api/v2/tickets/105.json", Value::Null).await.0,
        204
    );
    // Once their second is over.
    let mut page = zendesk.get(&next).await;
    while ids(&page, "tickets").len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        page = zendesk.get(&next).await;
    }
    assert_eq!(ids(&page, "tickets"), [101, 105]);
    assert_eq!(page["tickets"][1]["status"], "deleted");
    let (status, _) = zendesk.call("GET", "/api/v2/tickets/105.json", Value::Null).await;
    assert_eq!(status, 404);
    let path = "/api/v2/incremental/tickets/cursor.json?start_time=99999999999";
    assert_eq!(zendesk.call("GET", path, Value::Null).await.0, 400);
}

#[tokio::test]
async fn incremental_exports_have_a_limit_of_their_own() {
    let zendesk = Zendesk::start().await;
    for n in 0..12 {
        let path = "/api/v2/incremental/tickets/cursor.json?start_time=0";
        let expected = if n < 10 { 200 } else { 429 };
        assert_eq!(zendesk.call("GET", path, Value::Null).await.0, expected, "{n}");
    }
    zendesk.get("tickets.json").await;
    zendesk.knobs(json!({ "exports_per_minute": 1000 })).await;
    zendesk.get("help_center/incremental/articles.json?start_time=0").await;
}

#[tokio::test]
async fn articles_are_drafted_published_restricted_translated_and_archived() {
    let zendesk = Zendesk::start().await;
    zendesk.knobs(json!({ "exports_per_minute": 1000 })).await;
    let article = json!({ "article": { "title": "Refunds", "body": "<p>Five days.</p>", "draft": true, "label_names": ["shop"] } });
    let path = "/api/v2/help_center/sections/7/articles.json";
    let (status, body) = zendesk.call("POST", path, article).await;
    assert_eq!(status, 201);
    let id = body["article"]["id"].as_u64().unwrap();
    let changes = "help_center/incremental/articles.json?start_time=0";
    let page = zendesk.get(changes).await;
    let shown = &page["articles"][0];
    assert_eq!(
        (&shown["draft"], &shown["section_id"], &shown["user_segment_id"]),
        (&json!(true), &json!(7), &Value::Null)
    );
    let end = page["end_time"].as_i64().unwrap();
    assert_eq!(page["next_page"], Value::Null);

    let translation = format!("/api/v2/help_center/articles/{id}/translations");
    let publish = json!({ "translation": { "draft": false } });
    assert_eq!(
        zendesk
            .call("PUT", &format!("{translation}/en-us.json"), publish)
            .await
            .0,
        200
    );
    let german = json!({ "translation": { "locale": "de", "title": "Rückgabe", "body": "<p>Fünf Tage.</p>" } });
    assert_eq!(
        zendesk.call("POST", &format!("{translation}.json"), german).await.0,
        200
    );
    let segment = json!({ "article": { "user_segment_id": 123 } });
    zendesk
        .call("PUT", &format!("/api/v2/help_center/articles/{id}.json"), segment)
        .await;
    let page = zendesk
        .get(&format!("help_center/incremental/articles.json?start_time={}", end + 1))
        .await;
    let shown = &page["articles"][0];
    assert_eq!(
        (&shown["draft"], &shown["user_segment_id"]),
        (&json!(false), &json!(123))
    );
    let page = zendesk
        .get(&format!("help_center/articles/{id}/translations.json"))
        .await;
    assert_eq!(page["translations"][1]["title"], "Rückgabe");

    assert_eq!(
        zendesk
            .call(
                "DELETE",
                &format!("/api/v2/help_center/articles/{id}.json"),
                Value::Null
            )
            .await
            .0,
        204
    );
    assert_eq!(
        zendesk.get(changes).await["articles"],
        json!([]),
        "archived articles are in no list"
    );
    assert_eq!(
        zendesk.get("help_center/articles.json?page[size]=100").await["articles"],
        json!([])
    );
}

#[tokio::test]
async fn an_answer_can_be_torn() {
    let zendesk = Zendesk::start().await;
    zendesk
        .knobs(json!({ "fail_next": [{ "path_contains": "tickets", "torn": true }] }))
        .await;
    let (status, body) = zendesk.call("GET", "/api/v2/tickets.json", Value::Null).await;
    assert_eq!((status, body), (200, Value::Null), "half of it is no JSON");
    zendesk.get("tickets.json").await;
}
