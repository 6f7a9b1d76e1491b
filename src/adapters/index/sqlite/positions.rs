//! How far the documents of each source have come.

use copilotd_actors::domain::ids::TenantId;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{rows, submit};
use crate::adapters::sqlite::failure::Failure;

pub(super) fn get(connection: &Connection, tenant: &TenantId, name: &str) -> Result<Option<String>, Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(None);
    };
    let mut statement =
        connection.prepare_cached("SELECT position FROM source_positions WHERE tenant = ?1 AND name = ?2")?;
    Ok(statement
        .query_row(params![tenant, name], |row| row.get(0))
        .optional()?)
}

pub(super) fn put(connection: &Connection, tenant: &TenantId, name: &str, position: &str) -> Result<(), Failure> {
    let number = match rows::find_tenant(connection, tenant)? {
        Some(number) => number,
        None => submit::insert_tenant(connection, tenant)?,
    };
    let sql = "INSERT INTO source_positions (tenant, name, position) VALUES (?1, ?2, ?3)
               ON CONFLICT (tenant, name) DO UPDATE SET position = excluded.position";
    connection
        .prepare_cached(sql)?
        .execute(params![number, name, position])?;
    Ok(())
}
