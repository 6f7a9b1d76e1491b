//! `/v1/admin/audit`

use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;

use crate::audit::{Action, AuditLog, Entry, ListedEntry, Verification, VerifyError};
use crate::http::credentials::{Admin, Caller};
use crate::http::extract::Query;
use crate::http::page::{self, Page, PageQuery};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::surfaces::openapi::{AUTH, problems};

/// An audit entry in a response.
#[derive(Debug, Serialize)]
pub struct AuditEntryView {
    n: i64,
    at: Timestamp,
    actor: String,
    credential: String,
    request_id: Option<String>,
    action: String,
    target: String,
    changed: Vec<String>,
    reason: Option<String>,
}

impl From<ListedEntry> for AuditEntryView {
    fn from(ListedEntry { n, body }: ListedEntry) -> Self {
        Self {
            n,
            at: body.at,
            actor: body.actor,
            credential: body.credential,
            request_id: body.request_id,
            action: body.action,
            target: body.target,
            changed: body.changed,
            reason: body.reason,
        }
    }
}

/// The verification result in a response.
#[derive(Debug, Serialize)]
pub struct VerificationView {
    ok: bool,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_bad: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
}

impl From<Verification> for VerificationView {
    fn from(found: Verification) -> Self {
        Self {
            ok: found.first_bad.is_none(),
            entries: found.entries,
            first_bad: found.first_bad.map(|bad| bad.n),
            fault: found.first_bad.map(|bad| bad.fault.as_str()),
        }
    }
}

/// Builds the audit entry for an action of a caller.
pub(crate) fn entry(caller: &Caller, request: &RequestId, action: Action, target: impl ToString) -> Entry {
    Entry {
        actor: caller.user.to_string(),
        credential: caller.credential.to_string(),
        request_id: Some(request.as_str().to_owned()),
        action,
        target: target.to_string(),
        changed: Vec::new(),
        reason: None,
    }
}

problems!(ListProblems: AUTH);

/// List the tenant's audit entries, newest first
#[utoipa::path(
    get,
    path = "/v1/admin/audit",
    operation_id = "list_audit_entries",
    tag = "admin",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of audit entries", body = ref("#/components/schemas/AuditPage")),
        ListProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn list(
    State(audit): State<Arc<AuditLog>>,
    Admin(caller): Admin,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<AuditEntryView>>, Problem> {
    let name = format!("audit/{}", caller.scope.tenant());
    let before = match &query.cursor {
        Some(cursor) => Some(page::position::<i64>(&name, cursor)?),
        None => None,
    };
    let (entries, next) = audit.page(&caller.scope, before, query.limit.get()).await?;
    Ok(axum::Json(Page {
        data: entries.into_iter().map(AuditEntryView::from).collect(),
        next_cursor: next.map(|next| page::cursor(&name, &next)),
    }))
}

problems!(VerifyProblems: AUTH, &[Code::Overloaded]);

/// Verify the tenant's audit log
///
/// Checks every entry against the hash chain, its keyed MACs and the separate record of where the log ends. Detects
/// altered, removed, swapped and inserted entries, and entries missing at the end.
#[utoipa::path(
    get,
    path = "/v1/admin/audit/verify",
    operation_id = "verify_audit_log",
    tag = "admin",
    responses(
        (status = 200, description = "The result of the verification", body = ref("#/components/schemas/AuditVerification")),
        VerifyProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn verify(
    State(audit): State<Arc<AuditLog>>,
    Admin(caller): Admin,
) -> Result<axum::Json<VerificationView>, Problem> {
    match audit.verify(&caller.scope).await {
        Ok(found) => Ok(axum::Json(found.into())),
        Err(error @ VerifyError::Busy) => Err(Problem::new(Code::Overloaded).detail(error.to_string())),
        Err(VerifyError::Store(error)) => Err(error.into()),
    }
}
