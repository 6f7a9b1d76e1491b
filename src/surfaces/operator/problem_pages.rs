//! `/problems/{code}`: what a problem code means, what to do about it, and an example. A problem's `type` leads here.

use axum::extract::Path;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use pulldown_cmark::{Options, Parser, html};
use rust_embed::RustEmbed;

use crate::http::accept::Accept;
use crate::http::problems::{Code, Problem};
use crate::surfaces::openapi::problems;

problems!(PageProblems: &[Code::NotFound, Code::RateLimited]);

/// The pages as written, one for each code.
#[derive(RustEmbed)]
#[folder = "docs/problems"]
struct Pages;

/// A page has text only: nothing is loaded and nothing runs.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:45rem;margin:2rem auto;padding:0 1rem}\
    pre{background:#f4f4f4;padding:1rem;overflow:auto}code{font-family:ui-monospace,monospace}";

/// Explain a problem code
///
/// HTML if the `Accept` header prefers it, as browsers do; Markdown otherwise. Needs no credential.
#[utoipa::path(
    get,
    path = "/problems/{code}",
    operation_id = "get_problem_page",
    tag = "operations",
    responses(
        (status = 200, description = "The page", content(
            (String = "text/markdown"),
            (String = "text/html"),
        )),
        PageProblems,
    ),
)]
pub async fn problem_page(Path(code): Path<String>, headers: HeaderMap) -> Response {
    let Some(markdown) = page(&code) else {
        return Problem::new(Code::NotFound)
            .detail("there is no problem code of this name")
            .into_response();
    };
    let (kind, text) = if prefers_html(&headers) {
        ("text/html; charset=utf-8", to_html(&code, &markdown))
    } else {
        ("text/markdown; charset=utf-8", markdown)
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=3600"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::VARY, "accept"),
    ];
    (headers, text).into_response()
}

fn page(code: &str) -> Option<String> {
    let known = Code::ALL.iter().find(|known| known.as_str() == code)?;
    let file = Pages::get(&format!("{}.md", known.as_str()))?;
    String::from_utf8(file.data.into_owned()).ok()
}

/// Whether `text/html` is named in the `Accept` header. Clients that want JSON or anything do not name it.
fn prefers_html(headers: &HeaderMap) -> bool {
    Accept::of(headers).is_some_and(|accept| accept.named_preference(&mime::TEXT_HTML).is_some())
}

fn to_html(code: &str, markdown: &str) -> String {
    let mut body = String::with_capacity(2 * markdown.len());
    html::push_html(&mut body, Parser::new_ext(markdown, Options::ENABLE_TABLES));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{code} – copilotd</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>{body}</body></html>"
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn every_code_has_a_page_with_its_title_and_no_page_is_left_over() {
        for code in Code::ALL {
            let page = page(code.as_str()).unwrap_or_else(|| panic!("docs/problems/{}.md is missing", code.as_str()));
            assert!(page.starts_with(&format!("# {}\n", code.as_str())), "{page}");
            assert!(
                page.contains(code.title()),
                "the page of {} has another title",
                code.as_str()
            );
            assert!(page.contains(&format!("Status {}", code.status().as_u16())), "{page}");
            for heading in ["## Cause", "## How to fix it", "## Example"] {
                assert!(page.contains(heading), "{} lacks {heading}", code.as_str());
            }
            assert!(to_html(code.as_str(), &page).contains("<h2>Cause</h2>"));
        }
        assert_eq!(Pages::iter().count(), Code::ALL.len());
    }

    #[test]
    fn browsers_get_html_and_programs_markdown() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", true),
            ("*/*", false),
            ("application/json", false),
            ("application/json, text/html;q=0.5", true),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(prefers_html(&headers), expected, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
