//! The application behind its router, on a real store that outlives it, so that it can be stopped and restarted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use copilotd::adapters::store::mongo::MongoLog;
use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd::app::{App, Records};
use copilotd::audit::{AuditKey, AuditLog};
use copilotd::config::Source;
use copilotd::http::credentials::{Grant, Scopes, mint};
use copilotd::revocations::Revocations;
use copilotd::surfaces::router::router;
use copilotd::tenants::{Cipher, TenantRegistry};
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::fakes::model::FakeModel;
use copilotd_actors::fakes::schema::FakeChecker;
use copilotd_actors::fakes::system::FakeSystems;
use copilotd_actors::fakes::world::{NoTraces, PausedClock};
use copilotd_actors::ports::AuditStore;
use copilotd_actors::ports::RevocationStore;
use copilotd_actors::ports::TenantStore;
use copilotd_actors::ports::{Clock, EventLog, Ids};
use copilotd_actors::ports::{FileStore, JobStore, TenantEraser};
use copilotd_gateway::ledger::UsageStore;
use copilotd_knowledge::facts::store::FactStore;
use jiff::SignedDuration;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::http::app::config;
use crate::store::mongo::TestDatabase;
use crate::support::documents::documents;

/// Location of the data.
pub enum Place {
    Sqlite(TempDir),
    Mongo(TestDatabase),
}

/// Runs a test on SQLite and, where there is one, on MongoDB.
pub async fn on_both(test: impl AsyncFn(&Place)) {
    test(&Place::Sqlite(TempDir::new().unwrap())).await;
    if let Some(database) = TestDatabase::new().await {
        test(&Place::Mongo(database)).await;
    }
}

/// The locations, for tests with several restarts.
pub fn places() -> Vec<Place> {
    let mut places = vec![Place::Sqlite(TempDir::new().unwrap())];
    places.extend(life(TestDatabase::new).map(Place::Mongo));
    places
}

/// Runs one process's lifetime: when this returns everything in it has ended, including detached tasks.
pub fn life<T>(live: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let lived = runtime.block_on(live());
    runtime.shutdown_timeout(Duration::from_secs(10));
    lived
}

/// A store, as all the ports it implements.
#[derive(Clone)]
pub struct Stores {
    pub log: Arc<dyn EventLog>,
    pub usage: Arc<dyn UsageStore>,
    pub tenants: Arc<dyn TenantStore>,
    pub audit: Arc<dyn AuditStore>,
    pub revocations: Arc<dyn RevocationStore>,
    pub jobs: Arc<dyn JobStore>,
    pub eraser: Arc<dyn TenantEraser>,
    pub facts: Arc<dyn FactStore>,
    pub files: Arc<dyn FileStore>,
    /// The store with a lease to release, if it has one.
    leased: Option<Arc<MongoLog>>,
}

macro_rules! stores {
    ($store:ident, $leased:expr) => {
        Stores {
            log: Arc::clone(&$store) as _,
            usage: Arc::clone(&$store) as _,
            tenants: Arc::clone(&$store) as _,
            audit: Arc::clone(&$store) as _,
            revocations: Arc::clone(&$store) as _,
            jobs: Arc::clone(&$store) as _,
            eraser: Arc::clone(&$store) as _,
            facts: Arc::clone(&$store) as _,
            files: Arc::clone(&$store) as _,
            leased: $leased,
        }
    };
}

impl Stores {
    /// Releases the lease, so that the next process need not wait for its expiry.
    pub async fn close(self) {
        if let Some(store) = self.leased {
            store.close().await;
        }
    }
}

impl Place {
    pub async fn open(&self) -> Stores {
        match self {
            Self::Sqlite(directory) => {
                let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
                stores!(store, None)
            }
            Self::Mongo(database) => {
                let store = Arc::new(database.connect().await.unwrap());
                stores!(store, Some(Arc::clone(&store)))
            }
        }
    }

    /// Returns which of the texts occur in any file or document.
    pub async fn found(&self, texts: &[&str]) -> Vec<String> {
        match self {
            Self::Sqlite(directory) => found_in_files(directory.path(), texts),
            Self::Mongo(database) => found_in_documents(database, texts).await,
        }
    }
}

fn found_in_files(directory: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        for text in texts {
            if memchr::memmem::find(&bytes, text.as_bytes()).is_some() {
                found.push(format!("{text} in {}", path.display()));
            }
        }
    }
    found
}

async fn found_in_documents(database: &TestDatabase, texts: &[&str]) -> Vec<String> {
    use futures::TryStreamExt as _;
    use mongodb::bson::{Document, doc};
    let raw = database.raw().await;
    let mut found = Vec::new();
    for name in raw.list_collection_names().await.unwrap() {
        let all = raw.collection::<Document>(&name).find(doc! {}).await.unwrap();
        let all: Vec<Document> = all.try_collect().await.unwrap();
        for document in all {
            let bytes = document.to_vec().unwrap();
            let hits = texts
                .iter()
                .filter(|text| memchr::memmem::find(&bytes, text.as_bytes()).is_some());
            found.extend(hits.map(|text| format!("{text} in {name}")));
        }
    }
    found
}

/// Ids that are never repeated, across all restarts.
struct FreshIds;

impl Ids for FreshIds {
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn nonce(&self) -> String {
        "0123456789abcdef".to_owned()
    }
}

/// One run of the application.
pub struct World {
    pub app: App,
    pub router: Router,
    pub model: FakeModel,
    pub clock: Arc<PausedClock>,
    pub registry: Arc<TenantRegistry>,
    pub stores: Stores,
}

impl World {
    /// Acme, which operates the server, and globex are tenants of the file.
    pub async fn start(place: &Place) -> Self {
        Self::with(place.open().await, config(""), Arc::default()).await
    }

    pub async fn with(stores: Stores, source: Source, clock: Arc<PausedClock>) -> Self {
        let model = FakeModel::new();
        let key = AuditKey::derive(&[8; 32]);
        let audit = AuditLog::new(Arc::clone(&stores.audit), key, Arc::clone(&clock) as _);
        let audit = Arc::new(audit);
        let registry = TenantRegistry::open(
            source,
            Arc::clone(&stores.tenants),
            Arc::clone(&audit),
            Cipher::new(&[8; 32]),
            Arc::clone(&clock) as _,
        );
        let registry = registry.await.unwrap();
        let gateway = App::gateway(&registry, None, &[], &stores.usage).unwrap();
        let mut ports = App::ports(&registry, Arc::clone(&stores.log), &gateway).unwrap();
        ports.model = Arc::new(model.clone());
        ports.systems = Arc::new(FakeSystems::default());
        ports.schemas = Arc::new(FakeChecker::default());
        ports.clock = Arc::clone(&clock) as _;
        ports.ids = Arc::new(FreshIds);
        ports.traces = Arc::new(NoTraces);
        let revocations = Revocations::open(Arc::clone(&stores.revocations), Arc::clone(&clock) as _);
        let records = Records {
            usage: Arc::clone(&stores.usage),
            audit,
            revocations: revocations.await.unwrap(),
            jobs: Arc::clone(&stores.jobs),
            eraser: Arc::clone(&stores.eraser),
            facts: Arc::clone(&stores.facts),
            files: Arc::clone(&stores.files),
            knowledge: documents(),
            ledger: None,
        };
        let bounds = Bounds {
            reconcile: Duration::from_millis(200),
            ..Bounds::default()
        };
        let app = App::start(Arc::clone(&registry), ports, gateway, records, &[7; 32], bounds).await;
        let app = app.unwrap();
        Self {
            router: router(app.state.clone()),
            app,
            model,
            clock,
            registry,
            stores,
        }
    }

    /// Stops the application and releases the store's lease.
    pub async fn stop(self) {
        self.app.stop(Duration::ZERO).await;
        self.stores.close().await;
    }

    /// A token for the live configuration.
    pub fn token(&self, tenant: &str, user: &str, scopes: Scopes) -> String {
        let grant = Grant {
            tenant: tenant.parse().unwrap(),
            user: user.parse().unwrap(),
            scopes,
            life: SignedDuration::from_hours(1),
        };
        let minted = mint(&self.registry.config(), &grant, self.clock.now()).unwrap();
        minted.expose_secret().to_owned()
    }

    pub fn operator(&self) -> String {
        self.token("acme", "root", Scopes::OPERATOR)
    }

    pub async fn ask(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Answer {
        self.ask_with(method, path, token, body, &[]).await
    }

    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| body.to_string().into());
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            said: format!("{method} {path}"),
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// Creates a tenant.
    pub async fn make(&self, id: &str, change: Value) {
        let mut settings = json!({
            "issuers": [{ "iss": format!("https://{id}.example"), "alg": "HS256",
                "secret": { "value": format!("a secret of {id}, at least 32 bytes long") } }],
            "copilots": [{ "name": "support", "route": "default" }],
        });
        for (name, value) in change.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let path = format!("/v1/operator/tenants/{id}");
        let body = json!({ "settings": settings });
        self.ask("PUT", &path, &self.operator(), Some(&body)).await.is(201);
    }

    /// Submits a turn for a user of a tenant and waits for its answer; returns the conversation's path.
    pub async fn talk(&self, tenant: &str, user: &str, prompt: &str) -> String {
        let token = self.token(tenant, user, Scopes::CHAT);
        let body = json!({ "title": prompt });
        let opened = self.ask("POST", "/v1/conversations", &token, Some(&body));
        let path = format!(
            "/v1/conversations/{}",
            opened.await.is(201).json()["id"].as_str().unwrap()
        );
        let body = json!({ "input": prompt });
        let turn = self
            .ask("POST", &format!("{path}/turns"), &token, Some(&body))
            .await
            .is(202);
        let turn = format!("/v1/turns/{}", turn.json()["id"].as_str().unwrap());
        self.until(async || self.ask("GET", &turn, &token, None).await.is(200).json()["status"] == "completed")
            .await;
        path
    }

    /// Waits until a job has ended and returns it.
    pub async fn ended(&self, job: &str, token: &str) -> Value {
        let path = format!("/v1/jobs/{job}");
        let mut last = Value::Null;
        self.until(async || {
            last = self.ask("GET", &path, token, None).await.is(200).json();
            last["status"] == "completed" || last["status"] == "failed"
        })
        .await;
        last
    }

    /// Waits until a condition holds. In real time, because real stores do not follow paused time.
    pub async fn until(&self, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "it never came to hold");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    said: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.said, self.text);
        self
    }

    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let problem = self.is(status).json();
        assert_eq!(problem["code"], code, "{problem:#}");
        problem
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}
