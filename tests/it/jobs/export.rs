//! Exports: their content, who can read them, and what an erasure removes from them.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::ids::JobId;
use copilotd_actors::fakes::model::says;
use copilotd_actors::ports::{Clock as _, Job, JobStatus, Work};
use serde_json::{Value, json};

use super::world::{Answer, Place, World, life, on_both, places};
use crate::support::talk::scope;

const EXPORTS: &str = "/v1/admin/exports";
const REASON: [(&str, &str); 1] = [("x-copilotd-reason", "audit of 2026")];

async fn start(world: &World, body: Value) -> Answer {
    let admin = world.token("acme", "boss", Scopes::ADMIN);
    world.ask_with("POST", EXPORTS, &admin, Some(&body), &REASON).await
}

/// Exports, and returns the job's path and the lines.
async fn export(world: &World, body: Value) -> (String, Vec<Value>) {
    let admin = world.token("acme", "boss", Scopes::ADMIN);
    let job = start(world, body).await.is(202).json();
    let job = world.ended(job["id"].as_str().unwrap(), &admin).await;
    assert_eq!(job["status"], "completed", "{job:#}");
    assert_eq!(job["progress"]["done"], job["progress"]["total"]);
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let lines = lines(world, &path).await;
    (path, lines)
}

async fn lines(world: &World, job: &str) -> Vec<Value> {
    let admin = world.token("acme", "boss", Scopes::ADMIN);
    let answer = world.ask("GET", &format!("{job}/result"), &admin, None).await.is(200);
    assert_eq!(answer.headers["content-type"], "application/jsonl");
    answer
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn schema() -> jsonschema::Validator {
    let document: Value = serde_json::to_value(copilotd::surfaces::openapi::document()).unwrap();
    let whole = json!({
        "$ref": "#/components/schemas/ExportLine",
        "components": document["components"],
    });
    jsonschema::draft202012::new(&whole).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_every_conversation_of_the_tenant_and_of_no_other() {
    on_both(async |place| {
        let world = World::start(place).await;
        world.model.on("first", &[says(&["the first answer"], Duration::ZERO)]);
        world.talk("acme", "ada", "first question").await;
        world.talk("globex", "bob", "a matter of globex").await;
        let erased = world.talk("acme", "ada", "to be forgotten").await;
        let ada = world.token("acme", "ada", Scopes::CHAT);
        world.ask("DELETE", &erased, &ada, None).await.is(204);
        world.talk("acme", "cy", "second question").await;
        let body = json!({ "title": "empty" });
        world.ask("POST", "/v1/conversations", &ada, Some(&body)).await.is(201);

        let (path, lines) = export(&world, json!({})).await;
        let titles: Vec<_> = lines.iter().map(|line| line["conversation"]["title"].clone()).collect();
        assert_eq!(titles, ["empty", "second question", "first question"], "newest first");
        let schema = schema();
        for line in &lines {
            let faults: Vec<String> = schema.iter_errors(line).map(|error| error.to_string()).collect();
            assert_eq!(faults, Vec::<String>::new(), "{line:#}");
        }
        let first = &lines[2];
        assert_eq!(first["conversation"]["user"], "ada");
        assert_eq!(first["messages"][0]["content"][0]["text"], "first question");
        assert_eq!(first["messages"][1]["content"][0]["text"], "the first answer");
        assert_eq!(first["turns"][0]["status"], "completed");
        assert_eq!(first["part"], 1);

        // A conversation erased after the export disappears from it, immediately and for good.
        let gone = format!("/v1/conversations/{}", first["conversation"]["id"].as_str().unwrap());
        world.ask("DELETE", &gone, &ada, None).await.is(204);
        let left = self::lines(&world, &path).await;
        assert_eq!(left.len(), 2);
        world
            .until(async || place.found(&["the first answer"]).await.is_empty())
            .await;
        assert_eq!(self::lines(&world, &path).await.len(), 2);

        // Not allowed: other tenants, and users without the scope.
        for (tenant, scopes) in [
            ("globex", Scopes::ALL.without(Scopes::OPERATOR)),
            ("acme", Scopes::CHAT | Scopes::OPERATOR),
        ] {
            let other = world.token(tenant, "boss", scopes);
            for path in [path.clone(), format!("{path}/result")] {
                world.ask("GET", &path, &other, None).await.problem(404, "not_found");
            }
        }
        let admin = world.token("acme", "boss", Scopes::ADMIN);
        let audit = world.ask("GET", "/v1/admin/audit", &admin, None).await.is(200).json();
        let entries = audit["data"].as_array().unwrap();
        let created = entries
            .iter()
            .find(|entry| entry["action"] == "export.created")
            .unwrap();
        assert_eq!(
            (&created["actor"], &created["reason"]),
            (&json!("boss"), &json!("audit of 2026"))
        );
        assert!(path.ends_with(created["target"].as_str().unwrap()));
        assert_eq!(
            entries.iter().filter(|entry| entry["action"] == "export.read").count(),
            3
        );

        world.stop().await;
    })
    .await;
}

#[test]
fn a_result_survives_a_restart_and_is_gone_after_a_day() {
    for place in &places() {
        let path = life(async || {
            let world = World::start(place).await;
            world.talk("acme", "ada", "a question").await;
            let (path, lines) = export(&world, json!({})).await;
            assert_eq!(lines.len(), 1);
            world.stop().await;
            path
        });
        life(async || {
            let world = World::start(place).await;
            assert_eq!(lines(&world, &path).await.len(), 1);
            world.clock.step(24 * 3600 * 1000 + 60_000);
            let admin = world.token("acme", "boss", Scopes::ADMIN);
            for path in [path.clone(), format!("{path}/result")] {
                world.ask("GET", &path, &admin, None).await.problem(404, "not_found");
            }
            assert!(!place.found(&["\"part\":1"]).await.is_empty());
            world.app.state.jobs.forget_expired().await.unwrap();
            let header = [("x-copilotd-reason", "again")];
            let body = json!({});
            world
                .ask_with("POST", EXPORTS, &admin, Some(&body), &header)
                .await
                .is(202);
            world.stop().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_of_a_time_and_a_long_conversation_has_many_lines() {
    on_both(async |place| {
        let world = World::start(place).await;
        let long = "x".repeat(60_000);
        world.model.on("say much", &[says(&[&long], Duration::ZERO)]);
        let path = world.talk("acme", "ada", "say much").await;
        let ada = world.token("acme", "ada", Scopes::CHAT);
        for _ in 0..8 {
            let body = json!({ "input": "say much again" });
            world
                .ask("POST", &format!("{path}/turns"), &ada, Some(&body))
                .await
                .is(202);
            world
                .until(async || {
                    let page = world
                        .ask("GET", &format!("{path}/messages?limit=1&order=desc"), &ada, None)
                        .await
                        .json();
                    page["data"][0]["role"] == "assistant"
                })
                .await;
        }
        let (_, lines) = export(&world, json!({})).await;
        assert!(lines.len() > 1, "{}", lines.len());
        let parts: Vec<_> = lines.iter().map(|line| line["part"].as_u64().unwrap()).collect();
        assert_eq!(parts, (1..=lines.len() as u64).collect::<Vec<_>>());
        let messages: usize = lines
            .iter()
            .map(|line| line["messages"].as_array().unwrap().len())
            .sum();
        let turns: usize = lines.iter().map(|line| line["turns"].as_array().unwrap().len()).sum();
        assert_eq!((messages, turns), (18, 9));
        // The test's clock starts on the first of January.
        for (body, found) in [
            (json!({ "from": "2026-01-01", "to": "2026-01-01" }), lines.len()),
            (json!({ "from": "2026-01-02" }), 0),
            (json!({ "to": "2025-12-31" }), 0),
        ] {
            assert_eq!(export(&world, body.clone()).await.1.len(), found, "{body}");
        }
        // At most four results are stored.
        let problem = start(&world, json!({})).await.problem(409, "conflict");
        assert!(
            problem["detail"].as_str().unwrap().contains("4 export results"),
            "{problem}"
        );
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_needs_a_reason_and_one_runs_at_a_time() {
    let place = Place::Sqlite(tempfile::TempDir::new().unwrap());
    let world = World::start(&place).await;
    let admin = world.token("acme", "boss", Scopes::ADMIN);
    let no_reason = world.ask("POST", EXPORTS, &admin, Some(&json!({}))).await;
    no_reason.problem(422, "invalid");
    for body in [
        json!({ "from": "yesterday" }),
        json!({ "to": "2026-13-01" }),
        json!({ "from": "2026-02-01", "to": "2026-01-01" }),
        json!({ "since": "2026-01-01" }),
        json!([]),
    ] {
        start(&world, body).await.problem(422, "invalid");
    }
    let chat = world.token("acme", "ada", Scopes::CHAT);
    let refused = world.ask_with("POST", EXPORTS, &chat, Some(&json!({})), &REASON).await;
    refused.problem(403, "forbidden");
    let audit = world.ask("GET", "/v1/admin/audit", &admin, None).await.is(200).json();
    assert_eq!(audit["data"], json!([]), "what was refused left no entry");

    // Copies of one request give one job; a different body with the same key is refused.
    let keyed = |body: Value, key: &'static str| {
        let (world, admin) = (&world, admin.clone());
        async move {
            let headers = [REASON[0], ("idempotency-key", key)];
            world.ask_with("POST", EXPORTS, &admin, Some(&body), &headers).await
        }
    };
    let (one, two, three) = tokio::join!(keyed(json!({}), "a"), keyed(json!({}), "a"), keyed(json!({}), "a"));
    let first = one.is(202).json()["id"].clone();
    assert_eq!(
        (&two.is(202).json()["id"], &three.is(202).json()["id"]),
        (&first, &first)
    );
    keyed(json!({ "from": "2026-01-01" }), "a")
        .await
        .problem(409, "idempotency_key_reused");
    world.ended(first.as_str().unwrap(), &admin).await;
    // An unfinished export of this tenant, and only of this one, blocks the next.
    let mut open = Job::new(
        JobId::new(uuid::Uuid::now_v7()),
        scope("acme"),
        Work::Export { from: None, to: None },
        world.clock.now(),
    );
    world.stores.jobs.put_job(&open).await.unwrap();
    let problem = start(&world, json!({})).await.problem(409, "conflict");
    assert!(
        problem["detail"].as_str().unwrap().contains(&open.id.to_string()),
        "{problem}"
    );
    let path = format!("/v1/jobs/{}", open.id);
    assert_eq!(
        world.ask("GET", &path, &admin, None).await.is(200).json()["status"],
        "queued"
    );
    let early = world.ask("GET", &format!("{path}/result"), &admin, None).await;
    early.problem(409, "conflict");
    let of_globex = world.token("globex", "boss", Scopes::ADMIN);
    let other = world
        .ask_with("POST", EXPORTS, &of_globex, Some(&json!({})), &REASON)
        .await;
    other.is(202);
    open.state.status = JobStatus::Failed;
    open.state.error = Some("the store does not answer".to_owned());
    open.state.finished_at = Some(world.clock.now());
    world.stores.jobs.put_job(&open).await.unwrap();
    world
        .ask("GET", &format!("{path}/result"), &admin, None)
        .await
        .problem(404, "not_found");
    start(&world, json!({})).await.is(202);
    world.stop().await;
}
