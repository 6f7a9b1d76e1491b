//! The application behind its router, in process: real actors over fakes whose time and answers the test controls.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use copilotd::app::{App, Records};
use copilotd::audit::{AuditKey, AuditLog};
use copilotd::config::{Config, Env, Source};
use copilotd::http::credentials::{Grant, Scopes, mint};
use copilotd::revocations::Revocations;
use copilotd::surfaces::router::router;
use copilotd::tenants::{Cipher, TenantRegistry};
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::fakes::files::MemoryFiles;
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::fakes::model::FakeModel;
use copilotd_actors::fakes::schema::FakeChecker;
use copilotd_actors::fakes::system::{FakeSystem, FakeSystems};
use copilotd_actors::fakes::world::{CountingIds, NoTraces, PausedClock};
use copilotd_actors::ports::{Clock as _, Ports};
use copilotd_knowledge::fakes::MemoryFacts;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::client::{Answer, Call};
use crate::support::audit::MemoryAudit;
use crate::support::documents::documents;
use crate::support::jobs::MemoryJobs;
use crate::support::revocations::MemoryRevocations;
use crate::support::tenants::MemoryTenants;
use crate::support::usage::MemoryUsage;

/// An API key of acme's backend, with the scope chat.
pub const KEY: &str = "cpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Two companies with the same copilots; acme, which also operates the server, has an API key.
pub fn config(change: &str) -> Source {
    parsed(&text(change))
}

/// Parses a configuration.
pub fn parsed(text: &str) -> Source {
    Source::parse(text, &Env::default(), &crate::tools::kinds()).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The configuration with text appended.
pub fn text(change: &str) -> String {
    let mut text = r#"
        [server]
        body_timeout_s = 20
        max_body_bytes = 200000
        [[providers]]
        name = "main"
        kind = "openai"
        base_url = "http://127.0.0.1:1/v1"
        api_key = { value = "none" }
        [[routes]]
        name = "default"
        targets = [{ provider = "main", model = "fake-1", context_tokens = 128000 }]
    "#
    .to_owned();
    let key = format!(
        "[[tenants.api_keys]]\nname = \"backend\"\nhash = \"sha256:{}\"\nscopes = [\"chat\"]\n",
        hex::encode(KeyHash::of(KEY).bytes())
    );
    let operator = "scopes = [\"chat\", \"gateway\", \"knowledge\", \"admin\", \"operator\"]";
    for (tenant, mark, scopes, keys) in [
        ("acme", "operator = true", operator, key.as_str()),
        ("globex", "", "", ""),
    ] {
        text += &format!(
            r#"
            [[tenants]]
            id = "{tenant}"
            {mark}
            [[tenants.issuers]]
            iss = "https://{tenant}.example"
            alg = "HS256"
            secret = {{ value = "a secret of {tenant}, at least 32 bytes long" }}
            {scopes}
            {keys}
            [[tenants.copilots]]
            name = "support"
            route = "default"
            tools = ["zendesk_search_tickets", "zendesk_create_ticket"]
            approval = ["zendesk_create_ticket"]
            [tenants.copilots.limits]
            queue = 2
            metadata_bytes = 2000
            [[tenants.copilots]]
            name = "terse"
            route = "default"
            [tenants.zendesk]
            base_url = "http://127.0.0.1:1"
            email = "bot@{tenant}.example"
            token = {{ value = "none" }}
            "#
        );
    }
    text += change;
    text
}

/// The application under test; see the module.
pub struct TestApp {
    pub app: App,
    pub router: Router,
    pub log: MemoryLog,
    pub model: FakeModel,
    pub clock: Arc<PausedClock>,
    pub systems: FakeSystems,
    pub files: MemoryFiles,
    pub schemas: FakeChecker,
    pub usage: Arc<MemoryUsage>,
    pub tenants: Arc<MemoryTenants>,
    pub audit: Arc<MemoryAudit>,
    pub revocations: Arc<MemoryRevocations>,
    pub roster: Arc<TenantRegistry>,
    pub config: Config,
}

/// Runs a test against a fresh application, which must become idle afterwards.
pub async fn with_app(test: impl AsyncFnOnce(&TestApp)) {
    with_bounds(Bounds::default(), test).await;
}

/// Like [`with_app`], with text appended to the configuration, after its last tenant, globex.
pub async fn with_globex(change: &str, test: impl AsyncFnOnce(&TestApp)) {
    let app = TestApp::configured(config(change), Bounds::default()).await;
    test(&app).await;
    app.stop().await;
}

/// Like [`with_app`], with a configuration of its own.
pub async fn with_config(text: &str, test: impl AsyncFnOnce(&TestApp)) {
    let app = TestApp::configured(parsed(text), Bounds::default()).await;
    test(&app).await;
    app.stop().await;
}

/// Like [`with_globex`], but turns call the configured providers instead of the fake model.
pub async fn with_providers(change: &str, test: impl AsyncFnOnce(&TestApp)) {
    let app = TestApp::assembled(config(change), Bounds::default(), true).await;
    test(&app).await;
    app.stop().await;
}

/// Like [`with_providers`], with only this configuration.
pub async fn with_source(source: Source, test: impl AsyncFnOnce(&TestApp)) {
    let app = TestApp::assembled(source, Bounds::default(), true).await;
    test(&app).await;
    app.stop().await;
}

/// Like [`with_app`], with other limits for the actors.
pub async fn with_bounds(bounds: Bounds, test: impl AsyncFnOnce(&TestApp)) {
    let app = TestApp::start(bounds).await;
    test(&app).await;
    app.stop().await;
}

impl TestApp {
    async fn start(bounds: Bounds) -> Self {
        Self::configured(config(""), bounds).await
    }

    async fn configured(source: Source, bounds: Bounds) -> Self {
        Self::assembled(source, bounds, false).await
    }

    async fn assembled(source: Source, bounds: Bounds, providers: bool) -> Self {
        let (log, model, systems) = (MemoryLog::new(), FakeModel::new(), FakeSystems::default());
        let clock = Arc::new(PausedClock::default());
        let usage = Arc::new(MemoryUsage::default());
        let tenants = Arc::new(MemoryTenants::default());
        let audit = Arc::new(MemoryAudit::default());
        let key = AuditKey::derive(&[8; 32]);
        let recorded = Arc::new(AuditLog::new(Arc::clone(&audit) as _, key, Arc::clone(&clock) as _));
        let revocations = Arc::new(MemoryRevocations::default());
        let seal = Cipher::new(&[8; 32]);
        let store = Arc::clone(&tenants) as _;
        let roster = TenantRegistry::open(source, store, Arc::clone(&recorded), seal, Arc::clone(&clock) as _);
        let roster = roster.await.unwrap();
        let config = (*roster.config()).clone();
        let gateway = App::gateway(&roster, None, &[], &(Arc::clone(&usage) as _)).unwrap();
        let mut ports: Ports = App::ports(&roster, Arc::new(log.clone()), &gateway).unwrap();
        if !providers {
            ports.model = Arc::new(model.clone());
        }
        ports.systems = Arc::new(systems.clone());
        let schemas = FakeChecker::default();
        ports.schemas = Arc::new(schemas.clone());
        ports.clock = Arc::clone(&clock) as _;
        ports.ids = Arc::new(CountingIds::default());
        ports.traces = Arc::new(NoTraces);
        let facts = Arc::new(MemoryFacts::default());
        let files = MemoryFiles::default();
        let jobs = Arc::new(MemoryJobs::new(log.clone(), Arc::clone(&tenants)));
        let opened = Revocations::open(Arc::clone(&revocations) as _, Arc::clone(&clock) as _);
        let records = Records {
            usage: Arc::clone(&usage) as _,
            audit: recorded,
            revocations: opened.await.unwrap(),
            jobs: Arc::clone(&jobs) as _,
            eraser: jobs,
            facts: Arc::clone(&facts) as _,
            files: Arc::new(files.clone()),
            knowledge: documents(),
            ledger: None,
        };
        let app = App::start(Arc::clone(&roster), ports, gateway, records, &[7; 32], bounds)
            .await
            .unwrap();
        Self {
            router: router(app.state.clone()),
            app,
            log,
            model,
            clock,
            systems,
            files,
            schemas,
            usage,
            tenants,
            audit,
            revocations,
            roster,
            config,
        }
    }

    /// Stops the application; work that never ends fails the test.
    async fn stop(self) {
        let shared = Arc::clone(&self.app.state.shared);
        self.app.stop(Duration::from_secs(3600)).await;
        assert_eq!(
            shared.admission.busy(),
            0,
            "turns are still running at the end of the test"
        );
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A token of a user with these scopes, valid for an hour.
    pub fn token_of(&self, tenant: &str, user: &str, scopes: Scopes) -> String {
        self.token_for(tenant, user, scopes, SignedDuration::from_hours(1))
    }

    pub fn token_for(&self, tenant: &str, user: &str, scopes: Scopes, life: SignedDuration) -> String {
        let grant = Grant {
            tenant: tenant.parse().unwrap(),
            user: user.parse().unwrap(),
            scopes,
            life,
        };
        mint(&self.config, &grant, self.now())
            .unwrap()
            .expose_secret()
            .to_owned()
    }

    /// A token signed by a tenant's own backend, with arbitrary claims.
    pub fn signed(&self, tenant: &str, user: &str, scope: &str) -> String {
        let claims = json!({
            "iss": format!("https://{tenant}.example"), "aud": "copilotd", "sub": user, "tenant": tenant, "scope": scope,
            "exp": (self.now() + SignedDuration::from_hours(1)).as_second(),
        });
        let secret = format!("a secret of {tenant}, at least 32 bytes long");
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(
            &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
            &claims,
            &key,
        )
        .unwrap()
    }

    /// A token of a user of acme, with the scope chat.
    pub fn token(&self, user: &str) -> String {
        self.token_of("acme", user, Scopes::CHAT)
    }

    /// A request without a credential.
    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        Call::new(self, Method::from_bytes(method.as_bytes()).unwrap(), path)
    }

    /// A request by ada, the user of most tests.
    pub fn ada(&self, method: &str, path: &str) -> Call<'_> {
        self.call(method, path).by(&self.token("ada"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ada("GET", path).send().await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ada("POST", path).json(&body).send().await
    }

    /// Creates a conversation of ada and returns its path.
    pub async fn conversation(&self) -> String {
        let answer = self.post("/v1/conversations", json!({})).await.expect(201);
        format!("/v1/conversations/{}", answer.text("/id"))
    }

    /// Submits a prompt of ada and returns the turn's path.
    pub async fn submit(&self, conversation: &str, prompt: &str) -> String {
        let body = json!({ "input": prompt });
        let answer = self.post(&format!("{conversation}/turns"), body).await.expect(202);
        answer.headers["location"].to_str().unwrap().to_owned()
    }

    /// Waits until a turn has the status `wanted` and returns it.
    pub async fn turn_is(&self, turn: &str, wanted: &str) -> Value {
        for _ in 0..10_000 {
            let view = self.get(turn).await.expect(200).json();
            if view["status"] == wanted {
                return view;
            }
            assert!(view["finished_at"].is_null(), "expected {wanted}: {view:#}");
            // Time is paused: it advances only when all tasks are idle.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the turn never was {wanted}");
    }

    /// Submits a prompt of ada and waits for the answer.
    pub async fn answered(&self, conversation: &str, prompt: &str) -> Value {
        let turn = self.submit(conversation, prompt).await;
        self.turn_is(&turn, "completed").await
    }

    /// Adds an external system.
    pub fn system(&self, name: &str) -> FakeSystem {
        self.systems.get(name)
    }
}
