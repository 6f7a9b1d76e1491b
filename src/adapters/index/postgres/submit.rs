//! Storing content and attributes.

use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::document::{AttributeChanges, Document, DocumentKey, Stage};
use copilotd_knowledge::index::{IngestStatus, Quota, QuotaKind, Submission, Submitted, Totals};
use jiff::Timestamp;

use super::rows::{self, DocumentRow, nanoseconds, signed, unsigned};
use super::session::{Tx, get};

/// See `KnowledgeIndex::submit`.
pub(super) async fn submit(
    tx: &Tx<'_>,
    scope: &TenantScope,
    submission: Submission,
    quota: &Quota,
) -> Result<Submitted, LogError> {
    let tenant = scope.tenant().as_str();
    let known = rows::find_document(tx, tenant, &submission.key).await?;
    if let Some(DocumentRow { n, document }) = &known
        && document.content_hash == submission.content_hash
        && document.stage != Stage::Failed
    {
        let document = apply(tx, tenant, *n, document, &submission.changes, submission.at).await?;
        return Ok(Submitted::Unchanged(document));
    }
    let totals = totals(tx, tenant).await?;
    let known_document = known.as_ref().map(|known| &known.document);
    if let Some(exhausted) = exhausted(totals, known_document, &submission, quota) {
        return Ok(Submitted::QuotaExceeded(exhausted));
    }
    let attributes = known_document.map(|known| known.attributes.clone()).unwrap_or_default();
    let document = Document {
        id: submission.key.id(scope.tenant()),
        key: submission.key.clone(),
        attributes: submission.changes.applied_to(attributes),
        version: known_document.map_or(1, |known| known.version + 1),
        content_hash: submission.content_hash,
        format: submission.format,
        bytes: submission.content.len() as u64,
        stage: Stage::Pending,
        failure: None,
        job: submission.job,
        chunks: known_document.map_or(0, |known| known.chunks),
        created_at: known_document.map_or(submission.at, |known| known.created_at),
        updated_at: submission.at,
    };
    for sql in [
        "INSERT INTO tenants (tenant) VALUES ($1) ON CONFLICT DO NOTHING",
        "INSERT INTO work_tenants (tenant) VALUES ($1) ON CONFLICT DO NOTHING",
    ] {
        tx.execute(sql, &[&tenant]).await?;
    }
    let n = match &known {
        Some(known) => {
            let superseded = IngestStatus::Superseded;
            rows::end_job(tx, tenant, known.document.job, &superseded, submission.at).await?;
            known.n
        }
        None => insert(tx, tenant, &document).await?,
    };
    rows::update_document(tx, tenant, n, &document).await?;
    let replaced = known_document.map_or(0, |known| known.bytes);
    let sql = "UPDATE tenants SET documents = documents + $2, bytes = bytes + $3 WHERE tenant = $1";
    let more = signed(document.bytes) - signed(replaced);
    tx.execute(sql, &[&tenant, &i64::from(known.is_none()), &more]).await?;
    rows::insert_job(tx, tenant, submission.job, &submission.key, submission.at).await?;
    let sql = "INSERT INTO waiting (tenant, document, content) VALUES ($1, $2, $3)
               ON CONFLICT (tenant, document) DO UPDATE SET content = excluded.content, attempts = 0";
    tx.execute(sql, &[&tenant, &n, &submission.content]).await?;
    // A version that supersedes another one keeps its place in the queue.
    let sql = "INSERT INTO work_waiting (tenant, document) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    tx.execute(sql, &[&tenant, &n]).await?;
    Ok(Submitted::Accepted(document))
}

fn exhausted(totals: Totals, known: Option<&Document>, submission: &Submission, quota: &Quota) -> Option<QuotaKind> {
    let replaced = known.map_or(0, |known| known.bytes);
    let bytes = totals.bytes.saturating_sub(replaced) + submission.content.len() as u64;
    if known.is_none() && totals.documents >= quota.documents {
        Some(QuotaKind::Documents)
    } else if bytes > quota.bytes {
        Some(QuotaKind::Bytes)
    } else if known.is_none() && totals.chunks >= quota.chunks {
        Some(QuotaKind::Chunks)
    } else {
        None
    }
}

async fn insert(tx: &Tx<'_>, tenant: &str, document: &Document) -> Result<i64, LogError> {
    let sql =
        "INSERT INTO documents (tenant, id, collection, external_id, created_at, version, hash, format, bytes, stage,
                   job, chunks, updated_at, attributes, everyone, readers, labels)
               VALUES ($1, $2, $3, $4, $5, 0, '', '', 0, 0, $2, 0, 0, '', false, '{}', '{}') RETURNING n";
    tx.one(
        sql,
        &[
            &tenant,
            &document.id.uuid(),
            &document.key.collection.as_str(),
            &document.key.external_id.as_str(),
            &nanoseconds(document.created_at),
        ],
    )
    .await
}

/// Changes the attributes if they differ afterwards. Returns the document as it is then.
async fn apply(
    tx: &Tx<'_>,
    tenant: &str,
    n: i64,
    document: &Document,
    changes: &AttributeChanges,
    at: Timestamp,
) -> Result<Document, LogError> {
    let mut document = document.clone();
    let attributes = changes.applied_to(document.attributes.clone());
    if document.attributes != attributes {
        document.attributes = attributes;
        document.updated_at = at;
        rows::update_document(tx, tenant, n, &document).await?;
    }
    Ok(document)
}

/// See `KnowledgeIndex::change_attributes`.
pub(super) async fn change_attributes(
    tx: &Tx<'_>,
    tenant: &str,
    key: &DocumentKey,
    changes: &AttributeChanges,
    at: Timestamp,
) -> Result<Option<Document>, LogError> {
    let Some(DocumentRow { n, document }) = rows::find_document(tx, tenant, key).await? else {
        return Ok(None);
    };
    apply(tx, tenant, n, &document, changes, at).await.map(Some)
}

/// Returns what a tenant has stored.
pub(super) async fn totals(tx: &Tx<'_>, tenant: &str) -> Result<Totals, LogError> {
    let rows = tx
        .query(
            "SELECT documents, bytes, chunks FROM tenants WHERE tenant = $1",
            &[&tenant],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Totals::default());
    };
    Ok(Totals {
        documents: unsigned(get(row, 0)?),
        bytes: unsigned(get(row, 1)?),
        chunks: unsigned(get(row, 2)?),
    })
}
