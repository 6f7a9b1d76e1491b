//! Revocations of user tokens in MongoDB: a document for each.

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, doc};

use super::MongoLog;
use super::usage::date;
use copilotd_actors::domain::access::revocation::{Revocation, RevocationId, Subject};
use copilotd_actors::ports::RevocationStore;

#[async_trait]
impl RevocationStore for MongoLog {
    async fn revocations(&self) -> Result<Vec<Revocation>, LogError> {
        let found = self.all(&self.collections.revocations, doc! { "_id": 1 }).await?;
        let read = |document: &Document| {
            let revocation = revocation(document);
            if revocation.is_none() {
                // One unreadable document must not make the other revocations ineffective.
                let id = document.get_str("_id").unwrap_or_default();
                tracing::error!(
                    id,
                    "stored token revocation unreadable; ignoring it, so the tokens it revoked may be accepted"
                );
            }
            revocation
        };
        Ok(found.iter().filter_map(read).collect())
    }

    async fn put_revocation(&self, revocation: &Revocation) -> Result<(), LogError> {
        let _pass = self.tenant_fence.enter(&revocation.tenant)?;
        let document = doc! {
            "_id": id(&revocation.tenant, &revocation.subject),
            "tenant": revocation.tenant.as_str(),
            "kind": revocation.subject.kind(),
            "subject": revocation.subject.text(),
            "revoked_at": date(revocation.revoked_at),
            "expires_at": date(revocation.expires_at),
            "revoked_by": &revocation.revoked_by,
            "reason": revocation.reason.clone().map_or(Bson::Null, Bson::String),
        };
        Ok(self.put(&self.collections.revocations, document).await?)
    }

    async fn delete_revocation(&self, tenant: &TenantId, subject: &Subject) -> Result<(), LogError> {
        let which = doc! { "_id": id(tenant, subject) };
        let collections = &self.collections;
        collections.call(collections.revocations.delete_one(which)).await?;
        Ok(())
    }

    async fn delete_expired_revocations(&self, now: Timestamp) -> Result<(), LogError> {
        let which = doc! { "expires_at": { "$lte": date(now) } };
        let collections = &self.collections;
        collections.call(collections.revocations.delete_many(which)).await?;
        Ok(())
    }
}

/// Neither part can contain the slash.
fn id(tenant: &TenantId, subject: &Subject) -> String {
    format!("{tenant}/{}", RevocationId::of(tenant, subject))
}

fn revocation(document: &Document) -> Option<Revocation> {
    let text = |name: &str| document.get_str(name).ok();
    let time = |name: &str| {
        let date = document.get_datetime(name).ok()?;
        Timestamp::from_millisecond(date.timestamp_millis()).ok()
    };
    Some(Revocation {
        tenant: text("tenant")?.parse().ok()?,
        subject: Subject::read(text("kind")?, text("subject")?)?,
        revoked_at: time("revoked_at")?,
        expires_at: time("expires_at")?,
        revoked_by: text("revoked_by")?.to_owned(),
        reason: text("reason").map(str::to_owned),
    })
}
