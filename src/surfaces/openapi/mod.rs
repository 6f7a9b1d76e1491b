//! The OpenAPI 3.1 description of the HTTP API: paths and responses from the handlers, schemas from `schemas/`.
//!
//! Invariant: the router and the described paths come from the same table (`http::router`), and the schema that
//! validates a request is the one that describes it.

mod complete;
mod examples;
mod problems;
mod schemas;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
pub(crate) use problems::{AUTH, BODY, FOUND, OpenAiErrors, answers, problems};
use serde_json::Value;

/// The document and its text, built once.
static DOCUMENT: LazyLock<(Value, String)> = LazyLock::new(|| {
    let paths = super::router::described();
    let document = complete::complete(serde_json::to_value(paths).unwrap_or_default());
    let text = document.to_string();
    (document, text)
});

/// Returns the document.
pub fn document() -> &'static Value {
    &DOCUMENT.0
}

/// Returns the size of the document's text, in bytes.
pub(crate) fn size() -> usize {
    DOCUMENT.1.len()
}

/// Get the OpenAPI description
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "get_description",
    tag = "operations",
    responses(
        (status = 200, description = "This document", content_type = "application/json"),
        super::operator::operations::LargeProblems,
    ),
)]
pub async fn serve() -> Response {
    let text: &'static str = &DOCUMENT.1;
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
