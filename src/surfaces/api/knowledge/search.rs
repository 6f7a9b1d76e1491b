//! `/v1/knowledge/{collection}/search`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use copilotd_actors::domain::ids::CollectionName;
use copilotd_knowledge::library::Library;
use copilotd_knowledge::retrieve::Question;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reader;
use super::view::FoundView;
use crate::http::bodies::Json;
use crate::http::credentials::KnowledgeSearch;
use crate::http::extract::Ids;
use crate::http::json_response;
use crate::http::page::MAX_BYTES;
use crate::http::problems::Problem;
use crate::http::response_memory::PageMemory;
use crate::request_body;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};

/// Results unless the request names a number.
const DEFAULT_LIMIT: usize = 10;

/// Body of a search.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct SearchBody {
    query: String,
    /// An integer by its schema, which may be written as 10.0.
    limit: Option<f64>,
    #[serde(default)]
    filter: BTreeMap<String, Value>,
}
request_body!(SearchBody, "search_knowledge.json");

/// Answer of a search.
#[derive(Debug, Serialize)]
struct Results {
    data: Vec<FoundView>,
    /// Whether the meaning of the query was compared, or its words alone.
    semantic: bool,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the schema has checked it: from 1 to 50"
)]
fn whole(limit: f64) -> usize {
    limit as usize
}

problems!(SearchProblems: AUTH, FOUND, BODY);

/// Search a collection
///
/// By words and, if the server has an embedding model, by meaning. The search acts as its caller: an API key that acts for no
/// user sees only documents without an access list, a caller with the scope `admin` all. Scores compare the results of one
/// search with each other only.
#[utoipa::path(
    post,
    path = "/v1/knowledge/{collection}/search",
    operation_id = "search_knowledge",
    tag = "knowledge",
    request_body = ref("#/components/schemas/SearchKnowledge"),
    responses(
        (status = 200, description = "The best chunks, best first", body = ref("#/components/schemas/KnowledgeResults")),
        SearchProblems,
    ),
    security(("bearer" = ["knowledge"])),
)]
pub async fn search(
    State(library): State<Arc<Library>>,
    KnowledgeSearch(caller): KnowledgeSearch,
    Ids((collection,)): Ids<(CollectionName,)>,
    _room: PageMemory,
    Json(body): Json<SearchBody>,
) -> Result<Response, Problem> {
    let question = Question {
        collections: vec![collection],
        reader: reader(&caller),
        filter: body.filter.into_iter().collect(),
        texts: vec![body.query],
        limit: body.limit.map_or(DEFAULT_LIMIT, whole),
    };
    let found = library.retriever.find(&caller.scope, &question).await?;
    let results = Results {
        data: found.chunks.into_iter().map(FoundView::from).collect(),
        semantic: found.is_semantic,
    };
    json_response::json(caller.scope.tenant(), MAX_BYTES, StatusCode::OK, results).await
}
