//! The description of the HTTP interface.

use axum::response::{IntoResponse, Response};

/// Serves it.
pub async fn serve() -> Response {
    axum::Json(document()).into_response()
}

/// Returns it.
pub fn document() -> serde_json::Value {
    serde_json::json!({ "openapi": "3.1.0" })
}
