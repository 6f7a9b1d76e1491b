//! Notes now and then when API keys were used last: a key that nobody uses is one to take back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::auth::Authenticator;
use crate::tenants::Roster;

/// How often.
const EVERY: Duration = Duration::from_secs(60);

/// What is noted, and where.
pub struct Uses {
    pub roster: Arc<Roster>,
    pub auth: Arc<Authenticator>,
}

/// The task that notes.
pub struct Keeper {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Uses {
    /// Notes until it is stopped.
    pub fn keep(self) -> Keeper {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            while tokio::time::timeout(EVERY, &mut stopped).await.is_err() {
                self.note().await;
            }
            self.note().await;
        });
        Keeper { stop, task }
    }

    async fn note(&self) {
        let uses = self.auth.verifier.uses();
        let uses = uses.into_iter().map(|(_, hash, at)| (hash, at)).collect();
        if let Err(error) = self.roster.note_uses(uses).await {
            tracing::warn!(%error, "it could not be noted when API keys were used last");
        }
    }
}

impl Keeper {
    /// Notes what there is, and ends.
    pub async fn stop(self) {
        // A task that has ended already needs no word; how it ended is in the log.
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(Duration::from_secs(5), self.task).await;
    }
}
