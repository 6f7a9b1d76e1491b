//! Opens the configured store.

use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::ports::EventLog;
use copilotd_gateway::ledger::UsageStore;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::ExposeSecret as _;

use crate::adapters::mongo::{MongoLog, MongoOptions};
use crate::adapters::sqlite::{SqliteLog, standby};
use crate::audit::AuditStore;
use crate::config::{Config, Store};
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
    /// Asks whether a standby waits for the store.
    pub has_standby: BoxFuture<'static, bool>,
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

/// What to do while another process has the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenTaken {
    /// Give up.
    Refuse,
    /// Stand by until it is free.
    Wait,
}

/// Opens it. Whoever cannot have it alone is refused, or waits.
pub async fn open(config: &Config, when_taken: WhenTaken) -> anyhow::Result<Opened> {
    match &config.store {
        Store::Sqlite => {
            let directory = config.server.data_dir.clone();
            let free = match when_taken {
                WhenTaken::Refuse => None,
                WhenTaken::Wait => Some(standby::wait(&directory).await.context("cannot open the store")?),
            };
            let own = directory.clone();
            let open = move || match free {
                Some(free) => SqliteLog::open_free(&own, free),
                None => SqliteLog::open(&own),
            };
            let opened = tokio::task::spawn_blocking(open).await;
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
                has_standby: async move { standby::is_there(&directory) }.boxed(),
                // The lock on the directory ends with the process.
                close: futures::future::ready(()).boxed(),
            })
        }
        Store::Mongodb { url, database, lease } => {
            let usual = MongoOptions::default();
            let options = MongoOptions {
                lease_life: lease.unwrap_or(usual.lease_life),
                standby: when_taken == WhenTaken::Wait,
                ..usual
            };
            let opened = MongoLog::connect(url.expose_secret(), database, options).await;
            let log = opened.context("cannot open the store")?;
            let lost = log.lease_lost().boxed();
            let log = Arc::new(log);
            let (closing, asked) = (Arc::clone(&log), Arc::clone(&log));
            Ok(Opened {
                usage: Arc::clone(&log) as _,
                tenants: Arc::clone(&log) as _,
                audit: Arc::clone(&log) as _,
                revocations: Arc::clone(&log) as _,
                jobs: Arc::clone(&log) as _,
                eraser: Arc::clone(&log) as _,
                log,
                lost,
                has_standby: async move { asked.has_standby().await }.boxed(),
                close: async move { closing.close().await }.boxed(),
            })
        }
    }
}

/// Rebuilds what is derived from the log.
pub async fn rebuild(config: &Config) -> anyhow::Result<()> {
    let Opened { log, close, .. } = open(config, WhenTaken::Refuse).await?;
    let count = log.rebuild().await?;
    close.await;
    println!("rebuilt the projections of {count} conversations");
    Ok(())
}
