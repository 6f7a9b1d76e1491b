//! The description of the HTTP interface, OpenAPI 3.1: paths and answers from the handlers, schemas from `schemas/`.
//!
//! Invariant: the router and the paths of the description are made in one act (`http::router`), and a schema that checks a
//! request is the one that describes it.

mod complete;
mod problems;
mod schemas;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
pub(crate) use problems::{AUTH, BODY, FOUND, OpenAiErrors, answers, problems};
use serde_json::Value;

/// The document and its text, made once.
static DOCUMENT: LazyLock<(Value, String)> = LazyLock::new(|| {
    let paths = crate::http::router::described();
    let document = complete::complete(serde_json::to_value(paths).unwrap_or_default());
    let text = document.to_string();
    (document, text)
});

/// Returns it.
pub fn document() -> &'static Value {
    &DOCUMENT.0
}

/// Returns its bytes.
pub(crate) fn size() -> usize {
    DOCUMENT.1.len()
}

/// Describes this interface
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "get_description",
    tag = "operations",
    responses(
        (status = 200, description = "This document", content_type = "application/json"),
        crate::http::routes::operations::LargeProblems,
    ),
)]
pub async fn serve() -> Response {
    let text: &'static str = &DOCUMENT.1;
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
