//! Tenants and API keys in SQLite: a row for each.

use async_trait::async_trait;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::SqliteLog;
use super::failure::Failure;
use crate::config::KeyHash;
use crate::scopes::Scopes;
use crate::tenants::{KeyUse, StoredKey, StoredTenant, TenantStatus, TenantStore};

#[async_trait]
impl TenantStore for SqliteLog {
    async fn tenants(&self) -> Result<Vec<StoredTenant>, LogError> {
        Ok(self.readers.run(tenants).await?)
    }

    async fn put_tenant(&self, tenant: &StoredTenant) -> Result<(), LogError> {
        let tenant = tenant.clone();
        let work = move |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO tenants (id, suspended, sealed, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    tenant.id.as_str(),
                    tenant.status == TenantStatus::Suspended,
                    tenant.sealed,
                    tenant.created_at.as_millisecond(),
                    tenant.updated_at.as_millisecond(),
                ],
            )?;
            Ok(())
        };
        Ok(self.writer.write(work).await?)
    }

    async fn keys(&self) -> Result<Vec<StoredKey>, LogError> {
        Ok(self.readers.run(keys).await?)
    }

    async fn put_key(&self, key: &StoredKey) -> Result<(), LogError> {
        let key = key.clone();
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
        Ok(self.writer.write(work).await?)
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
        Ok(self.writer.write(work).await?)
    }

    async fn key_uses(&self) -> Result<Vec<KeyUse>, LogError> {
        let read = |connection: &Connection| {
            let mut statement = connection.prepare("SELECT hash, at FROM key_uses")?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(KeyUse {
                    hash: hash(row, 0)?,
                    at: time(row, 1)?,
                });
            }
            Ok(found)
        };
        Ok(self.readers.run(read).await?)
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
        Ok(self.writer.write(work).await?)
    }
}

fn tenants(connection: &Connection) -> Result<Vec<StoredTenant>, Failure> {
    let mut statement =
        connection.prepare("SELECT id, suspended, sealed, created_at, updated_at FROM tenants ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        found.push(StoredTenant {
            id: id.parse().map_err(|error| corrupt("a tenant", &error))?,
            status: if row.get(1)? {
                TenantStatus::Suspended
            } else {
                TenantStatus::Active
            },
            sealed: row.get(2)?,
            created_at: time(row, 3)?,
            updated_at: time(row, 4)?,
        });
    }
    Ok(found)
}

fn keys(connection: &Connection) -> Result<Vec<StoredKey>, Failure> {
    let mut statement = connection.prepare(
        "SELECT hash, tenant, name, scopes, created_at, created_by, expires_at, revoked_at FROM api_keys
         ORDER BY created_at DESC, hash",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (tenant, scopes): (String, String) = (row.get(1)?, row.get(3)?);
        let optional = |column: usize| -> Result<Option<Timestamp>, Failure> {
            match row.get::<_, Option<i64>>(column)? {
                Some(_) => Ok(Some(time(row, column)?)),
                None => Ok(None),
            }
        };
        found.push(StoredKey {
            hash: hash(row, 0)?,
            tenant: tenant.parse().map_err(|error| corrupt("a tenant", &error))?,
            name: row.get(2)?,
            scopes: Scopes::from_claim(&scopes),
            created_at: time(row, 4)?,
            created_by: row.get(5)?,
            expires_at: optional(6)?,
            revoked_at: optional(7)?,
        });
    }
    Ok(found)
}

fn hash(row: &Row<'_>, column: usize) -> Result<KeyHash, Failure> {
    Ok(KeyHash::from_bytes(row.get(column)?))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, Failure> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|error| corrupt("a time", &error))
}

fn corrupt(what: &str, error: &dyn std::fmt::Display) -> Failure {
    LogError::Corrupt(format!("{what}: {error}")).into()
}
