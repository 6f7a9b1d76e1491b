//! Everything around the server: the simulated vendors, Redis and MongoDB, each behind a proxy that can fail.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio::sync::Mutex;

use crate::config::Addresses;
use crate::history::History;
use crate::schedule::{Dependency, FailureMode, Fault, FaultKind};
use crate::server::Server;
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::Redis;
use crate::support::secantus;
use crate::support::world::World;

/// Delay of late answers.
const DELAY: std::time::Duration = std::time::Duration::from_millis(700);

pub struct Stage {
    pub world: World,
    provider: Proxy,
    zendesk: Proxy,
    slack: Proxy,
    limits: Proxy,
    redis: Mutex<Redis>,
    store: Option<Store>,
    history: Arc<History>,
}

/// A MongoDB of this run.
struct Store {
    binary: PathBuf,
    data: PathBuf,
    port: u16,
    proxy: Proxy,
    server: Mutex<Option<secantus::Server>>,
}

impl Store {
    async fn start(binary: PathBuf, data: PathBuf) -> Self {
        std::fs::create_dir_all(&data).unwrap();
        let port = secantus::free_port();
        let server = secantus::Server::start(&binary, &data, port, true).await;
        Self {
            proxy: Proxy::to(server.address).await,
            server: Mutex::new(Some(server)),
            binary,
            data,
            port,
        }
    }

    async fn kill(&self) {
        if let Some(server) = self.server.lock().await.take() {
            server.kill();
        }
    }

    async fn restart(&self) {
        let mut server = self.server.lock().await;
        if server.is_none() {
            *server = Some(secantus::Server::start(&self.binary, &self.data, self.port, true).await);
        }
    }
}

impl Stage {
    /// Starts everything; with `mongodb` also a store in the directory.
    pub async fn start(directory: &Path, mongodb: Option<PathBuf>, history: Arc<History>) -> Self {
        let world = World::start(directory).await;
        let knobs = json!({ "pace_ms": 10, "first_ms": 60 });
        world.post(&world.openai, "knobs", &knobs).await;
        let redis = Redis::start().await;
        let store = match mongodb {
            Some(binary) => Some(Store::start(binary, directory.join("mongodb")).await),
            None => None,
        };
        Self {
            provider: Proxy::to(address(&world.openai)).await,
            zendesk: Proxy::to(address(&world.zendesk)).await,
            slack: Proxy::to(address(&world.slack)).await,
            limits: Proxy::to(address(&redis.url())).await,
            redis: Mutex::new(redis),
            store,
            world,
            history,
        }
    }

    /// Returns the addresses for the server's configuration.
    pub fn addresses(&self) -> Addresses {
        let http = |proxy: &Proxy| format!("http://{}", proxy.address);
        Addresses {
            provider: http(&self.provider),
            zendesk: http(&self.zendesk),
            slack: http(&self.slack),
            limits: format!("redis://{}", self.limits.address),
            store: self.store.as_ref().map(|store| secantus::url(store.proxy.address)),
        }
    }

    /// Returns the address of the store itself, not its proxy.
    pub fn store_url(&self) -> Option<String> {
        let store = self.store.as_ref()?;
        Some(secantus::url(SocketAddr::from(([127, 0, 0, 1], store.port))))
    }

    /// Stops the store, so that its files can be searched.
    pub async fn end_store(&self) {
        if let Some(store) = &self.store {
            store.kill().await;
        }
    }

    /// Plays one fault from its start to its end.
    pub async fn play(&self, server: &Server, fault: Fault) {
        match fault.kind {
            FaultKind::Kill => server.kill(fault.lasts),
            FaultKind::Stop => server.stop(fault.lasts),
            FaultKind::Lose(dependency, manner) => {
                let Some(proxy) = self.proxy(dependency) else { return };
                self.history
                    .note(format!("{dependency:?} {manner:?} for {:?}", fault.lasts));
                match mode(manner) {
                    Some(mode) => proxy.set(mode),
                    None => self.kill(dependency).await,
                }
                tokio::time::sleep(fault.lasts).await;
                match mode(manner) {
                    Some(_) => proxy.set(Mode::Open),
                    None => self.restart(dependency).await,
                }
                self.history.note(format!("{dependency:?} is up again"));
            }
        }
    }

    fn proxy(&self, dependency: Dependency) -> Option<&Proxy> {
        match dependency {
            Dependency::Provider => Some(&self.provider),
            Dependency::Zendesk => Some(&self.zendesk),
            Dependency::Slack => Some(&self.slack),
            Dependency::Limits => Some(&self.limits),
            Dependency::Store => self.store.as_ref().map(|store| &store.proxy),
        }
    }

    async fn kill(&self, dependency: Dependency) {
        match (dependency, &self.store) {
            (Dependency::Limits, _) => self.redis.lock().await.kill(),
            (Dependency::Store, Some(store)) => store.kill().await,
            _ => unreachable!("the schedule never kills a simulator, whose state is in memory"),
        }
    }

    async fn restart(&self, dependency: Dependency) {
        match (dependency, &self.store) {
            (Dependency::Limits, _) => self.redis.lock().await.restart().await,
            (Dependency::Store, Some(store)) => store.restart().await,
            _ => unreachable!("the schedule never kills a simulator"),
        }
    }
}

/// Returns what the proxy does; `None` if the process itself is killed.
fn mode(manner: FailureMode) -> Option<Mode> {
    match manner {
        FailureMode::Refused => Some(Mode::Refused),
        FailureMode::Reset => Some(Mode::Reset),
        FailureMode::Cut => Some(Mode::Cut),
        FailureMode::Silent => Some(Mode::Paused),
        FailureMode::AnswersLost => Some(Mode::AnswersLost),
        FailureMode::Slow => Some(Mode::Delayed(DELAY)),
        FailureMode::Killed => None,
    }
}

/// Returns the address in a URL `scheme://host:port`.
fn address(url: &str) -> SocketAddr {
    let (_, address) = url.split_once("://").expect("a simulator prints full URLs");
    address.trim_end_matches('/').parse().expect("host and port")
}
