//! A source of the configuration of the real program.

use std::time::Duration;

use copilotd_actors::domain::access::key_hash::KeyHash;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Zendesk;
use crate::served::{FILE, Served};

/// An API key with the scopes knowledge and admin.
const KEY: &str = "cpk_sourcesourcesourcesourcesourcesourcesource1";

async fn get(served: &Served, path: &str) -> Value {
    let request = reqwest::Client::new().get(format!("{}{path}", served.server));
    let answer = request.bearer_auth(KEY).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_source_is_read_and_shown() {
    let zendesk = Zendesk::start(true).await;
    zendesk
        .publish(json!({ "title": "Refunds", "body": "<p>Five days.</p>" }))
        .await;
    let hash = KeyHash::of(KEY);
    let file = format!(
        r#"{FILE}
[[tenants.api_keys]]
name = "admin"
hash = "{hash}"
scopes = ["knowledge", "admin"]
[tenants.zendesk]
base_url = "{}"
oauth_token = {{ value = "token" }}
[[tenants.sources]]
kind = "zendesk"
articles = {{ collection = "help" }}
tickets = {{ collection = "tickets", allowed_roles = ["agents"] }}
exports_per_minute = 30
requests_per_minute = 2000
"#,
        zendesk.address()
    );
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let mut served = Served::start_with(directory, &data, &file, &[]).await;
    served.credential = KEY.to_owned();
    let status = loop {
        let sources = get(&served, "/v1/admin/knowledge/sources").await;
        let source = sources["data"][0].clone();
        assert_ne!(source["status"], "failed", "{source}");
        if source["status"] == "up_to_date" {
            break source;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        (
            &status["name"],
            &status["kind"],
            &status["documents"],
            &status["skipped"]
        ),
        (&json!("zendesk"), &json!("zendesk"), &json!(9), &json!(0))
    );
    let tickets = get(&served, "/v1/knowledge/tickets/documents").await;
    assert_eq!(tickets["data"].as_array().unwrap().len(), 8);
    assert_eq!(tickets["data"][0]["allowed_roles"], json!(["agents"]));

    // An import into the same collection leaves them alone.
    let file = served.path("one.md");
    std::fs::write(&file, "# One").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let server = served.server.clone();
    let arguments = [
        "knowledge",
        "import",
        &file,
        "--collection",
        "help",
        "--delete-missing",
        "5",
        "--server",
        &server,
    ];
    let told = served.run(&arguments).await;
    assert_eq!(told, "1 stored, 0 unchanged, 0 failed, 0 skipped\n");
    let help = get(&served, "/v1/knowledge/help/documents").await;
    assert_eq!(help["data"].as_array().unwrap().len(), 2);
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
}
