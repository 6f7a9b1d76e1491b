//! The web page of `copilotd demo` and its `demo.json`. Only the demo serves them: they contain tokens, so every route
//! here answers only requests that [`demo_origin`](super::demo_origin) accepts.
//!
//! The page is built in `web/` and embedded from `web/dist/demo`, which is committed: compiling needs no Node.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};
use serde_json::Value;

use super::demo_origin::{self, DemoAddress, OriginError};

/// The built files of the page.
#[derive(RustEmbed)]
#[folder = "web/dist/demo"]
struct Files;

/// The file served at `/`. All others are served below `/demo/`.
const INDEX: &str = "index.html";
/// Allows only the page's own files. The page may connect to any port of this machine, because the simulators get new
/// ports at a restart and an open page has to find them. Trusted Types make the browser refuse any text used as HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self' http://127.0.0.1:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Returns the page's routes. `about` and `address` are set once the address is known; until then every answer is 503.
pub fn routes(about: Arc<OnceLock<Value>>, address: DemoAddress) -> Router {
    let about = move || async move {
        match about.get() {
            Some(about) => ([(header::CACHE_CONTROL, "no-store")], Json(about)).into_response(),
            None => OriginError::Starting.into_response(),
        }
    };
    Files::iter()
        .filter_map(|name| Some((path(&name), ServedFile::new(&name, Files::get(&name)?))))
        .fold(Router::new(), |router, (path, file)| {
            router.route(
                &path,
                get(move |request: HeaderMap| async move { file.answer(&request) }),
            )
        })
        .route("/demo.json", get(about))
        .route_layer(middleware::from_fn_with_state(address, demo_origin::guard))
}

/// Returns the paths of the page's files.
#[cfg(test)]
pub(super) fn paths() -> impl Iterator<Item = String> {
    Files::iter().map(|name| path(&name))
}

/// Returns the URL path of a file.
fn path(name: &str) -> String {
    if name == INDEX {
        "/".to_owned()
    } else {
        format!("/demo/{name}")
    }
}

/// Returns the media type for a file's extension; `None` if the page has no such files.
fn media_type(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => return None,
    })
}

/// A file and its response headers.
#[derive(Clone)]
struct ServedFile {
    media_type: &'static str,
    /// A strong entity tag: the SHA-256 of the content, in double quotes.
    etag: String,
    content: Bytes,
}

impl ServedFile {
    fn new(name: &str, file: EmbeddedFile) -> Self {
        Self {
            media_type: media_type(name).unwrap_or("application/octet-stream"),
            etag: format!("\"{}\"", hex::encode(file.metadata.sha256_hash())),
            content: match file.data {
                Cow::Borrowed(content) => Bytes::from_static(content),
                Cow::Owned(content) => content.into(),
            },
        }
    }

    /// Returns the content, or 304 if the browser already has it.
    fn answer(&self, request: &HeaderMap) -> Response {
        // Also on a 304: the browser replaces the headers it stored with these.
        let headers = [
            (header::ETAG, self.etag.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if self.is_known(request) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let media_type: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, self.media_type)];
        (headers, media_type, self.content.clone()).into_response()
    }

    /// Whether `If-None-Match` matches this content (RFC 9110, section 13.1.2: weak comparison).
    fn is_known(&self, request: &HeaderMap) -> bool {
        request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use axum::body::Body;
    use axum::http::Request;
    use sha2::{Digest as _, Sha256};
    use tower::ServiceExt as _;

    use super::*;

    /// Sends a request for a path of the page.
    async fn ask(method: &str, path: &str, headers: &[(HeaderName, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let address = DemoAddress::default();
        address.set(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:8080");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = routes(Arc::default(), address).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (
            parts.status,
            parts.headers,
            axum::body::to_bytes(body, usize::MAX).await.unwrap(),
        )
    }

    /// If this fails, `web/dist` was edited by hand or committed only in part: run `scripts/web`.
    #[test]
    fn embedded_files_match_sha256sums() {
        let list = concat!(env!("CARGO_MANIFEST_DIR"), "/web/dist/SHA256SUMS");
        let list = std::fs::read_to_string(list).unwrap();
        let listed: BTreeMap<String, String> = list
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .filter_map(|(hash, path)| Some((path.strip_prefix("demo/")?.to_owned(), hash.to_owned())))
            .collect();
        let embedded: BTreeMap<String, String> = Files::iter()
            .map(|name| {
                let content = Files::get(&name).unwrap().data;
                (name.into_owned(), hex::encode(Sha256::digest(&content)))
            })
            .collect();
        assert!(listed.contains_key(INDEX));
        assert_eq!(embedded, listed);
    }

    #[tokio::test]
    async fn each_file_is_served_with_its_media_type_etag_and_policy() {
        for name in Files::iter() {
            let (status, headers, body) = ask("GET", &path(&name), &[]).await;
            let file = Files::get(&name).unwrap();
            assert_eq!(status, 200, "{name}");
            assert_eq!(body, *file.data, "{name}");
            let expected = [
                ("content-type", media_type(&name).expect("a media type of its own")),
                ("etag", &format!("\"{}\"", hex::encode(file.metadata.sha256_hash()))),
                ("cache-control", "no-cache"),
                ("content-security-policy", POLICY),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cross-origin-resource-policy", "same-origin"),
            ];
            for (header, value) in expected {
                assert_eq!(headers[header], value, "{name}");
            }
            let etag = headers["etag"].to_str().unwrap();
            let (status, ..) = ask("GET", &path(&name), &[(header::IF_NONE_MATCH, etag)]).await;
            assert_eq!(status, 304, "{name}");
        }
        for unknown in [
            "/index.html",
            "/demo/index.html",
            "/demo/",
            "/demo/SHA256SUMS",
            "/demo/..%2FSHA256SUMS",
        ] {
            assert_eq!(ask("GET", unknown, &[]).await.0, 404, "{unknown}");
        }
    }

    #[tokio::test]
    async fn a_matching_if_none_match_gets_304() {
        let (_, headers, whole) = ask("GET", "/demo/demo.js", &[]).await;
        let etag = headers["etag"].to_str().unwrap();
        let bare = etag.trim_matches('"');
        for (tags, is_known) in [
            (&[etag][..], true),
            (&["*"], true),
            (&[&format!("W/{etag}")], true),
            (&[&format!("\"other\" , {etag}")], true),
            (&["\"other\"", etag], true),
            (&[], false),
            (&[""], false),
            (&["\"other\""], false),
            (&[bare], false),
            (&[&etag.to_uppercase()], false),
            (&[&format!("\"{}\"", &bare[1..])], false),
        ] {
            let tags: Vec<_> = tags.iter().map(|tag| (header::IF_NONE_MATCH, *tag)).collect();
            for method in ["GET", "HEAD"] {
                let (status, headers, body) = ask(method, "/demo/demo.js", &tags).await;
                assert_eq!(status, if is_known { 304 } else { 200 }, "{method} {tags:?}");
                assert_eq!(headers["etag"], etag);
                assert_eq!(headers["content-security-policy"], POLICY);
                let expected = if is_known || method == "HEAD" { 0 } else { whole.len() };
                assert_eq!(body.len(), expected, "{method} {tags:?}");
            }
        }
    }
}
