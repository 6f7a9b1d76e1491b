//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http::problems::Code;
use crate::surfaces::openapi::problems;
use crate::surfaces::state::AppState;
use crate::telemetry::{MetricsView, Render};

/// Timeout for each dependency check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

problems!(SmallProblems: &[Code::RateLimited]);
problems!(LargeProblems: &[Code::RateLimited, Code::Overloaded]);

/// Check liveness
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "get_health",
    tag = "operations",
    responses(
        (status = 200, description = "The process is alive", body = ref("#/components/schemas/Health")),
        SmallProblems,
    ),
)]
pub async fn healthz() -> Response {
    axum::Json(json!({ "status": "ok" })).into_response()
}

/// Check readiness, with each dependency by name
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "get_readiness",
    tag = "operations",
    responses(
        (status = 200, description = "Ready", body = ref("#/components/schemas/Readiness")),
        (status = 503, description = "Not ready: the store is unavailable, the process is shutting down, or it is a standby", body = ref("#/components/schemas/Readiness")),
        SmallProblems,
    ),
)]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let answers = matches!(
        tokio::time::timeout(CHECK_TIMEOUT, state.log().ready()).await,
        Ok(Ok(()))
    );
    let writes = if answers {
        let looked = tokio::time::timeout(CHECK_TIMEOUT, state.probe.retry_if_failed(state.log())).await;
        looked.unwrap_or_else(|_| state.probe.seen())
    } else {
        state.probe.seen()
    };
    let store = answers && writes.is_good();
    let draining = state.shutdown.is_draining();
    let ready = store && !draining;
    let word = |good: bool| if good { "ok" } else { "unavailable" };
    let mut dependencies = json!({ state.store: word(store) });
    // The process serves without embeddings: reported, but it does not affect readiness.
    if let Some(embeds) = state.library.embeds().or(state.gateway.embeds()) {
        dependencies["embeddings"] = word(embeds).into();
    }
    // Does not affect readiness: only while documents are embedded again, after another model had embedded them.
    let searched = tokio::time::timeout(CHECK_TIMEOUT, state.library.searches_previous()).await;
    if let Ok(Ok(Some(searched))) = searched {
        dependencies["previous_embeddings"] = word(searched).into();
    }
    // Does not affect readiness: turns go on without documents. Only of an index that is a server of its own.
    if state.index_is_remote {
        let found = tokio::time::timeout(CHECK_TIMEOUT, state.library.index.ready()).await;
        dependencies["knowledge"] = word(matches!(found, Ok(Ok(())))).into();
    }
    // Does not affect readiness: PDF documents are read by another reader.
    if let Some(pdf) = state.pdf {
        dependencies["pdf"] = word(pdf).into();
    }
    // Does not affect readiness, because all other tenants are served. The log and the tenant list name them.
    if !state.tenants.left_out().is_empty() {
        dependencies["tenants"] = word(false).into();
    }
    // Does not affect readiness. The log and the tenant list have the warnings, such as a budget that cannot be
    // counted.
    if state.tenants.has_warnings() {
        dependencies["tenant_warnings"] = word(false).into();
    }
    // Does not affect readiness: requests that need a limit are refused one by one, and every process is affected
    // alike.
    if let Some(limits) = state.gateway.limits_ready() {
        dependencies["limits"] = word(limits).into();
    }
    let missing = state.log().missing_commits();
    let mut store = json!({ "last_write": writes.word(), "age_s": writes.age().map(|age| age.as_secs()) });
    // Does not affect readiness: what is stored is served. Reported for the operator.
    if missing > 0 {
        store["missing_commits"] = missing.into();
    }
    let mut body = json!({
        "status": if ready { "ok" } else if draining { "draining" } else { "unavailable" },
        "dependencies": dependencies,
        "store": store,
        "document_search": state.document_search,
    });
    if let Some(reader) = state.pdf_reader {
        body["pdf_reader"] = reader.into();
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(body)).into_response()
}

/// Get metrics in the Prometheus text format
///
/// Without tenant labels, which are only on the admin port (`server.admin_listen`).
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    tag = "operations",
    responses(
        (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
        LargeProblems,
    ),
)]
pub async fn metrics(State(render): State<Render>) -> Response {
    page(render(MetricsView::Public))
}

/// Metrics with tenant labels, for the admin port.
pub async fn tenant_metrics(State(render): State<Render>) -> Response {
    page(render(MetricsView::Tenants))
}

fn page(text: String) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
