//! `/v1/jobs` and `/v1/admin/exports`: long-running work and its results.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use copilotd_actors::domain::ids::{CollectionName, ExternalId, JobId, TenantId};
use copilotd_actors::ports::{Job, JobStatus, Progress, Receipt, Work};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::index::{IngestJob, IngestStatus};
use copilotd_knowledge::ingest::JOBS_KEPT;
use copilotd_knowledge::library::Library;
use futures::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use super::audit;
use super::usage::moment;
use crate::audit::{Action, AuditLog, Entry};
use crate::http::account::Account;
use crate::http::bodies::KeyedJson;
use crate::http::credentials::{Admin, Caller, Scopes};
use crate::http::extract::{IdempotencyKeyParam, Ids, Reason, ReasonParam, invalid};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::jobs::{Jobs, StartError};
use crate::request_body;
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::state::Shutdown;

/// Memory reserved for a chunk of a result before its size is known.
const CHUNK_MEMORY: usize = 512 * 1024;

/// A job in a response.
#[derive(Debug, Serialize)]
pub struct JobView {
    id: JobId,
    kind: &'static str,
    status: JobStatus,
    progress: Progress,
    error: Option<String>,
    /// The document of an ingestion.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<IngestedDocument>,
    /// The tenant being erased by a deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    /// For a deletion: what was erased, store by store.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Vec<Receipt>>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    /// When the job and its result are deleted.
    expires_at: Option<Timestamp>,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let expires_at = job.expires_at();
        let (tenant, receipt) = match &job.state.work {
            Work::TenantDeletion { tenant } => (Some(tenant.clone()), Some(job.state.receipt)),
            Work::Export { .. } => (None, None),
        };
        Self {
            id: job.id,
            kind: job.state.work.kind(),
            status: job.state.status,
            progress: job.state.progress,
            error: job.state.error,
            document: None,
            tenant,
            receipt,
            created_at: job.state.created_at,
            finished_at: job.state.finished_at,
            expires_at,
        }
    }
}

/// The document of an ingestion.
#[derive(Debug, Serialize)]
struct IngestedDocument {
    collection: CollectionName,
    external_id: ExternalId,
}

impl From<IngestJob> for JobView {
    fn from(job: IngestJob) -> Self {
        let (status, error) = match job.status {
            IngestStatus::Queued => (JobStatus::Queued, None),
            IngestStatus::Running => (JobStatus::Running, None),
            IngestStatus::Completed => (JobStatus::Completed, None),
            IngestStatus::Failed(failure) => (JobStatus::Failed, Some(failure.message)),
            IngestStatus::Superseded => {
                let message = "a newer version was stored, or the document was deleted, before this one was ingested";
                (JobStatus::Failed, Some(message.to_owned()))
            }
        };
        Self {
            id: job.id,
            kind: "ingestion",
            status,
            progress: Progress {
                done: job.done,
                total: job.total.unwrap_or(0),
            },
            error,
            document: Some(IngestedDocument {
                collection: job.key.collection,
                external_id: job.key.external_id,
            }),
            tenant: None,
            receipt: None,
            created_at: job.created_at,
            finished_at: job.finished_at,
            expires_at: job.finished_at.map(|at| at + JOBS_KEPT),
        }
    }
}

/// The response to starting a job.
pub(crate) fn accepted(job: Job) -> Response {
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    (StatusCode::ACCEPTED, location, axum::Json(JobView::from(job))).into_response()
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        let text = error.to_string();
        match error {
            StartError::Conflict(_) => Self::new(Code::Conflict).detail(text),
            StartError::KeyReused => Self::new(Code::IdempotencyKeyReused).detail(text),
            StartError::Tenant(error) => error.into(),
            StartError::Store(error) => error.into(),
        }
    }
}

/// Finds a job started by the caller's tenant and scope; any other is answered 404.
async fn found(jobs: &Jobs, caller: &Caller, id: JobId) -> Result<Job, Problem> {
    let found = jobs.find(&caller.scope, id).await?;
    found
        .filter(|job| caller.scopes.contains(job.state.work.scopes()))
        .ok_or_else(|| Problem::new(Code::NotFound))
}

problems!(GetProblems: AUTH, FOUND);

/// Get a job
///
/// Visible to callers of the tenant and scope that started it. An ingestion is kept for a day after it ended, an export
/// until its result is deleted, a day after it finished, and the deletion of a tenant for 30 days.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "get_job",
    tag = "operations",
    responses(
        (status = 200, description = "The job", body = ref("#/components/schemas/Job")),
        GetProblems,
    ),
    security(("bearer" = ["admin"]), ("bearer" = ["operator"]), ("bearer" = ["knowledge"])),
)]
pub async fn get(
    State(jobs): State<Arc<Jobs>>,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Ids((id,)): Ids<(JobId,)>,
) -> Result<axum::Json<JobView>, Problem> {
    if caller.scopes.contains(Scopes::KNOWLEDGE)
        && let Some(job) = library.index.job(&caller.scope, id).await?
    {
        return Ok(axum::Json(job.into()));
    }
    Ok(axum::Json(found(&jobs, &caller, id).await?.into()))
}

problems!(ResultProblems: AUTH, FOUND, &[Code::Conflict]);

/// Download the result of an export
///
/// Available for a day after the export finished, as JSON lines. Each line is a conversation, or a part of a long one:
/// `{conversation, part, messages, turns}`, see `ExportLine`. Conversations erased since are omitted. Every download is
/// recorded in the audit log.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/result",
    operation_id = "get_job_result",
    tag = "operations",
    params(ReasonParam),
    responses(
        (status = 200, description = "The JSON lines", content((String = "application/jsonl"))),
        ResultProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn result(
    State(jobs): State<Arc<Jobs>>,
    State(audit): State<Arc<AuditLog>>,
    caller: Caller,
    request: RequestId,
    reason: Reason,
    account: Option<Extension<Account>>,
    Ids((id,)): Ids<(JobId,)>,
) -> Result<Response, Problem> {
    let job = found(&jobs, &caller, id).await?;
    if !matches!(job.state.work, Work::Export { .. }) || job.state.status == JobStatus::Failed {
        return Err(Problem::new(Code::NotFound));
    }
    if !job.state.status.is_terminal() {
        return Err(Problem::new(Code::Conflict)
            .detail("the export is not finished; its result is available once the job's status is completed"));
    }
    let entry = Entry {
        reason: match reason.is_given() {
            true => Some(reason.required()?),
            false => None,
        },
        ..audit::entry(&caller, &request, Action::ExportRead, id)
    };
    audit.record(caller.scope.tenant(), entry).await?;
    let account = account.map(|Extension(account)| account);
    let lines = Body::from_stream(lines(jobs, caller.scope, id, account));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"conversations.jsonl\""),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, lines).into_response())
}

/// Streams a result chunk by chunk, each after the previous one is sent and memory for it is reserved.
fn lines(
    jobs: Arc<Jobs>,
    scope: TenantScope,
    id: JobId,
    account: Option<Account>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::try_unfold(0, move |after| {
        let (jobs, scope, account) = (Arc::clone(&jobs), scope.clone(), account.clone());
        async move {
            let room = async |bytes: usize| match &account {
                Some(account) => account.reserve_answer(bytes).await,
                None => Ok(()),
            };
            let full = |_| std::io::Error::other("too many responses are waiting to be read");
            room(CHUNK_MEMORY).await.map_err(full)?;
            let page = jobs.result(&scope, id, after).await.map_err(|error| {
                tracing::warn!(
                    job = %id, tenant = %scope.tenant(), %error,
                    "reading an export result failed; the download was cut off"
                );
                std::io::Error::other("the export result could not be read")
            })?;
            if let Some(page) = page.as_ref().filter(|page| page.lines.len() > CHUNK_MEMORY) {
                room(page.lines.len()).await.map_err(full)?;
            }
            Ok(page.map(|page| (Bytes::from(page.lines), page.after)))
        }
    })
}

/// Body of `POST /v1/admin/exports`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Create {
    from: Option<String>,
    to: Option<String>,
}
request_body!(Create, "create_export.json");

problems!(CreateProblems: AUTH, BODY, &[Code::Conflict, Code::IdempotencyKeyReused]);

/// Export the tenant's conversations
///
/// Starts a job that writes JSON lines, available from `GET /v1/jobs/{id}/result` for a day. Requires
/// `x-copilotd-reason`, which is stored in the audit log. A tenant can have one running export and four stored results;
/// beyond that the request is refused with 409.
#[utoipa::path(
    post,
    path = "/v1/admin/exports",
    operation_id = "create_export",
    tag = "admin",
    params(ReasonParam, IdempotencyKeyParam),
    request_body = ref("#/components/schemas/CreateExport"),
    responses(
        (status = 202, description = "Accepted; the export is running", body = ref("#/components/schemas/Job"), headers(("location" = String, description = "URL of the job"))),
        CreateProblems,
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn create(
    State(shutdown): State<Shutdown>,
    State(jobs): State<Arc<Jobs>>,
    State(audit): State<Arc<AuditLog>>,
    Admin(caller): Admin,
    request: RequestId,
    reason: Reason,
    KeyedJson { body, idempotency }: KeyedJson<Create>,
) -> Result<Response, Problem> {
    ensure_accepting_work(&shutdown)?;
    let reason = reason.required()?;
    let time = |name: &str, text: &Option<String>, is_end: bool| {
        let read = text.as_deref().map(|text| moment(name, text, is_end));
        read.transpose().map_err(|_| {
            invalid(
                &format!("/{name}"),
                "expected a day such as 2026-11-01 or a time such as 2026-11-01T12:00:00Z",
            )
        })
    };
    let (from, to) = (time("from", &body.from, false)?, time("to", &body.to, true)?);
    if let (Some(from), Some(to)) = (from, to)
        && to < from
    {
        return Err(invalid("/to", "must not be before from"));
    }
    // In its own task: a client that disconnects must not stop it between the audit log and the store.
    let started = tokio::spawn(
        async move {
            let record = async |job: JobId| {
                let entry = Entry {
                    reason: Some(reason),
                    ..audit::entry(&caller, &request, Action::ExportCreated, job)
                };
                audit.record(caller.scope.tenant(), entry).await.map(drop)
            };
            let export = jobs.export(&caller.scope, &caller.user, (from, to), idempotency, record);
            export.await
        }
        .in_current_span(),
    );
    let job = started.await.map_err(|_panic| Problem::new(Code::Internal))??;
    Ok(accepted(job))
}
