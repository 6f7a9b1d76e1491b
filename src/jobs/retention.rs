//! Erases conversations that nobody has used for as long as their tenant keeps them (`[tenants.retention] conversations_days`).
//!
//! Exactly as `DELETE` erases them: an audit entry, a tombstone, and the reconciler deletes the rest. Invariants: a conversation
//! with an open turn, or one that was written to since, is never erased; one round looks at a bounded number of conversations of
//! each tenant and goes on there in the next.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::actors::conversation::{Asker, Refusal};
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, TenantId};
use copilotd_actors::ports::{Clock, EventLog, ListQuery, LogError, Standing};
use copilotd_actors::tenancy::TenantScope;
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::audit::{Action, AuditLog, Entry};
use crate::config::Tenant;
use crate::tenants::Roster;

/// Conversations of one tenant that a round looks at.
const LOOKED_AT: usize = 200;
/// Failures after which a round of a tenant is given up: the store does not answer.
const MOST_FAILURES: usize = 5;
/// Who it is in the audit log and in the tombstone.
const ACTOR: &str = "retention";
/// After the last conversation of a tenant, the next look at its first comes this much later.
const REST: SignedDuration = SignedDuration::from_hours(1);

/// See the module.
pub struct Retention {
    roster: Arc<Roster>,
    audit: Arc<AuditLog>,
    log: Arc<dyn EventLog>,
    directory: Directory,
    clock: Arc<dyn Clock>,
    places: Mutex<HashMap<TenantId, Place>>,
}

/// Where a tenant's conversations are looked at next.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Behind this one.
    Behind(Timestamp, ConversationId),
    /// From the beginning, at this time.
    Again(Timestamp),
}

impl Retention {
    pub(super) fn new(
        roster: Arc<Roster>,
        audit: Arc<AuditLog>,
        log: Arc<dyn EventLog>,
        directory: Directory,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            roster,
            audit,
            log,
            directory,
            clock,
            places: Mutex::default(),
        }
    }

    /// Does one round.
    pub async fn look(&self) {
        let config = self.roster.config();
        let mut places = self.places.lock().await;
        let kept = |tenant: &Tenant| tenant.retention.conversations_days.is_some();
        places.retain(|id, _| config.tenants.iter().any(|tenant| tenant.id == *id && kept(tenant)));
        for tenant in &config.tenants {
            let Some(days) = tenant.retention.conversations_days else {
                continue;
            };
            // Of a suspended tenant nothing is deleted, and one that is left out may mean something else.
            if tenant.standing() != Standing::Served {
                continue;
            }
            let now = self.clock.now();
            let place = places.get(&tenant.id).copied();
            if let Some(Place::Again(at)) = place
                && now < at
            {
                continue;
            }
            match self.tenant(&tenant.id, days, place, now).await {
                Ok(next) => _ = places.insert(tenant.id.clone(), next),
                Err(error) => {
                    tracing::warn!(tenant = %tenant.id, %error, "conversations that are kept no longer could not be erased; trying again");
                }
            }
        }
    }

    /// Looks at a page of a tenant's conversations; answers with where to go on.
    async fn tenant(
        &self,
        tenant: &TenantId,
        days: u32,
        place: Option<Place>,
        now: Timestamp,
    ) -> Result<Place, LogError> {
        let again = Place::Again(now.saturating_add(REST).unwrap_or(now));
        let Ok(since) = now.checked_sub(SignedDuration::from_hours(24 * i64::from(days))) else {
            return Ok(again);
        };
        let scope = scope(tenant);
        // Older ones alone can have been left alone for so long.
        let before = match place {
            Some(Place::Behind(created_at, id)) => (created_at, id),
            _ => (since, ConversationId::new(Uuid::max())),
        };
        let query = ListQuery {
            before: Some(before),
            limit: LOOKED_AT,
            ..ListQuery::default()
        };
        let page = self.log.list(&scope, &query).await?;
        let mut failures = 0;
        for header in page.iter().filter(|header| is_due(header, since)) {
            // One that cannot be erased now must not keep the others waiting; its turn comes again.
            if let Err(error) = self.erase(&scope, header, since).await {
                tracing::warn!(
                    tenant = %scope.tenant(), conversation = %header.id, %error,
                    "a conversation that is kept no longer could not be erased; trying again later"
                );
                failures += 1;
                if failures >= MOST_FAILURES {
                    return Err(error);
                }
            }
        }
        Ok(match page.last() {
            Some(last) if page.len() == LOOKED_AT => Place::Behind(last.created_at, last.id),
            _ => again,
        })
    }

    async fn erase(&self, scope: &TenantScope, header: &Header, since: Timestamp) -> Result<(), LogError> {
        // As it is now: the list may lag.
        let Some(header) = self.log.header(scope, header.id).await? else {
            return Ok(());
        };
        if !is_due(&header, since) {
            return Ok(());
        }
        let entry = Entry {
            actor: ACTOR.to_owned(),
            credential: ACTOR.to_owned(),
            request_id: None,
            action: Action::ConversationErased,
            target: header.id.to_string(),
            changed: Vec::new(),
            reason: None,
        };
        self.audit.record(scope.tenant(), entry).await?;
        let asker = Asker {
            user: header.user.clone(),
            admin: true,
        };
        let command = Command::EraseIdle {
            by: ACTOR.to_owned(),
            since,
        };
        match self.directory.ask(scope, header.id, &asker, command).await {
            Ok(_) => {
                counter!("copilotd_reconciled_total", "what" => "retention").increment(1);
                tracing::info!(
                    tenant = %scope.tenant(), conversation = %header.id, last_used = %header.updated_at,
                    "conversation erased: it was kept for as long as its tenant wants"
                );
                Ok(())
            }
            // Used at this very moment, or erased by somebody else.
            Err(Refusal::Rejected(Rejection::TurnRunning | Rejection::NotFound)) => Ok(()),
            Err(refusal) => Err(LogError::Unavailable(refusal.to_string())),
        }
    }
}

fn is_due(header: &Header, since: Timestamp) -> bool {
    !header.erased && header.open_turns == 0 && header.updated_at < since
}

/// The scope of a tenant of the configuration, for work that no request asks for.
#[expect(
    clippy::disallowed_methods,
    reason = "it acts on the tenant's own settings and on no other tenant"
)]
pub(super) fn scope(tenant: &TenantId) -> TenantScope {
    TenantScope::from_verified(tenant.clone())
}
