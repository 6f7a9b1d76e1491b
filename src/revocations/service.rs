//! Creates and lifts revocations.

use std::fmt;
use std::sync::{Arc, Weak};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, LogError};
use copilotd_actors::tenancy::TenantScope;
use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::list::RevocationList;
use copilotd_actors::domain::access::revocation::{
    CLOCK_SKEW, Revocation, RevocationId, STORED_FOR, Subject, UnreadableRevocation,
};
use copilotd_actors::ports::RevocationStore;

/// Most revocations in force per tenant. A tenant that needs more replaces the issuer's key, which invalidates all its
/// tokens.
pub const MAX_PER_TENANT: usize = 10_000;

/// Why creating or lifting a revocation failed.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The tenant has reached [`MAX_PER_TENANT`].
    #[error(
        "the tenant already has {MAX_PER_TENANT} revocations in force, the limit; replace the issuer's key to invalidate \
         all its tokens"
    )]
    Full,
    /// There is no such revocation.
    #[error("revocation not found")]
    Missing,
    /// It could not be recorded in the audit log; nothing was changed.
    #[error("could not record the audit entry")]
    Audit(#[source] LogError),
    /// It could not be stored. A new revocation is in force anyway, in this process.
    #[error("the store failed")]
    Store(#[source] LogError),
}

/// See the module.
pub struct Revocations {
    store: Arc<dyn RevocationStore>,
    list: Arc<RevocationList>,
    clock: Arc<dyn Clock>,
    /// One lock per tenant, held while its revocations change, so that of two changes the later one is stored.
    changing: DashMap<TenantId, Arc<Mutex<()>>>,
}

impl Revocations {
    /// Reads the stored revocations and deletes expired ones.
    ///
    /// # Errors
    /// When the store cannot be read: revoked tokens would be accepted.
    pub async fn open(store: Arc<dyn RevocationStore>, clock: Arc<dyn Clock>) -> Result<Arc<Self>, LogError> {
        let now = clock.now();
        let list = Arc::new(RevocationList::default());
        let stored = store.revocations().await?;
        for revocation in stored.readable {
            if revocation.expires_at > now {
                list.enforce(revocation);
            }
        }
        let has_ended = |record: &UnreadableRevocation| record.expires_at.is_some_and(|end| end <= now);
        let unreadable: Vec<_> = stored
            .unreadable
            .into_iter()
            .filter(|record| !has_ended(record))
            .collect();
        unreadable.iter().for_each(|record| refuse_in_doubt(&list, record, now));
        if !unreadable.is_empty() {
            drop(tokio::spawn(end_doubt(Arc::downgrade(&list))));
        }
        if let Err(error) = store.delete_expired_revocations(now).await {
            tracing::warn!(%error, "could not delete expired token revocations; the next revocation tries again");
        }
        Ok(Arc::new(Self {
            store,
            list,
            clock,
            changing: DashMap::new(),
        }))
    }

    /// Returns the revocations in force, for the verifier.
    pub fn list(&self) -> Arc<RevocationList> {
        Arc::clone(&self.list)
    }

    /// Lists a tenant's revocations in force, newest first.
    pub fn of_tenant(&self, scope: &TenantScope) -> Vec<Revocation> {
        self.list.forget_expired(scope.tenant(), self.clock.now());
        self.list.all(scope.tenant())
    }

    /// Revokes tokens of the caller's tenant. They are refused once this returns, and their streams end. `record`
    /// writes the audit entry; it runs first, and nothing is changed if it fails.
    pub async fn revoke(
        &self,
        scope: &TenantScope,
        subject: Subject,
        by: String,
        reason: Option<String>,
        record: impl Future<Output = Result<(), LogError>>,
    ) -> Result<Revocation, RevokeError> {
        let tenant = scope.tenant();
        let changing = self.changing(tenant);
        let _changing = changing.lock().await;
        let now = self.clock.now();
        self.list.forget_expired(tenant, now);
        let known = self.list.get(tenant, RevocationId::of(tenant, &subject));
        if known.is_none() && self.list.count(tenant) >= MAX_PER_TENANT {
            return Err(RevokeError::Full);
        }
        record.await.map_err(RevokeError::Audit)?;
        let reach = self.list.reach(tenant, &subject, now);
        // If the clock was set back, tokens that were already revoked must stay revoked.
        let revoked_at = known.map_or(reach, |known| known.revoked_at.max(reach));
        let revocation = Revocation {
            tenant: tenant.clone(),
            subject,
            revoked_at,
            expires_at: revoked_at + STORED_FOR,
            revoked_by: by,
            reason,
        };
        let stored = self.store.put_revocation(&revocation).await;
        // In force even if it was not stored, or might not have been: revoking is safer. The caller gets an error,
        // because it may not survive a restart.
        self.list.enforce(revocation.clone());
        stored.map_err(RevokeError::Store)?;
        tracing::info!(
            %tenant, revocation = %revocation.id(), kind = revocation.subject.kind(), by = revocation.revoked_by,
            "user tokens revoked"
        );
        if let Err(error) = self.store.delete_expired_revocations(now).await {
            tracing::warn!(%error, "could not delete expired token revocations; the next revocation tries again");
        }
        Ok(revocation)
    }

    /// Lifts a revocation of the caller's tenant: tokens that it refused are accepted again until they expire.
    pub async fn lift(
        &self,
        scope: &TenantScope,
        id: RevocationId,
        by: &str,
        record: impl Future<Output = Result<(), LogError>>,
    ) -> Result<(), RevokeError> {
        let tenant = scope.tenant();
        let changing = self.changing(tenant);
        let _changing = changing.lock().await;
        let known = self.list.get(tenant, id).ok_or(RevokeError::Missing)?;
        record.await.map_err(RevokeError::Audit)?;
        self.store
            .delete_revocation(tenant, &known.subject)
            .await
            .map_err(RevokeError::Store)?;
        self.list.remove(tenant, id);
        tracing::info!(%tenant, revocation = %id, by, "revocation of user tokens lifted");
        Ok(())
    }

    /// Removes a tenant's revocations, which were erased with the tenant.
    pub fn forget(&self, tenant: &TenantId) {
        self.list.forget(tenant);
        self.changing.remove(tenant);
    }

    fn changing(&self, tenant: &TenantId) -> Arc<Mutex<()>> {
        if let Some(found) = self.changing.get(tenant) {
            return Arc::clone(&found);
        }
        Arc::clone(&self.changing.entry(tenant.clone()).or_default())
    }
}

/// Refuses every token that an unreadable revocation can mean: of its user, or else of its tenant, or else of all. It was
/// written before `now`, so it covers no token issued later than the clock skew allows: fresh tokens are accepted.
fn refuse_in_doubt(list: &RevocationList, unreadable: &UnreadableRevocation, now: Timestamp) {
    const MEND: &str = "revoke again what it revoked, delete the record and restart";
    let UnreadableRevocation {
        record,
        tenant,
        subject,
        ..
    } = unreadable;
    let moment = now + CLOCK_SKEW;
    metrics::counter!("copilotd_unreadable_rows_total", "what" => "revocation").increment(1);
    match (tenant, subject) {
        (Some(tenant), Some(subject)) => {
            let revocation = Revocation {
                tenant: tenant.clone(),
                subject: subject.clone(),
                revoked_at: moment,
                expires_at: moment + STORED_FOR,
                revoked_by: "unknown".to_owned(),
                reason: Some("the stored revocation is unreadable".to_owned()),
            };
            tracing::error!(
                record, %tenant, revocation = %revocation.id(), until = %moment,
                "stored token revocation unreadable; refusing the tokens of its user, or its token, issued until then; \
                 revoking again or lifting the revocation mends the record"
            );
            list.enforce(revocation);
        }
        (Some(tenant), None) => {
            tracing::error!(
                record, %tenant, until = %moment, mend = MEND,
                "stored token revocation unreadable; refusing all user tokens of its tenant issued until then"
            );
            list.revoke_all(Some(tenant), moment);
        }
        (None, _) => {
            tracing::error!(
                record, until = %moment, mend = MEND,
                "stored token revocation unreadable; refusing the user tokens of all tenants issued until then"
            );
            list.revoke_all(None, moment);
        }
    }
}

/// Accepts tokens without `iat` again once every token that was valid at the start has expired.
async fn end_doubt(list: Weak<RevocationList>) {
    tokio::time::sleep((STORED_FOR + CLOCK_SKEW).unsigned_abs()).await;
    if let Some(list) = list.upgrade() {
        list.end_revoke_all();
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").finish_non_exhaustive()
    }
}
