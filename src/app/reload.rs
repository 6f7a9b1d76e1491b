//! Reloading the configuration on SIGHUP.
//!
//! A reload applies tenants, and the keys and headers of providers, including the content of secrets: `{ file = … }` is
//! read again. Everything else needs a restart, and the log says what of it has changed.

use std::sync::Arc;

use super::models::GatewayTenants;
use crate::cli::Failure;
use crate::config::{Fingerprints, Source};
use crate::tenants::TenantRegistry;

/// Reloads the configuration of a running process.
pub(super) struct Reloader {
    pub registry: Arc<TenantRegistry>,
    pub providers: Arc<GatewayTenants>,
    /// Fingerprints of the live configuration.
    pub fingerprints: Fingerprints,
}

impl Reloader {
    /// Applies the configuration that `again` reads. If it has a fault, that is logged and nothing changes.
    pub async fn reload(&mut self, again: &impl Fn() -> Result<Source, Failure>) {
        match self.apply(again).await {
            Ok(summary) => tracing::info!("configuration reloaded; {summary}"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(%error, "configuration reload failed; keeping the previous one");
            }
        }
    }

    async fn apply(&mut self, again: &impl Fn() -> Result<Source, Failure>) -> anyhow::Result<String> {
        let source = again().map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let fingerprints = source.fingerprints();
        let globals = source.globals()?;
        let keys = self.providers.prepare_keys(globals.config())?;
        self.registry.reload(source).await?;
        keys();
        let changes = self.fingerprints.changes(&fingerprints);
        // What needs a restart is still reported at the next reload.
        self.fingerprints = self.fingerprints.with_applied(fingerprints);
        Ok(changes.summary())
    }
}
