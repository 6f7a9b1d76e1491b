//! `/widget.js` and `/widget/{file}`: the chat widget. They are public: pages of other origins load them, without a
//! credential.
//!
//! The loader imports the app, and the app its language, by names that hold a hash of the content, which caches may keep
//! forever. While a deployment runs, a browser may ask a server that has another version: it then asks for the name
//! without the hash, such as `app.js`, and gets that server's own.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use rust_embed::RustEmbed;

use super::ServedFile;
use crate::http::problems::{Code, Problem};
use crate::surfaces::openapi::problems;

problems!(LoaderProblems: &[Code::RateLimited]);
problems!(FileProblems: &[Code::NotFound, Code::RateLimited]);

/// The built files of the widget.
#[derive(RustEmbed)]
#[folder = "web/dist/widget"]
struct Files;

const LOADER: &str = "widget.js";
const PUBLIC: [(HeaderName, &str); 2] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "cross-origin",
    ),
];
const FOR_MINUTES: &str = "public, max-age=300";
const FOREVER: &str = "public, max-age=31536000, immutable";

static FILES: LazyLock<HashMap<String, ServedFile>> = LazyLock::new(files);

fn files() -> HashMap<String, ServedFile> {
    let serve = |name: &str, cache| {
        let content = Files::get(name)?;
        let headers = [(header::CACHE_CONTROL, cache)].into_iter().chain(PUBLIC).collect();
        Some(ServedFile::new(name, content, headers))
    };
    let mut files = HashMap::new();
    for name in Files::iter() {
        let plain = without_hash(&name);
        let cache = if plain.is_some() { FOREVER } else { FOR_MINUTES };
        files.extend(serve(&name, cache).map(|file| (name.to_string(), file)));
        if let Some(plain) = plain {
            files.extend(serve(&name, FOR_MINUTES).map(|file| (plain, file)));
        }
    }
    files
}

/// Returns the name without the hash that it holds: `app.js` for `app-1A2B3C4D.js`.
fn without_hash(name: &str) -> Option<String> {
    let (plain, _) = name.strip_suffix(".js")?.split_once('-')?;
    Some(format!("{plain}.js"))
}

/// Load the chat widget
///
/// A classic script that defines `<copilotd-chat>` and, with `data-token`, puts a launcher on the page. Needs no
/// credential.
#[utoipa::path(
    get,
    path = "/widget.js",
    operation_id = "get_widget",
    tag = "operations",
    responses(
        (status = 200, description = "The script", content((String = "text/javascript"))),
        (status = 304, description = "The browser has it already"),
        LoaderProblems,
    ),
)]
pub async fn loader(headers: HeaderMap) -> Response {
    answer(LOADER, &headers)
}

/// Load a part of the chat widget
///
/// What `/widget.js` imports, and the licences of the libraries in it. Needs no credential.
#[utoipa::path(
    get,
    path = "/widget/{file}",
    operation_id = "get_widget_file",
    tag = "operations",
    responses(
        (status = 200, description = "The file", content(
            (String = "text/javascript"),
            (String = "text/plain"),
        )),
        (status = 304, description = "The browser has it already"),
        FileProblems,
    ),
)]
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Response {
    match FILES.get(name) {
        Some(file) => file.answer(headers),
        None => Problem::new(Code::NotFound)
            .detail("the chat widget has no file of this name")
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::match_sha256sums;
    use super::*;

    #[test]
    fn embedded_files_match_sha256sums() {
        match_sha256sums::<Files>("widget");
    }

    #[test]
    fn the_loader_imports_a_file_that_is_served() {
        let loader = Files::get(LOADER).unwrap();
        let loader = str::from_utf8(&loader.data).unwrap();
        let apps: Vec<_> = Files::iter().filter(|name| name.starts_with("app-")).collect();
        assert_eq!(apps.len(), 1);
        for name in [&*apps[0], "app.js"] {
            assert!(FILES.contains_key(name), "{name}");
            assert!(loader.contains(&format!("/widget/{name}")), "{name}");
        }
    }

    #[test]
    fn only_names_with_a_hash_have_another_one() {
        for (name, expected) in [
            ("app-1A2B3C4D.js", Some("app.js")),
            ("de-1A2B3C4D.js", Some("de.js")),
            ("widget.js", None),
            ("licenses.txt", None),
        ] {
            assert_eq!(without_hash(name).as_deref(), expected, "{name}");
        }
    }
}
