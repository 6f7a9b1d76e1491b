//! `/v1/knowledge/chunks/{chunk_id}`

use std::sync::Arc;

use axum::extract::State;
use copilotd_actors::domain::ids::ChunkId;
use copilotd_knowledge::library::Library;

use super::reader;
use super::view::ChunkView;
use crate::http::credentials::{Caller, Scopes};
use crate::http::extract::Ids;
use crate::http::problems::{Code, Problem};
use crate::surfaces::openapi::{AUTH, FOUND, problems};

problems!(GetProblems: AUTH, FOUND);

/// Get a chunk, such as one that an answer cites
///
/// For whoever may read its document now. A chunk that was cited stays readable after an update of the document removed it
/// (`is_current` is false), until the document is deleted.
#[utoipa::path(
    get,
    path = "/v1/knowledge/chunks/{chunk_id}",
    operation_id = "get_chunk",
    tag = "knowledge",
    responses(
        (status = 200, description = "The chunk", body = ref("#/components/schemas/Chunk")),
        GetProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["knowledge"])),
)]
pub async fn get(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Ids((id,)): Ids<(ChunkId,)>,
) -> Result<axum::Json<ChunkView>, Problem> {
    if !caller.scopes.contains(Scopes::CHAT) {
        caller.require(Scopes::KNOWLEDGE)?;
    }
    let found = library.index.read(&caller.scope, &reader(&caller), &[id]).await?;
    let chunk = found.into_iter().next().ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(axum::Json(chunk.into()))
}
