//! Extractors for path ids, query strings, idempotency keys and reasons.

use std::convert::Infallible;
use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use copilotd_actors::domain::event::Idempotency;
use copilotd_actors::domain::json::sorted;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::problems::{Code, FieldError, Problem};

/// Maximum length of an `Idempotency-Key`, in characters.
const MAX_KEY: usize = 255;

/// The ids in the path, in order; a malformed id answers 404.
pub struct Ids<T>(pub T);

fn params(parts: &RawPathParams) -> Vec<&str> {
    parts.iter().map(|(_, value)| value).collect()
}

fn id<T: FromStr>(params: &[&str], index: usize) -> Result<T, Problem> {
    params
        .get(index)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::new(Code::NotFound))
}

impl<S: Send + Sync, A: FromStr> FromRequestParts<S> for Ids<(A,)> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(Code::NotFound))?;
        Ok(Self((id(&params(&raw), 0)?,)))
    }
}

impl<S: Send + Sync, A: FromStr, B: FromStr> FromRequestParts<S> for Ids<(A, B)> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(Code::NotFound))?;
        let params = params(&raw);
        Ok(Self((id(&params, 0)?, id(&params, 1)?)))
    }
}

/// The prefix of axum's rejection text.
const PREAMBLE: &str = "Failed to deserialize query string: ";

/// A query string without unknown fields.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            invalid("", text.strip_prefix(PREAMBLE).unwrap_or(&text))
        })
    }
}

/// A 422 with one violation.
pub fn invalid(pointer: &str, message: impl Into<String>) -> Problem {
    Problem::invalid([FieldError {
        pointer: pointer.to_owned(),
        message: message.into(),
    }])
}

/// The OpenAPI description of [`IdempotencyKey`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for OpenAPI only; `IdempotencyKey` reads the header")]
pub struct IdempotencyKeyParam {
    /// Makes retries safe: a repeated request with the same key and body within 24 hours has no second effect and gets
    /// the same status and resource; with another body it is refused with 409
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// The request's `Idempotency-Key`, if any.
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(&parts.headers)
    }
}

impl IdempotencyKey {
    /// Reads the key from the headers.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        // `to_str` also accepts spaces and tabs.
        let is_key =
            |text: &&str| (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let text = value.to_str().ok().filter(is_key);
        match text.filter(|_| values.next().is_none()) {
            Some(text) => Ok(Self(Some(text.to_owned()))),
            None => Err(invalid(
                "",
                format!("Idempotency-Key must be a single header of 1 to {MAX_KEY} visible ASCII characters"),
            )),
        }
    }
}

/// Maximum length of `x-copilotd-reason`, in characters.
const MAX_REASON: usize = 500;

/// The OpenAPI description of [`Reason`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for OpenAPI only; `Reason` reads the header")]
pub struct ReasonParam {
    /// The reason for reading another user's content; required only for that. It is stored in the audit log
    #[param(rename = "x-copilotd-reason", min_length = 1, max_length = 500)]
    reason: Option<String>,
}

/// The request's `x-copilotd-reason`, if any; validated only where it is required.
pub struct Reason(Vec<Vec<u8>>);

impl<S: Send + Sync> FromRequestParts<S> for Reason {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let values = parts.headers.get_all("x-copilotd-reason").iter();
        Ok(Self(values.map(|value| value.as_bytes().to_vec()).collect()))
    }
}

impl Reason {
    /// Whether the header is present.
    pub fn is_given(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns the reason for reading another user's content, or the 422 that asks for it.
    pub fn required(&self) -> Result<String, Problem> {
        let text = match self.0.as_slice() {
            [one] => str::from_utf8(one).ok().map(str::trim),
            _ => None,
        };
        let sane = |text: &&str| {
            text.chars().any(char::is_alphanumeric)
                && text.chars().count() <= MAX_REASON
                && !text.chars().any(char::is_control)
        };
        text.filter(sane).map(str::to_owned).ok_or_else(|| {
            let what = format!(
                "reading another user's content requires the header x-copilotd-reason, once, with a letter or digit \
                 and at most {MAX_REASON} characters"
            );
            invalid("", what)
        })
    }
}

impl IdempotencyKey {
    /// Ties the key to the meaning of the body: white space and field order do not matter.
    pub fn with_body(self, body: &impl Serialize) -> Option<Idempotency> {
        let key = self.0?;
        let body_hash = hash_of_body(body);
        Some(Idempotency { key, body_hash })
    }
}

/// Hashes the meaning of a body.
pub fn hash_of_body(body: &impl Serialize) -> String {
    let value = serde_json::to_value(body).unwrap_or_default();
    hex::encode(Sha256::digest(sorted(value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasons() {
        let long = "é".repeat(500);
        let longer = "x".repeat(501);
        for (given, expected) in [
            (&[][..], None),
            (&["ticket 4711"][..], Some("ticket 4711")),
            (&["  why \t"][..], Some("why")),
            (&["", " "][..], None),
            (&[" \u{a0}\u{3000}"][..], None),
            (&["\u{200b}"][..], None),
            (&["..."][..], None),
            (&["a", "b"][..], None),
            (&["a\u{7}b"][..], None),
            (&["a\u{85}b"][..], None),
            (&[long.as_str()][..], Some(long.as_str())),
            (&[longer.as_str()][..], None),
        ] {
            let reason = Reason(given.iter().map(|text| text.as_bytes().to_vec()).collect());
            assert_eq!(reason.required().ok().as_deref(), expected, "{given:?}");
            assert_eq!(reason.is_given(), !given.is_empty());
        }
        assert!(Reason(vec![vec![0xff, 0xfe]]).required().is_err());
    }

    #[test]
    fn the_order_of_fields_does_not_make_another_body() {
        let hash = |value| IdempotencyKey(Some("k".into())).with_body(&value).unwrap().body_hash;
        assert_eq!(
            hash(json!({ "a": 1, "b": { "c": [1, 2], "d": null } })),
            hash(json!({ "b": { "d": null, "c": [1, 2] }, "a": 1 }))
        );
        assert_ne!(hash(json!({ "a": [1, 2] })), hash(json!({ "a": [2, 1] })));
        assert_ne!(hash(json!({ "a": "1" })), hash(json!({ "a": 1 })));
    }

    #[test]
    fn the_hash_of_a_body_is_stored_and_stays() {
        let body = json!({
            "b\"": [9_007_199_254_740_993_u64, -1, u64::MAX, null, true],
            "\u{1f600}": 2,
            "\u{e000}": 1,
            "é\n": "é\u{1}\u{7f}/\"",
            "a": { "d": 1.0, "c": 1.5, "f": -0.0, "e": 1e30 },
            "": [],
        });
        let idempotency = IdempotencyKey(Some("k".into())).with_body(&body).unwrap();
        assert_eq!(
            idempotency.body_hash,
            "b0f50f51985cd20360d76c90182de78949f8c4947135f480f21cbba2d0828920"
        );
    }
}
