//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http::problem::Code;
use crate::http::state::AppState;
use crate::openapi::problems;
use crate::telemetry::MetricsView;

/// Longest time a dependency has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

problems!(SmallProblems: &[Code::RateLimited]);
problems!(LargeProblems: &[Code::RateLimited, Code::Overloaded]);

/// The process is alive
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "get_health",
    tag = "operations",
    responses(
        (status = 200, description = "It is", body = ref("#/components/schemas/Health")),
        SmallProblems,
    ),
)]
pub async fn healthz() -> Response {
    axum::Json(json!({ "status": "ok" })).into_response()
}

/// Whether the dependencies answer, each by name
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "get_readiness",
    tag = "operations",
    responses(
        (status = 200, description = "They do", body = ref("#/components/schemas/Readiness")),
        (status = 503, description = "One does not, the process is about to end, or it is a standby", body = ref("#/components/schemas/Readiness")),
        SmallProblems,
    ),
)]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let answers = matches!(tokio::time::timeout(PATIENCE, state.log().ready()).await, Ok(Ok(())));
    let writes = if answers {
        let looked = tokio::time::timeout(PATIENCE, state.probe.look_again(state.log())).await;
        looked.unwrap_or_else(|_| state.probe.seen())
    } else {
        state.probe.seen()
    };
    let store = answers && writes.is_good();
    let draining = state.shutdown.is_draining();
    let ready = store && !draining;
    let word = |good: bool| if good { "ok" } else { "unavailable" };
    let mut dependencies = json!({ state.store: word(store) });
    // Without it the process still serves: it is named and does not count.
    if let Some(embeds) = state.gateway.embeds() {
        dependencies["embeddings"] = word(embeds).into();
    }
    // The others are served: the log and the list of tenants say which are left out.
    if !state.tenants.left_out().is_empty() {
        dependencies["tenants"] = word(false).into();
    }
    // Served too, with a word to be read in the log and the list of tenants, such as a budget that cannot be counted.
    if state.tenants.has_warnings() {
        dependencies["tenant_warnings"] = word(false).into();
    }
    // Nor without this: what cannot be granted then is refused by itself, and every process is in the same case.
    if let Some(limits) = state.gateway.limits_ready() {
        dependencies["limits"] = word(limits).into();
    }
    let missing = state.log().missing_commits();
    let mut store = json!({ "last_write": writes.word(), "age_s": writes.age().map(|age| age.as_secs()) });
    // What is there is served: whoever has to look after the rest is told.
    if missing > 0 {
        store["missing_commits"] = missing.into();
    }
    let body = json!({
        "status": if ready { "ok" } else if draining { "draining" } else { "unavailable" },
        "dependencies": dependencies,
        "store": store,
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(body)).into_response()
}

/// Metrics for Prometheus
///
/// Without tenants: those are labels on the admin port alone (`server.admin_listen`).
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    tag = "operations",
    responses(
        (status = 200, description = "In the text format", body = String, content_type = "text/plain"),
        LargeProblems,
    ),
)]
pub async fn metrics(State(state): State<AppState>) -> Response {
    page((state.metrics)(MetricsView::Public))
}

/// Metrics for Prometheus with tenants as labels; on the admin port.
pub async fn tenant_metrics(State(state): State<AppState>) -> Response {
    page((state.metrics)(MetricsView::Tenants))
}

fn page(text: String) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
