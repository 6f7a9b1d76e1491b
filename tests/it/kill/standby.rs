//! A standby that waits, one that is killed, and an owner that lost the lease without noticing.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Client as Mongo, Collection};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::live::client::Client;
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::transcript::Transcript;
use crate::support::live::world::World;
use crate::support::secantus;

/// Longest wait for something that must not hang.
const HANGS: Duration = Duration::from_secs(60);

async fn meta(url: &str, database: &str) -> Collection<Document> {
    let client = Mongo::with_uri_str(url).await.unwrap();
    client.database(database).collection("meta")
}

/// Sends one request, without retries.
async fn once(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = client.request(method, path).await;
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

async fn stores() -> Vec<Store> {
    let mut stores = vec![Store::Sqlite];
    stores.extend(secantus::shared().await.map(|url| Store::Mongo {
        url: url.to_owned(),
        database: format!("standby_{}", uuid::Uuid::now_v7().simple()),
        lease_s: 3,
    }));
    stores
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_says_what_it_is_and_takes_over_from_a_process_that_was_killed() {
    for store in stores().await {
        let scratch = tempfile::TempDir::new().unwrap();
        let world = World::start(scratch.path()).await;
        let settings = Settings {
            data: Some(scratch.path().join("data")),
            ..store.clone().into()
        };
        let (mut first, mut second) = (Server::new(&world, settings.clone()), Server::new(&world, settings));
        first.start(&[]).await;
        let client = Client::new(first.address(), "ada");
        let conversation = client.conversation("support", "standby").await;
        let body = json!({ "input": "[[sim tokens=400 pace_ms=20]]" });
        let turn = client.submit(&conversation, "long", &body).await;
        second.stand_by().await;
        let waiting = Client::new(second.address(), "ada");
        let (status, ready) = once(&waiting, Method::GET, "/readyz", None).await;
        assert_eq!((status, &ready["status"]), (503, &json!("standby")), "{store:?}");
        assert_eq!(once(&waiting, Method::GET, "/healthz", None).await.0, 200);
        // The other process serves; requests to this one wait until it takes over.
        let path = format!("/v1/turns/{turn}");
        let (held, ()) = tokio::join!(once(&waiting, Method::GET, &path, None), async {
            first.kill().await;
            tokio::time::timeout(HANGS, second.took_over()).await.unwrap();
        });
        assert!(held.0 == 200 || held.1["retry"] == "safe", "{store:?}: {held:?}");
        assert_eq!(
            once(&waiting, Method::GET, "/readyz", None).await.1["status"],
            "ok",
            "{store:?}"
        );
        let reader = Reader::open(&waiting, format!("/v1/turns/{turn}/events"));
        let recovered =
            |seen: &Transcript| seen.durable.iter().filter(|event| event.name == "turn.started").count() == 2;
        reader.until("its recovery", recovered).await;
        // A kill counts as an attempt.
        assert_eq!(waiting.turn(&turn).await["attempt"], 2, "{store:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_standby_a_process_drains_and_a_standby_that_is_told_to_end_does_so() {
    for store in stores().await {
        let scratch = tempfile::TempDir::new().unwrap();
        let world = World::start(scratch.path()).await;
        let settings = Settings {
            data: Some(scratch.path().join("data")),
            ..store.clone().into()
        };
        let (mut first, mut second) = (Server::new(&world, settings.clone()), Server::new(&world, settings));
        first.start(&[]).await;
        second.stand_by().await;
        second.said("standing by:").await;
        second.terminate().await;
        let ended = tokio::time::timeout(HANGS, second.ended()).await.unwrap();
        assert_eq!(ended, 0, "{store:?}: {}", second.log());
        if let Store::Mongo { url, database, .. } = &store {
            // It counts as present until its announcement expires.
            let meta = meta(url, database).await;
            let standby = async || meta.find_one(doc! { "_id": "standby" }).await.unwrap().unwrap();
            while standby().await.get_datetime("expires_at").unwrap() > &DateTime::now() {}
        }
        first.terminate().await;
        assert_eq!(first.ended().await, 0);
        assert!(first.log().contains("draining"), "{store:?}: {}", first.log());
    }
}

/// Takes the lease away from a process that believes it has it.
#[tokio::test(flavor = "multi_thread")]
async fn an_overtaken_owner_answers_503_and_asks_no_model() {
    let Some(url) = secantus::shared().await else { return };
    let database = format!("stale_{}", uuid::Uuid::now_v7().simple());
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let store = Store::Mongo {
        url: url.to_owned(),
        database: database.clone(),
        // Its owner does not check it meanwhile.
        lease_s: 300,
    };
    let (mut first, mut second) = (Server::new(&world, store.clone()), Server::new(&world, store));
    first.start(&[]).await;
    let (old, new) = (
        Client::new(first.address(), "ada"),
        Client::new(second.address(), "ada"),
    );
    let conversation = old.conversation("support", "stale").await;
    let meta = meta(url, &database).await;
    let ended = doc! { "$set": { "expires_at": DateTime::from_millis(0) } };
    meta.update_one(doc! { "_id": "lease" }, ended).await.unwrap();
    second.start(&[]).await;
    let requests = async || world.state(&world.openai).await["requests"].clone();
    let before = requests().await;
    let path = format!("/v1/conversations/{conversation}/turns");
    let (status, problem) = once(&old, Method::POST, &path, Some(json!({ "input": "stale" }))).await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{problem}");
    // It exits by itself once it knows that another process has the database.
    let status = tokio::time::timeout(HANGS, first.ended()).await.unwrap();
    assert_ne!(status, 0);
    assert_eq!(requests().await, before);
    // The new owner serves the conversation.
    let turn = new.submit(&conversation, "fresh", &json!({ "input": "hello" })).await;
    let reader = Reader::open(&new, format!("/v1/turns/{turn}/events"));
    reader.until("its end", |seen| seen.ended(&turn)).await;
    // Nothing of the refused write is stored: one prompt and one answer.
    assert_eq!(new.messages(&conversation).await.len(), 2);
}
