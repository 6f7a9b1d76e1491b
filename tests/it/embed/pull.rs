//! `copilotd models pull` from a server that has the files, has others, or has none.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, PullError, Threads, pull};
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
    let pulled = |times| (times, pull(&client, ModelKind::BgeSmall, &source, into.path()));
    for (expected, pulling) in [pulled(2), pulled(0)] {
        assert_eq!(pulling.await.unwrap(), expected);
    }
    LocalEmbedder::load(ModelKind::BgeSmall, into.path(), Threads::default()).unwrap();
}

#[tokio::test]
async fn another_file_a_larger_one_and_none_are_refused_and_leave_nothing_behind() {
    let client = reqwest::Client::new();
    for (body, expected) in [
        (Some(vec![7]), "sha256"),
        (Some(vec![0; 41 << 20]), "more than"),
        (None, "model.onnx at"),
    ] {
        let source = serve(move |_| body.clone()).await;
        let into = tempfile::tempdir().unwrap();
        let error = pull(&client, ModelKind::BgeSmall, &source, into.path())
            .await
            .unwrap_err();
        let said = match error {
            PullError::Altered { found, .. } => found,
            PullError::Fetch { source, .. } => source.to_string(),
            PullError::Missing { file, places } => format!("{file} at {places:?}"),
            PullError::Read { path, .. } | PullError::Write { path, .. } => panic!("{path}"),
        };
        assert!(said.contains(expected), "{said}");
        assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_repository_on_hugging_face_is_understood() {
    let Some(directory) = models() else { return };
    let directory = directory.join(ModelKind::BgeSmall.name());
    let source = serve(move |path| {
        let file = match path.strip_prefix("Xenova/bge-small-en-v1.5/resolve/main/")? {
            "onnx/model_quantized.onnx" => "model.onnx",
            "tokenizer.json" => "tokenizer.json",
            // The original, which is another file.
            "onnx/model.onnx" => return Some(vec![7]),
            _ => return None,
        };
        std::fs::read(directory.join(file)).ok()
    })
    .await;
    let into = tempfile::tempdir().unwrap();
    let client = reqwest::Client::new();
    let source = format!("{source}Xenova/bge-small-en-v1.5/resolve/main");
    for expected in [2, 0] {
        let pulled = pull(&client, ModelKind::BgeSmall, &source, into.path()).await;
        assert_eq!(pulled.unwrap(), expected);
    }
    LocalEmbedder::load(ModelKind::BgeSmall, into.path(), Threads::default()).unwrap();
}

#[tokio::test]
async fn a_directory_may_hold_one_model_or_several() {
    let Some(directory) = models() else { return };
    let client = reqwest::Client::new();
    for source in [directory.clone(), directory.join(ModelKind::BgeSmall.name())] {
        let into = tempfile::tempdir().unwrap();
        let source = source.to_str().unwrap();
        let pulled = pull(&client, ModelKind::BgeSmall, source, into.path()).await;
        assert_eq!(pulled.unwrap(), 2, "{source}");
    }
    let (empty, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = empty.path().to_str().unwrap();
    let error = pull(&client, ModelKind::BgeSmall, source, into.path())
        .await
        .unwrap_err();
    assert!(
        error.to_string().starts_with("model.onnx was not found at any of "),
        "{error}"
    );
    std::fs::write(empty.path().join("model.onnx"), "another").unwrap();
    let error = pull(&client, ModelKind::BgeSmall, source, into.path())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("model.onnx is not the expected file: sha256"),
        "{error}"
    );
}
