//! Tenants and API keys in SQLite: a row for each.

use async_trait::async_trait;
use copilotd_actors::domain::ids::JobId;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::SqliteLog;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::reserve::Priority;
use crate::adapters::store::unreadable::{
    KEY_MEANING, TENANT_MEANING, log_unreadable, refuse_unreadable, skip_unreadable,
};
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::tenant::{KeyUse, StoredKey, StoredTenant, TenantStatus};
use copilotd_actors::ports::TenantStore;

#[async_trait]
impl TenantStore for SqliteLog {
    async fn tenants(&self) -> Result<Vec<StoredTenant>, LogError> {
        Ok(self.database.readers.run(tenants).await?)
    }

    async fn put_tenant(&self, tenant: &StoredTenant) -> Result<(), LogError> {
        let tenant = tenant.clone();
        let work = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO tenants (id, suspended, sealed, created_at, updated_at, deletion)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    tenant.id.as_str(),
                    tenant.status == TenantStatus::Suspended,
                    tenant.sealed,
                    tenant.created_at.as_millisecond(),
                    tenant.updated_at.as_millisecond(),
                    tenant.deletion.map(JobId::uuid),
                ],
            )?;
            Ok(())
        };
        // Only operators do this, and it may be a suspension or remove a leaked secret.
        Ok(self.database.writer.write_protective(work).await?)
    }

    async fn keys(&self) -> Result<Vec<StoredKey>, LogError> {
        Ok(self.database.readers.run(keys).await?)
    }

    async fn put_key(&self, key: &StoredKey) -> Result<(), LogError> {
        let _pass = self.fence.enter(&key.tenant)?;
        let key = key.clone();
        let priority = Priority::protective_if(key.revoked_at.is_some());
        let ms = |at: Option<Timestamp>| at.map(Timestamp::as_millisecond);
        let work = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO api_keys (hash, tenant, name, scopes, created_at, created_by, expires_at, revoked_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    key.hash.bytes(),
                    key.tenant.as_str(),
                    key.name,
                    key.scopes.to_string(),
                    key.created_at.as_millisecond(),
                    key.created_by,
                    ms(key.expires_at),
                    ms(key.revoked_at),
                ],
            )?;
            Ok(())
        };
        Ok(self.database.writer.write_as(priority, work).await?)
    }

    async fn delete_keys(&self, hashes: &[KeyHash]) -> Result<(), LogError> {
        let hashes = hashes.to_vec();
        let work = move |connection: &Connection| {
            for hash in &hashes {
                connection.execute("DELETE FROM api_keys WHERE hash = ?1", [hash.bytes()])?;
                connection.execute("DELETE FROM key_uses WHERE hash = ?1", [hash.bytes()])?;
            }
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }

    async fn key_uses(&self) -> Result<Vec<KeyUse>, LogError> {
        let read = |connection: &Connection| {
            let mut statement = connection.prepare("SELECT hash, at FROM key_uses")?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let used = || {
                    Ok::<_, Failure>(KeyUse {
                        hash: hash(row, 0)?,
                        at: time(row, 1)?,
                    })
                };
                found.extend(skip_unreadable("key_use", "?", used())?);
            }
            Ok(found)
        };
        Ok(self.database.readers.run(read).await?)
    }

    async fn put_key_uses(&self, uses: &[KeyUse]) -> Result<(), LogError> {
        let uses = uses.to_vec();
        let work = move |connection: &Connection| {
            for used in &uses {
                connection.execute(
                    "INSERT OR REPLACE INTO key_uses (hash, at) VALUES (?1, ?2)",
                    params![used.hash.bytes(), used.at.as_millisecond()],
                )?;
            }
            Ok(())
        };
        Ok(self.database.writer.write(work).await?)
    }
}

/// Reads the tenants. An unreadable suspension flag or deletion job is read as suspended.
fn tenants(connection: &Connection) -> Result<Vec<StoredTenant>, Failure> {
    let mut statement = connection
        .prepare("SELECT id, suspended, sealed, created_at, updated_at, deletion FROM tenants ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let refused = |error: Failure| {
            let record = format!("table tenants, id {:?}", name_of(row, 0));
            refuse_unreadable(record, TENANT_MEANING, error.into())
        };
        found.push(tenant(row).map_err(refused)?);
    }
    Ok(found)
}

fn tenant(row: &Row<'_>) -> Result<StoredTenant, Failure> {
    let id: String = row.get(0)?;
    let deletion = row.get::<_, Option<Uuid>>(5);
    if let Err(error) = &deletion {
        log_unreadable(
            "tenant",
            &id,
            &format!("its deletion job: {error}; it counts as suspended"),
        );
    }
    let active = row.get(1).is_ok_and(|suspended: i64| suspended == 0) && deletion.is_ok();
    Ok(StoredTenant {
        status: if active {
            TenantStatus::Active
        } else {
            TenantStatus::Suspended
        },
        // Of the wrong type, the settings exist and cannot be decrypted: the tenant is left out instead of being served
        // with the file's settings.
        sealed: row.get(2).unwrap_or_else(|_| Some(Vec::new())),
        created_at: time_or_epoch(row, 3, &id),
        updated_at: time_or_epoch(row, 4, &id),
        deletion: deletion.unwrap_or_default().map(JobId::new),
        id: id.parse().map_err(|error| corrupt("a tenant", &error))?,
    })
}

/// Reads the keys. An unreadable expiry is read as expired. A key that was created at run time and cannot be read is
/// refused like any unknown one; any other record is of a key of the file, which it revokes.
fn keys(connection: &Connection) -> Result<Vec<StoredKey>, Failure> {
    let mut statement = connection.prepare(
        "SELECT hash, tenant, name, scopes, created_at, created_by, expires_at, revoked_at FROM api_keys
         ORDER BY created_at DESC, hash",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let read = match (key(row), row.get::<_, Option<String>>(5)) {
            (Err(error), Ok(None) | Err(_)) => {
                let record = format!("table api_keys, name {:?}", name_of(row, 2));
                return Err(refuse_unreadable(record, KEY_MEANING, error.into()).into());
            }
            (read, _) => read,
        };
        found.extend(skip_unreadable("api_key", name_of(row, 2), read)?);
    }
    Ok(found)
}

fn key(row: &Row<'_>) -> Result<StoredKey, Failure> {
    // Tenant and hash are enough to know a revoked key; other unreadable columns must not bring it back.
    let tenant: String = row.get(1)?;
    let (name, scopes): (String, String) = (row.get(2).unwrap_or_default(), row.get(3).unwrap_or_default());
    let end = |column: usize| match row.get::<_, Option<i64>>(column) {
        Ok(None) => None,
        Ok(Some(_)) | Err(_) => Some(time_or_epoch(row, column, &name)),
    };
    Ok(StoredKey {
        hash: hash(row, 0)?,
        tenant: tenant.parse().map_err(|error| corrupt("a tenant", &error))?,
        scopes: Scopes::from_claim(&scopes),
        created_at: time_or_epoch(row, 4, &name),
        created_by: row.get(5).unwrap_or_default(),
        expires_at: end(6),
        revoked_at: end(7),
        name,
    })
}

fn hash(row: &Row<'_>, column: usize) -> Result<KeyHash, Failure> {
    Ok(KeyHash::from_bytes(row.get(column)?))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, Failure> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|error| corrupt("a time", &error))
}

/// Reads a time that nothing depends on, or an expiry, where the earliest time is the safe one.
fn time_or_epoch(row: &Row<'_>, column: usize, id: &str) -> Timestamp {
    time(row, column).unwrap_or_else(|error| {
        log_unreadable("time", id, &LogError::from(error).to_string());
        Timestamp::UNIX_EPOCH
    })
}

/// Names a row for the log, as far as it is readable.
fn name_of(row: &Row<'_>, column: usize) -> String {
    row.get(column).unwrap_or_else(|_| "?".to_owned())
}

fn corrupt(what: &str, error: &dyn std::fmt::Display) -> Failure {
    LogError::Corrupt(format!("{what}: {error}")).into()
}
