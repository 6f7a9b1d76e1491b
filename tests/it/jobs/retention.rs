//! Retention: conversations are stored no longer than their tenant wants.

use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::Act;
use serde_json::{Value, json};

use super::world::{World, on_both};

const DAY: i64 = 24 * 3600 * 1000;

async fn titles(world: &World, tenant: &str) -> Vec<String> {
    let ada = world.token(tenant, "ada", Scopes::CHAT);
    let page = world
        .ask("GET", "/v1/conversations?limit=100", &ada, None)
        .await
        .is(200)
        .json();
    let titles = page["data"].as_array().unwrap().iter();
    titles.map(|one| one["title"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_used_for_so_long_is_erased_and_nothing_else() {
    on_both(async |place| {
        let world = World::start(place).await;
        world
            .make("initech", json!({ "retention": { "conversations_days": 30 } }))
            .await;
        world.model.on("goes on", &[vec![Act::Stall]]);
        world.talk("initech", "ada", "left alone").await;
        let used = world.talk("initech", "ada", "used again").await;
        world.talk("globex", "ada", "kept for ever").await;
        let ada = world.token("initech", "ada", Scopes::CHAT);
        let body = json!({ "title": "is running" });
        let running = world.ask("POST", "/v1/conversations", &ada, Some(&body));
        let running = running.await.is(201).json()["id"].as_str().unwrap().to_owned();
        let turns = format!("/v1/conversations/{running}/turns");
        let turn = world
            .ask("POST", &turns, &ada, Some(&json!({ "input": "goes on" })))
            .await
            .is(202)
            .json();

        // A day before the end nothing happens.
        world.clock.step(29 * DAY);
        world.app.state.jobs.retain().await;
        assert_eq!(titles(&world, "initech").await.len(), 3);
        let ada = world.token("initech", "ada", Scopes::CHAT);
        world
            .ask("PATCH", &used, &ada, Some(&json!({ "title": "used again" })))
            .await
            .is(200);
        world.clock.step(2 * DAY);
        world.app.state.jobs.retain().await;
        assert_eq!(titles(&world, "initech").await, ["is running", "used again"]);
        assert_eq!(titles(&world, "globex").await, ["kept for ever"]);
        // As DELETE does: the data is deleted, and the audit log says who did it.
        world
            .until(async || place.found(&["left alone"]).await.is_empty())
            .await;
        let admin = world.token("initech", "boss", Scopes::ADMIN);
        let audit = world.ask("GET", "/v1/admin/audit", &admin, None).await.is(200).json();
        let erased: Vec<&Value> = audit["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["action"] == "conversation.erased")
            .collect();
        assert_eq!(erased.len(), 1, "{audit:#}");
        assert_eq!(erased[0]["actor"], "retention");

        // Its time starts once the turn has ended.
        let ada = world.token("initech", "ada", Scopes::CHAT);
        let cancel = format!("/v1/turns/{}/cancel", turn["id"].as_str().unwrap());
        world.ask("POST", &cancel, &ada, None).await.is(202);
        world.clock.step(DAY);
        world.app.state.jobs.retain().await;
        assert_eq!(titles(&world, "initech").await.len(), 2);

        // An operator changes the setting while the server runs; a round starts once an hour.
        let path = "/v1/operator/tenants/initech";
        let change = json!({ "settings": { "retention": { "conversations_days": 1 } } });
        world.ask("PATCH", path, &world.operator(), Some(&change)).await.is(200);
        world.clock.step(2 * DAY);
        world.app.state.jobs.retain().await;
        assert_eq!(titles(&world, "initech").await, Vec::<String>::new());
        assert_eq!(titles(&world, "globex").await, ["kept for ever"]);
        let wrong = json!({ "settings": { "retention": { "conversations_days": 0 } } });
        world
            .ask("PATCH", path, &world.operator(), Some(&wrong))
            .await
            .problem(422, "invalid");
        world.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_conversations_are_erased_over_several_rounds_and_a_suspended_tenant_loses_none() {
    on_both(async |place| {
        let world = World::start(place).await;
        world
            .make(
                "initech",
                json!({
                    "retention": { "conversations_days": 1 },
                    "limits": { "writes_per_minute": 0, "per_user": { "writes_per_minute": 0 } },
                }),
            )
            .await;
        let ada = world.token("initech", "ada", Scopes::CHAT);
        for n in 0..250 {
            let body = json!({ "title": format!("number {n}") });
            world.ask("POST", "/v1/conversations", &ada, Some(&body)).await.is(201);
        }
        world.clock.step(2 * DAY);
        let status = async |status: &str| {
            let body = json!({ "status": status });
            let path = "/v1/operator/tenants/initech";
            world.ask("PATCH", path, &world.operator(), Some(&body)).await.is(200);
        };
        status("suspended").await;
        world.app.state.jobs.retain().await;
        status("active").await;
        assert_eq!(titles(&world, "initech").await.len(), 100, "a page of them");
        world.app.state.jobs.retain().await;
        assert_eq!(titles(&world, "initech").await.len(), 50, "one round is bounded");
        world.app.state.jobs.retain().await;
        assert_eq!(titles(&world, "initech").await.len(), 0);
        world.stop().await;
    })
    .await;
}
