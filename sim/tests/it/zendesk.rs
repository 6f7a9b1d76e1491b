//! The simulated Zendesk against Zendesk's description.

use std::net::{Ipv4Addr, SocketAddr};

use copilotd_sim::Running;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::specs::{Answer, Spec, file};

struct Zendesk {
    spec: Spec,
    running: Running,
}

impl Zendesk {
    async fn start() -> Option<Self> {
        let spec = Spec::zendesk()?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let running = copilotd_sim::zendesk::start(listen, true).await.unwrap();
        Some(Self { spec, running })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v2{path}", self.running.base_url());
        reqwest::Client::new()
            .request(method, url)
            .basic_auth("grace@example.com/token", Some("secret"))
    }

    /// Gets `path`, which is described as `described` under `/api/v2`.
    async fn get(&self, described: &str, path: &str) -> Answer {
        let described = format!("/api/v2{described}");
        self.spec.call(&described, self.request(Method::GET, path)).await
    }

    async fn create(&self, ticket: Value, key: Option<&str>) -> Answer {
        let body = json!({"ticket": ticket});
        let mut request = self.request(Method::POST, "/tickets.json").json(&body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.spec.call("/api/v2/tickets", request).await
    }

    async fn update(&self, id: u64, ticket: Value) -> Answer {
        let path = format!("/tickets/{id}.json");
        let body = json!({"ticket": ticket});
        let request = self.request(Method::PUT, &path).json(&body);
        self.spec.call("/api/v2/tickets/{ticket_id}", request).await
    }
}

fn ids(answer: &Answer, list: &str) -> Vec<u64> {
    let items = answer.body[list].as_array().unwrap();
    items.iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn answers_fit_the_description() {
    let Some(zendesk) = Zendesk::start().await else {
        return;
    };
    for (described, path, status) in [
        ("/tickets", "/tickets.json", 200),
        ("/tickets", "/tickets?page[size]=3&include=users", 200),
        ("/tickets", "/tickets.json?page[after]=nonsense", 400),
        ("/tickets", "/tickets.json?page=101&per_page=100", 400),
        ("/tickets/count", "/tickets/count.json", 200),
        ("/tickets/show_many", "/tickets/show_many.json?ids=101,102", 200),
        ("/tickets/{ticket_id}", "/tickets/101.json", 200),
        ("/tickets/{ticket_id}", "/tickets/999.json", 404),
        ("/tickets/{ticket_id}/comments", "/tickets/103/comments.json", 200),
        ("/tickets/{ticket_id}/comments", "/tickets/999/comments.json", 404),
        ("/tickets/{ticket_id}/audits", "/tickets/103/audits.json", 200),
        ("/tickets/{ticket_id}/audits", "/tickets/999/audits.json", 404),
        ("/search", "/search.json?query=type:ticket status<solved", 200),
        ("/search", "/search.json", 422),
        ("/search", "/search.json?query=refund&page=11", 422),
        ("/search/count", "/search/count.json?query=refund", 200),
        (
            "/search/export",
            "/search/export.json?query=refund&filter[type]=ticket",
            200,
        ),
        ("/search/export", "/search/export.json?query=refund", 422),
        ("/users", "/users.json", 200),
        ("/users/me", "/users/me.json", 200),
        ("/users/{user_id}", "/users/11.json", 200),
        ("/users/{user_id}", "/users/999.json", 404),
        ("/users/search", "/users/search.json?query=ada@example.com", 200),
        ("/users/show_many", "/users/show_many.json?ids=11,12", 200),
        ("/views", "/views.json", 200),
        ("/views/{view_id}", "/views/27.json", 200),
        ("/views/{view_id}/tickets", "/views/27/tickets.json", 200),
        ("/views/{view_id}/tickets", "/views/27/tickets.json?page[size]=2", 200),
        ("/views/{view_id}/execute", "/views/27/execute.json", 200),
        ("/views/{view_id}/execute", "/views/999/execute.json", 404),
        ("/views/{view_id}/count", "/views/27/count.json", 200),
    ] {
        let answer = zendesk.get(described, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    let strangers = reqwest::Client::new().get(format!("{}/api/v2/tickets.json", zendesk.running.base_url()));
    let answer = zendesk.spec.call("/api/v2/tickets", strangers).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn documented_requests_are_accepted() {
    let Some(zendesk) = Zendesk::start().await else {
        return;
    };
    let Some(description) = file("zendesk/zendesk_support.openapi.json") else {
        return;
    };
    // Requests for which the description has examples, which are few.
    let mut tried = 0;
    for (path, method) in [("/api/v2/tickets", "post"), ("/api/v2/tickets/{ticket_id}", "put")] {
        let content = &description["paths"][path][method]["requestBody"]["content"]["application/json"];
        let named = content["examples"]
            .as_object()
            .into_iter()
            .flat_map(|examples| examples.values());
        let examples = named.map(|example| &example["value"]);
        for example in examples
            .chain(content.get("example"))
            .filter(|example| !example.is_null())
        {
            let answer = match method {
                "post" => zendesk.create(example["ticket"].clone(), None).await,
                _ => zendesk.update(101, example["ticket"].clone()).await,
            };
            assert!(answer.status < 300, "{example:#}\n{}", answer.text);
            tried += 1;
        }
    }
    eprintln!("{tried} documented requests were tried");
    // This is how the introduction to the ticketing API creates a ticket.
    let documented = json!({"subject": "My printer is on fire!", "comment": {"body": "The smoke is very colorful."}});
    let schema = "/components/schemas/TicketCreateRequest";
    zendesk
        .spec
        .check(schema, &json!({"ticket": documented}), "the request");
    assert_eq!(zendesk.create(documented, None).await.status, 201);
}

#[tokio::test]
async fn an_idempotency_key_creates_once() {
    let Some(zendesk) = Zendesk::start().await else {
        return;
    };
    let ticket = |subject: &str| json!({"subject": subject, "comment": {"body": "Help"}});
    let first = zendesk.create(ticket("a"), Some("key-1")).await;
    assert_eq!(first.header("x-idempotency-lookup"), "miss");
    let again = zendesk.create(ticket("a"), Some("key-1")).await;
    assert_eq!(again.header("x-idempotency-lookup"), "hit");
    assert_eq!(again.body, first.body);
    let other = zendesk.create(ticket("b"), Some("key-1")).await;
    assert_eq!(other.status, 400);
    assert_eq!(other.body["error"], "IdempotentRequestError");
    let without = zendesk.create(ticket("a"), None).await;
    assert_eq!(without.header("x-idempotency-lookup"), "");
    assert_ne!(without.body["ticket"]["id"], first.body["ticket"]["id"]);
}

#[tokio::test]
async fn tickets_change_and_stale_changes_are_refused() {
    let Some(zendesk) = Zendesk::start().await else {
        return;
    };
    let created = zendesk
        .create(
            json!({
                "subject": "Printer",
                "comment": {"body": "It is on fire"},
                "priority": "high",
                "tags": ["fire"],
                "requester": {"name": "Erin", "email": "erin@example.com"},
            }),
            None,
        )
        .await;
    let ticket = &created.body["ticket"];
    assert_eq!(ticket["status"], "new");
    let id = ticket["id"].as_u64().unwrap();
    let stamp = ticket["updated_at"].clone();
    let safe = |stamp: &Value| json!({"safe_update": true, "updated_stamp": stamp, "status": "open"});
    let updated = zendesk.update(id, safe(&stamp)).await;
    assert_eq!(updated.body["ticket"]["status"], "open");
    let stale = zendesk.update(id, safe(&stamp)).await;
    assert_eq!(stale.status, 409);
    let said = json!({"comment": {"body": "Try water", "public": true}, "additional_tags": ["water"]});
    let commented = zendesk.update(id, said).await;
    assert_eq!(commented.body["ticket"]["tags"], json!(["fire", "water"]));
    let comments = zendesk
        .get("/tickets/{ticket_id}/comments", &format!("/tickets/{id}/comments"))
        .await;
    assert_eq!(comments.body["comments"][1]["body"], "Try water");
    for wrong in [
        json!({"status": "nonsense"}),
        json!({"priority": 5}),
        json!({"comment": {"body": ""}}),
    ] {
        assert_eq!(zendesk.update(id, wrong).await.status, 422);
    }
    assert_eq!(zendesk.create(json!({"subject": "a"}), None).await.status, 422);
}

#[tokio::test]
async fn pages_follow_one_another() {
    let Some(zendesk) = Zendesk::start().await else {
        return;
    };
    let all = ids(&zendesk.get("/tickets", "/tickets.json").await, "tickets");
    let origin = format!("{}/api/v2", zendesk.running.base_url());
    for (described, list, start) in [
        ("/tickets", "tickets", "/tickets.json?page[size]=3"),
        ("/tickets", "tickets", "/tickets.json?per_page=3"),
        (
            "/search/export",
            "results",
            "/search/export.json?query=type:ticket&filter[type]=ticket&page[size]=3",
        ),
        (
            "/search",
            "results",
            "/search.json?query=type:ticket&per_page=3&sort_by=created_at&sort_order=asc",
        ),
    ] {
        let mut seen = Vec::new();
        let mut next = Some(start.to_owned());
        while let Some(path) = next {
            let page = zendesk.get(described, &path).await;
            seen.extend(ids(&page, list));
            let link = page.body["links"]["next"].as_str().or(page.body["next_page"].as_str());
            next = link.map(|link| link.strip_prefix(&origin).unwrap().to_owned());
        }
        seen.sort_unstable();
        assert_eq!(seen, all, "{start}");
    }
}

#[tokio::test]
async fn search_finds() {
    let Some(zendesk) = Zendesk::start().await else {
        return;
    };
    for (query, found) in [
        ("type:ticket status:pending", vec![104]),
        ("type:ticket status>=solved", vec![106]),
        ("type:ticket priority:urgent status<solved", vec![103, 108]),
        ("refund", vec![101]),
        ("type:ticket requester:bob@example.com -status:solved", vec![102, 108]),
        ("type:ticket subject:\"cancel the trial\"", vec![107]),
        ("type:ticket tags:billing", vec![101, 107]),
        ("type:ticket assignee:none status:new", vec![102, 107]),
        ("type:user carol", vec![13]),
    ] {
        let path = format!("/search.json?query={}", query.replace(' ', "+").replace('<', "%3C"));
        let mut results = ids(&zendesk.get("/search", &path).await, "results");
        results.sort_unstable();
        assert_eq!(results, found, "{query}");
    }
}

#[tokio::test]
async fn audits_keep_the_metadata_of_requests() {
    let Some(zendesk) = Zendesk::start().await else { return };
    let made = zendesk
        .create(
            json!({"subject": "Leak", "comment": {"body": "It drips"}, "metadata": {"mark": "first"}}),
            None,
        )
        .await;
    let id = made.body["ticket"]["id"].as_u64().unwrap();
    let noted = json!({"comment": {"body": "Seen", "public": false}, "metadata": {"mark": "second"}});
    zendesk.update(id, noted).await;
    zendesk.update(id, json!({"priority": "high"})).await;
    let mut marks = Vec::new();
    let mut path = format!("/tickets/{id}/audits.json?page[size]=2");
    loop {
        let page = zendesk.get("/tickets/{ticket_id}/audits", &path).await;
        marks.extend(
            page.body["audits"]
                .as_array()
                .unwrap()
                .iter()
                .map(|audit| audit["metadata"]["custom"].clone()),
        );
        let Some(cursor) = page.body["meta"]["after_cursor"]
            .as_str()
            .filter(|_| page.body["meta"]["has_more"] == true)
        else {
            break;
        };
        path = format!(
            "/tickets/{id}/audits.json?page[size]=2&page[after]={}",
            cursor.replace('=', "%3D")
        );
    }
    assert_eq!(marks, [json!({"mark": "first"}), json!({"mark": "second"}), json!({})]);
    let path = format!("/tickets/{id}/comments.json?page[size]=10&sort=-created_at");
    let newest_first = zendesk.get("/tickets/{ticket_id}/comments", &path).await;
    assert_eq!(newest_first.body["comments"][0]["body"], "Seen");
}
