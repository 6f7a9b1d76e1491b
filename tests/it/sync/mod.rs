//! Sources against the simulated Zendesk, over HTTP.

mod articles;
mod resumed;
mod served;
mod tickets;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use copilotd::adapters::systems::Shared;
use copilotd::adapters::systems::kinds::Kinds;
use copilotd::adapters::systems::tools::http;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::CollectionName;
use copilotd_actors::ports::{Clock, Ids};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Estimate;
use copilotd_knowledge::document::{Document, Reader};
use copilotd_knowledge::extract::{Extractor, Limits, NoPdf};
use copilotd_knowledge::fakes::MemoryIndex;
use copilotd_knowledge::index::{KnowledgeIndex, Quota};
use copilotd_knowledge::ingest::{self, Ingestion, Parts};
use copilotd_knowledge::library::Library;
use copilotd_knowledge::retrieve::{Question, Retriever};
use copilotd_knowledge::sync::{Activity, Bounds, Msg, SourceBook, SourceStatus, Sources, Spec};
use copilotd_sim::Running;
use jiff::Timestamp;
use ractor::{Actor, ActorRef};
use serde_json::{Value, json};
use uuid::Uuid;

const QUOTA: Quota = Quota {
    documents: 1_000,
    bytes: 1 << 30,
    chunks: 10_000,
};

/// The simulated Zendesk of one customer.
pub struct Zendesk(Running);

impl Zendesk {
    pub async fn start(fixtures: bool) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let zendesk = Self(copilotd_sim::zendesk::start(listen, fixtures).await.unwrap());
        zendesk.knobs(json!({ "exports_per_minute": 100_000 })).await;
        zendesk
    }

    pub fn address(&self) -> String {
        self.0.base_url().to_owned()
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let method: reqwest::Method = method.parse().unwrap();
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.0.base_url()));
        let answer = request.bearer_auth("token").json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.json().await.unwrap_or_default()
    }

    pub async fn knobs(&self, knobs: Value) {
        self.call("POST", "/_sim/knobs", knobs).await;
    }

    /// Publishes an article; returns its id.
    pub async fn publish(&self, article: Value) -> u64 {
        let path = "/api/v2/help_center/sections/7/articles.json";
        let made = self.call("POST", path, json!({ "article": article })).await;
        made["article"]["id"].as_u64().unwrap()
    }

    pub async fn article(&self, id: u64, changes: Value) {
        let path = format!("/api/v2/help_center/articles/{id}.json");
        self.call("PUT", &path, json!({ "article": changes })).await;
    }

    pub async fn translation(&self, id: u64, changes: Value) {
        let path = format!("/api/v2/help_center/articles/{id}/translations/en-us.json");
        self.call("PUT", &path, json!({ "translation": changes })).await;
    }

    /// Deletes a ticket, and waits until the export says so: it leaves out the present second.
    pub async fn delete_ticket(&self, id: u64) {
        self.call("DELETE", &format!("/api/v2/tickets/{id}.json"), Value::Null)
            .await;
        let mut query = "start_time=0".to_owned();
        loop {
            let path = format!("/api/v2/incremental/tickets/cursor.json?{query}");
            let page = self.call("GET", &path, Value::Null).await;
            let is_deleted = |ticket: &Value| ticket["id"] == id && ticket["status"] == "deleted";
            if page["tickets"].as_array().unwrap().iter().any(is_deleted) {
                return;
            }
            query = format!("cursor={}", page["after_cursor"].as_str().unwrap());
            if page["end_of_stream"] == true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Requests so far whose path contains `part`, with their queries.
    pub async fn requests(&self, part: &str) -> Vec<String> {
        let state = self.call("GET", "/_sim/state", Value::Null).await;
        let journal = state["journal"].as_array().unwrap().iter();
        let named = journal.map(|entry| {
            format!(
                "{}?{}",
                entry["path"].as_str().unwrap(),
                entry["query"].as_str().unwrap()
            )
        });
        named.filter(|request| request.contains(part)).collect()
    }
}

/// The knowledge of a process, and its sources.
pub struct World {
    pub index: Arc<MemoryIndex>,
    pub book: SourceBook,
    ingestion: ActorRef<ingest::Msg>,
    supervisor: ActorRef<Msg>,
}

pub fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

fn collection(name: &str) -> CollectionName {
    name.parse().unwrap()
}

/// Returns the source `help` of a tenant.
pub fn source(tenant: &str, zendesk: &Zendesk, mut settings: Value) -> Spec {
    settings["exports_per_minute"] = json!(6_000_000);
    settings["requests_per_minute"] = json!(6_000_000);
    let system = json!({ "base_url": zendesk.address(), "oauth_token": "token" });
    let shared = Shared {
        client: http::client().unwrap(),
        clock: Arc::new(Fixed::default()),
    };
    let read = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let kinds = Kinds::built_in();
    let kind = kinds.find("zendesk").unwrap();
    Spec {
        scope: scope(tenant),
        name: "help".to_owned(),
        interval: Duration::from_millis(30),
        feed: kind.feed(&read(&system), &read(&settings), &shared).unwrap(),
        fingerprint: fingerprint(&[&settings.to_string()]),
    }
}

/// A clock that stands still, and ids that count.
#[derive(Debug, Default)]
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

impl Ids for Fixed {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(self.0.fetch_add(1, Ordering::Relaxed).into())
    }

    fn nonce(&self) -> String {
        self.uuid().to_string()
    }
}

impl World {
    pub async fn start() -> Self {
        Self::with(Arc::new(MemoryIndex::new())).await
    }

    /// Starts with an index that another process may have left.
    pub async fn with(index: Arc<MemoryIndex>) -> Self {
        let parts = Parts {
            index: Arc::clone(&index) as _,
            extractor: Extractor::new(Arc::new(NoPdf), Limits::default()),
            tokens: Arc::new(Estimate),
            engine: None,
            quota: Arc::new(|_| QUOTA),
            clock: Arc::new(Fixed::default()),
            bounds: ingest::Bounds::default(),
        };
        let (ingestion, _) = Actor::spawn(None, Ingestion(Arc::new(parts)), ()).await.unwrap();
        let library = Library {
            index: Arc::clone(&index) as _,
            retriever: Arc::new(Retriever::new(Arc::clone(&index) as _, None)),
            ingestion: ingestion.clone(),
            quota: Arc::new(|_| QUOTA),
            models: None,
            clock: Arc::new(Fixed::default()),
            ids: Arc::new(Fixed(AtomicU64::new(rand::random::<u32>().into()))),
            max_bytes: 1 << 20,
        };
        let book = SourceBook::default();
        let sources = Sources {
            library: Arc::new(library),
            book: book.clone(),
            bounds: Bounds {
                pause: Duration::from_millis(5),
                look: Duration::from_millis(5),
                compare: Duration::ZERO,
                ..Bounds::default()
            },
        };
        let (supervisor, _) = Actor::spawn(None, sources, ()).await.unwrap();
        Self {
            index,
            book,
            ingestion,
            supervisor,
        }
    }

    pub fn apply(&self, specs: Vec<Spec>) {
        self.supervisor.cast(Msg::Apply(specs)).unwrap();
    }

    /// Ends as a killed process does: nothing is finished.
    pub async fn kill(self) -> Arc<MemoryIndex> {
        self.supervisor.kill_and_wait(None).await.unwrap();
        self.ingestion.kill_and_wait(None).await.unwrap();
        self.index
    }

    pub fn status(&self, tenant: &str) -> Option<SourceStatus> {
        let sources = self.book.of(scope(tenant).tenant());
        sources.into_iter().next().map(|(_, status)| status)
    }

    /// Waits until `wanted` holds for what is found by a search of `text`.
    pub async fn until_found(&self, tenant: &str, place: &str, roles: &[&str], text: &str, wanted: &[&str]) {
        let mut found = Vec::new();
        for _ in 0..2_000 {
            found = self.find(tenant, place, roles, text).await;
            if found == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{place} {roles:?} {text:?}: {found:?} instead of {wanted:?}; {:?}",
            self.status(tenant)
        );
    }

    /// External ids of the documents that a user with these roles finds, in order.
    pub async fn find(&self, tenant: &str, place: &str, roles: &[&str], text: &str) -> Vec<String> {
        let retriever = Retriever::new(Arc::clone(&self.index) as _, None);
        let question = Question {
            collections: vec![collection(place)],
            reader: Reader::Caller {
                user: Some("ada".parse().unwrap()),
                roles: roles.iter().map(|role| (*role).to_owned()).collect::<BTreeSet<_>>(),
            },
            filter: Vec::new(),
            texts: vec![text.to_owned()],
            limit: 20,
        };
        let found = retriever.find(&scope(tenant), &question).await.unwrap();
        let ids = found
            .chunks
            .into_iter()
            .map(|(chunk, _)| chunk.key.external_id.to_string());
        let mut ids: Vec<String> = ids.collect();
        ids.sort();
        ids.dedup();
        ids
    }

    pub async fn documents(&self, tenant: &str, place: &str) -> Vec<Document> {
        let (scope, place) = (scope(tenant), collection(place));
        self.index.documents(&scope, &place, None, 1_000).await.unwrap()
    }

    /// Waits until a run that began after now has ended.
    pub async fn settled(&self, tenant: &str, zendesk: &Zendesk) -> SourceStatus {
        // Three exports: the first may be one of a run that had begun, the second begins a run, the third ends it.
        let wanted = zendesk.requests("/incremental/").await.len() + 5;
        for _ in 0..2_000 {
            let seen = zendesk.requests("/incremental/").await.len();
            if let Some(status) = self.status(tenant)
                && seen >= wanted
                && status.activity == Activity::UpToDate
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the source did not settle: {:?}", self.status(tenant));
    }
}
