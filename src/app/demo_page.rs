//! The web page of `copilotd demo` and its `demo.json`. Only the demo serves them: they contain tokens, so every route
//! here answers only requests that [`demo_origin`](super::demo_origin) accepts.

use std::sync::{Arc, OnceLock};

use axum::http::{HeaderName, header};
use axum::middleware;
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use super::demo_origin::{self, DemoAddress, OriginError};

/// The page's files: path, media type, content.
const FILES: [(&str, &str, &str); 13] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/demo.html")),
    (
        "/demo/demo.css",
        "text/css; charset=utf-8",
        include_str!("../web/demo.css"),
    ),
    ("/demo/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("/demo/api.js", JAVASCRIPT, include_str!("../web/api.js")),
    ("/demo/demo.js", JAVASCRIPT, include_str!("../web/demo.js")),
    ("/demo/dom.js", JAVASCRIPT, include_str!("../web/dom.js")),
    ("/demo/list.js", JAVASCRIPT, include_str!("../web/list.js")),
    ("/demo/markdown.js", JAVASCRIPT, include_str!("../web/markdown.js")),
    ("/demo/outbox.js", JAVASCRIPT, include_str!("../web/outbox.js")),
    ("/demo/sentences.js", JAVASCRIPT, include_str!("../web/sentences.js")),
    ("/demo/transcript.js", JAVASCRIPT, include_str!("../web/transcript.js")),
    ("/demo/turns.js", JAVASCRIPT, include_str!("../web/turns.js")),
    ("/demo/world.js", JAVASCRIPT, include_str!("../web/world.js")),
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
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
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, media_type, content)| {
            router.route(path, get(move || async move { (headers(media_type), content) }))
        })
        .route("/demo.json", get(about))
        .route_layer(middleware::from_fn_with_state(address, demo_origin::guard))
}

/// Returns the paths of the page's files.
#[cfg(test)]
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().map(|(path, ..)| path)
}

fn headers(media_type: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ]
}
