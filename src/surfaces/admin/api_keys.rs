//! `/v1/admin/api-keys`

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::ports::{Clock, LogError};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::http::bodies::Json;
use crate::http::credentials::{Admin, Caller, CredentialKind, Scopes, new_api_key};
use crate::http::extract::{Ids, Query, invalid};
use crate::http::page::{self, Page, PageQuery};
use crate::http::problems::{Code, Problem, Retry};
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::request_body;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::operator::tenants::requester;
use crate::tenants::{ChangeError, KeyView, NewKey, Origin, TenantRegistry};
use copilotd_actors::domain::tenant::KeyId;

/// Body of `POST /v1/admin/api-keys`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Create {
    name: String,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
}
request_body!(Create, "create_api_key.json");

/// A key in the list.
#[derive(Debug, Serialize)]
pub struct ApiKeyView {
    id: String,
    name: String,
    scopes: Scopes,
    origin: Origin,
    created_at: Option<Timestamp>,
    created_by: Option<String>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
}

/// A newly created key.
#[derive(Debug, Serialize)]
struct NewApiKeyView {
    /// The key itself, shown only once.
    key: String,
    #[serde(flatten)]
    listed: ApiKeyView,
}

impl From<KeyView> for ApiKeyView {
    fn from(view: KeyView) -> Self {
        let (created_at, created_by) = view.made.unzip();
        Self {
            id: view.id.to_string(),
            name: view.name,
            scopes: view.scopes,
            origin: view.origin,
            created_at,
            created_by,
            expires_at: view.expires_at,
            revoked_at: view.revoked_at,
            last_used_at: view.last_used_at,
        }
    }
}

problems!(CreateProblems: AUTH, BODY, &[Code::Conflict]);

/// Create an API key
///
/// The key is shown only in this response; only its hash is stored. `Idempotency-Key` is ignored: a repeated request
/// with the same name is refused with 409.
#[utoipa::path(
    post,
    path = "/v1/admin/api-keys",
    operation_id = "create_api_key",
    tag = "admin",
    request_body = ref("#/components/schemas/CreateApiKey"),
    responses(
        (status = 201, description = "The new key, which is accepted from now on", body = ref("#/components/schemas/NewApiKey")),
        CreateProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn create(
    State(tenants): State<Arc<TenantRegistry>>,
    State(clock): State<Arc<dyn Clock>>,
    Admin(caller): Admin,
    request: RequestId,
    Json(body): Json<Create>,
) -> Result<Response, Problem> {
    if body.scopes.contains(Scopes::OPERATOR) && !caller.scopes.contains(Scopes::OPERATOR) {
        let detail = "only a caller with the scope operator may grant the scope operator";
        return Err(Problem::new(Code::Forbidden).detail(detail));
    }
    if body.expires_at.is_some_and(|end| end <= clock.now()) {
        return Err(invalid("/expires_at", "must be in the future"));
    }
    let (key, hash) = new_api_key();
    let new = NewKey {
        hash,
        name: body.name,
        scopes: body.scopes,
        by: who(&caller),
        expires_at: body.expires_at,
    };
    let by = requester(&caller, caller.scope.tenant(), &request);
    let view = match tenants.api_keys().create(&caller.scope, new, &by).await {
        // The client would never see that key, and a retry would create another one.
        Err(ChangeError::Store(error @ LogError::Unavailable(_))) => {
            let detail = "the store is not responding; the key may or may not have been created: list the keys before \
                          creating another one, and revoke any you cannot use";
            return Err(Problem::from(error).detail(detail).retry(Retry::Unsafe));
        }
        created => created?,
    };
    let created = NewApiKeyView {
        key: key.expose_secret().to_owned(),
        listed: view.into(),
    };
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, axum::Json(created)).into_response())
}

problems!(ListProblems: AUTH);

/// List the tenant's API keys
///
/// Newest first, keys from the configuration file last. Expired and revoked keys stay in the list for 30 days.
#[utoipa::path(
    get,
    path = "/v1/admin/api-keys",
    operation_id = "list_api_keys",
    tag = "admin",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of API keys", body = ref("#/components/schemas/ApiKeyPage")),
        ListProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn list(
    State(tenants): State<Arc<TenantRegistry>>,
    Admin(caller): Admin,
    Query(query): Query<PageQuery>,
    _room: PageMemory,
) -> Result<axum::Json<Page<ApiKeyView>>, Problem> {
    let name = format!("api-keys/{}", caller.scope.tenant());
    let mut rest = tenants.api_keys().list(&caller.scope);
    if let Some(cursor) = &query.cursor {
        let after: String = page::position(&name, cursor)?;
        let at = rest.iter().position(|key| key.id.to_string() == after);
        rest.drain(..at.map_or(0, |at| at + 1));
    }
    let limit = query.limit.get();
    let more = rest.len() > limit;
    rest.truncate(limit);
    let mut data: Vec<ApiKeyView> = rest.into_iter().map(ApiKeyView::from).collect();
    let more = page::cut(&mut data) || more;
    let last = data.last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, &last.id.to_string()));
    Ok(axum::Json(Page { data, next_cursor }))
}

problems!(RevokeProblems: AUTH, FOUND);

/// Revoke an API key, effective immediately
///
/// Requests with the key are refused as soon as this call returns, and its streams end. Keys from the configuration
/// file can be revoked too.
#[utoipa::path(
    delete,
    path = "/v1/admin/api-keys/{id}",
    operation_id = "revoke_api_key",
    tag = "admin",
    responses(
        (status = 204, description = "Revoked"),
        RevokeProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn revoke(
    State(tenants): State<Arc<TenantRegistry>>,
    Admin(caller): Admin,
    request: RequestId,
    Ids((id,)): Ids<(KeyId,)>,
) -> Result<StatusCode, Problem> {
    let by = requester(&caller, caller.scope.tenant(), &request);
    tenants.api_keys().revoke(&caller.scope, id, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The actor of a change: the user, and for an API key also the key.
fn who(caller: &Caller) -> String {
    match caller.kind {
        CredentialKind::ApiKey => format!("{} ({})", caller.user, caller.credential),
        CredentialKind::UserToken | CredentialKind::Ticket => caller.user.to_string(),
    }
}
