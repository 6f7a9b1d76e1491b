//! The OpenAI-compatible API of the gateway: `/v1/chat/completions`, `/v1/embeddings`, `/v1/models`.

pub mod chat;
pub mod embeddings;
pub mod error;
pub mod models;
mod stream;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use copilotd_actors::domain::usage::{self, NanoUsd};
use copilotd_gateway::error::{LimitName, LimitState};
use copilotd_gateway::request::body::InvalidBody;
use copilotd_gateway::request::call::{self, CacheControl, CacheOutcome, Mode, Purpose};

use super::openai::error::OpenAiError;
use super::refusal::rate_limit;
use crate::http::bodies::BodyLimits;
use crate::http::credentials::CredentialKind;
use crate::http::problems::Problem;
use crate::http::{bodies as body, credentials as auth};
use crate::tenants::TenantRegistry;

/// The `provider/model` that answered.
const MODEL: HeaderName = HeaderName::from_static("x-copilotd-model");
/// Number of requests sent to providers.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-copilotd-attempts");
/// `hit`, `miss` or `bypass`.
const CACHE: HeaderName = HeaderName::from_static("x-copilotd-cache");
/// Cost of the call, in US dollars.
const COST: HeaderName = HeaderName::from_static("x-copilotd-cost-usd");
/// Minimum similarity for a cache hit; only raises the route's threshold.
const THRESHOLD: HeaderName = HeaderName::from_static("x-copilotd-cache-threshold");
/// Version of what the caller put into the prompt, such as retrieved documents; part of the cache key.
const KNOWLEDGE: HeaderName = HeaderName::from_static("x-copilotd-knowledge-version");
/// Maximum length of the version.
const LONGEST_VERSION: usize = 128;
/// Selects `live` or `buffered` mode for one request.
const MODE: HeaderName = HeaderName::from_static("x-copilotd-mode");

/// Maximum bytes of a request, unless the tenant's limits or the configuration allow more.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Maximum JSON values of a request: an embeddings request may contain its texts as token numbers.
const MAX_VALUES: usize = 1_000_000;
/// Memory per value, in bytes: bodies are parsed only at the top level and passed on unchanged.
const VALUE_BYTES: usize = 32;

/// Why a request of this protocol is refused.
#[derive(Debug)]
pub enum OpenAiRejection {
    /// A problem, which the outermost layer translates.
    Problem(Problem),
    /// An error in OpenAI's shape.
    Error(OpenAiError),
}

impl<E: Into<OpenAiError>> From<E> for OpenAiRejection {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl IntoResponse for OpenAiRejection {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Error(error) => error.into_response(),
        }
    }
}

/// Reads a body. Prompts with images are larger than other routes' bodies, and some tenants' limits allow still more.
async fn read(tenants: &TenantRegistry, by: &auth::Caller, mut request: Request) -> Result<Bytes, OpenAiRejection> {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|bytes| bytes.to_str().ok()?.parse::<usize>().ok());
    if let Some(limits) = request.extensions_mut().get_mut::<BodyLimits>() {
        limits.bytes = limits.bytes.max(MAX_BODY);
        limits.values = MAX_VALUES;
        limits.value_bytes = VALUE_BYTES;
        // Finding the tenant is a linear search: done only for a body that would not fit otherwise.
        if announced.is_none_or(|bytes| bytes > limits.bytes) {
            limits.bytes = limits.bytes.max(tenant_body_limit(tenants, by));
        }
    }
    body::read(request).await.map_err(OpenAiRejection::Problem)
}

/// Parses a body, a large one on the compute pool.
async fn parsed<T: Send + 'static>(
    caller: &auth::Caller,
    bytes: Bytes,
    parse: fn(&[u8]) -> Result<T, InvalidBody>,
) -> Result<T, OpenAiRejection> {
    let parsed = body::parse_with(Some(caller.scope.tenant()), bytes, parse).await;
    Ok(parsed.map_err(OpenAiRejection::Problem)??)
}

/// Returns the body size that the tenant's limits allow, in bytes.
fn tenant_body_limit(tenants: &TenantRegistry, by: &auth::Caller) -> usize {
    let config = tenants.config();
    let tenant = config.tenant(by.scope.tenant().as_str());
    let bytes = tenant.and_then(|tenant| tenant.limits.body_bytes);
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}

/// The caller in the form that limits and accounting use.
pub(super) fn caller(caller: &auth::Caller, purpose: Purpose) -> call::Caller {
    let is_key = caller.kind == CredentialKind::ApiKey;
    call::Caller {
        api_key: is_key.then(|| caller.credential.as_str().to_owned()),
        scope: caller.scope.clone(),
        user: caller.user.clone(),
        role: caller.role.clone(),
        copilot: None,
        conversation: None,
        turn: None,
        purpose,
    }
}

/// Parses the cache headers, with which a caller can only bypass the cache or raise its threshold.
fn cache_headers(headers: &HeaderMap) -> Result<CacheControl, InvalidBody> {
    let bypass = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|directive| {
            let directive = directive.trim();
            directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        });
    if bypass {
        return Ok(CacheControl::Bypass);
    }
    let Some(bar) = headers.get(&THRESHOLD) else {
        return Ok(CacheControl::Use);
    };
    let bar = bar.to_str().ok().and_then(|bar| bar.trim().parse::<f64>().ok());
    match bar.filter(|bar| (0.0..=1.0).contains(bar)) {
        // Rounded up: the threshold is never lower than requested.
        Some(bar) => Ok(CacheControl::AtLeast((bar * 1_000.0).ceil() as u16)),
        None => Err(InvalidBody {
            param: Some(THRESHOLD.as_str().to_owned()),
            message: "x-copilotd-cache-threshold must be a number from 0 to 1".to_owned(),
        }),
    }
}

fn knowledge(headers: &HeaderMap) -> Result<Option<String>, InvalidBody> {
    let Some(version) = headers.get(&KNOWLEDGE) else {
        return Ok(None);
    };
    match version.to_str() {
        Ok(version) if version.len() <= LONGEST_VERSION => Ok(Some(version.to_owned())),
        _ => Err(InvalidBody {
            param: Some(KNOWLEDGE.as_str().to_owned()),
            message: format!("x-copilotd-knowledge-version must be plain text of at most {LONGEST_VERSION} bytes"),
        }),
    }
}

fn mode(headers: &HeaderMap) -> Result<Option<Mode>, InvalidBody> {
    match headers.get(&MODE).map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"live") => Ok(Some(Mode::Live)),
        Some(b"buffered") => Ok(Some(Mode::Buffered)),
        Some(_) => Err(InvalidBody {
            param: Some(MODE.as_str().to_owned()),
            message: "x-copilotd-mode must be live or buffered".to_owned(),
        }),
    }
}

/// Sets the headers that every gateway response carries.
fn set_gateway_headers(
    response: &mut Response,
    model: &str,
    attempts: u32,
    cache: CacheOutcome,
    limits: &[LimitState],
) {
    let headers = response.headers_mut();
    set_rate_limit_headers(headers, limits);
    // Intermediaries must not cache one caller's answer for another.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(model) = HeaderValue::from_str(model) {
        headers.insert(MODEL, model);
    }
    headers.insert(ATTEMPTS, HeaderValue::from(attempts));
    let cache = match cache {
        CacheOutcome::Hit => "hit",
        CacheOutcome::Miss => "miss",
        CacheOutcome::Bypass => "bypass",
    };
    headers.insert(CACHE, HeaderValue::from_static(cache));
}

/// Sets the rate limit headers: `RateLimit` for the tightest limit, and OpenAI's own headers.
pub(crate) fn set_rate_limit_headers(headers: &mut HeaderMap, limits: &[LimitState]) {
    let tightest = limits
        .iter()
        .min_by_key(|limit| limit.remaining.saturating_mul(1_000) / limit.limit.max(1));
    if let Some(limit) = tightest {
        let (policy, state) = rate_limit(limit).headers();
        headers.insert("ratelimit-policy", policy);
        headers.insert("ratelimit", state);
    }
    for limit in limits {
        let names = match limit.name {
            LimitName::Requests => [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
            LimitName::Tokens => [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
            LimitName::Calls | LimitName::UsdPerDay | LimitName::UsdPerMonth => continue,
        };
        // OpenAI formats durations as Go does; milliseconds are one of its forms.
        let reset = HeaderValue::from_str(&format!("{}ms", limit.reset.as_millis()));
        headers.insert(names[0], HeaderValue::from(limit.limit));
        headers.insert(names[1], HeaderValue::from(limit.remaining));
        headers.insert(names[2], reset.unwrap_or_else(|_| HeaderValue::from_static("0ms")));
    }
}

/// Formats nano-dollars as dollars, exactly.
fn dollars(nano: NanoUsd) -> HeaderValue {
    HeaderValue::from_str(&usage::dollars(nano)).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_can_only_keep_the_cache_out() {
        for (value, wish) in [
            ("no-store", CacheControl::Bypass),
            ("max-age=0, No-Cache", CacheControl::Bypass),
            ("max-age=600", CacheControl::Use),
            ("only-if-cached", CacheControl::Use),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(cache_headers(&headers).ok(), Some(wish), "{value}");
        }
        assert_eq!(cache_headers(&HeaderMap::new()).ok(), Some(CacheControl::Use));
        for (value, wish) in [
            ("0.9501", Some(CacheControl::AtLeast(951))),
            ("1", Some(CacheControl::AtLeast(1_000))),
            ("-1", None),
            ("1.5", None),
            ("NaN", None),
            ("near", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(THRESHOLD, HeaderValue::from_static(value));
            assert_eq!(cache_headers(&headers).ok(), wish, "{value}");
        }
    }
}
