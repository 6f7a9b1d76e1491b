//! `/v1/admin/…`: what a tenant's administrators see.

use axum::extract::State;
use copilotd_actors::domain::view::usd;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::audit;
use crate::audit::Action;
use crate::gateway::ledger::{GroupBy, UsageQuery, UsageRow};
use crate::gateway::limit::Period;
use crate::http::account::PageRoom;
use crate::http::auth::Admin;
use crate::http::extract::{Query, invalid};
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::state::AppState;
use crate::openapi::{AUTH, problems};

/// Most groups of one answer.
const MAX_GROUPS: usize = 10_000;

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

/// Sums of usage.
#[derive(Debug, Serialize)]
pub struct Report {
    from: Timestamp,
    to: Timestamp,
    group_by: GroupBy,
    data: Vec<Group>,
}

/// A sum.
#[derive(Debug, Serialize)]
struct Group {
    key: String,
    calls: u64,
    cache_hits: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
    cache_write_tokens: u64,
    reasoning_tokens: u64,
    cost_usd: f64,
}

impl From<UsageRow> for Group {
    fn from(row: UsageRow) -> Self {
        Self {
            key: row.group,
            calls: row.calls,
            cache_hits: row.cache_hits,
            prompt_tokens: row.usage.prompt_tokens,
            completion_tokens: row.usage.completion_tokens,
            cached_tokens: row.usage.cached_tokens,
            cache_write_tokens: row.usage.cache_write_tokens,
            reasoning_tokens: row.usage.reasoning_tokens,
            cost_usd: usd(row.usage.cost),
        }
    }
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
        (status = 200, description = "The sums, in the order of their keys", body = ref("#/components/schemas/UsageReport")),
        UsageProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn usage(
    State(state): State<AppState>,
    Admin(caller): Admin,
    Query(wanted): Query<Wanted>,
    _room: PageRoom,
) -> Result<axum::Json<Report>, Problem> {
    let now = state.clock().now();
    let from = match &wanted.from {
        Some(text) => moment("from", text, false)?,
        None => Period::Month.around(now).0,
    };
    let to = match &wanted.to {
        Some(text) => moment("to", text, true)?,
        None => now,
    };
    if to < from {
        return Err(invalid("", "to: is before from"));
    }
    let query = UsageQuery {
        from,
        to,
        group_by: wanted.group_by.unwrap_or(GroupBy::Day),
        limit: MAX_GROUPS,
    };
    let rows = state.usage.sum_usage(&caller.scope, &query).await?;
    Ok(axum::Json(Report {
        from,
        to,
        group_by: query.group_by,
        data: rows.into_iter().map(Group::from).collect(),
    }))
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

/// Reads a moment, or a day: its beginning, or its end.
fn moment(name: &str, text: &str, is_end: bool) -> Result<Timestamp, Problem> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let wrong = || {
        invalid(
            "",
            format!("{name}: expected a day such as 2026-11-01 or a time such as 2026-11-01T12:00:00Z"),
        )
    };
    let day: Date = text.parse().map_err(|_| wrong())?;
    let day = if is_end {
        day.tomorrow().map_err(|_| wrong())?
    } else {
        day
    };
    TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).map_err(|_| wrong())
}
