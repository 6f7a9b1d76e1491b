//! `/widget.js` and `/widget/{file}`: the chat widget. They are public: pages of other origins load them, without a
//! credential.
//!
//! The loader imports the app, and the app its language, by names that hold a hash of the content, which caches may keep
//! forever. While a deployment runs, a browser may ask a server that has another version: it then asks for the name
//! without the hash, such as `app.js`, and gets that server's own.
//!
//! They are compressed once, and sent so to whoever accepts it.

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
const PUBLIC: [(HeaderName, &str); 3] = [
    (header::VARY, "accept-encoding"),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
];
const FOR_MINUTES: &str = "public, max-age=300";
const FOREVER: &str = "public, max-age=31536000, immutable";

/// A file as it is, and compressed.
struct PublicFile {
    plain: ServedFile,
    gzipped: ServedFile,
}

static FILES: LazyLock<HashMap<String, PublicFile>> = LazyLock::new(files);

fn files() -> HashMap<String, PublicFile> {
    let serve = |name: &str, cache| {
        let content = Files::get(name)?;
        let headers = [(header::CACHE_CONTROL, cache)].into_iter().chain(PUBLIC).collect();
        let plain = ServedFile::new(name, content, headers);
        let gzipped = plain.gzipped().expect("writing to a Vec never fails");
        Some(PublicFile { plain, gzipped })
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
        Some(file) if accepts_gzip(headers) => file.gzipped.answer(headers),
        Some(file) => file.plain.answer(headers),
        None => Problem::new(Code::NotFound)
            .detail("the chat widget has no file of this name")
            .into_response(),
    }
}

/// Whether `Accept-Encoding` names gzip, and not with a quality of zero (RFC 9110, section 12.5.3). A wildcard alone
/// gets the file as it is.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let quality = parameters.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case("gzip") && quality.parse::<f32>().is_ok_and(|quality| quality > 0.0)
        })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::surfaces::assets::sums::match_sha256sums;

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
    fn only_clients_that_ask_for_it_get_gzip() {
        for (value, expected) in [
            ("gzip, deflate, br, zstd", true),
            ("GZIP", true),
            ("br;q=1.0, gzip;q=0.5", true),
            ("gzip; q=0.001", true),
            ("gzip;q=0", false),
            ("gzip;q=0.0", false),
            ("gzip;q=", false),
            ("br", false),
            ("x-gzip", false),
            ("*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_a_page_loads_is_small() {
        let size = |prefix: &str| {
            let files = FILES.iter().filter(|(name, _)| name.starts_with(prefix));
            files.map(|(_, file)| file.gzipped.content.len()).max().unwrap()
        };
        let (loader, app) = (size("widget.js"), size("app-"));
        let language = ["ar-", "de-", "en-", "ja-"].into_iter().map(size).max().unwrap();
        assert!(loader <= 4_000, "{loader}");
        assert!(loader + app + language <= 40_000, "{}", loader + app + language);
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
