//! Protects the demo's tokens from other web pages.
//!
//! Any site can point its own name at 127.0.0.1 (DNS rebinding). The browser then takes the demo for that site and lets
//! its page read an administrator's tokens, and with them spend the developer's money at the provider. Such a request
//! still names the other site as its host, so only requests that name this server's own address are answered.
//!
//! Invariant: a request is answered only if it names at least one host, every host it names is ours with the exact
//! port, and the browser, if there is one, says that the request comes from our own page or from no page.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The header in which a browser says which site a request comes from (Fetch Metadata Request Headers, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The host names of the demo, once its port is known.
#[derive(Debug, Clone, Default)]
pub struct DemoAddress(Arc<OnceLock<[String; 3]>>);

impl DemoAddress {
    /// Sets the address that the demo listens on.
    pub fn set(&self, address: SocketAddr) {
        let port = address.port();
        let names = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
        // Set once: the demo listens once.
        let _ = self.0.set(names);
    }

    /// Whether `host` is one of our names with our port. Without a port it is port 80, as in any HTTP address.
    fn is_ours(&self, host: &str) -> bool {
        let named = |known: &String| {
            known.eq_ignore_ascii_case(host)
                || known
                    .strip_suffix(":80")
                    .is_some_and(|name| name.eq_ignore_ascii_case(host))
        };
        self.0.get().is_some_and(|names| names.iter().any(named))
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OriginError {
    /// The server does not know its own address yet.
    Starting,
    /// The request names another host, or none.
    WrongHost,
    /// The request comes from a page that is not ours.
    ForeignPage,
}

impl IntoResponse for OriginError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Starting => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The demo is starting. Try again in a second.\n",
            ),
            Self::WrongHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "The demo answers only to its own address. Open the one that it printed, such as http://127.0.0.1:8080/\n",
            ),
            Self::ForeignPage => (
                StatusCode::FORBIDDEN,
                "The demo does not answer requests from other pages. Type its address into the browser.\n",
            ),
        };
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        let mut response = (status, headers, text).into_response();
        if self == Self::Starting {
            let second = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
        }
        response
    }
}

/// Middleware that answers only requests to our own address, from our own page or from no page.
pub async fn guard(State(address): State<DemoAddress>, request: Request, next: Next) -> Response {
    if let Err(error) = admit(&address, request.uri(), request.headers()) {
        return error.into_response();
    }
    let mut response = next.run(request).await;
    let same_origin = header::HeaderValue::from_static("same-origin");
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    response.headers_mut().insert(policy, same_origin);
    response
}

fn admit(address: &DemoAddress, uri: &Uri, headers: &HeaderMap) -> Result<(), OriginError> {
    if address.0.get().is_none() {
        return Err(OriginError::Starting);
    }
    // The request target may contain a host too: in absolute form, or as HTTP/2's `:authority`.
    let of_target = uri.authority().map(Authority::as_str);
    let mut of_header = headers.get_all(header::HOST).iter().map(|value| value.to_str().ok());
    let (first, another) = (of_header.next(), of_header.next());
    if another.is_some() || (of_target.is_none() && first.is_none()) {
        return Err(OriginError::WrongHost);
    }
    let is_ours = |host: Option<&str>| host.is_some_and(|host| address.is_ours(host));
    if !first.is_none_or(is_ours) || !of_target.is_none_or(|host| address.is_ours(host)) {
        return Err(OriginError::WrongHost);
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    if !sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none")) {
        return Err(OriginError::ForeignPage);
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let own = |origin: &header::HeaderValue| {
        let host = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        is_ours(host)
    };
    if !origins.all(own) {
        return Err(OriginError::ForeignPage);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::app::demo_page::{self, VendorApps};
    use crate::surfaces::assets;

    fn address(port: u16) -> DemoAddress {
        let address = DemoAddress::default();
        address.set(SocketAddr::from(([127, 0, 0, 1], port)));
        address
    }

    fn admitted(port: u16, target: &str, headers: &[(&str, &str)]) -> Result<(), OriginError> {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        admit(&address(port), &parts.uri, &parts.headers)
    }

    #[test]
    fn only_its_own_hosts_with_the_exact_port_are_answered() {
        for (target, hosts, expected) in [
            ("/demo.json", &["127.0.0.1:8080"][..], true),
            ("/demo.json", &["localhost:8080"], true),
            ("/demo.json", &["LocalHost:8080"], true),
            ("/demo.json", &["[::1]:8080"], true),
            // Rebound names, and names that look alike.
            ("/demo.json", &["evil.example"], false),
            ("/demo.json", &["evil.example:8080"], false),
            ("/demo.json", &["127.0.0.1.evil.example:8080"], false),
            ("/demo.json", &["localhost.evil.example:8080"], false),
            ("/demo.json", &["localhost.:8080"], false),
            ("/demo.json", &["127.0.0.1.:8080"], false),
            ("/demo.json", &["127.1:8080"], false),
            ("/demo.json", &["2130706433:8080"], false),
            ("/demo.json", &["0.0.0.0:8080"], false),
            ("/demo.json", &["127.0.0.2:8080"], false),
            ("/demo.json", &["[::ffff:127.0.0.1]:8080"], false),
            ("/demo.json", &["[::1%25lo]:8080"], false),
            ("/demo.json", &["user@127.0.0.1:8080"], false),
            ("/demo.json", &["127.0.0.1:8080@evil.example"], false),
            // Other ports.
            ("/demo.json", &["127.0.0.1"], false),
            ("/demo.json", &["127.0.0.1:"], false),
            ("/demo.json", &["127.0.0.1:80"], false),
            ("/demo.json", &["127.0.0.1:08080"], false),
            ("/demo.json", &["127.0.0.1:80800"], false),
            ("/demo.json", &["127.0.0.1:8080 "], false),
            // None, as HTTP/1.0 may have it, an empty one, and several.
            ("/demo.json", &[], false),
            ("/demo.json", &[""], false),
            ("/demo.json", &["127.0.0.1:8080", "127.0.0.1:8080"], false),
            ("/demo.json", &["127.0.0.1:8080", "evil.example"], false),
            ("/demo.json", &["127.0.0.1:8080, evil.example"], false),
            // The target's own host: absolute form, or HTTP/2.
            ("http://127.0.0.1:8080/demo.json", &[], true),
            ("http://127.0.0.1:8080/demo.json", &["localhost:8080"], true),
            ("http://evil.example/demo.json", &["127.0.0.1:8080"], false),
            ("http://127.0.0.1:8080/demo.json", &["evil.example"], false),
            ("http://evil.example:8080/demo.json", &[], false),
            ("http://evil@127.0.0.1:8080/demo.json", &[], false),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let found = admitted(8080, target, &headers);
            let expected = if expected { Ok(()) } else { Err(OriginError::WrongHost) };
            assert_eq!(found, expected, "{target} {hosts:?}");
        }
        assert_eq!(admitted(80, "/", &[("host", "localhost")]), Ok(()));
        assert_eq!(admitted(80, "/", &[("host", "localhost:80")]), Ok(()));
        assert_eq!(
            admitted(8080, "/", &[("host", "localhost:80")]),
            Err(OriginError::WrongHost)
        );
    }

    #[test]
    fn other_pages_are_refused() {
        let own = ("host", "127.0.0.1:8080");
        for (more, expected) in [
            (&[][..], Ok(())),
            (&[("sec-fetch-site", "same-origin")], Ok(())),
            (&[("sec-fetch-site", "none")], Ok(())),
            (&[("sec-fetch-site", "cross-site")], Err(OriginError::ForeignPage)),
            (&[("sec-fetch-site", "same-site")], Err(OriginError::ForeignPage)),
            (&[("sec-fetch-site", "")], Err(OriginError::ForeignPage)),
            (&[("sec-fetch-site", "None")], Err(OriginError::ForeignPage)),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
                Err(OriginError::ForeignPage),
            ),
            (&[("origin", "http://127.0.0.1:8080")], Ok(())),
            (&[("origin", "http://127.0.0.1:3000")], Err(OriginError::ForeignPage)),
            (&[("origin", "https://127.0.0.1:8080")], Err(OriginError::ForeignPage)),
            (&[("origin", "http://evil.example")], Err(OriginError::ForeignPage)),
            (&[("origin", "null")], Err(OriginError::ForeignPage)),
        ] {
            let headers = [&[own], more].concat();
            assert_eq!(admitted(8080, "/demo.json", &headers), expected, "{more:?}");
        }
    }

    #[tokio::test]
    async fn every_route_of_the_demo_is_guarded() {
        let about = Arc::new(OnceLock::from(serde_json::json!({ "admin": "a token" })));
        let mut paths: Vec<String> = assets::demo::paths().collect();
        paths.push("/demo.json".to_owned());
        let answer = || axum::routing::get(|| async { "tickets" });
        let apps = VendorApps {
            zendesk: axum::Router::new().route("/changes", answer()),
            slack: axum::Router::new().route("/changes", answer()),
        };
        paths.extend(["/demo/zendesk/changes", "/demo/slack/changes"].map(str::to_owned));
        let ask = async |router: &axum::Router, method: &str, path: &str, host: &str| {
            let request = Request::builder().method(method).uri(path).header("host", host);
            let request = request.body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status().as_u16()
        };
        let router = demo_page::routes(Arc::clone(&about), address(8080), apps.clone());
        for path in &paths {
            for method in ["GET", "HEAD"] {
                assert_eq!(ask(&router, method, path, "127.0.0.1:8080").await, 200, "{path}");
                assert_eq!(ask(&router, method, path, "evil.example:8080").await, 421, "{path}");
            }
        }
        // Until the port is known the demo has no address of its own: requests are answered 503 with Retry-After.
        let early = demo_page::routes(about, DemoAddress::default(), apps);
        for host in ["127.0.0.1:8080", "evil.example:8080"] {
            for path in &paths {
                assert_eq!(ask(&early, "GET", path, host).await, 503, "{path}");
            }
        }
        let nothing_known = demo_page::routes(Arc::default(), address(8080), VendorApps::default());
        assert_eq!(ask(&nothing_known, "GET", "/demo.json", "127.0.0.1:8080").await, 503);
    }
}
