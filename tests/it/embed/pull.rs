//! `copilotd models pull` from a server that has the files, has others, or has none.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, PullError, pull};
use tokio::net::TcpListener;

use super::models;

async fn serve(answer: impl Fn(&str) -> Option<Vec<u8>> + Clone + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = move |Path(path): Path<String>| {
        let found = answer(&path);
        async move { found.ok_or(StatusCode::NOT_FOUND) }
    };
    let router = Router::new().route("/models/{*path}", axum::routing::get(handler));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/models/")
}

#[tokio::test]
async fn files_that_are_right_are_kept_and_fetched_once() {
    let Some(directory) = models() else { return };
    let source = serve(move |path| std::fs::read(directory.join(path)).ok()).await;
    let into = tempfile::tempdir().unwrap();
    let client = reqwest::Client::new();
    let pulled = |times| (times, pull(&client, ModelKind::Wordllama, &source, into.path()));
    for (expected, pulling) in [pulled(2), pulled(0)] {
        assert_eq!(pulling.await.unwrap(), expected);
    }
    LocalEmbedder::load(ModelKind::Wordllama, into.path()).unwrap();
}

#[tokio::test]
async fn another_file_a_larger_one_and_none_are_refused_and_leave_nothing_behind() {
    let client = reqwest::Client::new();
    for (body, expected) in [
        (Some(vec![7]), "sha256"),
        (Some(vec![0; 21 << 20]), "more than"),
        (None, "404"),
    ] {
        let source = serve(move |_| body.clone()).await;
        let into = tempfile::tempdir().unwrap();
        let error = pull(&client, ModelKind::Wordllama, &source, into.path())
            .await
            .unwrap_err();
        let said = match error {
            PullError::Altered { found, .. } => found,
            PullError::Fetch { source, .. } => source.to_string(),
            PullError::Write { path, .. } => panic!("{path}"),
        };
        assert!(said.contains(expected), "{said}");
        assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 0);
    }
}
