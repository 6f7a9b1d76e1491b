//! `/v1/knowledge/{collection}/documents`

use std::sync::Arc;

use axum::extract::{RawPathParams, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::compute;
use copilotd_actors::domain::ids::{CollectionName, ExternalId};
use copilotd_knowledge::document::{AttributeChanges, DocumentKey};
use copilotd_knowledge::index::{QuotaKind, Submitted};
use copilotd_knowledge::library::Library;

use super::content::{self, AttributesBody};
use super::reader;
use super::view::{ChunkView, DocumentView};
use crate::http::bodies::Json;
use crate::http::credentials::Knowledge;
use crate::http::extract::{Ids, Query, invalid};
use crate::http::json_response;
use crate::http::page::{self, Page, PageQuery};
use crate::http::problems::{Code, Problem};
use crate::http::response_memory::PageMemory;
use crate::surfaces::admin::jobs;
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::state::Shutdown;

/// Cost of hashing a byte, in the unit of [`compute`], as one over this.
const BYTES_PER_HASH_COST: usize = 4;

problems!(PutProblems: AUTH, BODY, &[Code::QuotaExceeded, Code::UnsupportedMediaType, Code::TooLarge]);

/// Store a document
///
/// The body is the document itself (`text/plain`, `text/markdown`, `text/html`, `text/csv`, `application/pdf`, DOCX), JSON with its
/// text and attributes, or `multipart/form-data` with the parts `document` and `attributes`. New content is accepted with 202
/// and a job; searches find it when the job is completed, and until then the version before it. The same content again
/// is answered with 200 and is no work; attributes sent with it are in force from the next search on. Attributes that are left
/// out are kept; on a new document they mean everybody in the tenant.
#[utoipa::path(
    put,
    path = "/v1/knowledge/{collection}/documents/{external_id}",
    operation_id = "put_document",
    tag = "knowledge",
    request_body(content(
        (ref("#/components/schemas/PutDocument") = "application/json"),
        (String = "text/plain"),
        (String = "text/markdown"),
        (String = "text/html"),
        (String = "text/csv"),
        (String = "application/pdf"),
        (String = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (String = "multipart/form-data"),
    )),
    responses(
        (status = 200, description = "The content is stored already", body = ref("#/components/schemas/Document")),
        (status = 202, description = "Accepted; a job ingests it", body = ref("#/components/schemas/Job"), headers(("location" = String, description = "URL of the job"))),
        PutProblems,
    ),
    security(("bearer" = ["knowledge"])),
)]
pub async fn put(
    State(library): State<Arc<Library>>,
    State(shutdown): State<Shutdown>,
    Knowledge(caller): Knowledge,
    path: RawPathParams,
    request: Request,
) -> Result<Response, Problem> {
    ensure_accepting_work(&shutdown)?;
    let key = key_to_store(&path)?;
    let tenant = caller.scope.tenant();
    let (content, changes) = content::read(request, tenant, library.max_bytes).await?;
    if content.bytes.is_empty() {
        return Err(invalid("", "the document is empty"));
    }
    let cost = content.bytes.len() / BYTES_PER_HASH_COST;
    let hashed = compute::run(Some(tenant), cost, move || (content.hash(), content)).await;
    let (hash, content) =
        hashed.map_err(|_full| Problem::new(Code::Overloaded).detail("too many large documents are waiting"))?;
    match library.store(&caller.scope, key, content, hash, changes).await? {
        Submitted::Unchanged(document) => Ok(axum::Json(DocumentView::from(document)).into_response()),
        Submitted::QuotaExceeded(kind) => {
            let quota = (library.quota)(&caller.scope);
            let text = match kind {
                QuotaKind::Documents => format!("the tenant may store at most {} documents", quota.documents),
                QuotaKind::Bytes => format!("the tenant may store at most {} bytes of documents", quota.bytes),
                QuotaKind::Chunks => format!("the tenant may have at most {} chunks of documents", quota.chunks),
            };
            Err(Problem::new(Code::QuotaExceeded).detail(text))
        }
        Submitted::Accepted(document) => {
            let job = library.index.job(&caller.scope, document.job).await?;
            // Another request may have replaced the version in the meantime.
            let body = job.map(jobs::JobView::from);
            let location = [(header::LOCATION, format!("/v1/jobs/{}", document.job))];
            Ok(match body {
                Some(job) => (StatusCode::ACCEPTED, location, axum::Json(job)).into_response(),
                None => (StatusCode::ACCEPTED, location).into_response(),
            })
        }
    }
}

/// Reads the key of a document to store; says what is wrong with it.
fn key_to_store(path: &RawPathParams) -> Result<DocumentKey, Problem> {
    let mut values = path.iter().map(|(_, value)| value);
    let (collection, external_id) = (values.next().unwrap_or_default(), values.next().unwrap_or_default());
    let collection: CollectionName = collection
        .parse()
        .map_err(|error| invalid("", format!("name of the collection: {error}")))?;
    let external_id: ExternalId = external_id
        .parse()
        .map_err(|error| invalid("", format!("id of the document: {error}")))?;
    Ok(DocumentKey {
        collection,
        external_id,
    })
}

problems!(FoundProblems: AUTH, FOUND);

/// Get a document
///
/// Without its content; see its chunks.
#[utoipa::path(
    get,
    path = "/v1/knowledge/{collection}/documents/{external_id}",
    operation_id = "get_document",
    tag = "knowledge",
    responses(
        (status = 200, description = "The document", body = ref("#/components/schemas/Document")),
        FoundProblems,
    ),
    security(("bearer" = ["knowledge"])),
)]
pub async fn get(
    State(library): State<Arc<Library>>,
    Knowledge(caller): Knowledge,
    Ids((collection, external_id)): Ids<(CollectionName, ExternalId)>,
) -> Result<axum::Json<DocumentView>, Problem> {
    let key = DocumentKey {
        collection,
        external_id,
    };
    let found = library.index.document(&caller.scope, &key).await?;
    let document = found.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(axum::Json(document.into()))
}

problems!(UpdateProblems: AUTH, FOUND, BODY);

/// Change a document's attributes
///
/// In force from the next search on; the content is not read again. Members that are left out are kept, null removes them.
#[utoipa::path(
    patch,
    path = "/v1/knowledge/{collection}/documents/{external_id}",
    operation_id = "update_document",
    tag = "knowledge",
    request_body = ref("#/components/schemas/UpdateDocument"),
    responses(
        (status = 200, description = "The changed document", body = ref("#/components/schemas/Document")),
        UpdateProblems,
    ),
    security(("bearer" = ["knowledge"])),
)]
pub async fn update(
    State(library): State<Arc<Library>>,
    Knowledge(caller): Knowledge,
    Ids((collection, external_id)): Ids<(CollectionName, ExternalId)>,
    Json(body): Json<AttributesBody>,
) -> Result<axum::Json<DocumentView>, Problem> {
    let key = DocumentKey {
        collection,
        external_id,
    };
    let (changes, now) = (AttributeChanges::from(body), library.clock.now());
    let changed = library
        .index
        .change_attributes(&caller.scope, &key, &changes, now)
        .await?;
    let document = changed.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(axum::Json(document.into()))
}

/// Delete a document
///
/// Searches do not find it any more when the answer arrives, and its content is erased from the index.
#[utoipa::path(
    delete,
    path = "/v1/knowledge/{collection}/documents/{external_id}",
    operation_id = "delete_document",
    tag = "knowledge",
    responses((status = 204, description = "Deleted"), FoundProblems),
    security(("bearer" = ["knowledge"])),
)]
pub async fn delete(
    State(library): State<Arc<Library>>,
    Knowledge(caller): Knowledge,
    Ids((collection, external_id)): Ids<(CollectionName, ExternalId)>,
) -> Result<StatusCode, Problem> {
    let key = DocumentKey {
        collection,
        external_id,
    };
    let deleted = library.index.delete(&caller.scope, &key, library.clock.now()).await?;
    deleted
        .map(|_receipt| StatusCode::NO_CONTENT)
        .ok_or_else(|| Problem::new(Code::NotFound))
}

problems!(ListProblems: AUTH, FOUND);

/// List the documents of a collection, in order of their external ids
#[utoipa::path(
    get,
    path = "/v1/knowledge/{collection}/documents",
    operation_id = "list_documents",
    tag = "knowledge",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of documents", body = ref("#/components/schemas/DocumentPage")),
        ListProblems,
    ),
    security(("bearer" = ["knowledge"])),
)]
pub async fn list(
    State(library): State<Arc<Library>>,
    Knowledge(caller): Knowledge,
    Ids((collection,)): Ids<(CollectionName,)>,
    Query(query): Query<PageQuery>,
    _room: PageMemory,
) -> Result<Response, Problem> {
    let name = format!("documents/{}/{collection}", caller.scope.tenant());
    let after = match &query.cursor {
        Some(cursor) => Some(page::position::<ExternalId>(&name, cursor)?),
        None => None,
    };
    let limit = query.limit.get();
    let index = &library.index;
    let mut found = index
        .documents(&caller.scope, &collection, after.as_ref(), limit + 1)
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let positions: Vec<ExternalId> = found.iter().map(|document| document.key.external_id.clone()).collect();
    let mut data: Vec<DocumentView> = found.into_iter().map(DocumentView::from).collect();
    let more = page::cut(&mut data) || more;
    let last = positions[..data.len()].last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, last));
    let tenant = caller.scope.tenant();
    json_response::json(tenant, page::MAX_BYTES, StatusCode::OK, Page { data, next_cursor }).await
}

/// List the chunks of a document, in their order
///
/// Administrators see the chunks of every document, other callers those of documents that they may read.
#[utoipa::path(
    get,
    path = "/v1/knowledge/{collection}/documents/{external_id}/chunks",
    operation_id = "list_document_chunks",
    tag = "knowledge",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of chunks", body = ref("#/components/schemas/ChunkPage")),
        FoundProblems,
    ),
    security(("bearer" = ["knowledge"])),
)]
pub async fn chunks(
    State(library): State<Arc<Library>>,
    Knowledge(caller): Knowledge,
    Ids((collection, external_id)): Ids<(CollectionName, ExternalId)>,
    Query(query): Query<PageQuery>,
    _room: PageMemory,
) -> Result<Response, Problem> {
    let key = DocumentKey {
        collection,
        external_id,
    };
    let missing = || Problem::new(Code::NotFound);
    let document = library.index.document(&caller.scope, &key).await?.ok_or_else(missing)?;
    if !reader(&caller).may_read(&document.attributes.access) {
        return Err(missing());
    }
    // A cursor of another version would skip or repeat chunks.
    let name = format!("chunks/{}/{}/{}", caller.scope.tenant(), document.id, document.version);
    let from = match &query.cursor {
        Some(cursor) => page::position::<u32>(&name, cursor)?,
        None => 0,
    };
    let limit = query.limit.get();
    let found = library.index.chunks(&caller.scope, &key, from, limit + 1).await?;
    let mut found = found.ok_or_else(missing)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let positions: Vec<u32> = found.iter().map(|chunk| chunk.ordinal).collect();
    let mut data: Vec<ChunkView> = found.into_iter().map(ChunkView::from).collect();
    let more = page::cut(&mut data) || more;
    let last = positions[..data.len()].last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, &(last + 1)));
    let tenant = caller.scope.tenant();
    json_response::json(tenant, page::MAX_BYTES, StatusCode::OK, Page { data, next_cursor }).await
}
