//! `/v1/admin/knowledge/sources`

use axum::extract::State;
use copilotd_knowledge::sync::{Activity, SourceBook, SourceStatus};
use jiff::Timestamp;
use serde::Serialize;

use crate::http::credentials::Admin;
use crate::http::problems::Problem;
use crate::surfaces::openapi::{AUTH, problems};

/// A source in a response.
#[derive(Debug, Serialize)]
pub struct SourceView {
    name: String,
    kind: &'static str,
    status: &'static str,
    last_run_at: Option<Timestamp>,
    last_error: Option<String>,
    documents: u64,
    skipped: u64,
}

impl From<(String, SourceStatus)> for SourceView {
    fn from((name, status): (String, SourceStatus)) -> Self {
        Self {
            name,
            kind: status.kind,
            status: match status.activity {
                Activity::Running => "running",
                Activity::UpToDate => "up_to_date",
                Activity::Failed => "failed",
            },
            last_run_at: status.last_run_at,
            last_error: status.last_error,
            documents: status.documents,
            skipped: status.skipped,
        }
    }
}

/// The sources of a tenant, of which there are a few.
#[derive(Debug, Serialize)]
pub struct SourceList {
    data: Vec<SourceView>,
}

problems!(ListProblems: AUTH);

/// List the sources whose documents are kept up to date
///
/// The state of each source of the tenant's configuration, as this process knows it since it started.
#[utoipa::path(
    get,
    path = "/v1/admin/knowledge/sources",
    operation_id = "list_knowledge_sources",
    tag = "admin",
    responses(
        (status = 200, description = "All sources", body = ref("#/components/schemas/KnowledgeSources")),
        ListProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn list(State(book): State<SourceBook>, Admin(caller): Admin) -> Result<axum::Json<SourceList>, Problem> {
    let sources = book.of(caller.scope.tenant());
    Ok(axum::Json(SourceList {
        data: sources.into_iter().map(SourceView::from).collect(),
    }))
}
