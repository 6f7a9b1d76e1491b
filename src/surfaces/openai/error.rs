//! Errors in OpenAI's shape: `{"error": {message, type, param, code}}`.
//!
//! Invariant: every error on an OpenAI-compatible path has this shape, whether it comes from a handler, the credential
//! verifier, the router or a panic. The outermost layer (`request_id`) checks [`is_openai`] and renders it.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_gateway::error::{GatewayError, GatewayErrorKind, LimitState};
use copilotd_gateway::request::body::InvalidBody;
use serde_json::{Value, json};

use super::{ATTEMPTS, set_rate_limit_headers};
use crate::http::problems::{Code, Problem};
use crate::retry_after;

/// An error in OpenAI's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<String>,
    retry_after: Option<Duration>,
    limit: Option<LimitState>,
    /// Number of requests sent to providers.
    attempts: u32,
}

/// Whether a path belongs to the OpenAI-compatible API.
pub fn is_openai(path: &str) -> bool {
    matches!(path, "/v1/chat/completions" | "/v1/embeddings" | "/v1/models") || path.starts_with("/v1/models/")
}

impl OpenAiError {
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the JSON body.
    pub fn document(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }

    /// Translates a problem that was created without regard to this protocol.
    pub fn of_problem(problem: &Problem) -> Self {
        let code = problem.code();
        let (kind, word) = match code {
            Code::Unauthenticated => ("invalid_request_error", "invalid_api_key"),
            Code::Forbidden => ("invalid_request_error", "insufficient_permissions"),
            Code::RateLimited | Code::QueueFull => ("rate_limit_error", "rate_limit_exceeded"),
            Code::BudgetExhausted => ("insufficient_quota", "insufficient_quota"),
            _ if code.status().is_server_error() => ("server_error", code.as_str()),
            _ => ("invalid_request_error", code.as_str()),
        };
        let mut message = problem.detail_text().unwrap_or(code.title()).to_owned();
        for fault in problem.errors() {
            message = format!("{message}; {}: {}", fault.pointer, fault.message);
        }
        // OpenAI answers 400, not 422, to a request that breaks its schema.
        let status = match code {
            Code::Invalid => StatusCode::BAD_REQUEST,
            other => other.status(),
        };
        Self {
            status,
            message,
            kind,
            param: None,
            code: Some(word.to_owned()),
            retry_after: None,
            limit: None,
            attempts: 0,
        }
    }

    /// The error for a model that does not exist or that the tenant may not use.
    pub fn no_model(name: &str) -> Self {
        GatewayError::new(
            GatewayErrorKind::UnknownRoute,
            format!("the model {name:?} does not exist or you do not have access to it"),
        )
        .into()
    }
}

impl From<InvalidBody> for OpenAiError {
    fn from(error: InvalidBody) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: error.message,
            kind: "invalid_request_error",
            param: error.param,
            code: None,
            retry_after: None,
            limit: None,
            attempts: 0,
        }
    }
}

impl From<GatewayError> for OpenAiError {
    fn from(error: GatewayError) -> Self {
        let kind = match error.kind {
            GatewayErrorKind::UnknownRoute
            | GatewayErrorKind::Forbidden
            | GatewayErrorKind::Invalid
            | GatewayErrorKind::ContextTooLong
            | GatewayErrorKind::ContentPolicy
            | GatewayErrorKind::QuotaExceeded => "invalid_request_error",
            GatewayErrorKind::RateLimited => "rate_limit_error",
            GatewayErrorKind::BudgetExhausted => "insufficient_quota",
            GatewayErrorKind::CredentialsExhausted
            | GatewayErrorKind::Unavailable
            | GatewayErrorKind::LimitsUnavailable
            | GatewayErrorKind::Timeout
            | GatewayErrorKind::Cut => "server_error",
        };
        let (refused_code, param) = error
            .refusal
            .map_or((None, None), |refusal| (refusal.code, refusal.param));
        let code = match error.kind {
            GatewayErrorKind::Invalid => refused_code,
            // OpenAI's own code, which its clients do not retry.
            GatewayErrorKind::BudgetExhausted => Some("insufficient_quota".to_owned()),
            other => Some(other.code().to_owned()),
        };
        Self {
            status: StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::BAD_GATEWAY),
            message: error.message,
            kind,
            param,
            code,
            retry_after: error.retry_after,
            limit: error.limit,
            attempts: error.attempts,
        }
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        set_rate_limit_headers(headers, self.limit.as_slice());
        if self.attempts > 0 {
            headers.insert(ATTEMPTS, HeaderValue::from(self.attempts));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after::value(wait));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_become_errors_that_openais_clients_know() {
        for (code, status, kind, word) in [
            (Code::Unauthenticated, 401, "invalid_request_error", "invalid_api_key"),
            (
                Code::Forbidden,
                403,
                "invalid_request_error",
                "insufficient_permissions",
            ),
            (Code::Invalid, 400, "invalid_request_error", "invalid"),
            (Code::TooLarge, 413, "invalid_request_error", "too_large"),
            (Code::RateLimited, 429, "rate_limit_error", "rate_limit_exceeded"),
            (Code::BudgetExhausted, 429, "insufficient_quota", "insufficient_quota"),
            (Code::Internal, 500, "server_error", "internal"),
            (Code::Overloaded, 503, "server_error", "overloaded"),
        ] {
            let error = OpenAiError::of_problem(&Problem::new(code).detail("because"));
            assert_eq!(error.status.as_u16(), status);
            let expected = json!({ "error": { "message": "because", "type": kind, "param": null, "code": word } });
            assert_eq!(error.document(), expected);
        }
    }

    #[test]
    fn a_providers_words_for_a_fault_of_the_request_are_passed_on() {
        let mut error = GatewayError::new(GatewayErrorKind::Invalid, "no such field");
        error.refusal = Some(Box::new(copilotd_actors::ports::Refusal {
            by: copilotd_actors::ports::RefusedBy::Provider(400),
            code: Some("unknown_parameter".into()),
            param: Some("foo".into()),
            is_certain: true,
        }));
        let error = OpenAiError::from(error);
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert_eq!(error.document()["error"]["param"], "foo");
        assert_eq!(error.document()["error"]["code"], "unknown_parameter");
    }

    #[test]
    fn paths_of_the_protocol() {
        for (path, is) in [
            ("/v1/chat/completions", true),
            ("/v1/models/main/gpt-4o", true),
            ("/v1/conversations", false),
            ("/v1/modelsx", false),
        ] {
            assert_eq!(is_openai(path), is, "{path}");
        }
    }
}
