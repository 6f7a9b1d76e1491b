//! Checks of any page; each page's tests call them.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Request, StatusCode, header};
use bytes::Bytes;
use rust_embed::RustEmbed;
use tower::ServiceExt as _;

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
