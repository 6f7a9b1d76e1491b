//! `/v1/operator/tenants`: managing tenants. Gives operators no access to their content.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::domain::ids::TenantId;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tracing::Instrument as _;
use utoipa::IntoParams;

use crate::http::bodies::Json;
use crate::http::credentials::{Caller, Operator};
use crate::http::extract::{Ids, Query, invalid};
use crate::http::page::{self, Page, PageQuery};
use crate::http::problems::{Code, FieldError, Problem};
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::jobs::Jobs;
use crate::request_body;
use crate::surfaces::admin::jobs;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::tenants::{Change, ChangeError, SettingsChange, TenantRegistry, TenantView};
use copilotd_actors::domain::tenant::{Requester, TenantStatus};

/// Body of `PUT /v1/operator/tenants/{id}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Put {
    settings: Value,
    status: Option<TenantStatus>,
}
request_body!(Put, "put_tenant.json");

/// Body of `PATCH /v1/operator/tenants/{id}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Update {
    /// Missing, null (back to the configuration file's settings), or a merge patch.
    #[serde(default, deserialize_with = "present")]
    settings: Option<Option<Value>>,
    status: Option<TenantStatus>,
}
request_body!(Update, "update_tenant.json");

/// Distinguishes null from missing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Value>>, D::Error> {
    Option::<Value>::deserialize(deserializer).map(Some)
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let text = error.to_string();
        match error {
            ChangeError::Exists(_) | ChangeError::Conflict(_) => Self::new(Code::Conflict).detail(text),
            ChangeError::Missing => Self::new(Code::NotFound),
            ChangeError::Invalid(faults) => Self::invalid(faults.into_iter().map(|fault| FieldError {
                pointer: format!("/settings{}", fault.pointer),
                message: fault.message,
            })),
            ChangeError::Store(error) => error.into(),
            ChangeError::Reload(_) => {
                tracing::error!(error = text, "tenant change could not be applied; answered 500");
                Self::new(Code::Internal)
            }
        }
    }
}

/// Confirms a change that locks the caller out.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Force {
    /// `true` allows suspending or deleting the tenant of your own credential
    force: Option<bool>,
}

impl Force {
    /// Refuses to suspend the caller's own tenant by mistake: none of its users could resume it.
    fn allow(&self, caller: &Caller, id: &TenantId, status: Option<TenantStatus>) -> Result<(), Problem> {
        let own = caller.scope.tenant() == id && status == Some(TenantStatus::Suspended);
        if own && self.force != Some(true) {
            let detail = "this is the tenant of your own credential, which would stop working; to do it anyway, add \
                          ?force=true \
                          (copilotd tenant suspend --force)";
            return Err(Problem::new(Code::Conflict).detail(detail));
        }
        Ok(())
    }
}

/// The requester of a change to `tenant`.
pub(crate) fn requester(caller: &Caller, tenant: &TenantId, request: &RequestId) -> Requester {
    let (own, user) = (caller.scope.tenant(), &caller.user);
    Requester {
        actor: if own == tenant {
            user.to_string()
        } else {
            format!("{own}/{user}")
        },
        credential: caller.credential.to_string(),
        request_id: Some(request.as_str().to_owned()),
    }
}

problems!(ListProblems: AUTH);

/// List tenants, sorted by id
#[utoipa::path(
    get,
    path = "/v1/operator/tenants",
    operation_id = "list_tenants",
    tag = "tenants",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of tenants", body = ref("#/components/schemas/TenantPage")),
        ListProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn list(
    State(tenants): State<Arc<TenantRegistry>>,
    Operator(_): Operator,
    Query(query): Query<PageQuery>,
    _room: PageMemory,
) -> Result<axum::Json<Page<TenantView>>, Problem> {
    const LIST: &str = "tenants";
    let after = match &query.cursor {
        Some(cursor) => Some(page::position::<TenantId>(LIST, cursor)?),
        None => None,
    };
    let limit = query.limit.get();
    let mut rest = tenants.tenants();
    rest.retain(|tenant| after.as_ref().is_none_or(|after| tenant.id > *after));
    let more = rest.len() > limit;
    rest.truncate(limit);
    let more = page::cut(&mut rest) || more;
    let next_cursor = rest.last().filter(|_| more).map(|last| page::cursor(LIST, &last.id));
    Ok(axum::Json(Page {
        data: rest,
        next_cursor,
    }))
}

problems!(GetProblems: AUTH, FOUND);

/// Get a tenant
///
/// Secrets are listed but their values are not shown.
#[utoipa::path(
    get,
    path = "/v1/operator/tenants/{id}",
    operation_id = "get_tenant",
    tag = "tenants",
    responses(
        (status = 200, description = "The tenant", body = ref("#/components/schemas/Tenant")),
        GetProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn get(
    State(tenants): State<Arc<TenantRegistry>>,
    Operator(_): Operator,
    Ids((id,)): Ids<(TenantId,)>,
) -> Result<axum::Json<TenantView>, Problem> {
    let tenant = tenants.tenant(&id);
    tenant.map(axum::Json).ok_or_else(|| Problem::new(Code::NotFound))
}

problems!(PutProblems: AUTH, FOUND, BODY, &[Code::Conflict]);

/// Create a tenant or replace its settings
///
/// The settings take effect as soon as this call returns, without a restart. With `If-None-Match: *` an existing tenant
/// is left unchanged (409).
#[utoipa::path(
    put,
    path = "/v1/operator/tenants/{id}",
    operation_id = "put_tenant",
    tag = "tenants",
    params(Force, ("If-None-Match" = Option<String>, Header, description = "`*` creates the tenant only if it does not exist", pattern = "^\\*$")),
    request_body = ref("#/components/schemas/PutTenant"),
    responses(
        (status = 201, description = "Created", body = ref("#/components/schemas/Tenant"), headers(("location" = String, description = "URL of the tenant"))),
        (status = 200, description = "Settings replaced", body = ref("#/components/schemas/Tenant")),
        PutProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn put(
    State(tenants): State<Arc<TenantRegistry>>,
    Operator(caller): Operator,
    request: RequestId,
    Ids((id,)): Ids<(TenantId,)>,
    Query(force): Query<Force>,
    headers: HeaderMap,
    Json(body): Json<Put>,
) -> Result<Response, Problem> {
    let only_new = match headers.get(header::IF_NONE_MATCH).map(HeaderValue::as_bytes) {
        None => false,
        Some(b"*") => true,
        Some(_) => return Err(invalid("", "If-None-Match: only * is supported")),
    };
    force.allow(&caller, &id, body.status)?;
    let by = requester(&caller, &id, &request);
    let put = tenants.put(id.clone(), body.settings, body.status, only_new, &by);
    let (tenant, is_new) = put.await?;
    Ok(if is_new {
        let location = format!("/v1/operator/tenants/{id}");
        (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(tenant)).into_response()
    } else {
        axum::Json(tenant).into_response()
    })
}

problems!(UpdateProblems: AUTH, FOUND, BODY, &[Code::Conflict]);

/// Update a tenant's settings or status
///
/// `settings` is a JSON merge patch (RFC 7396). The change takes effect as soon as this call returns. Suspending a
/// tenant refuses its credentials and ends its streams; nothing is deleted.
#[utoipa::path(
    patch,
    path = "/v1/operator/tenants/{id}",
    operation_id = "update_tenant",
    tag = "tenants",
    params(Force),
    request_body = ref("#/components/schemas/UpdateTenant"),
    responses(
        (status = 200, description = "The updated tenant", body = ref("#/components/schemas/Tenant")),
        UpdateProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn update(
    State(tenants): State<Arc<TenantRegistry>>,
    Operator(caller): Operator,
    request: RequestId,
    Ids((id,)): Ids<(TenantId,)>,
    Query(force): Query<Force>,
    Json(body): Json<Update>,
) -> Result<axum::Json<TenantView>, Problem> {
    let change = Change {
        settings: body.settings.map(|settings| match settings {
            Some(patch) => SettingsChange::Patch(patch),
            None => SettingsChange::Reset,
        }),
        status: body.status,
    };
    force.allow(&caller, &id, change.status)?;
    let by = requester(&caller, &id, &request);
    Ok(axum::Json(tenants.change(&id, change, &by).await?))
}

problems!(DeleteProblems: AUTH, FOUND, &[Code::Conflict]);

/// Delete a tenant and all of its data
///
/// Its credentials are refused and its streams end as soon as this call returns; open turns are cancelled. A job erases
/// the data and reports the amount for each store; it resumes after a restart. The id can be reused once the job has
/// completed. Usage records are erased too, so read the usage first. A tenant of the configuration file cannot be
/// deleted (409).
#[utoipa::path(
    delete,
    path = "/v1/operator/tenants/{id}",
    operation_id = "delete_tenant",
    tag = "tenants",
    params(Force),
    responses(
        (status = 202, description = "Accepted; the tenant is no longer served and is being erased", body = ref("#/components/schemas/Job"), headers(("location" = String, description = "URL of the job"))),
        DeleteProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn delete(
    State(jobs): State<Arc<Jobs>>,
    Operator(caller): Operator,
    request: RequestId,
    Ids((id,)): Ids<(TenantId,)>,
    Query(force): Query<Force>,
) -> Result<Response, Problem> {
    if caller.scope.tenant() == &id && force.force != Some(true) {
        let detail =
            "this is the tenant of your own credential, which would stop working; to do it anyway, add ?force=true";
        return Err(Problem::new(Code::Conflict).detail(detail));
    }
    // Recorded in the audit log of the operator's own tenant.
    let by = requester(&caller, caller.scope.tenant(), &request);
    // In its own task: a client that disconnects must not stop it between the audit log and the store.
    let started = tokio::spawn(async move { jobs.delete_tenant(&caller.scope, &id, &by).await }.in_current_span());
    let job = started.await.map_err(|_panic| Problem::new(Code::Internal))??;
    Ok(jobs::accepted(job))
}
