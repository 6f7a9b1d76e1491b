//! Rolling restarts with a standby, under load, through a load balancer: every request is answered, every stream
//! resumes, and no turn ends because it was handed over.

use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::setting;
use crate::support::live::balancer::Balancer;
use crate::support::live::client::Client;
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::world::World;
use crate::support::secantus;

/// Restarts of one run, unless `COPILOTD_ROLLING_RESTARTS` says otherwise; a full run has 20.
const RESTARTS: u64 = 5;
/// Time between two requests: 20 in a second.
const PACE: Duration = Duration::from_millis(50);
/// Requests of which one submits a turn; the others read.
const OF_WHICH_ONE_SUBMITS: usize = 4;
/// Conversations, so that turns rarely wait for each other.
const CONVERSATIONS: usize = 12;
/// Longest time for a restart, which must not hang.
const HANGS: Duration = Duration::from_secs(60);

/// Sends a request and repeats it once after a 503, as Retry-After says.
async fn strict(client: &Client, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> (u16, Value) {
    let mut refusals = Vec::new();
    for _ in 0..2 {
        let mut request = client.request(method.clone(), path).await;
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let retry = answer
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        let body = answer.bytes().await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status != 503 {
            return (status, body);
        }
        assert_eq!(retry.as_deref(), Some("1"), "{method} {path}: {body}");
        refusals.push(body);
        // A client retries when it is told to.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{method} {path} was refused twice: {refusals:#?}");
}

struct Submitted {
    id: String,
    reader: Reader,
}

/// Sends 20 requests a second until it is stopped.
async fn load(client: Client, stop: watch::Receiver<bool>) -> Vec<Submitted> {
    let conversations = join_all((0..CONVERSATIONS).map(|n| {
        let client = client.clone();
        async move {
            let body = json!({ "copilot": "support" });
            let key = format!("rolling-{n}");
            let (status, made) = strict(&client, Method::POST, "/v1/conversations", Some(&key), Some(&body)).await;
            assert_eq!(status, 201, "{made}");
            made["id"].as_str().unwrap().to_owned()
        }
    }))
    .await;
    let mut requests = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for n in 0_usize.. {
        pace.tick().await;
        if *stop.borrow() {
            break;
        }
        let (client, conversation) = (
            client.clone(),
            conversations[n / OF_WHICH_ONE_SUBMITS % CONVERSATIONS].clone(),
        );
        requests.push(tokio::spawn(async move {
            if n % OF_WHICH_ONE_SUBMITS > 0 {
                let path = format!("/v1/conversations/{conversation}");
                let (status, body) = strict(&client, Method::GET, &path, None, None).await;
                assert_eq!(status, 200, "{body}");
                return None;
            }
            let body = json!({ "input": format!("[[sim tokens=40 pace_ms=25]] {n}") });
            let (path, key) = (format!("/v1/conversations/{conversation}/turns"), format!("turn-{n}"));
            let (status, turn) = strict(&client, Method::POST, &path, Some(&key), Some(&body)).await;
            assert_eq!(status, 202, "{turn}");
            let id = turn["id"].as_str().unwrap().to_owned();
            let reader = Reader::open(&client, format!("/v1/turns/{id}/events"));
            Some(Submitted { id, reader })
        }));
    }
    let mut submitted = Vec::new();
    for request in requests {
        submitted.extend(request.await.unwrap());
    }
    submitted
}

async fn rolling(store: Store) {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let settings = Settings {
        data: Some(scratch.path().join("data")),
        // A drain would make the restart take this long.
        drain_s: 60,
        ..store.into()
    };
    let mut active = Server::new(&world, settings.clone());
    let mut other = Server::new(&world, settings);
    active.start(&[]).await;
    let balancer = Balancer::start([active.address(), other.address()]).await;
    let client = Client::new(balancer.address.clone(), "ada");
    let (stop, stopped) = watch::channel(false);
    let loading = tokio::spawn(load(client.clone(), stopped));
    let mut longest = Duration::ZERO;
    for _ in 0..setting("COPILOTD_ROLLING_RESTARTS", RESTARTS) {
        other.stand_by().await;
        announced(&mut other).await;
        let begun = Instant::now();
        active.terminate().await;
        let status = tokio::time::timeout(HANGS, active.ended()).await.unwrap();
        longest = longest.max(begun.elapsed());
        assert_eq!(status, 0, "{}", active.log());
        tokio::time::timeout(HANGS, other.took_over()).await.unwrap();
        std::mem::swap(&mut active, &mut other);
    }
    stop.send_replace(true);
    let submitted = loading.await.unwrap();
    eprintln!("{} turns, longest hand-over {longest:?}", submitted.len());
    for server in [&active, &other] {
        assert!(!server.log().contains("draining"), "it was handed over each time");
    }
    assert!(!submitted.is_empty());
    let mut resumed = 0;
    for turn in &submitted {
        turn.reader.until("its end", |seen| seen.ended(&turn.id)).await;
        let view = client.turn(&turn.id).await;
        assert_eq!(view["status"], "completed", "{view:#}");
        // One client read across all servers, another one afterwards: both got the same, and the text of the stored
        // message.
        let fresh = Reader::open(&client, format!("/v1/turns/{}/events", turn.id));
        fresh.until("its end", |seen| seen.ended(&turn.id)).await;
        let durable = fresh.look(|seen| seen.durable.clone());
        let answer = durable.iter().find(|event| event.name == "message.completed").unwrap();
        assert_eq!(answer.data["text"], view["output"]["text"]);
        turn.reader.look(|seen| {
            assert_eq!(seen.faults, [""; 0]);
            assert_eq!(seen.durable, durable);
            resumed += usize::from(seen.resumes() > 0);
        });
    }
    assert!(resumed > 0, "no stream was cut");
}

/// Waits until the serving process can know about the standby.
async fn announced(standby: &mut Server) {
    let said = tokio::time::timeout(HANGS, standby.said("standing by:")).await;
    said.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_lose_nothing_on_sqlite() {
    rolling(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_lose_nothing_on_mongodb() {
    let Some(url) = secantus::shared().await else { return };
    let store = Store::Mongo {
        url: url.to_owned(),
        database: format!("rolling_{}", uuid::Uuid::now_v7().simple()),
        lease_s: 30,
    };
    rolling(store).await;
}
