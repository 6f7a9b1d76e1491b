//! The statistics and postings of the lexical search: exactly those of the current chunks, changed in the transaction
//! that makes a chunk current or no longer current.

use copilotd_actors::ports::LogError;

use super::session::Tx;

/// Counts chunks that become current and stores their postings.
pub(super) async fn enter(tx: &Tx<'_>, tenant: &str, chunks: &[i64]) -> Result<(), LogError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO postings (tenant, term, chunk, occurrences)
               SELECT $1, t.term, p.chunk, t.count FROM passages p, unnest(p.terms, p.counts) AS t (term, count)
               WHERE p.tenant = $1 AND p.chunk = ANY ($2)";
    tx.execute(sql, &[&tenant, &chunks]).await?;
    let sql = "INSERT INTO terms (tenant, term, current)
               SELECT $1, t.term, count(*) FROM passages p, unnest(p.terms) AS t (term)
               WHERE p.tenant = $1 AND p.chunk = ANY ($2) GROUP BY t.term
               ON CONFLICT (tenant, term) DO UPDATE SET current = terms.current + excluded.current";
    tx.execute(sql, &[&tenant, &chunks]).await?;
    count(tx, tenant, chunks, 1).await
}

/// Counts current chunks that no longer will be, and deletes their postings. Call it before their terms are deleted.
pub(super) async fn leave(tx: &Tx<'_>, tenant: &str, chunks: &[i64]) -> Result<(), LogError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM postings o USING passages p, unnest(p.terms) AS t (term)
               WHERE p.tenant = $1 AND p.chunk = ANY ($2) AND o.tenant = $1 AND o.term = t.term AND o.chunk = p.chunk";
    tx.execute(sql, &[&tenant, &chunks]).await?;
    let sql = "UPDATE terms o SET current = o.current - t.chunks
               FROM (SELECT t.term, count(*) AS chunks FROM passages p, unnest(p.terms) AS t (term)
                     WHERE p.tenant = $1 AND p.chunk = ANY ($2) GROUP BY t.term) AS t
               WHERE o.tenant = $1 AND o.term = t.term";
    tx.execute(sql, &[&tenant, &chunks]).await?;
    let sql = "DELETE FROM terms o
               USING (SELECT DISTINCT t.term FROM passages p, unnest(p.terms) AS t (term)
                      WHERE p.tenant = $1 AND p.chunk = ANY ($2)) AS t
               WHERE o.tenant = $1 AND o.term = t.term AND o.current <= 0";
    tx.execute(sql, &[&tenant, &chunks]).await?;
    count(tx, tenant, chunks, -1).await
}

async fn count(tx: &Tx<'_>, tenant: &str, chunks: &[i64], sign: i64) -> Result<(), LogError> {
    let sql = "UPDATE tenants t SET chunks = t.chunks + $3 * c.chunks, terms = t.terms + $3 * c.terms
               FROM (SELECT count(*) AS chunks, coalesce(sum(length), 0)::bigint AS terms FROM chunks
                     WHERE tenant = $1 AND n = ANY ($2)) AS c
               WHERE t.tenant = $1";
    tx.execute(sql, &[&tenant, &chunks, &sign]).await?;
    Ok(())
}
