//! Opens the configured store.

use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::ports::EventLog;

use crate::adapters::sqlite::SqliteLog;
use crate::config::{Config, Store};

/// Name of the store in `/readyz`.
pub fn name(store: &Store) -> &'static str {
    match store {
        Store::Sqlite => "sqlite",
        Store::Mongodb { .. } => "mongodb",
    }
}

/// Opens it. Whoever cannot have it alone is refused.
pub async fn open(config: &Config) -> anyhow::Result<Arc<dyn EventLog>> {
    match &config.store {
        Store::Sqlite => {
            let directory = config.server.data_dir.clone();
            let opened = tokio::task::spawn_blocking(move || SqliteLog::open(&directory)).await;
            Ok(Arc::new(opened?.context("cannot open the store")?))
        }
        Store::Mongodb { .. } => anyhow::bail!("mongodb is not wired yet"),
    }
}

/// Rebuilds what is derived from the log.
pub async fn rebuild(config: &Config) -> anyhow::Result<()> {
    let log = open(config).await?;
    let count = log.rebuild().await?;
    println!("rebuilt the projections of {count} conversations");
    Ok(())
}
