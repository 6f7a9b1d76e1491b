//! `Reconciler`: finds turns that are open in the store but run nowhere, and erased conversations that still have
//! something to delete. Takes no input, is idempotent, and wakes on a timer.

use std::sync::Arc;

use metrics::counter;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::conversations::Directory;
use super::shared::Shared;
use crate::crash;
use crate::ports::{LogError, PendingConversation, ServingState};

/// Conversations read per page.
const PAGE: usize = 256;

/// Actor that reconciles the store with the running conversations; see the module documentation.
pub struct Reconciler {
    /// Ports and limits of the process.
    pub shared: Arc<Shared>,
    /// Access to conversations.
    pub directory: Directory,
}

/// Starts a scan of the store.
#[derive(Debug, Clone, Copy)]
pub struct StartScan;

impl Reconciler {
    async fn scan(&self) -> Result<(), LogError> {
        let log = &self.shared.ports.log;
        let mut cursor: Option<PendingConversation> = None;
        loop {
            let page = log.pending(cursor.as_ref(), PAGE).await?;
            for pending in &page {
                match pending.tombstone {
                    Some(tombstone) => {
                        // One that cannot be cleaned up now must not hold up the others.
                        if let Err(error) = self.clean(pending, tombstone).await {
                            tracing::warn!(%error, tenant = %pending.scope.tenant(), conversation = %pending.conversation, "could not delete an erased conversation's data; retrying with the next scan");
                        }
                    }
                    None => self.wake(pending).await,
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => cursor = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    async fn wake(&self, pending: &PendingConversation) {
        let now = self.shared.ports.clock.now();
        let key = (pending.scope.clone(), pending.conversation);
        let standing = self.shared.ports.policies.standing(&pending.scope);
        if standing == ServingState::Suspended {
            // Even if it is dormant until an approval is due, or was not reached when the tenant was suspended.
            self.directory
                .cancel_suspended(&pending.scope, pending.conversation)
                .await;
        } else if self
            .directory
            .is_running_or_dormant(&key, now, standing, pending.last_seq)
        {
            self.directory.notify_stored(&key, pending.last_seq);
        } else {
            // Even if its tenant is left out: its approvals must expire, and nothing else happens.
            counter!("copilotd_reconciled_total", "what" => "open_turn").increment(1);
            // Replays its log in its own task and resumes open turns.
            self.directory.wake(&pending.scope, pending.conversation).await;
        }
    }

    async fn clean(&self, pending: &PendingConversation, tombstone: u64) -> Result<(), LogError> {
        crash::point("effect.before:erase");
        // Before the log, which then no longer names the conversation: a failure is repeated with the next scan.
        let derived = match &self.shared.ports.recollection {
            Some(recollection) => recollection.erase(&pending.scope, pending.conversation).await,
            None => Ok(0),
        };
        let derived = derived.map_err(|error| LogError::Unavailable(error.to_string()))?;
        let mut receipt = self
            .shared
            .ports
            .log
            .erase(&pending.scope, pending.conversation, tombstone)
            .await?;
        crash::point("effect.after:erase");
        receipt.stores.push(("turn_vectors".to_owned(), derived));
        counter!("copilotd_reconciled_total", "what" => "erased").increment(1);
        let stores: Vec<String> = receipt
            .stores
            .iter()
            .map(|(store, count)| format!("{store}: {count}"))
            .collect();
        tracing::info!(
            tenant = %pending.scope.tenant(),
            conversation = %pending.conversation,
            stores = stores.join(", "),
            "deleted the data of an erased conversation"
        );
        Ok(())
    }
}

impl Actor for Reconciler {
    type Msg = StartScan;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<StartScan>, (): ()) -> Result<(), ActorProcessingErr> {
        me.cast(StartScan)?;
        Ok(())
    }

    async fn handle(&self, me: ActorRef<StartScan>, _: StartScan, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if let Err(error) = self.scan().await {
            tracing::warn!(%error, "scan for open turns and erased conversations failed; retrying");
        }
        me.send_after(self.shared.bounds.reconcile, || StartScan);
        Ok(())
    }
}
