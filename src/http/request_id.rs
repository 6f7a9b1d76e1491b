//! The id of a request, which stands in every response, log line and problem document.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of a client's request id.
const MAX_LENGTH: usize = 128;

/// The id of a request; stored in its extensions for handlers and spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Uses the client's id if it is valid, or generates one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
        match given {
            Some(id) if (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => {
                Self(id.into())
            }
            _ => Self(format!("req_{:032x}", rand::random::<u128>()).into()),
        }
    }
}

/// Extracts the id that the layer assigned.
impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<Self>().cloned();
        Ok(known.unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_valid_client_id_is_used() {
        let long = "x".repeat(129);
        for (given, taken) in [
            ("abc-1", true),
            ("", false),
            ("a b", false),
            (long.as_str(), false),
            ("\u{7f}", false),
        ] {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(given) {
                headers.insert(X_REQUEST_ID, value);
            }
            let id = RequestId::of(&headers);
            assert_eq!(id.as_str() == given, taken, "{given}");
            assert!(taken || id.as_str().len() == 36);
        }
    }
}
