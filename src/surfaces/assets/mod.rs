//! Pages that are built in `web/` and embedded from `web/dist`, which is committed: compiling needs no Node.
//!
//! Every file has its media type, a strong entity tag, and the Content-Security-Policy of its page. A browser asks each
//! time whether it still has the file, so that a page never runs with scripts of another version.

#[cfg(test)]
#[cfg(feature = "demo")]
mod checks;
#[cfg(feature = "demo")]
pub mod demo;

use std::borrow::Cow;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};

/// The file served at the page's own path. All others are served below its prefix.
const INDEX: &str = "index.html";

/// Where a page is served, and what its files may do.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Path of `index.html`.
    pub path: &'static str,
    /// Path of the other files, with a slash at its end.
    pub prefix: &'static str,
    /// Its Content-Security-Policy.
    pub policy: &'static str,
}

impl Page {
    /// Returns the routes of the files of `E`.
    pub fn routes<E: RustEmbed>(&self) -> Router {
        E::iter()
            .filter_map(|name| Some((self.path_of(&name), ServedFile::new(&name, E::get(&name)?, self.policy))))
            .fold(Router::new(), |router, (path, file)| {
                router.route(
                    &path,
                    get(move |request: HeaderMap| async move { file.answer(&request) }),
                )
            })
    }

    /// Returns the URL path of a file.
    pub fn path_of(&self, name: &str) -> String {
        if name == INDEX {
            self.path.to_owned()
        } else {
            format!("{}{name}", self.prefix)
        }
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
    policy: &'static str,
    media_type: &'static str,
    /// A strong entity tag: the SHA-256 of the content, in double quotes.
    etag: String,
    content: Bytes,
}

impl ServedFile {
    fn new(name: &str, file: EmbeddedFile, policy: &'static str) -> Self {
        Self {
            policy,
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
            (header::CONTENT_SECURITY_POLICY, self.policy),
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
