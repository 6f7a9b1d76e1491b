//! `/v1/admin/…`: what a tenant's administrators see.

use axum::extract::State;
use axum::response::Response;
use copilotd_gateway::ledger::{GroupBy, UsageQuery};
use serde::Deserialize;
use utoipa::IntoParams;

use super::audit;
use super::usage::{self, Form, Group, MAX_GROUPS, Report};
use crate::audit::Action;
use crate::http::auth::Admin;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::room::PageRoom;
use crate::http::state::AppState;
use crate::openapi::{AUTH, problems};

/// Which usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// From this day or moment on (the beginning of the month)
    from: Option<String>,
    /// Before this moment, or to the end of this day (now)
    to: Option<String>,
    /// What sums are made by (`day`)
    #[param(inline)]
    group_by: Option<GroupBy>,
}

problems!(UsageProblems: AUTH);

/// Sums up what the tenant's model calls used and cost
///
/// Every attempt counts, failed ones and those that were left included. May lag by a second.
#[utoipa::path(
    get,
    path = "/v1/admin/usage",
    operation_id = "get_usage",
    tag = "admin",
    params(Wanted),
    responses(
        (status = 200, description = "The sums, in the order of their keys; as CSV if that is asked for", content(
            (ref("#/components/schemas/UsageReport") = "application/json"),
            (String = "text/csv"),
        )),
        UsageProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn usage(
    State(state): State<AppState>,
    Admin(caller): Admin,
    form: Form,
    Query(wanted): Query<Wanted>,
    _room: PageRoom,
) -> Result<Response, Problem> {
    let (from, to) = usage::time(wanted.from.as_deref(), wanted.to.as_deref(), state.clock().now())?;
    let query = UsageQuery {
        from,
        to,
        group_by: wanted.group_by.unwrap_or(GroupBy::Day),
        limit: MAX_GROUPS,
    };
    let rows = state.usage.sum_usage(&caller.scope, &query).await?;
    let report = Report {
        from,
        to,
        group_by: query.group_by,
        data: rows.into_iter().map(Group::from).collect(),
    };
    Ok(form.response(&report))
}

/// Which answers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Forgotten {
    /// Of this route; of all routes when missing
    route: Option<String>,
}

problems!(ForgetProblems: AUTH);

/// Forgets the answers that the cache keeps for the tenant
///
/// For when what they rest on has changed. Questions that are being answered meanwhile are not kept either.
#[utoipa::path(
    delete,
    path = "/v1/admin/cache",
    operation_id = "forget_answers",
    tag = "admin",
    params(Forgotten),
    responses(
        (status = 200, description = "How many were forgotten", body = ref("#/components/schemas/ForgottenAnswers")),
        ForgetProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn forget(
    State(state): State<AppState>,
    Admin(caller): Admin,
    Query(which): Query<Forgotten>,
    request: RequestId,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    let target = which.route.as_deref().unwrap_or("*");
    let entry = audit::entry(&caller, &request, Action::CacheCleared, target);
    state.audit.record(caller.scope.tenant(), entry).await?;
    let forgotten = state.gateway.forget(&caller.scope, which.route.as_deref());
    tracing::info!(tenant = %caller.scope.tenant(), by = %caller.user, forgotten, "kept answers were forgotten");
    Ok(axum::Json(serde_json::json!({ "forgotten": forgotten })))
}
