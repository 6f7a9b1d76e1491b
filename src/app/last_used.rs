//! Periodically stores when each API key was last used, so that unused keys can be found and revoked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::credentials::Authenticator;
use crate::tenants::TenantRegistry;

/// Interval between two writes.
const EVERY: Duration = Duration::from_secs(60);

/// What the task reads from and writes to.
pub struct LastUses {
    pub registry: Arc<TenantRegistry>,
    pub auth: Arc<Authenticator>,
}

/// The running task.
pub struct LastUsedRecorder {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LastUses {
    /// Starts the task, which runs until it is stopped.
    pub fn keep(self) -> LastUsedRecorder {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            while tokio::time::timeout(EVERY, &mut stopped).await.is_err() {
                self.record().await;
            }
            self.record().await;
        });
        LastUsedRecorder { stop, task }
    }

    async fn record(&self) {
        let uses = self.auth.verifier.uses();
        let uses = uses.into_iter().map(|(_, hash, at)| (hash, at)).collect();
        if let Err(error) = self.registry.api_keys().record_last_uses(uses).await {
            tracing::warn!(%error, "could not store when API keys were last used; trying again with the next use");
        }
    }
}

impl LastUsedRecorder {
    /// Stores the last uses and stops.
    pub async fn stop(self) {
        // The task may have ended already.
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(Duration::from_secs(5), self.task).await;
    }
}
