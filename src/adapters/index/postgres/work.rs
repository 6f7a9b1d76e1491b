//! Calls over all tenants: tables without content say whose work waits, and then each tenant's rows are read in a
//! transaction of that tenant.

use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::{LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::ChunkDraft;
use copilotd_knowledge::document::Attributes;
use copilotd_knowledge::index::{Pending, Unembedded};
use jiff::Timestamp;

use super::rows::{self, most, nanoseconds};
use super::session::{Database, Mode, Tx, get};
use super::{spaces, staging, tables};

/// See `KnowledgeIndex::pending`.
pub(super) async fn pending(database: &Database, busy: &[TenantScope], limit: usize) -> Result<Vec<Pending>, LogError> {
    let busy: Vec<&str> = busy.iter().map(|scope| scope.tenant().as_str()).collect();
    // From tenant to tenant, so that the time does not depend on how much waits.
    let sql = "WITH RECURSIVE oldest AS (
                   (SELECT tenant, n, document FROM work_waiting ORDER BY tenant, n LIMIT 1)
                   UNION ALL
                   SELECT next.* FROM oldest, LATERAL (
                       SELECT w.tenant, w.n, w.document FROM work_waiting w WHERE w.tenant > oldest.tenant
                       ORDER BY w.tenant, w.n LIMIT 1) AS next
               ) SELECT tenant, document FROM oldest WHERE tenant <> ALL ($1) ORDER BY n LIMIT $2";
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let oldest = tx.query(sql, &[&busy, &most(limit)]).await?;
    tx.commit().await?;
    let mut pending = Vec::new();
    for row in &oldest {
        let (tenant, document): (String, i64) = (get(row, 0)?, get(row, 1)?);
        let scope = rows::stored_scope(&tenant)?;
        let tx = Tx::begin(&mut client, database, Some(&scope), Mode::Read).await?;
        let waiting = tx
            .query(
                "SELECT content, attempts FROM waiting WHERE tenant = $1 AND document = $2",
                &[&tenant, &document],
            )
            .await?;
        let sql = rows::select_documents("WHERE tenant = $1 AND n = $2");
        let found = tx.query(&sql, &[&tenant, &document]).await?;
        tx.commit().await?;
        // Otherwise it was ingested or deleted meanwhile.
        if let (Some(waiting), Some(row)) = (waiting.first(), found.first()) {
            let document = rows::document(row)?.document;
            let attempts: i64 = get(waiting, 1)?;
            pending.push(Pending {
                scope,
                document,
                content: get(waiting, 0)?,
                attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            });
        }
    }
    Ok(pending)
}

/// See `KnowledgeIndex::unembedded`. Tenants whose chunks all have vectors are remembered until they publish again.
pub(super) async fn unembedded(
    database: &Database,
    space: &Space,
    skip: &[TenantScope],
    limit: usize,
) -> Result<Vec<Unembedded>, LogError> {
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let known = spaces::find(&tx, space).await?.map(|known| known.n);
    let tenants = incomplete(&tx, known).await?;
    tx.commit().await?;
    let mut missing = Vec::new();
    for (tenant, published) in tenants {
        if missing.len() >= limit {
            break;
        }
        let scope = rows::stored_scope(&tenant)?;
        if skip.contains(&scope) {
            continue;
        }
        let tx = Tx::begin(&mut client, database, Some(&scope), Mode::Read).await?;
        let some = without_vector(&tx, &scope, known, 1).await?;
        tx.commit().await?;
        if !some.is_empty() {
            missing.push(scope);
        } else if let Some(space) = known {
            let tx = Tx::begin(&mut client, database, Some(&scope), Mode::Write).await?;
            // Not if it has published since, or was erased.
            let sql = "INSERT INTO work_embedded (tenant, space, published)
                       SELECT tenant, $2, published FROM work_tenants WHERE tenant = $1 AND published = $3
                       ON CONFLICT (tenant, space) DO UPDATE SET published = excluded.published";
            tx.execute(sql, &[&tenant, &space, &published]).await?;
            tx.commit().await?;
        }
    }
    let share = limit.div_ceil(missing.len().max(1));
    let mut found: Vec<Unembedded> = Vec::new();
    for scope in missing {
        let tx = Tx::begin(&mut client, database, Some(&scope), Mode::Read).await?;
        let at_most = share.min(limit.saturating_sub(found.len()));
        found.extend(without_vector(&tx, &scope, known, at_most).await?);
        tx.commit().await?;
    }
    Ok(found)
}

/// Returns the tenants that may have chunks without a vector of a space, with the number of their publications.
async fn incomplete(tx: &Tx<'_>, space: Option<i32>) -> Result<Vec<(String, i64)>, LogError> {
    let sql = "SELECT t.tenant, t.published FROM work_tenants t
               LEFT JOIN work_embedded e ON e.tenant = t.tenant AND e.space = $1
               WHERE t.published > coalesce(e.published, 0) ORDER BY t.tenant";
    // No space has this number.
    let rows = tx.query(sql, &[&space.unwrap_or(-1)]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

/// See `KnowledgeIndex::missing_vectors`.
pub(super) async fn missing_vectors(
    database: &Database,
    scope: Option<&TenantScope>,
    space: &Space,
    most: u64,
) -> Result<u64, LogError> {
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let known = spaces::find(&tx, space).await?.map(|known| known.n);
    let scopes = match scope {
        Some(scope) => vec![scope.clone()],
        None => {
            let tenants = incomplete(&tx, known).await?;
            let scopes = tenants.iter().map(|(tenant, _)| rows::stored_scope(tenant));
            scopes.collect::<Result<Vec<_>, LogError>>()?
        }
    };
    tx.commit().await?;
    let sql = format!(
        "SELECT count(*) FROM (SELECT FROM chunks c WHERE c.tenant = $1 AND c.current {} LIMIT $2) AS missing",
        no_vector(known)
    );
    let mut count = 0;
    for scope in scopes {
        let left = most.saturating_sub(count);
        if left == 0 {
            break;
        }
        let tx = Tx::begin(&mut client, database, Some(&scope), Mode::Read).await?;
        let some: i64 = tx.one(&sql, &[&scope.tenant().as_str(), &rows::signed(left)]).await?;
        tx.commit().await?;
        count += rows::unsigned(some);
    }
    Ok(count)
}

/// Returns the condition that a chunk `c` of the tenant `$1` has no vector of a space.
fn no_vector(space: Option<i32>) -> String {
    space.map_or(String::new(), |space| {
        let vectors = tables::vectors(space);
        format!("AND NOT EXISTS (SELECT FROM {vectors} v WHERE v.tenant = $1 AND v.chunk = c.n)")
    })
}

async fn without_vector(
    tx: &Tx<'_>,
    scope: &TenantScope,
    space: Option<i32>,
    limit: usize,
) -> Result<Vec<Unembedded>, LogError> {
    let no_vector = no_vector(space);
    let sql = format!(
        "SELECT c.id, p.heading, p.text, d.attributes
         FROM (SELECT c.id, c.n, c.document FROM chunks c WHERE c.tenant = $1 AND c.current {no_vector} LIMIT $2) AS c
         JOIN passages p ON p.tenant = $1 AND p.chunk = c.n JOIN documents d ON d.tenant = $1 AND d.n = c.document"
    );
    let rows = tx.query(&sql, &[&scope.tenant().as_str(), &most(limit)]).await?;
    let found = rows.iter().map(|row| {
        let attributes: Attributes = rows::decode(&get::<String>(row, 3)?)?;
        let draft = ChunkDraft {
            heading: rows::text(get(row, 1)?)?,
            text: rows::text(get(row, 2)?)?,
            page: None,
            start: 0,
            end: 0,
        };
        Ok(Unembedded {
            scope: scope.clone(),
            chunk: ChunkId::new(get(row, 0)?),
            text: draft.context_text(attributes.shown_title()),
        })
    });
    found.collect()
}

/// See `KnowledgeIndex::put_vectors`. The spaces of the vectors have tables.
pub(super) async fn put_vectors(tx: &Tx<'_>, tenant: &str, vectors: &[(ChunkId, Vector)]) -> Result<(), LogError> {
    let of: Vec<Vector> = vectors.iter().map(|(_, vector)| vector.clone()).collect();
    let known = spaces::of(tx, &of).await?;
    for (chunk, vector) in vectors {
        let sql = "SELECT n FROM chunks WHERE tenant = $1 AND id = $2 AND current";
        let n: Option<i64> = tx.optional(sql, &[&tenant, &chunk.uuid()]).await?;
        if let (Some(n), Some(space)) = (n, known.get(vector.space())) {
            let replace = "DO UPDATE SET embedding = excluded.embedding";
            staging::put_vector(tx, tenant, space.n, n, vector, replace).await?;
        }
    }
    Ok(())
}

/// See `KnowledgeIndex::forget_jobs`.
pub(super) async fn forget_jobs(database: &Database, ended_before: Timestamp) -> Result<u64, LogError> {
    let before = nanoseconds(ended_before);
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let tenants: Vec<String> = tx
        .column(
            "SELECT tenant FROM work_tenants WHERE ended < $1 ORDER BY tenant",
            &[&before],
        )
        .await?;
    tx.commit().await?;
    let mut forgotten = 0;
    for tenant in tenants {
        let scope = rows::stored_scope(&tenant)?;
        let tx = Tx::begin(&mut client, database, Some(&scope), Mode::Write).await?;
        let sql = "DELETE FROM jobs WHERE tenant = $1 AND finished_at < $2";
        forgotten += tx.execute(sql, &[&tenant, &before]).await?;
        let sql =
            "UPDATE work_tenants SET ended = (SELECT min(finished_at) FROM jobs WHERE tenant = $1) WHERE tenant = $1";
        tx.execute(sql, &[&tenant]).await?;
        tx.commit().await?;
    }
    Ok(forgotten)
}
