//! `/v1/admin/revocations`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use copilotd_actors::domain::ids::UserId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use super::audit::entry;
use crate::audit::{Action, AuditLog, Entry};
use crate::http::bodies::Json;
use crate::http::credentials::{Admin, Caller};
use crate::http::extract::{Ids, Query, invalid};
use crate::http::page::{self, Page, PageQuery};
use crate::http::problems::{Code, Problem, Retry};
use crate::http::request_id::RequestId;
use crate::request_body;
use crate::revocations::{Revocations, RevokeError};
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use copilotd_actors::domain::access::revocation::{Revocation, RevocationId, Subject};
use copilotd_actors::domain::tenant::KeyId;

/// Length of an API key: `cpk_` and 32 bytes in Base64.
const API_KEY_LENGTH: usize = 47;

/// Body of `POST /v1/admin/revocations`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Create {
    user: Option<String>,
    token_id: Option<String>,
    reason: Option<String>,
}
request_body!(Create, "create_revocation.json");

/// A revocation in a response.
#[derive(Debug, Serialize)]
pub struct RevocationView {
    id: String,
    user: Option<String>,
    token_id: Option<String>,
    revoked_at: Timestamp,
    expires_at: Timestamp,
    revoked_by: String,
    reason: Option<String>,
}

impl From<Revocation> for RevocationView {
    fn from(revocation: Revocation) -> Self {
        let id = revocation.id().to_string();
        let (user, token_id) = match revocation.subject {
            Subject::User(user) => (Some(user.to_string()), None),
            Subject::Token(token) => (None, Some(token)),
        };
        Self {
            id,
            user,
            token_id,
            revoked_at: revocation.revoked_at,
            expires_at: revocation.expires_at,
            revoked_by: revocation.revoked_by,
            reason: revocation.reason,
        }
    }
}

impl From<RevokeError> for Problem {
    fn from(error: RevokeError) -> Self {
        let text = error.to_string();
        match error {
            RevokeError::Full => Self::new(Code::Conflict).detail(text),
            RevokeError::Missing => Self::new(Code::NotFound),
            RevokeError::Audit(error) => error.into(),
            RevokeError::Store(error) => {
                tracing::error!(
                    %error,
                    "token revocation change could not be stored; a new revocation applies only until restart"
                );
                Self::new(Code::Unavailable).retry(Retry::Safe).detail(
                    "the change could not be stored: a new revocation applies only until the server restarts; try again",
                )
            }
        }
    }
}

impl Create {
    fn subject(&self) -> Result<Subject, Problem> {
        match (&self.user, &self.token_id) {
            (Some(user), None) => {
                let user = user.parse::<UserId>();
                user.map(Subject::User)
                    .map_err(|_invalid| invalid("/user", "must be 1 to 256 bytes without control characters"))
            }
            (None, Some(id)) if names_api_key(id) => {
                let message = "this names an API key: revoke it with DELETE /v1/admin/api-keys/{id}";
                Err(invalid("/token_id", message))
            }
            (None, Some(id)) => Ok(Subject::Token(id.clone())),
            _ => Err(invalid("", "exactly one of user and token_id is required")),
        }
    }
}

/// Whether this is an API key, a key's id, or its name in the audit log. A token's `jti` may start the same way.
fn names_api_key(id: &str) -> bool {
    let is_name = |rest: &str| rest.split_once('/').is_some_and(|(_, name)| name.contains(':'));
    let is_key = id.starts_with("cpk_") && id.len() == API_KEY_LENGTH;
    is_key || id.parse::<KeyId>().is_ok() || id.strip_prefix("key:").is_some_and(is_name)
}

problems!(CreateProblems: AUTH, BODY, &[Code::Conflict]);

/// Revoke one user token, or all tokens of a user
///
/// With `user`, revokes every token of that user issued up to now (`iat`), and every token without `iat`; tokens issued
/// later are accepted. With `token_id`, revokes one token by its `jti` or its name in the audit log (`jwt:…`). Takes
/// effect as soon as this call returns and survives restarts; streams and stream tickets of the tokens end. API keys
/// that act for the user are not affected: revoke them separately. Revoking again moves the time to now.
/// `Idempotency-Key` is ignored.
#[utoipa::path(
    post,
    path = "/v1/admin/revocations",
    operation_id = "create_revocation",
    tag = "admin",
    request_body = ref("#/components/schemas/CreateRevocation"),
    responses(
        (status = 201, description = "Revoked", body = ref("#/components/schemas/Revocation")),
        CreateProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn create(
    State(revocations): State<Arc<Revocations>>,
    State(audit): State<Arc<AuditLog>>,
    Admin(caller): Admin,
    request: RequestId,
    Json(body): Json<Create>,
) -> Result<Response, Problem> {
    let subject = body.subject()?;
    let entry = Entry {
        reason: body.reason.clone(),
        ..entry(&caller, &request, Action::TokenRevoked, named(&subject))
    };
    // In its own task: a client that disconnects must not stop it between the audit log and the store.
    let revoked = tokio::spawn(
        async move {
            let record = async { audit.record(caller.scope.tenant(), entry).await.map(drop) };
            let by = who(&caller);
            let revoke = revocations.revoke(&caller.scope, subject, by, body.reason, record);
            revoke.await
        }
        .in_current_span(),
    );
    let revocation = revoked.await.map_err(|_panic| Problem::new(Code::Internal))??;
    Ok((StatusCode::CREATED, axum::Json(RevocationView::from(revocation))).into_response())
}

problems!(ListProblems: AUTH);

/// List the tenant's active revocations, newest first
///
/// A revocation is stored until every token it can match has expired: a day and two minutes.
#[utoipa::path(
    get,
    path = "/v1/admin/revocations",
    operation_id = "list_revocations",
    tag = "admin",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of revocations", body = ref("#/components/schemas/RevocationPage")),
        ListProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn list(
    State(revocations): State<Arc<Revocations>>,
    Admin(caller): Admin,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<RevocationView>>, Problem> {
    let name = format!("revocations/{}", caller.scope.tenant());
    let mut rest = revocations.of_tenant(&caller.scope);
    if let Some(cursor) = &query.cursor {
        // The position of the previous page's last entry, which may have been removed or renewed meanwhile.
        let (at, id): (Timestamp, String) = page::position(&name, cursor)?;
        let id: RevocationId = id
            .parse()
            .map_err(|_invalid| invalid("", "invalid cursor: pass the next_cursor of a page of this same list"))?;
        rest.retain(|revocation| revocation.revoked_at < at || (revocation.revoked_at == at && revocation.id() > id));
    }
    let limit = query.limit.get();
    let more = rest.len() > limit;
    rest.truncate(limit);
    let last = rest.last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, &(last.revoked_at, last.id().to_string())));
    Ok(axum::Json(Page {
        data: rest.into_iter().map(RevocationView::from).collect(),
        next_cursor,
    }))
}

problems!(LiftProblems: AUTH, FOUND);

/// Undo a revocation
///
/// Its tokens are accepted again until they expire. For a user who was revoked by mistake and whose tokens have no
/// `iat`.
#[utoipa::path(
    delete,
    path = "/v1/admin/revocations/{id}",
    operation_id = "lift_revocation",
    tag = "admin",
    responses(
        (status = 204, description = "The revocation no longer applies"),
        LiftProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn lift(
    State(revocations): State<Arc<Revocations>>,
    State(audit): State<Arc<AuditLog>>,
    Admin(caller): Admin,
    request: RequestId,
    Ids((id,)): Ids<(RevocationId,)>,
) -> Result<StatusCode, Problem> {
    let entry = entry(&caller, &request, Action::TokenRestored, id);
    let lifted = tokio::spawn(
        async move {
            let record = async { audit.record(caller.scope.tenant(), entry).await.map(drop) };
            revocations.lift(&caller.scope, id, &who(&caller), record).await
        }
        .in_current_span(),
    );
    lifted.await.map_err(|_panic| Problem::new(Code::Internal))??;
    Ok(StatusCode::NO_CONTENT)
}

/// The target of the audit entry.
fn named(subject: &Subject) -> String {
    format!("{}:{}", subject.kind(), subject.text())
}

/// The actor of the change.
fn who(caller: &Caller) -> String {
    format!("{} ({})", caller.user, caller.credential)
}
