//! The files of the page of `copilotd demo`. Only the demo serves them.

use axum::Router;
use rust_embed::RustEmbed;

use super::Page;

/// The built files of the page.
#[derive(RustEmbed)]
#[folder = "web/dist/demo"]
struct Files;

/// Allows only files and answers of this server. Trusted Types make the browser refuse any text used as HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const PAGE: Page = Page {
    path: "/",
    prefix: "/demo/",
    policy: POLICY,
};

/// Returns the routes of the page's files.
pub fn routes() -> Router {
    PAGE.routes::<Files>()
}

/// Returns the paths of the page's files.
#[cfg(test)]
pub(crate) fn paths() -> impl Iterator<Item = String> {
    Files::iter().map(|name| PAGE.path_of(&name))
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;
    use crate::surfaces::assets::checks::{ask, serve_each_file};
    use crate::surfaces::assets::sums::match_sha256sums;

    #[test]
    fn embedded_files_match_sha256sums() {
        match_sha256sums::<Files>("demo");
    }

    #[tokio::test]
    async fn each_file_is_served_with_its_media_type_etag_and_policy() {
        serve_each_file::<Files>(PAGE).await;
        for unknown in [
            "/index.html",
            "/demo/index.html",
            "/demo/",
            "/demo/SHA256SUMS",
            "/demo/..%2FSHA256SUMS",
        ] {
            assert_eq!(ask(&routes(), "GET", unknown, &[]).await.0, 404, "{unknown}");
        }
    }

    #[tokio::test]
    async fn a_matching_if_none_match_gets_304() {
        let router = routes();
        let (_, headers, whole) = ask(&router, "GET", "/demo/demo.js", &[]).await;
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
                let (status, headers, body) = ask(&router, method, "/demo/demo.js", &tags).await;
                assert_eq!(status, if is_known { 304 } else { 200 }, "{method} {tags:?}");
                assert_eq!(headers["etag"], etag);
                assert_eq!(headers["content-security-policy"], PAGE.policy);
                let expected = if is_known || method == "HEAD" { 0 } else { whole.len() };
                assert_eq!(body.len(), expected, "{method} {tags:?}");
            }
        }
    }
}
