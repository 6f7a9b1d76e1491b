//! The configuration: one struct per concern, read from `copilotd.toml` and checked as a whole. Only this module reads
//! the process environment.
//!
//! The schema in `schemas/config/` defines the shape; `check` defines what has to fit together. Both run over the whole
//! file before anything is reported, so that one run lists every fault.

mod advice;
mod cache;
mod check;
mod copilot;
mod env;
mod faults;
mod file_table;
pub(crate) mod fingerprints;
mod issuer;
mod key;
mod knowledge;
mod knowledge_source;
mod limits;
mod lines;
mod load;
mod models;
mod operator;
mod origin;
mod policies;
mod prices;
mod secret;
pub(crate) mod secret_place;
pub(crate) mod serving_states;
mod suggest;
mod system;
mod system_kinds;
mod tenant;
mod warnings;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use cache::{CacheAudience, CacheMode, Embeddings, RouteCache};
pub(crate) use check::{Claim, claims, conflicts};
pub use copilot::{Copilot, DenyRule, LimitOverrides, MemoryOverrides, OnDeny};
pub use env::Env;
pub use faults::{Fault, Faults};
pub use file_table::FileTable;
pub use fingerprints::{Changes, Fingerprints};
pub use ipnet::IpNet;
pub use key::Alg;
pub use knowledge::{DocumentEmbeddings, IndexStore, Knowledge, RouteEmbeddings};
pub use knowledge_source::KnowledgeSource;
pub use limits::LimitStore;
pub use load::{Globals, Source};
pub use models::{Mode, ModelPrice, Provider, ProviderAuth, ProviderKind, Route, Target, Timeouts};
pub(crate) use operator::restrict_to_file as restrict_operator_to_file;
pub use policies::ConfiguredPolicies;
use secrecy::SecretString;
pub(crate) use secret::{NOT_FROM_FILE, reference};
pub(crate) use secret_place::{SecretPlace, is_secret, secrets, visit_secrets_mut};
use serde::{Deserialize, Deserializer};
pub use serving_states::ServingStates;
pub use system::System;
pub use system_kinds::SystemKinds;
pub use tenant::{
    ApiKey, Issuer, LeftOut, OwnKeys, Retention, SubjectLimits, Tenant, TenantLimits, TenantModels, UserLimits,
};

/// The whole configuration, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process and its HTTP server.
    #[serde(default)]
    pub server: Server,
    /// The store.
    #[serde(default)]
    pub store: Store,
    /// Where limits and budgets are counted.
    #[serde(default)]
    pub limits: LimitStore,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Services that run models.
    #[serde(default)]
    pub providers: Vec<Provider>,
    /// Named models, each an ordered list of targets.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The embedding model of this process.
    pub embeddings: Option<Embeddings>,
    /// How documents are read and stored.
    #[serde(default)]
    pub knowledge: Knowledge,
    /// Prices of models.
    #[serde(default)]
    pub prices: Vec<ModelPrice>,
    /// The tenants.
    pub tenants: Vec<Tenant>,
    /// Whether the file has a tenant table without a valid id: any unknown tenant may be this one.
    #[serde(skip)]
    pub has_nameless_tenant: bool,
}

/// The process and its HTTP server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port of the public port.
    pub listen: SocketAddr,
    /// Address and port of the admin port, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// Directory of everything that is stored on this machine.
    pub data_dir: PathBuf,
    /// Key of 32 bytes, in hexadecimal, that encrypts tenants' stored settings; generated in the data directory if
    /// missing.
    pub seal_key: Option<SecretString>,
    /// Most bytes of a request body.
    pub max_body_bytes: usize,
    /// Most bytes of request bodies, and of what is built from them, in memory at one time.
    pub body_memory_bytes: usize,
    /// Most bytes of answers in memory at one time.
    pub answer_memory_bytes: usize,
    /// Most connections; fewer if the open file limit is too low.
    pub max_connections: usize,
    /// Most connections, and requests in flight, of one address without a valid credential.
    pub connections_per_address: usize,
    /// Most connections, and requests in flight, of one user or API key.
    pub connections_per_caller: usize,
    /// Time in which a request's headers have to arrive.
    #[serde(rename = "header_timeout_s", deserialize_with = "seconds")]
    pub header_timeout: Duration,
    /// Time in which a request's body has to arrive.
    #[serde(rename = "body_timeout_s", deserialize_with = "seconds")]
    pub body_timeout: Duration,
    /// Time after which a client that reads nothing of its answer is disconnected.
    #[serde(rename = "write_timeout_s", deserialize_with = "seconds")]
    pub write_timeout: Duration,
    /// Time that running turns get to finish after SIGTERM.
    #[serde(rename = "drain_s", deserialize_with = "seconds")]
    pub drain: Duration,
    /// Time after which an idle conversation is passivated.
    #[serde(rename = "idle_s", deserialize_with = "seconds")]
    pub idle: Duration,
    /// Most turns of this process that run, or wait behind a running one.
    pub max_turns: usize,
    /// The same for one tenant, which never holds more permits than are free: alone at most half of `max_turns`.
    pub max_turns_per_tenant: usize,
    /// Most turns of one tenant that wait for an approval or a client tool.
    pub max_approvals_per_tenant: usize,
    /// Most turns of one user that wait for an approval or a client tool.
    pub max_approvals_per_user: usize,
    /// Invalid credentials per minute, address and issuer, after which further ones are answered 429; 0 means no limit.
    /// It never refuses valid ones.
    pub failed_logins_per_minute: u32,
    /// Addresses and networks whose `X-Forwarded-For` is trusted.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Origins of web pages that may read responses to any tenant's requests, as browsers send them.
    pub allowed_origins: Vec<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: None,
            data_dir: PathBuf::from("data"),
            seal_key: None,
            max_body_bytes: 1024 * 1024,
            body_memory_bytes: 256 * 1024 * 1024,
            answer_memory_bytes: 256 * 1024 * 1024,
            max_connections: 60_000,
            connections_per_address: 256,
            connections_per_caller: 4_096,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            max_turns: 20_000,
            max_turns_per_tenant: 10_000,
            max_approvals_per_tenant: 10_000,
            max_approvals_per_user: 100,
            failed_logins_per_minute: 120,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

/// Where everything is stored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Store {
    /// A SQLite file in the data directory.
    #[default]
    Sqlite,
    /// A MongoDB replica set.
    Mongodb {
        /// Connection string; may contain a password.
        url: SecretString,
        /// Name of the database.
        #[serde(default = "default_database")]
        database: String,
        /// Duration of the lease; the store's default if missing.
        #[serde(default, rename = "lease_s", deserialize_with = "optional_seconds")]
        lease: Option<Duration>,
    },
}

fn default_database() -> String {
    "copilotd".to_owned()
}

/// Logs and traces.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Format of the log.
    pub log_format: LogFormat,
    /// Log filter, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_level: String,
    /// Address of the trace collector, if there is one.
    pub otlp_endpoint: Option<String>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Json,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
        }
    }
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For a person at a terminal.
    Pretty,
}

/// Deserialises whole seconds.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

/// Deserialises optional whole seconds.
fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_secs))
}

/// Deserialises whole milliseconds.
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Deserialises addresses and networks.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let read = |text: &String| network(text).ok_or_else(|| serde::de::Error::custom("not an address or a network"));
    texts.iter().map(read).collect()
}

/// Parses a network, or an address as a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Config {
    /// Finds a tenant by its id.
    pub fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id.as_str() == id)
    }

    /// Finds a route by its name.
    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    /// Finds a provider by its name.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }
}
