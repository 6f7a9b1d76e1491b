//! Usage reports: what the tenant's and the operator's report share, and `/v1/operator/usage`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use copilotd_actors::domain::conversation::view::usd;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use copilotd_gateway::ledger::{TenantsGroupBy, TenantsUsageQuery, TenantsUsageRow, UsageRow, UsageStore};
use copilotd_gateway::limit::Period;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::http::accept::Accept;
use crate::http::credentials::Operator;
use crate::http::extract::{Query, invalid};
use crate::http::problems::{Code, Problem};
use crate::http::response_memory::PageMemory;
use crate::surfaces::openapi::{AUTH, problems};

/// Maximum groups per report.
pub(crate) const MAX_GROUPS: usize = 10_000;

/// A usage report.
#[derive(Debug, Serialize)]
pub(crate) struct Report<B> {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) group_by: B,
    pub(crate) data: Vec<Group>,
}

/// The totals of one group.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
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

/// The requested format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFormat {
    Json,
    Csv,
}

impl<S: Send + Sync> FromRequestParts<S> for ReportFormat {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of(&parts.headers).ok_or_else(|| {
            Problem::new(Code::NotAcceptable)
                .detail("this route answers with application/json or text/csv; allow one in the Accept header")
        })
    }
}

impl ReportFormat {
    /// Parses the `Accept` header: CSV if it is named and nothing is preferred to it, otherwise JSON if accepted.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let Some(accept) = Accept::of(headers) else {
            return Some(Self::Json);
        };
        let json = accept.preference(&mime::APPLICATION_JSON);
        let csv = accept.named_preference(&mime::TEXT_CSV);
        match (json, csv) {
            (Some(json), Some(csv)) if csv.is_before(json) => Some(Self::Csv),
            (Some(_), _) => Some(Self::Json),
            (None, Some(_)) => Some(Self::Csv),
            (None, None) => None,
        }
    }

    /// Builds the response.
    pub(crate) fn response<B: Serialize>(self, report: &Report<B>) -> Response {
        match self {
            Self::Json => axum::Json(report).into_response(),
            Self::Csv => {
                let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
                ([(header::CONTENT_TYPE, kind)], csv(&report.data)).into_response()
            }
        }
    }
}

/// Formats totals as CSV (RFC 4180) with a header line.
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

/// Formats a text cell. Neutralises text that a spreadsheet would run as a formula: user names are whatever a tenant's
/// backend signs.
fn cell(text: &str) -> String {
    let mut rest = text.chars();
    let is_formula = match rest.next() {
        Some('=' | '@' | '\t' | '\r') => true,
        // A phone number is not a formula.
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

/// Parses the period of a report; the default is from the start of the month until now.
pub(crate) fn time(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<(Timestamp, Timestamp), Problem> {
    let from = match from {
        Some(text) => moment("from", text, false)?,
        None => Period::Month.around(now).0,
    };
    let to = match to {
        Some(text) => moment("to", text, true)?,
        None => now,
    };
    if to < from {
        return Err(invalid("", "to: must not be before from"));
    }
    Ok((from, to))
}

/// Parses a time, or a day as its start or end.
pub(crate) fn moment(name: &str, text: &str, is_end: bool) -> Result<Timestamp, Problem> {
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

/// Query of the report over all tenants.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// Start of the report, a day or a time; inclusive. Default: the start of the current month
    from: Option<String>,
    /// End of the report: a time (exclusive) or a day (inclusive). Default: now
    to: Option<String>,
    /// Only this tenant. Default: all tenants
    tenant: Option<String>,
    /// Group the totals by this. Default: `tenant`
    #[param(inline)]
    group_by: Option<TenantsGroupBy>,
}

problems!(TenantsUsageProblems: AUTH);

/// Get model usage and cost across tenants
///
/// Counts every attempt, including failed and abandoned ones. Grouped by tenant, or by tenant and API key, each total
/// names its tenant; grouped by route or day, totals are over all tenants. May lag by a second.
#[utoipa::path(
    get,
    path = "/v1/operator/usage",
    operation_id = "get_tenants_usage",
    tag = "tenants",
    params(UsageParams),
    responses(
        (status = 200, description = "The totals, sorted by tenant and key; as CSV with `Accept: text/csv`", content(
            (ref("#/components/schemas/TenantsUsageReport") = "application/json"),
            (String = "text/csv"),
        )),
        TenantsUsageProblems,
    ),
    security(("bearer" = ["operator"])),
)]
pub async fn of_tenants(
    State(usage): State<Arc<dyn UsageStore>>,
    State(clock): State<Arc<dyn Clock>>,
    Operator(_): Operator,
    form: ReportFormat,
    Query(wanted): Query<UsageParams>,
    _room: PageMemory,
) -> Result<Response, Problem> {
    let (from, to) = time(wanted.from.as_deref(), wanted.to.as_deref(), clock.now())?;
    let tenant = wanted.tenant.as_deref().map(str::parse::<TenantId>).transpose();
    let tenant = tenant.map_err(|_| invalid("", "tenant: not a valid tenant id"))?;
    let group_by = wanted.group_by.unwrap_or(TenantsGroupBy::Tenant);
    let query = TenantsUsageQuery {
        from,
        to,
        tenant,
        group_by,
        limit: MAX_GROUPS,
    };
    let rows = usage.sum_tenants_usage(&query).await?;
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
    fn csv_only_if_preferred_by_accept() {
        for (accept, form) in [
            ("text/csv", Some(ReportFormat::Csv)),
            ("Text/CSV; charset=utf-8", Some(ReportFormat::Csv)),
            ("text/*", Some(ReportFormat::Csv)),
            ("text/csv, */*;q=0.5", Some(ReportFormat::Csv)),
            ("text/csv, application/json", Some(ReportFormat::Csv)),
            ("application/json, text/csv", Some(ReportFormat::Json)),
            ("text/csv;q=0.5, application/json", Some(ReportFormat::Json)),
            ("application/json;q=0.1, text/csv;q=0.2", Some(ReportFormat::Csv)),
            ("*/*", Some(ReportFormat::Json)),
            ("application/*", Some(ReportFormat::Json)),
            ("text/csv;q=0, */*", Some(ReportFormat::Json)),
            ("text/html, application/xhtml+xml, */*;q=0.8", Some(ReportFormat::Json)),
            ("text/html", None),
            ("text/csv;q=0", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(ReportFormat::of(&headers), form, "{accept}");
        }
        assert_eq!(ReportFormat::of(&HeaderMap::new()), Some(ReportFormat::Json));
    }

    #[test]
    fn cells_are_escaped_and_never_formulas() {
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
