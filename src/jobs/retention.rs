//! Erases conversations whose retention has ended (`[tenants.retention] conversations_days` without a change).
//!
//! It does exactly what `DELETE` does: an audit entry and a tombstone; the reconciler deletes the rest. Invariants: a
//! conversation with an open turn, or one that was changed since, is never erased; a round checks a bounded number of
//! conversations per tenant, and the next round continues there.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::actors::conversation::{Principal, Refusal};
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, TenantId};
use copilotd_actors::ports::{Clock, EventLog, ListQuery, LogError, ServingState};
use copilotd_actors::tenancy::TenantScope;
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::audit::{Action, AuditLog, Entry};
use crate::config::Tenant;
use crate::tenants::TenantRegistry;

/// Most conversations of a tenant that a round checks.
const PAGE: usize = 200;
/// Failures after which a tenant's round is given up: the store does not answer.
const MOST_FAILURES: usize = 5;
/// Actor name in the audit log and in the tombstone.
const ACTOR: &str = "retention";
/// Pause after a tenant's last conversation before starting again with its first.
const ROUND_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// Erases conversations whose retention has ended; see the module.
pub struct RetentionSweeper {
    registry: Arc<TenantRegistry>,
    audit: Arc<AuditLog>,
    log: Arc<dyn EventLog>,
    directory: Directory,
    clock: Arc<dyn Clock>,
    positions: Mutex<HashMap<TenantId, Position>>,
}

/// Where the next round of a tenant starts.
#[derive(Debug, Clone, Copy)]
enum Position {
    /// After this conversation.
    After(Timestamp, ConversationId),
    /// From the beginning, not before this time.
    NotBefore(Timestamp),
}

impl RetentionSweeper {
    pub(super) fn new(
        registry: Arc<TenantRegistry>,
        audit: Arc<AuditLog>,
        log: Arc<dyn EventLog>,
        directory: Directory,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            registry,
            audit,
            log,
            directory,
            clock,
            positions: Mutex::default(),
        }
    }

    /// Runs one round over all tenants.
    pub async fn run_round(&self) {
        let config = self.registry.config();
        let mut positions = self.positions.lock().await;
        let kept = |tenant: &Tenant| tenant.retention.conversations_days.is_some();
        positions.retain(|id, _| config.tenants.iter().any(|tenant| tenant.id == *id && kept(tenant)));
        for tenant in &config.tenants {
            let Some(days) = tenant.retention.conversations_days else {
                continue;
            };
            // Nothing of a suspended tenant is deleted, and the settings of a tenant that is left out may be wrong.
            if tenant.standing() != ServingState::Served {
                continue;
            }
            let now = self.clock.now();
            let position = positions.get(&tenant.id).copied();
            if let Some(Position::NotBefore(at)) = position
                && now < at
            {
                continue;
            }
            match self.tenant(&tenant.id, days, position, now).await {
                Ok(next) => _ = positions.insert(tenant.id.clone(), next),
                Err(error) => {
                    tracing::warn!(tenant = %tenant.id, %error, "retention: could not check a tenant's conversations; trying again in a minute");
                }
            }
        }
    }

    /// Checks a page of a tenant's conversations; returns where to continue.
    async fn tenant(
        &self,
        tenant: &TenantId,
        days: u32,
        position: Option<Position>,
        now: Timestamp,
    ) -> Result<Position, LogError> {
        let again = Position::NotBefore(now.saturating_add(ROUND_PAUSE).unwrap_or(now));
        let Ok(since) = now.checked_sub(SignedDuration::from_hours(24 * i64::from(days))) else {
            return Ok(again);
        };
        let scope = scope(tenant);
        // Only conversations created before `since` can be due.
        let before = match position {
            Some(Position::After(created_at, id)) => (created_at, id),
            _ => (since, ConversationId::new(Uuid::max())),
        };
        let query = ListQuery {
            before: Some(before),
            limit: PAGE,
            ..ListQuery::default()
        };
        let page = self.log.list(&scope, &query).await?;
        let mut failures = 0;
        for header in page.iter().filter(|header| is_due(header, since)) {
            // One that cannot be erased now must not block the others; it is tried again later.
            if let Err(error) = self.erase(&scope, header, since).await {
                tracing::warn!(
                    tenant = %scope.tenant(), conversation = %header.id, %error,
                    "retention: an expired conversation could not be erased; trying again later"
                );
                failures += 1;
                if failures >= MOST_FAILURES {
                    return Err(error);
                }
            }
        }
        Ok(match page.last() {
            Some(last) if page.len() == PAGE => Position::After(last.created_at, last.id),
            _ => again,
        })
    }

    async fn erase(&self, scope: &TenantScope, header: &Header, since: Timestamp) -> Result<(), LogError> {
        // Read it again: the list may lag.
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
        let principal = Principal {
            user: header.user.clone(),
            admin: true,
        };
        let command = Command::EraseIdle {
            by: ACTOR.to_owned(),
            since,
        };
        match self.directory.execute(scope, header.id, &principal, command).await {
            Ok(_) => {
                counter!("copilotd_reconciled_total", "what" => "retention").increment(1);
                tracing::info!(
                    tenant = %scope.tenant(), conversation = %header.id, last_used = %header.updated_at,
                    "retention: expired conversation erased"
                );
                Ok(())
            }
            // Just used, or already erased.
            Err(Refusal::Rejected(Rejection::TurnRunning | Rejection::NotFound)) => Ok(()),
            Err(refusal) => Err(LogError::Unavailable(refusal.to_string())),
        }
    }
}

fn is_due(header: &Header, since: Timestamp) -> bool {
    !header.erased && header.open_turns == 0 && header.updated_at < since
}

/// Returns the scope of a configured tenant, for work that no request asked for.
#[expect(
    clippy::disallowed_methods,
    reason = "it acts on the tenant's own settings and on no other tenant"
)]
pub(super) fn scope(tenant: &TenantId) -> TenantScope {
    TenantScope::from_verified(tenant.clone())
}
