//! Storing content and attributes.

use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::document::{Access, AttributeChanges, Attributes, Document, DocumentKey, Stage};
use copilotd_knowledge::index::{IngestStatus, Quota, QuotaKind, Submission, Submitted, Totals};
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::keys;
use super::rows::{self, DocumentRow, encode, nanoseconds};
use crate::adapters::sqlite::failure::Failure;

/// A user in `grants`.
pub(super) const USER: i64 = 0;
/// A role in `grants`.
pub(super) const ROLE: i64 = 1;

pub(super) fn submit(
    connection: &Connection,
    tenant: &TenantId,
    submission: &Submission,
    quota: &Quota,
) -> Result<Submitted, Failure> {
    let number = rows::find_tenant(connection, tenant)?;
    let known = match number {
        Some(number) => rows::find_document(connection, number, &submission.key)?,
        None => None,
    };
    if let (Some(number), Some(DocumentRow { id, document })) = (number, &known)
        && document.content_hash == submission.content_hash
        && document.stage != Stage::Failed
    {
        let document = apply(connection, number, *id, document, &submission.changes, submission.at)?;
        return Ok(Submitted::Unchanged(document));
    }
    let totals = match number {
        Some(number) => totals(connection, number)?,
        None => Totals::default(),
    };
    let known_document = known.as_ref().map(|known| &known.document);
    if let Some(exhausted) = exhausted(totals, known_document, submission, quota) {
        return Ok(Submitted::QuotaExceeded(exhausted));
    }
    let number = match number {
        Some(number) => number,
        None => insert_tenant(connection, tenant)?,
    };
    let attributes = known_document.map(|known| known.attributes.clone()).unwrap_or_default();
    let document = Document {
        id: submission.key.id(tenant),
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
    let id = match &known {
        Some(known) => {
            let superseded = IngestStatus::Superseded;
            rows::end_job(connection, number, known.document.job, &superseded, submission.at)?;
            remove_filters(connection, number, known.id, &known.document.attributes)?;
            update(connection, known.id, &document)?;
            known.id
        }
        None => insert(connection, number, &document)?,
    };
    add_filters(connection, number, id, &document.attributes)?;
    count(connection, number, &totals, known_document, &document)?;
    rows::insert_job(connection, number, submission.job, &submission.key, submission.at)?;
    // A version that supersedes another one keeps its place in the queue.
    let sql = "INSERT INTO waiting (tenant, document, content) VALUES (?1, ?2, ?3)
               ON CONFLICT (document) DO UPDATE SET content = excluded.content, attempts = 0";
    connection
        .prepare_cached(sql)?
        .execute(params![number, id, submission.content])?;
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

pub(super) fn insert_tenant(connection: &Connection, tenant: &TenantId) -> Result<i64, Failure> {
    let sql = "INSERT INTO tenants (name) VALUES (?1) RETURNING n";
    let number = connection
        .prepare_cached(sql)?
        .query_row([tenant.as_str()], |row| row.get(0))?;
    keys::check(number, keys::MAX_TENANT, "tenants")
}

fn insert(connection: &Connection, tenant: i64, document: &Document) -> Result<i64, Failure> {
    let sql = "UPDATE tenants SET next_document = next_document + 1 WHERE n = ?1 RETURNING next_document - 1";
    let number = connection.prepare_cached(sql)?.query_row([tenant], |row| row.get(0))?;
    let id = keys::key(tenant, keys::check_within(number, "documents")?);
    let sql = "INSERT INTO documents (id, tenant, uuid, collection, external_id, created_at, everyone, version, hash,
                   format, bytes, stage, job, chunks, updated_at, attributes)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, x'', '', 0, 0, x'', 0, 0, '')";
    connection.prepare_cached(sql)?.execute(params![
        id,
        tenant,
        document.id.uuid(),
        document.key.collection.as_str(),
        document.key.external_id.as_str(),
        nanoseconds(document.created_at)
    ])?;
    update(connection, id, document)?;
    Ok(id)
}

/// Stores all that can change of a document.
pub(super) fn update(connection: &Connection, id: i64, document: &Document) -> Result<(), Failure> {
    let failure = document.failure.as_ref().map(encode).transpose()?;
    let sql = "UPDATE documents SET everyone = ?2, version = ?3, hash = ?4, format = ?5, bytes = ?6, stage = ?7,
                   failure = ?8, job = ?9, chunks = ?10, updated_at = ?11, attributes = ?12 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        id,
        document.attributes.access == Access::Everyone,
        document.version,
        document.content_hash,
        encode(&document.format)?,
        document.bytes,
        rows::stage_number(document.stage),
        failure,
        document.job.uuid(),
        document.chunks,
        nanoseconds(document.updated_at),
        encode(&document.attributes)?
    ])?;
    Ok(())
}

/// Changes the attributes if they differ afterwards. Returns the document as it is then.
fn apply(
    connection: &Connection,
    tenant: i64,
    id: i64,
    document: &Document,
    changes: &AttributeChanges,
    at: Timestamp,
) -> Result<Document, Failure> {
    let mut document = document.clone();
    let attributes = changes.applied_to(document.attributes.clone());
    if document.attributes != attributes {
        remove_filters(connection, tenant, id, &document.attributes)?;
        add_filters(connection, tenant, id, &attributes)?;
        document.attributes = attributes;
        document.updated_at = at;
        update(connection, id, &document)?;
    }
    Ok(document)
}

fn add_filters(connection: &Connection, tenant: i64, id: i64, attributes: &Attributes) -> Result<(), Failure> {
    for (kind, name) in granted(&attributes.access) {
        connection
            .prepare_cached("INSERT INTO grants (tenant, kind, name, document) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![tenant, kind, name, id])?;
    }
    for (name, value) in &attributes.metadata {
        connection
            .prepare_cached("INSERT INTO labels (tenant, name, value, document) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![tenant, name, encode(value)?, id])?;
    }
    Ok(())
}

/// Deletes what [`add_filters`] stored.
pub(super) fn remove_filters(
    connection: &Connection,
    tenant: i64,
    id: i64,
    attributes: &Attributes,
) -> Result<(), Failure> {
    for (kind, name) in granted(&attributes.access) {
        connection
            .prepare_cached("DELETE FROM grants WHERE tenant = ?1 AND kind = ?2 AND name = ?3 AND document = ?4")?
            .execute(params![tenant, kind, name, id])?;
    }
    for (name, value) in &attributes.metadata {
        connection
            .prepare_cached("DELETE FROM labels WHERE tenant = ?1 AND name = ?2 AND value = ?3 AND document = ?4")?
            .execute(params![tenant, name, encode(value)?, id])?;
    }
    Ok(())
}

fn granted(access: &Access) -> Vec<(i64, &str)> {
    match access {
        Access::Everyone => Vec::new(),
        Access::Listed { users, roles } => {
            let users = users.iter().map(|user| (USER, user.as_str()));
            users.chain(roles.iter().map(|role| (ROLE, role.as_str()))).collect()
        }
    }
}

fn count(
    connection: &Connection,
    tenant: i64,
    totals: &Totals,
    known: Option<&Document>,
    document: &Document,
) -> Result<(), Failure> {
    let replaced = known.map_or(0, |known| known.bytes);
    let documents = totals.documents + u64::from(known.is_none());
    let bytes = totals.bytes.saturating_sub(replaced) + document.bytes;
    connection
        .prepare_cached("UPDATE tenants SET documents = ?2, bytes = ?3 WHERE n = ?1")?
        .execute(params![tenant, documents, bytes])?;
    Ok(())
}

/// Returns what a tenant has stored.
pub(super) fn totals(connection: &Connection, tenant: i64) -> Result<Totals, Failure> {
    let mut statement = connection.prepare_cached("SELECT documents, bytes, chunks FROM tenants WHERE n = ?1")?;
    let totals = statement.query_row([tenant], |row| {
        Ok(Totals {
            documents: row.get(0)?,
            bytes: row.get(1)?,
            chunks: row.get(2)?,
        })
    });
    Ok(totals?)
}

/// See `KnowledgeIndex::change_attributes`.
pub(super) fn change_attributes(
    connection: &Connection,
    tenant: &TenantId,
    key: &DocumentKey,
    changes: &AttributeChanges,
    at: Timestamp,
) -> Result<Option<Document>, Failure> {
    let Some(number) = rows::find_tenant(connection, tenant)? else {
        return Ok(None);
    };
    let Some(DocumentRow { id, document }) = rows::find_document(connection, number, key)? else {
        return Ok(None);
    };
    apply(connection, number, id, &document, changes, at).map(Some)
}
