//! A server with a library that works, with others, and with none.

use std::path::Path;

use super::library;
use crate::served::{FILE, Served, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_usable_library_serves_and_says_so() {
    let ready = async |library: Option<&Path>| {
        let knowledge = library.map_or_else(String::new, |library| {
            format!("[knowledge]\npdfium = {:?}\n", library.display().to_string())
        });
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut served = Served::start_with(directory, &data, &format!("{knowledge}{FILE}"), &[]).await;
        let answer = reqwest::get(format!("{}/readyz", served.server)).await.unwrap();
        let body: serde_json::Value = answer.error_for_status().unwrap().json().await.unwrap();
        served.child.kill().await;
        let log = std::fs::read_to_string(served.path("log")).unwrap();
        let is_wrong = said(&log, "PDFium library cannot be").is_some();
        (
            body["dependencies"]["pdf"].clone(),
            body["pdf_reader"].clone(),
            is_wrong,
        )
    };
    assert_eq!(ready(None).await, (serde_json::Value::Null, "built_in".into(), false));
    for unusable in ["/no/such/library", "/proc/self/exe", "/bin/sh"] {
        let expected = ("unavailable".into(), "built_in".into(), true);
        assert_eq!(ready(Some(Path::new(unusable))).await, expected, "{unusable}");
    }
    if let Some(library) = library() {
        assert_eq!(ready(Some(&library)).await, ("ok".into(), "pdfium".into(), false));
    }
}
