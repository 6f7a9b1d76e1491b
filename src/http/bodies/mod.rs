//! Request bodies: limited in size, time and nesting, and checked against their schema, before a handler sees them.
//!
//! Invariant: no body above [`compute::INLINE_COST`] bytes is parsed on a serving thread, and parsing is linear in the
//! body's size ([`parse_with`] is the only way).

mod read;
mod strict;

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use copilotd_actors::compute::{self, ComputeError};
use copilotd_actors::domain::event::Idempotency;
use copilotd_actors::domain::ids::TenantId;
use mime::Mime;
pub use read::{read, receive};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use strict::Fault;
pub use strict::MAX_VALUES;

use super::credentials::Caller;
use super::extract::IdempotencyKey;
use super::problems::{Code, FieldError, Problem};
use crate::shape::Shape;

/// Maximum number of violations listed for one body.
const MAX_ERRORS: usize = 32;

/// Limits of request bodies. A layer puts them into the request's extensions; otherwise the default applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Maximum size in bytes.
    pub bytes: usize,
    /// Maximum time to receive the body, so that slow clients are cut off.
    pub time: Duration,
    /// Maximum number of JSON values.
    pub values: usize,
    /// Upper bound of the memory per value, in bytes.
    pub value_bytes: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            bytes: 1024 * 1024,
            values: 100_000,
            value_bytes: 200,
            time: Duration::from_secs(20),
        }
    }
}

/// A request body with its own schema in `schemas/api/`; see [`crate::request_body`].
pub trait RequestBody: DeserializeOwned {
    /// Returns the compiled schema.
    fn shape() -> &'static Shape;
}

/// Ties a type to the schema of its file in `schemas/api/`.
#[macro_export]
macro_rules! request_body {
    ($type:ty, $file:literal) => {
        impl $crate::http::bodies::RequestBody for $type {
            fn shape() -> &'static $crate::shape::Shape {
                static SHAPE: std::sync::LazyLock<$crate::shape::Shape> = std::sync::LazyLock::new(|| {
                    $crate::shape::Shape::compile(include_str!(concat!(
                        env!("CARGO_MANIFEST_DIR"),
                        "/schemas/api/",
                        $file
                    )))
                    .expect("a test compiles every schema of schemas/api")
                });
                &SHAPE
            }
        }
    };
}

/// A JSON body that satisfies its schema.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: RequestBody + Send + 'static, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::UnsupportedMediaType).detail("expected application/json in UTF-8"));
        }
        let tenant = tenant(&request);
        let body = read(request).await?;
        let decoded = parse_with(tenant.as_ref(), body, |body| decode(body)).await?;
        Ok(Self(decoded?))
    }
}

/// A JSON body that satisfies its schema, with its `Idempotency-Key`.
#[derive(Debug)]
pub struct KeyedJson<T> {
    /// The body.
    pub body: T,
    /// The key and the body's hash, if the request has a key.
    pub idempotency: Option<Idempotency>,
}

impl<T: RequestBody + Serialize + Send + 'static, S: Send + Sync> FromRequest<S> for KeyedJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let key = IdempotencyKey::of(request.headers())?;
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::UnsupportedMediaType).detail("expected application/json in UTF-8"));
        }
        let tenant = tenant(&request);
        let body = read(request).await?;
        let decoded = parse_with(tenant.as_ref(), body, |body| {
            let body: T = decode(body)?;
            let idempotency = key.with_body(&body);
            Ok(Self { body, idempotency })
        });
        decoded.await?
    }
}

/// The tenant of the request: the caller's extractor runs before the body's and stores the caller in the extensions.
fn tenant(request: &Request) -> Option<TenantId> {
    let caller = request.extensions().get::<Caller>();
    caller.map(|caller| caller.scope.tenant().clone())
}

/// Runs `parse` on a received body: a large one on the compute pool, in its tenant's turn. The body is dropped there
/// too.
pub async fn parse_with<T: Send + 'static>(
    tenant: Option<&TenantId>,
    body: Bytes,
    parse: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, Problem> {
    let parsed = compute::run(tenant, body.len(), move || parse(&body)).await;
    parsed.map_err(|error| match error {
        ComputeError::Full => {
            Problem::new(Code::Overloaded).detail("too many large request bodies are waiting to be parsed")
        }
        ComputeError::Panicked => Problem::new(Code::Internal),
    })
}

/// Decodes a received JSON body.
pub fn decode<T: RequestBody>(body: &[u8]) -> Result<T, Problem> {
    let value = parse(body)?;
    let violations = T::shape().violations(&value, MAX_ERRORS);
    if !violations.is_empty() {
        return Err(Problem::invalid(violations));
    }
    serde_json::from_value(value).map_err(|error| {
        // The schema is looser than the type, for example about the form of an id.
        Problem::invalid([FieldError {
            pointer: String::new(),
            message: error.to_string(),
        }])
    })
}

/// Parses a received JSON body of a protocol whose schema is not ours.
pub fn parse(body: &[u8]) -> Result<Value, Problem> {
    if body.is_empty() {
        return Err(Problem::new(Code::Malformed).detail("the body is empty"));
    }
    let value = strict::parse(body).map_err(|fault| match fault {
        Fault::Malformed(detail) => {
            Problem::new(Code::Malformed).detail(format!("the body cannot be parsed as JSON: {detail}"))
        }
        Fault::TooMany => {
            Problem::new(Code::TooLarge).detail(format!("the body has more than {MAX_VALUES} JSON values"))
        }
    })?;
    let nul = strict::nul_characters(&value, MAX_ERRORS);
    if nul.is_empty() {
        Ok(value)
    } else {
        Err(Problem::invalid(nul))
    }
}

/// Whether the headers declare an uncompressed JSON body in UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let identity = headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"));
    let Some(content_type) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let Ok(media) = content_type.parse::<Mime>() else {
        return false;
    };
    let is_utf8 = media
        .get_param(mime::CHARSET)
        .is_none_or(|charset| charset == mime::UTF_8);
    identity && media.essence_str() == mime::APPLICATION_JSON.essence_str() && is_utf8
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_content_type_has_to_be_json_in_utf8() {
        for (content_type, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json;", true),
            ("application/json; profile=x", true),
            ("application/json; charset=latin1", false),
            ("application/problem+json", false),
            ("text/json", false),
            ("text/plain", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_json(&headers), expected, "{content_type}");
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            assert!(!is_json(&headers));
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
