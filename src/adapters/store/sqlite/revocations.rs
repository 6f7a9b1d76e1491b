//! Revocations of user tokens in SQLite: a row for each.

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::SqliteLog;
use super::failure::Failure;
use copilotd_actors::domain::access::revocation::{Revocation, Subject};
use copilotd_actors::ports::RevocationStore;

#[async_trait]
impl RevocationStore for SqliteLog {
    async fn revocations(&self) -> Result<Vec<Revocation>, LogError> {
        Ok(self.readers.run(all).await?)
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
        Ok(self.writer.write_protective(work).await?)
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
        Ok(self.writer.write(work).await?)
    }

    async fn delete_expired_revocations(&self, now: Timestamp) -> Result<(), LogError> {
        let now = now.as_millisecond();
        let work = move |connection: &Connection| {
            connection.execute("DELETE FROM revocations WHERE expires_at <= ?1", [now])?;
            Ok(())
        };
        Ok(self.writer.write(work).await?)
    }
}

fn all(connection: &Connection) -> Result<Vec<Revocation>, Failure> {
    let mut statement = connection
        .prepare("SELECT tenant, kind, subject, revoked_at, expires_at, revoked_by, reason, rowid FROM revocations")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match revocation(row) {
            Some(revocation) => found.push(revocation),
            // One unreadable row must not make the other revocations ineffective.
            None => {
                let row = row.get::<_, i64>(7).unwrap_or_default();
                tracing::error!(
                    row,
                    "stored token revocation unreadable; ignoring it, so the tokens it revoked may be accepted"
                );
            }
        }
    }
    Ok(found)
}

fn revocation(row: &Row<'_>) -> Option<Revocation> {
    let text = |column: usize| row.get::<_, String>(column).ok();
    let time = |column: usize| Timestamp::from_millisecond(row.get(column).ok()?).ok();
    Some(Revocation {
        tenant: text(0)?.parse().ok()?,
        subject: Subject::read(&text(1)?, &text(2)?)?,
        revoked_at: time(3)?,
        expires_at: time(4)?,
        revoked_by: text(5)?,
        reason: row.get(6).ok()?,
    })
}
