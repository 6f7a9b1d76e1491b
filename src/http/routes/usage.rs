//! Reports of usage: what a tenant's administrators and an operator share, and `/v1/operator/usage`.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use copilotd_actors::domain::conversation::view::usd;
use copilotd_actors::domain::ids::TenantId;
use copilotd_gateway::ledger::{TenantsGroupBy, TenantsUsageQuery, TenantsUsageRow, UsageRow};
use copilotd_gateway::limit::Period;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::http::auth::Operator;
use crate::http::extract::{Query, invalid};
use crate::http::problem::{Code, Problem};
use crate::http::room::PageRoom;
use crate::http::state::AppState;
use crate::openapi::{AUTH, problems};

/// Most groups of one answer.
pub(super) const MAX_GROUPS: usize = 10_000;

/// Sums of usage.
#[derive(Debug, Serialize)]
pub(super) struct Report<B> {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) group_by: B,
    pub(super) data: Vec<Group>,
}

/// A sum.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    key: String,
    calls: u64,
    cache_hits: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
    cache_write_tokens: u64,
    reasoning_tokens: u64,
    cost_usd: f64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
    #[serde(skip_serializing_if = "is_none")]
    estimated_calls: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_none(calls: &u64) -> bool {
    *calls == 0
}

impl From<UsageRow> for Group {
    fn from(row: UsageRow) -> Self {
        Self {
            tenant: None,
            key: row.group,
            calls: row.calls,
            cache_hits: row.cache_hits,
            prompt_tokens: row.usage.prompt_tokens,
            completion_tokens: row.usage.completion_tokens,
            cached_tokens: row.usage.cached_tokens,
            cache_write_tokens: row.usage.cache_write_tokens,
            reasoning_tokens: row.usage.reasoning_tokens,
            cost_usd: usd(row.usage.cost),
            estimated: row.usage.estimated,
            estimated_calls: row.estimated_calls,
        }
    }
}

impl From<TenantsUsageRow> for Group {
    fn from(TenantsUsageRow { tenant, row }: TenantsUsageRow) -> Self {
        Self {
            tenant,
            ..Self::from(row)
        }
    }
}

/// The form in which a report is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As JSON.
    Json,
    /// As CSV.
    Csv,
}

impl<S: Send + Sync> FromRequestParts<S> for Form {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of(&parts.headers)
            .ok_or_else(|| Problem::new(Code::NotAcceptable).detail("this answers with application/json or text/csv"))
    }
}

impl Form {
    /// Reads the `Accept` header: CSV for who names it and likes nothing better, JSON for everybody else who takes it.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut ranges = Vec::new();
        for value in headers.get_all(header::ACCEPT) {
            for range in value.to_str().unwrap_or_default().split(',') {
                let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
                let essence = parts.next().unwrap_or_default();
                let quality = parts.find_map(|part| part.strip_prefix("q=").map(str::to_owned));
                let quality = quality.map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0));
                ranges.push((essence, quality));
            }
        }
        if ranges.is_empty() {
            return Some(Self::Json);
        }
        // How much one is liked: by the range that names it most exactly, and by the earlier of two that are liked as much.
        let liked = |names: &[&str]| {
            let places = names
                .iter()
                .find_map(|name| ranges.iter().position(|(range, _)| range == name));
            places
                .map(|place| (ranges[place].1, place))
                .filter(|(quality, _)| *quality > 0.0)
        };
        match (
            liked(&["application/json", "application/*", "*/*"]),
            liked(&["text/csv", "text/*"]),
        ) {
            (Some(_), None) => Some(Self::Json),
            (None, Some(_)) => Some(Self::Csv),
            (Some((json, first)), Some((csv, second))) if json > csv || (json >= csv && first < second) => {
                Some(Self::Json)
            }
            (Some(_), Some(_)) => Some(Self::Csv),
            (None, None) => None,
        }
    }

    /// Writes a report.
    pub(super) fn response<B: Serialize>(self, report: &Report<B>) -> Response {
        match self {
            Self::Json => axum::Json(report).into_response(),
            Self::Csv => {
                let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
                ([(header::CONTENT_TYPE, kind)], csv(&report.data)).into_response()
            }
        }
    }
}

/// Writes sums as CSV (RFC 4180), with a line of names.
fn csv(groups: &[Group]) -> String {
    let by_tenant = groups.iter().any(|group| group.tenant.is_some());
    let mut out = String::new();
    if by_tenant {
        out.push_str("tenant,");
    }
    out.push_str(
        "key,calls,cache_hits,prompt_tokens,completion_tokens,cached_tokens,cache_write_tokens,reasoning_tokens,cost_usd,estimated_calls\r\n",
    );
    for group in groups {
        if by_tenant {
            out.push_str(&cell(group.tenant.as_deref().unwrap_or_default()));
            out.push(',');
        }
        out.push_str(&cell(&group.key));
        for number in [
            group.calls,
            group.cache_hits,
            group.prompt_tokens,
            group.completion_tokens,
            group.cached_tokens,
            group.cache_write_tokens,
            group.reasoning_tokens,
        ] {
            out.push_str(&format!(",{number}"));
        }
        out.push_str(&format!(",{},{}\r\n", group.cost_usd, group.estimated_calls));
    }
    out
}

/// Writes a text. One that a spreadsheet would run as a formula is made a text there: names of users are whatever a tenant's backend signs.
fn cell(text: &str) -> String {
    let mut rest = text.chars();
    let is_formula = match rest.next() {
        Some('=' | '@' | '\t' | '\r') => true,
        // A telephone number is none.
        Some('+' | '-') => !rest.clone().all(|c| c.is_ascii_digit()),
        _ => false,
    };
    let text = if is_formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    match text.contains([',', '"', '\r', '\n']) || is_formula {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// Reads the time of a report: from the beginning of the month until now, unless it is given.
pub(super) fn time(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<(Timestamp, Timestamp), Problem> {
    let from = match from {
        Some(text) => moment("from", text, false)?,
        None => Period::Month.around(now).0,
    };
    let to = match to {
        Some(text) => moment("to", text, true)?,
        None => now,
    };
    if to < from {
        return Err(invalid("", "to: is before from"));
    }
    Ok((from, to))
}

/// Reads a moment, or a day: its beginning, or its end.
pub(super) fn moment(name: &str, text: &str, is_end: bool) -> Result<Timestamp, Problem> {
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

/// Which usage, over all tenants.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// From this day or moment on (the beginning of the month)
    from: Option<String>,
    /// Before this moment, or to the end of this day (now)
    to: Option<String>,
    /// Of this tenant alone
    tenant: Option<String>,
    /// What sums are made by (`tenant`)
    #[param(inline)]
    group_by: Option<TenantsGroupBy>,
}

problems!(TenantsUsageProblems: AUTH);

/// Sums up what the model calls of all tenants used and cost
///
/// Every attempt counts, failed ones and those that were left included. By tenant, or by tenant and API key, each sum names its tenant; by
/// route and by day sums are over all of them. May lag by a second.
#[utoipa::path(
    get,
    path = "/v1/operator/usage",
    operation_id = "get_tenants_usage",
    tag = "tenants",
    params(Wanted),
    responses(
        (status = 200, description = "The sums, by tenant and key; as CSV if that is asked for", content(
            (ref("#/components/schemas/TenantsUsageReport") = "application/json"),
            (String = "text/csv"),
        )),
        TenantsUsageProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn of_tenants(
    State(state): State<AppState>,
    Operator(_): Operator,
    form: Form,
    Query(wanted): Query<Wanted>,
    _room: PageRoom,
) -> Result<Response, Problem> {
    let (from, to) = time(wanted.from.as_deref(), wanted.to.as_deref(), state.clock().now())?;
    let tenant = wanted.tenant.as_deref().map(str::parse::<TenantId>).transpose();
    let tenant = tenant.map_err(|_| invalid("", "tenant: expected the id of a tenant"))?;
    let group_by = wanted.group_by.unwrap_or(TenantsGroupBy::Tenant);
    let query = TenantsUsageQuery {
        from,
        to,
        tenant,
        group_by,
        limit: MAX_GROUPS,
    };
    let rows = state.usage.sum_tenants_usage(&query).await?;
    let report = Report {
        from,
        to,
        group_by,
        data: rows.into_iter().map(Group::from).collect(),
    };
    Ok(form.response(&report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_for_who_asks_for_it() {
        for (accept, form) in [
            ("text/csv", Some(Form::Csv)),
            ("Text/CSV; charset=utf-8", Some(Form::Csv)),
            ("text/*", Some(Form::Csv)),
            ("text/csv, */*;q=0.5", Some(Form::Csv)),
            ("text/csv, application/json", Some(Form::Csv)),
            ("application/json, text/csv", Some(Form::Json)),
            ("text/csv;q=0.5, application/json", Some(Form::Json)),
            ("application/json;q=0.1, text/csv;q=0.2", Some(Form::Csv)),
            ("*/*", Some(Form::Json)),
            ("application/*", Some(Form::Json)),
            ("text/csv;q=0, */*", Some(Form::Json)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(Form::Json)),
            ("text/html", None),
            ("text/csv;q=0", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Form::of(&headers), form, "{accept}");
        }
        assert_eq!(Form::of(&HeaderMap::new()), Some(Form::Json));
    }

    #[test]
    fn a_cell_is_a_text_whatever_it_holds() {
        for (text, written) in [
            ("ada", "ada"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("-2+3", "\"'-2+3\""),
            ("+4912345", "+4912345"),
            ("2026-11-01", "2026-11-01"),
        ] {
            assert_eq!(cell(text), written, "{text}");
        }
    }
}
