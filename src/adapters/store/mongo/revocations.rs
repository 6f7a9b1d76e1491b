//! Revocations of user tokens in MongoDB: a document for each.

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, doc};

use super::MongoLog;
use super::read::name_of;
use super::usage::date;
use copilotd_actors::domain::access::revocation::{
    Revocation, RevocationId, StoredRevocations, Subject, UnreadableRevocation,
};
use copilotd_actors::ports::RevocationStore;

#[async_trait]
impl RevocationStore for MongoLog {
    async fn revocations(&self) -> Result<StoredRevocations, LogError> {
        let mut found = StoredRevocations::default();
        for document in self.all(&self.collections.revocations, doc! { "_id": 1 }).await? {
            match revocation(&document) {
                Ok(revocation) => found.readable.push(revocation),
                Err(unreadable) => found.unreadable.push(unreadable),
            }
        }
        Ok(found)
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

fn revocation(document: &Document) -> Result<Revocation, UnreadableRevocation> {
    let text = |name: &str| document.get_str(name).ok();
    let time = |name: &str| {
        let date = document.get_datetime(name).ok()?;
        Timestamp::from_millisecond(date.timestamp_millis()).ok()
    };
    let tenant = text("tenant").and_then(|tenant| tenant.parse().ok());
    let subject = text("kind")
        .zip(text("subject"))
        .and_then(|(kind, subject)| Subject::read(kind, subject));
    match (tenant, subject, time("revoked_at"), time("expires_at")) {
        (Some(tenant), Some(subject), Some(revoked_at), Some(expires_at)) => Ok(Revocation {
            tenant,
            subject,
            revoked_at,
            expires_at,
            // Nothing depends on these two.
            revoked_by: text("revoked_by").unwrap_or("unknown").to_owned(),
            reason: text("reason").map(str::to_owned),
        }),
        (tenant, subject, _, expires_at) => Err(UnreadableRevocation {
            record: format!("collection revocations, _id {}", name_of(document)),
            tenant,
            subject,
            expires_at,
        }),
    }
}
