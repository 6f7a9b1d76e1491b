//! Connections by TLS: the server's certificate and name are checked whatever `sslmode` says, unless it turns TLS off.

use std::path::Path;

use copilotd::adapters::index::postgres::{OpenError, PostgresIndex, PostgresOptions, probe};
use copilotd::postgres_url::UrlError;
use copilotd_knowledge::document::{Attributes, Reader};

use super::options;
use crate::index::library::{Library, key};
use crate::support::postgres::{ROLE, shared};
use crate::support::tls::TlsFront;

fn url(front: &TlsFront, host: &str, parameters: &str, authority: &Path) -> String {
    let port = front.address.port();
    let authority = authority.to_str().unwrap();
    format!("postgres://{ROLE}:hunter2@{host}:{port}/knowledge?{parameters}&sslrootcert={authority}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_server_is_used_and_others_are_refused() {
    let Some((server, schema)) = shared().await else { return };
    let front = TlsFront::to(server.address(), "localhost").await;
    let stranger = TlsFront::to(server.address(), "localhost").await;
    let with = |url: String| PostgresOptions {
        url: url.into(),
        ..options(server, &schema)
    };
    for (n, mode) in [
        "sslmode=require",
        "sslmode=verify-ca",
        "sslmode=verify-full",
        "sslmode=prefer",
    ]
    .iter()
    .enumerate()
    {
        let index = PostgresIndex::open(&with(url(&front, "localhost", mode, &front.authority))).await;
        let index = std::sync::Arc::new(index.unwrap()) as _;
        let acme = Library::new(&index, &format!("acme-{n}"));
        acme.put(&key("a"), "alpha", Attributes::default(), 1).await;
        assert_eq!(
            acme.search("alpha", &Reader::Administrator, 9).await.lexical.len(),
            1,
            "{mode}"
        );

        // An authority that has not issued the server's certificate, and a name that it is not for.
        let wrong = [
            (url(&front, "localhost", mode, &stranger.authority), "unknown authority"),
            (url(&front, "127.0.0.1", mode, &front.authority), "not valid for name"),
        ];
        for (url, why) in wrong {
            let error = PostgresIndex::open(&with(url.clone())).await.unwrap_err();
            assert!(matches!(error, OpenError::Distrusted { .. }), "{mode}: {error}");
            let error = error.to_string();
            assert!(error.contains(why) && error.contains("sslrootcert"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
            let probed = probe(&with(url)).await.unwrap_err();
            assert_eq!(probed.to_string(), error);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_secured_is_refused() {
    let Some((server, schema)) = shared().await else { return };
    let front = TlsFront::to(server.address(), "localhost").await;
    let refused = async |url: String| {
        let options = PostgresOptions {
            url: url.into(),
            ..options(server, &schema)
        };
        PostgresIndex::open(&options).await.unwrap_err()
    };
    let error = refused(url(
        &front,
        "localhost",
        "sslmode=require",
        Path::new("/nowhere/ca.pem"),
    ))
    .await;
    assert!(matches!(error, OpenError::Authorities { .. }), "{error}");
    // A key is no certificate.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    let error = refused(url(&front, "localhost", "sslmode=require", file.path())).await;
    assert!(matches!(error, OpenError::Authorities { .. }), "{error}");
    // The server itself speaks no TLS, and is not talked to without.
    let plain = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        server.url(ROLE, "knowledge"),
        front.authority.display()
    );
    let error = refused(plain).await;
    assert!(error.to_string().contains("server does not support TLS"), "{error}");
    let error = refused(format!("{}?sslmode=allow", server.url(ROLE, "knowledge"))).await;
    assert!(matches!(error, OpenError::Url(UrlError::SslMode)), "{error}");
}
