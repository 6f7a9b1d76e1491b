//! Opens the configured store.

use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::ports::{EventLog, FileStore};
use copilotd_gateway::ledger::UsageStore;
use copilotd_knowledge::facts::store::FactStore;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::ExposeSecret as _;

use crate::adapters::store::mongo::{MongoLog, MongoOptions};
use crate::adapters::store::sqlite::{SqliteLog, standby};
use crate::config::{Config, Store};
use copilotd_actors::ports::AuditStore;
use copilotd_actors::ports::RevocationStore;
use copilotd_actors::ports::TenantStore;
use copilotd_actors::ports::{JobStore, TenantEraser};

/// An open store, as the ports it implements.
pub struct OpenStore {
    /// The conversations' log.
    pub log: Arc<dyn EventLog>,
    /// Usage records.
    pub usage: Arc<dyn UsageStore>,
    /// Tenants and API keys.
    pub tenants: Arc<dyn TenantStore>,
    /// Audit logs.
    pub audit: Arc<dyn AuditStore>,
    /// Revocations of user tokens.
    pub revocations: Arc<dyn RevocationStore>,
    /// Jobs and their results.
    pub jobs: Arc<dyn JobStore>,
    /// Facts about users.
    pub facts: Arc<dyn FactStore>,
    /// Attached files.
    pub files: Arc<dyn FileStore>,
    /// Erases tenants.
    pub eraser: Arc<dyn TenantEraser>,
    /// Completes when this process no longer owns the store; never for a file on disk.
    pub lost: BoxFuture<'static, ()>,
    /// Whether a standby is waiting for the store.
    pub has_standby: BoxFuture<'static, bool>,
    /// Releases the store to the next process; await it after the last write.
    pub close: BoxFuture<'static, ()>,
}

/// Returns the store's name in `/readyz`.
pub fn name(store: &Store) -> &'static str {
    match store {
        Store::Sqlite => "sqlite",
        Store::Mongodb { .. } => "mongodb",
    }
}

/// What to do while another process has the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfInUse {
    /// Fail.
    Refuse,
    /// Wait as a standby until it is free.
    Wait,
}

/// Opens the configured store for this process alone.
pub async fn open(config: &Config, if_in_use: IfInUse) -> anyhow::Result<OpenStore> {
    match &config.store {
        Store::Sqlite => {
            let directory = config.server.data_dir.clone();
            let free = match if_in_use {
                IfInUse::Refuse => None,
                IfInUse::Wait => Some(standby::wait(&directory).await.context("cannot open the store")?),
            };
            let own = directory.clone();
            let open = move || match free {
                Some(free) => SqliteLog::open_free(&own, free),
                None => SqliteLog::open(&own),
            };
            let opened = tokio::task::spawn_blocking(open).await;
            let log = opened?.context("cannot open the store")?;
            let log = Arc::new(log);
            Ok(OpenStore {
                usage: Arc::clone(&log) as _,
                tenants: Arc::clone(&log) as _,
                audit: Arc::clone(&log) as _,
                revocations: Arc::clone(&log) as _,
                jobs: Arc::clone(&log) as _,
                facts: Arc::clone(&log) as _,
                files: Arc::clone(&log) as _,
                eraser: Arc::clone(&log) as _,
                log,
                lost: futures::future::pending().boxed(),
                has_standby: async move { standby::is_waiting(&directory) }.boxed(),
                // The directory's lock is released when the process exits.
                close: futures::future::ready(()).boxed(),
            })
        }
        Store::Mongodb { url, database, lease } => {
            let usual = MongoOptions::default();
            let options = MongoOptions {
                lease_life: lease.unwrap_or(usual.lease_life),
                standby: if_in_use == IfInUse::Wait,
                ..usual
            };
            let opened = MongoLog::connect(url.expose_secret(), database, options).await;
            let log = opened.context("cannot open the store")?;
            let lost = log.lease_lost().boxed();
            let log = Arc::new(log);
            let (closing, asked) = (Arc::clone(&log), Arc::clone(&log));
            Ok(OpenStore {
                usage: Arc::clone(&log) as _,
                tenants: Arc::clone(&log) as _,
                audit: Arc::clone(&log) as _,
                revocations: Arc::clone(&log) as _,
                jobs: Arc::clone(&log) as _,
                facts: Arc::clone(&log) as _,
                files: Arc::clone(&log) as _,
                eraser: Arc::clone(&log) as _,
                log,
                lost,
                has_standby: async move { asked.has_standby().await }.boxed(),
                close: async move { closing.close().await }.boxed(),
            })
        }
    }
}

/// Rebuilds all projections from the log.
pub async fn rebuild(config: &Config) -> anyhow::Result<()> {
    let OpenStore { log, close, .. } = open(config, IfInUse::Refuse).await?;
    let count = log.rebuild().await?;
    close.await;
    println!("rebuilt the projections of {count} conversations");
    Ok(())
}
