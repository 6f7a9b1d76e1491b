//! Errors in Anthropic's form.

use axum::response::Response;
use serde_json::{Value, json};

use crate::http::Reply;
use crate::model::step::Refusal;

/// Returns the error for an invalid request.
pub(super) fn invalid(message: impl Into<String>) -> Box<Refusal> {
    Refusal::invalid(message, None)
}

/// Answers with an error.
pub(super) fn refused(refusal: &Refusal, request_id: &str) -> Response {
    let mut reply = match &refusal.body {
        Some(Value::String(text)) => Reply::text(refusal.status, text.clone()),
        Some(body) => Reply::json(refusal.status, body.clone()),
        None => Reply::json(refusal.status, document(refusal, request_id)),
    };
    if let Some(seconds) = refusal.retry_after {
        reply = reply.with_header("retry-after", seconds.to_string());
    }
    reply.into_response()
}

fn document(refusal: &Refusal, request_id: &str) -> Value {
    let (usual, text) = match refusal.status {
        401 => ("authentication_error", "invalid x-api-key"),
        402 => ("billing_error", "There is an issue with your billing."),
        403 => (
            "permission_error",
            "Your API key does not have permission to use the specified resource.",
        ),
        404 => ("not_found_error", "model: unknown"),
        413 => ("request_too_large", "Request exceeds the maximum size"),
        429 => (
            "rate_limit_error",
            "This request would exceed your organization's rate limit.",
        ),
        400..=499 => ("invalid_request_error", "The request is invalid."),
        504 => ("timeout_error", "The request timed out."),
        503 | 529 => ("overloaded_error", "Overloaded"),
        _ => ("api_error", "Internal server error"),
    };
    let text = refusal.message.as_deref().unwrap_or(text);
    // A test names the fault with OpenAI's code; Anthropic has only types and messages.
    let (kind, text) = match refusal.code.as_deref() {
        Some("context_length_exceeded") => (usual, "prompt is too long: 210000 tokens > 200000 maximum"),
        Some("content_filter") => (usual, "Output blocked by content filtering policy"),
        Some("insufficient_quota") => ("billing_error", "Your credit balance is too low to access the API."),
        Some(code) => (code, text),
        None => (usual, text),
    };
    error(refusal.kind.as_deref().unwrap_or(kind), text, Some(request_id))
}

/// Builds the error object.
pub(super) fn error(kind: &str, message: &str, request_id: Option<&str>) -> Value {
    let mut document = json!({"type": "error", "error": {"type": kind, "message": message}});
    if let Some(id) = request_id {
        document["request_id"] = json!(id);
    }
    document
}

/// Returns the error that a step sends inside its stream.
pub(super) fn in_stream(said: &Value) -> Value {
    let code = said["code"].as_str().or(said["type"].as_str()).unwrap_or_default();
    let kind = match code {
        "server_error" | "" => "api_error",
        "rate_limit_exceeded" => "rate_limit_error",
        other => other,
    };
    error(kind, said["message"].as_str().unwrap_or("Internal server error"), None)
}
