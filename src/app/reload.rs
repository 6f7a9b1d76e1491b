//! Reading the configuration again while the process runs, when a SIGHUP asks for it.
//!
//! Applied are tenants, and the keys and headers of providers, from whatever the file refers to: `{ file = … }` is read again. Everything
//! else is read at a start alone, and the log says what of it has changed.

use std::sync::Arc;

use super::models::Tenancy;
use crate::cli::Failure;
use crate::config::{Prints, Source};
use crate::tenants::Roster;

/// Reloads the configuration of a running process.
pub(super) struct Reloader {
    pub roster: Arc<Roster>,
    pub providers: Arc<Tenancy>,
    /// What holds now.
    pub prints: Prints,
}

impl Reloader {
    /// Applies what `again` reads. What is wrong with it is logged, and everything stays as it was.
    pub async fn reload(&mut self, again: &impl Fn() -> Result<Source, Failure>) {
        match self.apply(again).await {
            Ok(summary) => tracing::info!("configuration reloaded; {summary}"),
            Err(error) => tracing::error!(%error, "configuration reload failed; keeping the previous one"),
        }
    }

    async fn apply(&mut self, again: &impl Fn() -> Result<Source, Failure>) -> anyhow::Result<String> {
        let source = again().map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let prints = source.prints();
        let globals = source.globals()?;
        let keys = self.providers.prepare_keys(globals.config())?;
        self.roster.reload(source).await?;
        keys();
        let changes = self.prints.changes(&prints);
        // What needs a restart is told again at the next reload: it still does.
        self.prints = self.prints.with_applied(prints);
        Ok(changes.summary())
    }
}
