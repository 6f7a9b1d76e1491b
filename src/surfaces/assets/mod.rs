//! Pages that are built in `web/` and embedded from `web/dist`, which is committed: compiling needs no Node.
//!
//! Every file has its media type and a strong entity tag. A page's files also have its Content-Security-Policy, and a
//! browser asks each time whether it still has them, so that a page never runs with scripts of another version.

#[cfg(test)]
#[cfg(feature = "demo")]
mod checks;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(test)]
mod sums;
pub mod widget;

use std::borrow::Cow;
use std::io::{self, Write as _};

#[cfg(feature = "demo")]
use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
#[cfg(feature = "demo")]
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::EmbeddedFile;
#[cfg(feature = "demo")]
use rust_embed::RustEmbed;

/// The file served at the page's own path. All others are served below its prefix.
#[cfg(feature = "demo")]
const INDEX: &str = "index.html";

/// Where a page is served, and what its files may do.
#[cfg(feature = "demo")]
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Path of `index.html`.
    pub path: &'static str,
    /// Path of the other files, with a slash at its end.
    pub prefix: &'static str,
    /// Its Content-Security-Policy.
    pub policy: &'static str,
}

#[cfg(feature = "demo")]
impl Page {
    /// Returns the routes of the files of `E`.
    pub fn routes<E: RustEmbed>(&self) -> Router {
        E::iter()
            .filter_map(|name| {
                Some((
                    self.path_of(&name),
                    ServedFile::new(&name, E::get(&name)?, self.headers()),
                ))
            })
            .fold(Router::new(), |router, (path, file)| {
                router.route(
                    &path,
                    get(move |request: HeaderMap| async move { file.answer(&request) }),
                )
            })
    }

    fn headers(&self) -> Vec<(HeaderName, &'static str)> {
        vec![
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, self.policy),
            (header::REFERRER_POLICY, "no-referrer"),
        ]
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
        "txt" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

/// A file and its response headers.
#[derive(Clone)]
struct ServedFile {
    /// How long it may be kept, and what else its page or its readers need.
    headers: Vec<(HeaderName, &'static str)>,
    media_type: &'static str,
    /// A strong entity tag: the SHA-256 of the content, in double quotes.
    etag: String,
    content: Bytes,
}

impl ServedFile {
    fn new(name: &str, file: EmbeddedFile, headers: Vec<(HeaderName, &'static str)>) -> Self {
        Self {
            headers,
            media_type: media_type(name).unwrap_or("application/octet-stream"),
            etag: format!("\"{}\"", hex::encode(file.metadata.sha256_hash())),
            content: match file.data {
                Cow::Borrowed(content) => Bytes::from_static(content),
                Cow::Owned(content) => content.into(),
            },
        }
    }

    /// Compresses the content. It is another representation, with an entity tag of its own.
    fn gzipped(&self) -> io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&self.content)?;
        let mut headers = self.headers.clone();
        headers.push((header::CONTENT_ENCODING, "gzip"));
        Ok(Self {
            headers,
            media_type: self.media_type,
            etag: format!("{}-gzip\"", self.etag.trim_end_matches('"')),
            content: encoder.finish()?.into(),
        })
    }

    /// Returns the content, or 304 if the browser already has it.
    fn answer(&self, request: &HeaderMap) -> Response {
        // Also on a 304: the browser replaces the headers it stored with these.
        let own = [
            (header::ETAG, self.etag.as_str()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        let headers = own.into_iter().chain(self.headers.iter().cloned());
        let headers = AppendHeaders(headers);
        if self.is_known(request) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let content = (headers, self.content.clone());
        let mut response = content.into_response();
        let media_type = HeaderValue::from_static(self.media_type);
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
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
