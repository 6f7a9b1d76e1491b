//! `/v1/admin/usage` and `/v1/admin/cache`, for a tenant's administrators.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use copilotd_actors::ports::Clock;
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::{GroupBy, UsageQuery, UsageStore};
use serde::Deserialize;
use utoipa::IntoParams;

use super::audit;
use super::usage::{self, Group, MAX_GROUPS, Report, ReportFormat};
use crate::audit::{Action, AuditLog};
use crate::http::credentials::Admin;
use crate::http::extract::Query;
use crate::http::problems::Problem;
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::surfaces::openapi::{AUTH, problems};

/// Query of the usage report.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// Start of the report, a day or a time; inclusive. Default: the start of the current month
    from: Option<String>,
    /// End of the report: a time (exclusive) or a day (inclusive). Default: now
    to: Option<String>,
    /// Group the totals by this. Default: `day`
    #[param(inline)]
    group_by: Option<GroupBy>,
}

problems!(UsageProblems: AUTH);

/// Get the tenant's model usage and cost
///
/// Counts every attempt, including failed and abandoned ones. May lag by a second.
#[utoipa::path(
    get,
    path = "/v1/admin/usage",
    operation_id = "get_usage",
    tag = "admin",
    params(UsageParams),
    responses(
        (status = 200, description = "The totals, sorted by key; as CSV with `Accept: text/csv`", content(
            (ref("#/components/schemas/UsageReport") = "application/json"),
            (String = "text/csv"),
        )),
        UsageProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn usage(
    State(store): State<Arc<dyn UsageStore>>,
    State(clock): State<Arc<dyn Clock>>,
    Admin(caller): Admin,
    form: ReportFormat,
    Query(wanted): Query<UsageParams>,
    _room: PageMemory,
) -> Result<Response, Problem> {
    let (from, to) = usage::time(wanted.from.as_deref(), wanted.to.as_deref(), clock.now())?;
    let query = UsageQuery {
        from,
        to,
        group_by: wanted.group_by.unwrap_or(GroupBy::Day),
        limit: MAX_GROUPS,
    };
    let rows = store.sum_usage(&caller.scope, &query).await?;
    let report = Report {
        from,
        to,
        group_by: query.group_by,
        data: rows.into_iter().map(Group::from).collect(),
    };
    Ok(form.response(&report))
}

/// Query of the cache deletion.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CacheParams {
    /// Delete only this route's answers. Default: all routes
    route: Option<String>,
}

problems!(ForgetProblems: AUTH);

/// Delete the tenant's cached answers
///
/// Use it when the facts behind cached answers have changed. Answers in progress at that moment are not cached either.
#[utoipa::path(
    delete,
    path = "/v1/admin/cache",
    operation_id = "forget_answers",
    tag = "admin",
    params(CacheParams),
    responses(
        (status = 200, description = "The number of deleted answers", body = ref("#/components/schemas/ForgottenAnswers")),
        ForgetProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn forget(
    State(audit): State<Arc<AuditLog>>,
    State(gateway): State<Arc<Gateway>>,
    Admin(caller): Admin,
    Query(which): Query<CacheParams>,
    request: RequestId,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    let target = which.route.as_deref().unwrap_or("*");
    let entry = audit::entry(&caller, &request, Action::CacheCleared, target);
    audit.record(caller.scope.tenant(), entry).await?;
    let forgotten = gateway.forget(&caller.scope, which.route.as_deref());
    tracing::info!(tenant = %caller.scope.tenant(), by = %caller.user, forgotten, "cached answers deleted");
    Ok(axum::Json(serde_json::json!({ "forgotten": forgotten })))
}
