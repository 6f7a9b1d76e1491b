//! Cross-origin requests of web pages ([Fetch, section 3.3](https://fetch.spec.whatwg.org/#http-cors-protocol)).
//!
//! Credentials are never cookies here, so `Access-Control-Allow-Credentials` is never sent: a page has to know a token to
//! read anything.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;

/// Methods that pages may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// Request headers that clients of the API send.
const REQUEST_HEADERS: &str = "authorization, content-type, cache-control, idempotency-key, last-event-id, x-request-id, \
                               x-copilotd-user, x-copilotd-reason";
/// Response headers that pages may read, beside those that all may.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, ratelimit, ratelimit-policy, location, content-disposition, x-copilotd-model, \
     x-copilotd-attempts, x-copilotd-cache, x-copilotd-cost-usd",
);
/// How long browsers may remember a preflight, in seconds: as long as Chromium does at most.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
/// Longest list of request headers that is repeated in the answer to a preflight, in bytes.
const MOST_REQUESTED: usize = 1024;
const VARY: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

/// Whether a request is a preflight: the question of a browser whether a page may make another request.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers a preflight of an allowed origin. Headers that the page asks for are allowed, too: each route ignores those
/// that it does not know.
pub fn preflight(origin: HeaderValue, request: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, request_headers(request));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    headers.insert(header::VARY, VARY);
    response
}

fn request_headers(request: &HeaderMap) -> HeaderValue {
    let requested = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let requested = requested
        .and_then(|list| list.to_str().ok())
        .filter(|list| (1..=MOST_REQUESTED).contains(&list.len()));
    let all = requested.and_then(|list| HeaderValue::try_from(format!("{REQUEST_HEADERS}, {list}")).ok());
    all.unwrap_or(HeaderValue::from_static(REQUEST_HEADERS))
}

/// Lets a page of this origin read a response.
pub fn allow(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
}

/// Says that the response depends on the origin, for caches.
pub fn vary(response: &mut Response) {
    response
        .headers_mut()
        .append(header::VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_asks_for_a_method() {
        for (method, names, expected) in [
            (Method::OPTIONS, &["origin", "access-control-request-method"][..], true),
            (Method::OPTIONS, &["origin"], false),
            (Method::OPTIONS, &["access-control-request-method"], false),
            (Method::POST, &["origin", "access-control-request-method"], false),
        ] {
            let one = |name: &&'static str| (header::HeaderName::from_static(name), HeaderValue::from_static("x"));
            let headers: HeaderMap = names.iter().map(one).collect();
            assert_eq!(is_preflight(&method, &headers), expected, "{method} {names:?}");
        }
    }

    #[test]
    fn requested_headers_are_allowed_beside_the_known_ones() {
        let allowed = |list: Option<&[u8]>| {
            let mut headers = HeaderMap::new();
            if let Some(list) = list {
                headers.insert(
                    header::ACCESS_CONTROL_REQUEST_HEADERS,
                    HeaderValue::from_bytes(list).unwrap(),
                );
            }
            request_headers(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(allowed(Some(b"x-mine")), format!("{REQUEST_HEADERS}, x-mine"));
        let long = vec![b'x'; MOST_REQUESTED + 1];
        for odd in [None, Some(&b""[..]), Some(&b"\xff"[..]), Some(&long)] {
            assert_eq!(allowed(odd), REQUEST_HEADERS);
        }
    }
}
