//! Vectors of chunks that are current already: after a model was added or changed.

use copilotd_actors::domain::ids::{ChunkId, TenantId};
use copilotd_actors::ports::{Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::ChunkDraft;
use copilotd_knowledge::document::Attributes;
use copilotd_knowledge::index::Unembedded;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{keys, rows, staging};
use crate::adapters::sqlite::failure::Failure;

/// Vectors deleted in one transaction, so that others write in between.
const VECTORS_AT_ONCE: i64 = 256;

/// See `KnowledgeIndex::unembedded`.
pub(super) fn unembedded(
    connection: &Connection,
    space: &Space,
    skip: &[TenantScope],
    limit: usize,
) -> Result<Vec<Unembedded>, Failure> {
    let mut skipped = Vec::with_capacity(skip.len());
    for scope in skip {
        skipped.extend(rows::find_tenant(connection, scope.tenant())?);
    }
    // A space without a number has no vectors.
    let wanted = rows::find_space(connection, space)?.unwrap_or(-1);
    let mut spaces = super::erase::spaces(connection)?;
    spaces.push(0);
    spaces.retain(|space| *space != wanted);
    let tenants = tenants_with(connection, &spaces, &skipped, limit)?;
    let share = limit.div_ceil(tenants.len().max(1));
    let mut found = Vec::new();
    for tenant in tenants {
        let most = share.min(limit - found.len());
        found.extend(of_tenant(connection, tenant, wanted, &spaces, most)?);
    }
    Ok(found)
}

/// See `KnowledgeIndex::missing_vectors`.
pub(super) fn missing(
    connection: &Connection,
    tenant: Option<&TenantId>,
    space: &Space,
    most: u64,
) -> Result<u64, Failure> {
    let tenant = match tenant {
        None => None,
        Some(tenant) => match rows::find_tenant(connection, tenant)? {
            Some(tenant) => Some(tenant),
            None => return Ok(0),
        },
    };
    let wanted = rows::find_space(connection, space)?.unwrap_or(-1);
    let mut spaces = super::erase::spaces(connection)?;
    spaces.push(0);
    spaces.retain(|space| *space != wanted);
    let (first, last) = tenant.map_or((0, i64::MAX), |tenant| (tenant, tenant));
    let mut count = connection.prepare_cached(
        "SELECT count(*) FROM (
             SELECT 1 FROM chunks c INDEXED BY chunks_by_space
             WHERE c.current = 1 AND c.space = ?1 AND c.tenant BETWEEN ?2 AND ?3
               AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.id = (c.tenant << 40) | (?4 << 32) | (c.id & 4294967295))
             LIMIT ?5)",
    )?;
    let mut missing = 0;
    for space in spaces {
        let left = i64::try_from(most - missing).unwrap_or(i64::MAX);
        missing += count.query_row(params![space, first, last, wanted.max(0), left], |row| {
            row.get::<_, u64>(0)
        })?;
    }
    Ok(missing)
}

/// Returns at most `limit` tenants that are not in `skip` and have current chunks whose newest vector is of one of these
/// spaces.
fn tenants_with(connection: &Connection, spaces: &[i64], skip: &[i64], limit: usize) -> Result<Vec<i64>, Failure> {
    let mut next = connection.prepare_cached(
        "SELECT tenant FROM chunks INDEXED BY chunks_by_space
         WHERE current = 1 AND space = ?1 AND tenant > ?2 ORDER BY tenant LIMIT 1",
    )?;
    let mut tenants = Vec::new();
    for space in spaces {
        let (mut after, mut count) = (0, 0);
        while count < limit
            && let Some(tenant) = next.query_row([*space, after], |row| row.get(0)).optional()?
        {
            after = tenant;
            if !skip.contains(&tenant) {
                tenants.push(tenant);
                count += 1;
            }
        }
    }
    tenants.sort_unstable();
    tenants.dedup();
    tenants.truncate(limit);
    Ok(tenants)
}

fn of_tenant(
    connection: &Connection,
    tenant: i64,
    wanted: i64,
    spaces: &[i64],
    most: usize,
) -> Result<Vec<Unembedded>, Failure> {
    let mut find = connection.prepare_cached(
        "SELECT c.uuid, p.heading, p.text, d.attributes, t.name
         FROM chunks c INDEXED BY chunks_by_space
         JOIN passages p ON p.chunk = c.id JOIN documents d ON d.id = c.document JOIN tenants t ON t.n = c.tenant
         WHERE c.current = 1 AND c.space = ?1 AND c.tenant = ?2
           AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.id = (c.tenant << 40) | (?3 << 32) | (c.id & 4294967295))
         LIMIT ?4",
    )?;
    let mut found = Vec::new();
    for space in spaces {
        let left = i64::try_from(most - found.len()).unwrap_or(i64::MAX);
        let mut rows = find.query(params![space, tenant, wanted.max(0), left])?;
        while let Some(row) = rows.next()? {
            let attributes: Attributes = rows::decode(&row.get::<_, String>(3)?)?;
            let draft = ChunkDraft {
                heading: row.get(1)?,
                text: row.get(2)?,
                page: None,
                start: 0,
                end: 0,
            };
            found.push(Unembedded {
                scope: rows::stored_scope(&row.get::<_, String>(4)?)?,
                chunk: ChunkId::new(row.get(0)?),
                text: draft.context_text(attributes.shown_title()),
            });
        }
    }
    Ok(found)
}

/// See `KnowledgeIndex::put_vectors`.
pub(super) fn put_vectors(
    connection: &Connection,
    tenant: &TenantId,
    vectors: &[(ChunkId, Vector)],
) -> Result<(), Failure> {
    let Some(tenant) = rows::find_tenant(connection, tenant)? else {
        return Ok(());
    };
    for (uuid, vector) in vectors {
        let chunk: Option<(i64, i64)> = connection
            .prepare_cached("SELECT id, document FROM chunks WHERE tenant = ?1 AND uuid = ?2 AND current = 1")?
            .query_row(params![tenant, uuid.uuid()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((chunk, document)) = chunk {
            let space = rows::ensure_space(connection, vector.space())?;
            staging::put_vector(connection, tenant, space, chunk, (document, *uuid), vector)?;
        }
    }
    Ok(())
}

/// Deletes some vectors of other spaces than those in `keep`; returns false at the end.
pub(super) fn drop_some(connection: &Connection, keep: &[Space]) -> Result<bool, Failure> {
    let spaces: Vec<(i64, String)> = connection
        .prepare_cached("SELECT n, name FROM spaces")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let gone = spaces
        .into_iter()
        .find(|(_, name)| keep.iter().all(|kept| kept.as_ref() != name));
    let Some((space, _)) = gone else { return Ok(false) };
    let tenants: Vec<i64> = connection
        .prepare_cached("SELECT n FROM tenants")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for tenant in tenants {
        let (first, last) = keys::vectors(tenant, space);
        let vectors: Vec<i64> = connection
            .prepare_cached("SELECT id FROM vectors WHERE id BETWEEN ?1 AND ?2 LIMIT ?3")?
            .query_map([first, last, VECTORS_AT_ONCE], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for vector in &vectors {
            connection
                .prepare_cached("DELETE FROM vectors WHERE id = ?1")?
                .execute([vector])?;
            connection
                .prepare_cached("UPDATE chunks SET space = 0 WHERE id = ?1 AND space = ?2")?
                .execute([keys::key(tenant, keys::within(*vector)), space])?;
        }
        if !vectors.is_empty() {
            return Ok(true);
        }
    }
    connection
        .prepare_cached("DELETE FROM spaces WHERE n = ?1")?
        .execute([space])?;
    Ok(true)
}
