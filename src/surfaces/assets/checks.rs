//! Checks of any page; each page's tests call them.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Request, StatusCode, header};
use bytes::Bytes;
use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;

#[cfg(feature = "demo")]
use super::{Page, media_type};

/// Sends a request for a path of the page.
pub(super) async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(HeaderName, &str)],
) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        axum::body::to_bytes(body, usize::MAX).await.unwrap(),
    )
}

/// Compares the embedded files with `web/dist/SHA256SUMS`. If this fails, `web/dist` was edited by hand or committed
/// only in part: run `scripts/web`. `folder` is the page's, below `web/dist`.
pub(super) fn match_sha256sums<E: RustEmbed>(folder: &str) {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/web/dist/SHA256SUMS");
    let list = std::fs::read_to_string(list).unwrap();
    let listed: BTreeMap<String, String> = list
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .filter_map(|(hash, path)| {
            let name = path.strip_prefix(folder)?.strip_prefix('/')?;
            Some((name.to_owned(), hash.to_owned()))
        })
        .collect();
    let embedded: BTreeMap<String, String> = E::iter()
        .map(|name| {
            let content = E::get(&name).unwrap().data;
            (name.into_owned(), hex::encode(Sha256::digest(&content)))
        })
        .collect();
    assert!(!listed.is_empty());
    assert_eq!(embedded, listed);
}

/// Requests every file, also with its entity tag.
pub(super) async fn serve_each_file<E: RustEmbed>(page: Page) {
    let router = page.routes::<E>();
    for name in E::iter() {
        let path = page.path_of(&name);
        let (status, headers, body) = ask(&router, "GET", &path, &[]).await;
        let file = E::get(&name).unwrap();
        assert_eq!(status, 200, "{name}");
        assert_eq!(body, *file.data, "{name}");
        let expected = [
            ("content-type", media_type(&name).expect("a media type of its own")),
            ("etag", &format!("\"{}\"", hex::encode(file.metadata.sha256_hash()))),
            ("cache-control", "no-cache"),
            ("content-security-policy", page.policy),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ];
        for (header, value) in expected {
            assert_eq!(headers[header], value, "{name}");
        }
        let etag = headers["etag"].to_str().unwrap();
        let (status, ..) = ask(&router, "GET", &path, &[(header::IF_NONE_MATCH, etag)]).await;
        assert_eq!(status, 304, "{name}");
    }
}
