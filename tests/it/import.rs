//! The real program: `copilotd knowledge import` against a real server.

use std::path::Path;

use copilotd_actors::domain::access::key_hash::KeyHash;
use tempfile::TempDir;

use crate::served::{FILE, Served, said};

/// An API key with the scope knowledge.
const KEY: &str = "cpk_importimportimportimportimportimportimport1";

/// Starts a server whose tenant may write as often as it wants, unless `limits` says otherwise.
async fn served(limits: &str) -> Served {
    let file = format!(
        "{FILE}\n[[tenants.api_keys]]\nname = \"import\"\nhash = \"{}\"\nscopes = [\"knowledge\"]\n[tenants.limits]\n{limits}\n",
        KeyHash::of(KEY)
    );
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let mut served = Served::start_with(directory, &data, &file, &[]).await;
    served.credential = KEY.to_owned();
    served
}

const UNLIMITED: &str = "writes_per_minute = 0\nper_user = { writes_per_minute = 0 }";

/// Exit code, standard output and standard error of an import.
async fn import(served: &Served, path: &Path, more: &[&str]) -> (i32, String, String) {
    let fixed = [
        "knowledge",
        "import",
        "--collection",
        "handbook",
        "--server",
        &served.server,
    ];
    let arguments = [&fixed[..], more, &[path.to_str().unwrap()]].concat();
    let output = served.output(&arguments).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The documents of the collection, in order of their ids.
async fn listed(served: &Served) -> Vec<serde_json::Value> {
    let address = format!("{}/v1/knowledge/handbook/documents?limit=100", served.server);
    let answer = reqwest::Client::new()
        .get(address)
        .bearer_auth(KEY)
        .send()
        .await
        .unwrap();
    let page: serde_json::Value = answer.json().await.unwrap();
    page["data"].as_array().unwrap().clone()
}

fn ids(documents: &[serde_json::Value]) -> Vec<&str> {
    documents
        .iter()
        .map(|document| document["external_id"].as_str().unwrap())
        .collect()
}

/// A directory with documents of all kinds, and with what is no document.
fn handbook(root: &Path) {
    std::fs::create_dir_all(root.join("shop/.git")).unwrap();
    for (name, text) in [
        ("refunds.md", "# Refunds\n\nA refund takes five days."),
        ("shop/a b/ünï?.txt", "Opening hours."),
        ("shop/prices.csv", "product,price\nlamp,7\n"),
        ("shop/page.html", "<h1>Page</h1><p>Text.</p>"),
        // Not a document of the API: its values are what is searched.
        ("shop/data.json", "{\"title\": 7, \"lamp\": \"bright\"}"),
        ("shop/.git/config", "hidden"),
        ("shop/.draft.md", "hidden"),
        ("shop/image.png", "no document"),
    ] {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink(root.join("refunds.md"), root.join("link.md")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_imported_once() {
    let served = served(UNLIMITED).await;
    let root = served.path("handbook");
    handbook(&root);
    let (code, out, said) = import(&served, &root, &["--dry-run"]).await;
    assert_eq!((code, out.lines().count()), (0, 6), "{out}{said}");
    assert!(
        out.ends_with("would store 5 and delete 0; 0 failed, 4 skipped\n"),
        "{out}"
    );
    assert!(listed(&served).await.is_empty(), "a dry run changes nothing");

    let (code, out, said) = import(&served, &root, &["--wait", "--allowed-role", "staff"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "5 stored, 0 unchanged, 0 failed, 4 skipped\n"),
        "{said}"
    );
    for skipped in [
        "link.md: symbolic link",
        ".git: hidden",
        ".draft.md: hidden",
        "image.png: its ending",
    ] {
        assert!(said.contains(skipped), "{skipped}: {said}");
    }
    let documents = listed(&served).await;
    let expected = [
        "refunds.md",
        "shop/a b/ünï?.txt",
        "shop/data.json",
        "shop/page.html",
        "shop/prices.csv",
    ];
    assert_eq!(ids(&documents), expected);
    for document in &documents {
        assert_eq!(document["status"], "searchable", "{document}");
        assert_eq!(document["allowed_roles"], serde_json::json!(["staff"]), "{document}");
    }
    assert_eq!(documents[2]["format"], "json");

    // The same content is no work, and keeps its access.
    let (code, out, said) = import(&served, &root, &["--wait"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "0 stored, 5 unchanged, 0 failed, 4 skipped\n"),
        "{said}"
    );
    assert_eq!(listed(&served).await, documents);

    // What is missing is deleted only when that is asked for, and not more than was said.
    std::fs::remove_file(root.join("refunds.md")).unwrap();
    std::fs::remove_file(root.join("shop/page.html")).unwrap();
    let (code, _, said) = import(&served, &root, &["--delete-missing", "1"]).await;
    assert!(code == 1 && said.contains("nothing was deleted"), "{said}");
    assert_eq!(listed(&served).await.len(), 5);
    let (code, out, said) = import(&served, &root, &["--delete-missing", "2"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(out, "0 stored, 3 unchanged, 0 failed, 4 skipped, 2 deleted\n");
    let left = listed(&served).await;
    assert_eq!(ids(&left), ["shop/a b/ünï?.txt", "shop/data.json", "shop/prices.csv"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_fail_and_the_others_are_stored() {
    let served = served(UNLIMITED).await;
    let path = served.path("articles.jsonl");
    let lines = [
        r#"{"external_id": "a", "title": "A", "text": "Alpha.", "metadata": {"n": 1}, "allowed_users": ["eve"]}"#,
        r#"{"external_id": "b", "text": "#,
        r#"{"external_id": "c", "text": "Gamma.", "colour": "red"}"#,
        r#"{"external_id": "d", "text": "Delta."}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let (code, out, said) = import(&served, &path, &["--wait", "--delete-missing", "9"]).await;
    assert_eq!(
        (code, out.as_str()),
        (1, "2 stored, 0 unchanged, 2 failed, 0 skipped\n"),
        "{said}"
    );
    assert!(said.contains("articles.jsonl:2: the line is not JSON"), "{said}");
    assert!(said.contains("articles.jsonl:3: ") && said.contains("colour"), "{said}");
    let documents = listed(&served).await;
    assert_eq!(ids(&documents), ["a", "d"]);
    assert_eq!(
        (&documents[0]["title"], &documents[0]["allowed_users"][0]),
        (&"A".into(), &"eve".into())
    );
    // A wrong credential is said once, and ends the import.
    let mut stranger = served;
    stranger.credential = "cpk_wrong".to_owned();
    let (code, out, said) = import(&stranger, &path, &[]).await;
    assert_eq!(
        (code, out.as_str()),
        (1, "0 stored, 0 unchanged, 1 failed, 0 skipped\n"),
        "{said}"
    );
    assert!(said.contains("the import was stopped"), "{said}");
    let (code, _, said) = import(&stranger, Path::new("/no/such/directory"), &[]).await;
    assert!(code == 2 && said.contains("/no/such/directory"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_waits_for_a_server_that_is_busy() {
    // Six writes a minute: the first ones pass at once, the next one after ten seconds at most.
    let served = served("per_user = { writes_per_minute = 60 }").await;
    let path = served.path("articles.jsonl");
    let lines: Vec<String> = (0..64)
        .map(|n| format!("{{\"external_id\": \"{n}\", \"text\": \"Text {n}.\"}}"))
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let (code, out, told) = import(&served, &path, &["--parallel", "8"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "64 stored, 0 unchanged, 0 failed, 0 skipped\n"),
        "{told}"
    );
    let log = std::fs::read_to_string(served.path("log")).unwrap_or_default();
    assert!(said(&log, "panicked").is_none(), "{log}");
}
