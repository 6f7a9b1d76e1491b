//! `/v1/admin/revocations`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use copilotd_actors::domain::ids::UserId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use super::audit::entry;
use crate::audit::{Action, Entry};
use crate::http::auth::{Admin, Caller};
use crate::http::body::Json;
use crate::http::extract::{Ids, Query, invalid};
use crate::http::page::{self, Page, Wanted};
use crate::http::problem::{Code, Problem, Retry};
use crate::http::request_id::RequestId;
use crate::http::state::AppState;
use crate::openapi::{AUTH, BODY, FOUND, problems};
use crate::request_body;
use crate::revocations::{Revocation, RevocationId, RevokeError, Subject};
use crate::tenants::KeyId;

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

/// A revocation as it is shown.
#[derive(Debug, Serialize)]
pub struct Shown {
    id: String,
    user: Option<String>,
    token_id: Option<String>,
    revoked_at: Timestamp,
    expires_at: Timestamp,
    revoked_by: String,
    reason: Option<String>,
}

impl From<Revocation> for Shown {
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
                tracing::error!(%error, "a change of token revocations could not be stored");
                Self::new(Code::Unavailable).retry(Retry::Safe).detail(
                    "the change could not be stored; a revocation holds until the process restarts. Send it again",
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
                    .map_err(|_invalid| invalid("/user", "not a user: 1 to 256 bytes without control characters"))
            }
            (None, Some(id)) if names_api_key(id) => {
                let message = "this is an API key: revoke it with DELETE /v1/admin/api-keys/{id}";
                Err(invalid("/token_id", message))
            }
            (None, Some(id)) => Ok(Subject::Token(id.clone())),
            _ => Err(invalid("", "give either user or token_id")),
        }
    }
}

/// Whether this is an API key, its id or its name in the audit log. A token's jti may begin like one.
fn names_api_key(id: &str) -> bool {
    let is_name = |rest: &str| rest.split_once('/').is_some_and(|(_, name)| name.contains(':'));
    let is_key = id.starts_with("cpk_") && id.len() == API_KEY_LENGTH;
    is_key || id.parse::<KeyId>().is_ok() || id.strip_prefix("key:").is_some_and(is_name)
}

problems!(CreateProblems: AUTH, BODY, &[Code::Conflict]);

/// Revokes user tokens: all of a user, or one
///
/// Of a user, every token that was issued up to now (`iat`), and every one that does not say when. Tokens that are issued later are
/// accepted. Of one token, by its `jti`, or by its name in the audit log (`jwt:…`). They are refused once this is answered, after any
/// restart too; their streams and stream tickets end. API keys that act for the user are not affected: they are revoked by themselves.
/// Revoking again moves the moment. `Idempotency-Key` is not looked at.
#[utoipa::path(
    post,
    path = "/v1/admin/revocations",
    operation_id = "create_revocation",
    tag = "admin",
    request_body = ref("#/components/schemas/CreateRevocation"),
    responses(
        (status = 201, description = "It holds from now on", body = ref("#/components/schemas/Revocation")),
        CreateProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn create(
    State(state): State<AppState>,
    Admin(caller): Admin,
    request: RequestId,
    Json(body): Json<Create>,
) -> Result<Response, Problem> {
    let subject = body.subject()?;
    let entry = Entry {
        reason: body.reason.clone(),
        ..entry(&caller, &request, Action::TokenRevoked, named(&subject))
    };
    // In a task of its own: a client that leaves must not stop it between the audit log and the store.
    let revoked = tokio::spawn(
        async move {
            let record = async { state.audit.record(caller.scope.tenant(), entry).await.map(drop) };
            let by = who(&caller);
            let revoke = state
                .revocations
                .revoke(&caller.scope, subject, by, body.reason, record);
            revoke.await
        }
        .in_current_span(),
    );
    let revocation = revoked.await.map_err(|_panic| Problem::new(Code::Internal))??;
    Ok((StatusCode::CREATED, axum::Json(Shown::from(revocation))).into_response())
}

problems!(ListProblems: AUTH);

/// Lists the tenant's revocations in force, newest first
///
/// One is kept until every token that it can hit has ended: a day and two minutes.
#[utoipa::path(
    get,
    path = "/v1/admin/revocations",
    operation_id = "list_revocations",
    tag = "admin",
    params(Wanted),
    responses(
        (status = 200, description = "A page of them", body = ref("#/components/schemas/RevocationPage")),
        ListProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn list(
    State(state): State<AppState>,
    Admin(caller): Admin,
    Query(query): Query<Wanted>,
) -> Result<axum::Json<Page<Shown>>, Problem> {
    let name = format!("revocations/{}", caller.scope.tenant());
    let mut rest = state.revocations.of_tenant(&caller.scope);
    if let Some(cursor) = &query.cursor {
        // Where the last one of the page before stood; it may be gone, or revoked again, meanwhile.
        let (at, id): (Timestamp, String) = page::position(&name, cursor)?;
        let id: RevocationId = id
            .parse()
            .map_err(|_invalid| invalid("", "cursor is not one of this list"))?;
        rest.retain(|revocation| revocation.revoked_at < at || (revocation.revoked_at == at && revocation.id() > id));
    }
    let limit = query.limit.get();
    let more = rest.len() > limit;
    rest.truncate(limit);
    let last = rest.last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, &(last.revoked_at, last.id().to_string())));
    Ok(axum::Json(Page {
        data: rest.into_iter().map(Shown::from).collect(),
        next_cursor,
    }))
}

problems!(LiftProblems: AUTH, FOUND);

/// Lifts a revocation
///
/// Tokens that it hit are accepted again until their end: for a user who was revoked by mistake and whose tokens do not say when they
/// were issued.
#[utoipa::path(
    delete,
    path = "/v1/admin/revocations/{id}",
    operation_id = "lift_revocation",
    tag = "admin",
    responses(
        (status = 204, description = "It holds no longer"),
        LiftProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn lift(
    State(state): State<AppState>,
    Admin(caller): Admin,
    request: RequestId,
    Ids((id,)): Ids<(RevocationId,)>,
) -> Result<StatusCode, Problem> {
    let entry = entry(&caller, &request, Action::TokenRestored, id);
    let lifted = tokio::spawn(
        async move {
            let record = async { state.audit.record(caller.scope.tenant(), entry).await.map(drop) };
            state.revocations.lift(&caller.scope, id, &who(&caller), record).await
        }
        .in_current_span(),
    );
    lifted.await.map_err(|_panic| Problem::new(Code::Internal))??;
    Ok(StatusCode::NO_CONTENT)
}

/// Says whose or which tokens an entry of the audit log is about.
fn named(subject: &Subject) -> String {
    format!("{}:{}", subject.kind(), subject.text())
}

/// Names who did it.
fn who(caller: &Caller) -> String {
    format!("{} ({})", caller.user, caller.credential)
}
