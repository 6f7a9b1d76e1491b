//! Revocations of user tokens in SQLite: a row for each.

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::SqliteLog;
use crate::adapters::sqlite::failure::Failure;
use copilotd_actors::domain::access::revocation::{Revocation, StoredRevocations, Subject, UnreadableRevocation};
use copilotd_actors::ports::RevocationStore;

#[async_trait]
impl RevocationStore for SqliteLog {
    async fn revocations(&self) -> Result<StoredRevocations, LogError> {
        Ok(self.database.readers.run(all).await?)
    }

    async fn put_revocation(&self, revocation: &Revocation) -> Result<(), LogError> {
        let _pass = self.fence.enter(&revocation.tenant)?;
        let revocation = revocation.clone();
        let work = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO revocations (tenant, kind, subject, revoked_at, expires_at, revoked_by, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    revocation.tenant.as_str(),
                    revocation.subject.kind(),
                    revocation.subject.text(),
                    revocation.revoked_at.as_millisecond(),
                    revocation.expires_at.as_millisecond(),
                    revocation.revoked_by,
                    revocation.reason,
                ],
            )?;
            Ok(())
        };
        Ok(self.database.writer.write_protective(work).await?)
    }

    async fn delete_revocation(&self, tenant: &TenantId, subject: &Subject) -> Result<(), LogError> {
        let (tenant, subject) = (tenant.clone(), subject.clone());
        let work = move |connection: &Connection| {
            connection.execute(
                "DELETE FROM revocations WHERE tenant = ?1 AND kind = ?2 AND subject = ?3",
                params![tenant.as_str(), subject.kind(), subject.text()],
            )?;
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn delete_expired_revocations(&self, now: Timestamp) -> Result<(), LogError> {
        let now = now.as_millisecond();
        let work = move |connection: &Connection| {
            // A number that is no time is not an expiry that has passed.
            let first = Timestamp::MIN.as_millisecond();
            connection.execute(
                "DELETE FROM revocations WHERE expires_at BETWEEN ?2 AND ?1",
                [now, first],
            )?;
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }
}

fn all(connection: &Connection) -> Result<StoredRevocations, Failure> {
    let mut statement = connection
        .prepare("SELECT tenant, kind, subject, revoked_at, expires_at, revoked_by, reason, rowid FROM revocations")?;
    let mut rows = statement.query([])?;
    let mut found = StoredRevocations::default();
    while let Some(row) = rows.next()? {
        match revocation(row) {
            Ok(revocation) => found.readable.push(revocation),
            Err(unreadable) => found.unreadable.push(unreadable),
        }
    }
    Ok(found)
}

fn revocation(row: &Row<'_>) -> Result<Revocation, UnreadableRevocation> {
    let text = |column: usize| row.get::<_, String>(column).ok();
    let time = |column: usize| Timestamp::from_millisecond(row.get(column).ok()?).ok();
    let tenant = text(0).and_then(|tenant| tenant.parse().ok());
    let subject = text(1)
        .zip(text(2))
        .and_then(|(kind, subject)| Subject::read(&kind, &subject));
    match (tenant, subject, time(3), time(4)) {
        (Some(tenant), Some(subject), Some(revoked_at), Some(expires_at)) => Ok(Revocation {
            tenant,
            subject,
            revoked_at,
            expires_at,
            // Nothing depends on these two.
            revoked_by: text(5).unwrap_or_else(|| "unknown".to_owned()),
            reason: text(6),
        }),
        (tenant, subject, _, expires_at) => Err(UnreadableRevocation {
            record: format!("table revocations, rowid {}", row.get::<_, i64>(7).unwrap_or_default()),
            tenant,
            subject,
            expires_at,
        }),
    }
}
