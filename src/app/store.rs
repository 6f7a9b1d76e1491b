//! Opens the configured store.

use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::ports::EventLog;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::ExposeSecret as _;

use crate::adapters::mongo::{MongoLog, MongoOptions};
use crate::adapters::sqlite::SqliteLog;
use crate::audit::AuditStore;
use crate::config::{Config, Store};
use crate::gateway::ledger::UsageStore;
use crate::jobs::{JobStore, TenantEraser};
use crate::revocations::RevocationStore;
use crate::tenants::TenantStore;

/// An open store.
pub struct Opened {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The ledger, in the same store.
    pub usage: Arc<dyn UsageStore>,
    /// Tenants and keys, in the same store.
    pub tenants: Arc<dyn TenantStore>,
    /// The audit log, in the same store.
    pub audit: Arc<dyn AuditStore>,
    /// Revocations of user tokens, in the same store.
    pub revocations: Arc<dyn RevocationStore>,
    /// Jobs and their results, in the same store.
    pub jobs: Arc<dyn JobStore>,
    /// What erases tenants from it.
    pub eraser: Arc<dyn TenantEraser>,
    /// Returns when this process does not own the store any more; for a file on disk it never does.
    pub lost: BoxFuture<'static, ()>,
    /// Leaves the store to the next process; to be awaited when nothing is written any more.
    pub close: BoxFuture<'static, ()>,
}

/// Name of the store in `/readyz`.
pub fn name(store: &Store) -> &'static str {
    match store {
        Store::Sqlite => "sqlite",
        Store::Mongodb { .. } => "mongodb",
    }
}

/// Opens it. Whoever cannot have it alone is refused.
pub async fn open(config: &Config) -> anyhow::Result<Opened> {
    match &config.store {
        Store::Sqlite => {
            let directory = config.server.data_dir.clone();
            let opened = tokio::task::spawn_blocking(move || SqliteLog::open(&directory)).await;
            let log = opened?.context("cannot open the store")?;
            let log = Arc::new(log);
            Ok(Opened {
                usage: Arc::clone(&log) as _,
                tenants: Arc::clone(&log) as _,
                audit: Arc::clone(&log) as _,
                revocations: Arc::clone(&log) as _,
                jobs: Arc::clone(&log) as _,
                eraser: Arc::clone(&log) as _,
                log,
                lost: futures::future::pending().boxed(),
                // The lock on the directory ends with the process.
                close: futures::future::ready(()).boxed(),
            })
        }
        Store::Mongodb { url, database, lease } => {
            let usual = MongoOptions::default();
            let options = MongoOptions {
                lease_life: lease.unwrap_or(usual.lease_life),
                ..usual
            };
            let opened = MongoLog::connect(url.expose_secret(), database, options).await;
            let log = opened.context("cannot open the store")?;
            let lost = log.lease_lost().boxed();
            let log = Arc::new(log);
            let closing = Arc::clone(&log);
            Ok(Opened {
                usage: Arc::clone(&log) as _,
                tenants: Arc::clone(&log) as _,
                audit: Arc::clone(&log) as _,
                revocations: Arc::clone(&log) as _,
                jobs: Arc::clone(&log) as _,
                eraser: Arc::clone(&log) as _,
                log,
                lost,
                close: async move { closing.close().await }.boxed(),
            })
        }
    }
}

/// Rebuilds what is derived from the log.
pub async fn rebuild(config: &Config) -> anyhow::Result<()> {
    let Opened { log, close, .. } = open(config).await?;
    let count = log.rebuild().await?;
    close.await;
    println!("rebuilt the projections of {count} conversations");
    Ok(())
}
