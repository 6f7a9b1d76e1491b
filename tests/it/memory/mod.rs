//! What a conversation and its user are remembered by, with the real program and simulated models.

mod facts;
mod long;

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_sim::Running;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::documents::{Client, KEY};

const INSTRUCTIONS: &str = "You are tested.";

/// Two models of a simulated provider: `sim-large` answers, `sim-small` summarises and notes facts.
struct Models {
    running: Running,
    http: reqwest::Client,
}

impl Models {
    async fn start() -> Self {
        let running = copilotd_sim::openai::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let models = Self { running, http };
        models.reset().await;
        models
    }

    async fn control(&self, what: &str, body: &Value) {
        let url = format!("{}/_sim/{what}", self.running.base_url());
        let answer = self.http.post(url).json(body).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Lets a model say this the next time, or so many times, that the last message of the user contains a text.
    async fn script(&self, model: &str, message: &str, answers: &[String], times: u64) {
        let steps: Vec<Value> = answers.iter().map(|text| json!({ "text": text })).collect();
        let script = json!({ "match": message, "model": model, "times": times, "steps": steps });
        self.control("script", &script).await;
    }

    /// Waits until the models have said all but so many of the answers that were prepared for them.
    async fn settle(&self, left: usize) {
        loop {
            let state = self.seen("state").await;
            if state["scripts_waiting"].as_u64().unwrap() <= left as u64 && state["open_streams"] == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Forgets what was prepared.
    async fn reset(&self) {
        self.control("reset", &json!({})).await;
        self.control("knobs", &json!({ "first_ms": 0, "pace_ms": 0 })).await;
    }

    async fn seen(&self, what: &str) -> Value {
        let url = format!("{}/_sim/{what}", self.running.base_url());
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Returns the messages of the last request to the answering model.
    async fn last_prompt(&self) -> Vec<Value> {
        let seen = self.seen("requests").await;
        let requests = seen["requests"].as_array().unwrap().clone();
        let large = requests.into_iter().filter(|request| request["model"] == "sim-large");
        let last = large.max_by_key(|request| request["n"].as_u64()).unwrap();
        last["body"]["messages"].as_array().unwrap().clone()
    }
}

/// Writes the configuration of a server with one copilot, whose memory is configured so.
fn configured(models: &Models, memory: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = {data:?}
[[providers]]
name = "main"
base_url = "{provider}/v1"
api_key = {{ value = "simulated" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "sim-large", context_tokens = 16000 }}]
[[routes]]
name = "small"
targets = [{{ provider = "main", model = "sim-small", context_tokens = 16000 }}]
[[tenants]]
id = "acme"
  [[tenants.api_keys]]
  name = "backend"
  hash = "{hash}"
  scopes = ["chat"]
  [tenants.limits]
  writes_per_minute = 0
  per_user = {{ writes_per_minute = 0 }}
  [[tenants.copilots]]
  name = "support"
  instructions = "{INSTRUCTIONS}"
  route = "default"
  small_route = "small"
  titles = false
  memory = {{ {memory} }}
"#,
        data = directory.path().join("data"),
        provider = models.running.base_url(),
        hash = KeyHash::of(KEY),
    );
    std::fs::write(directory.path().join("copilotd.toml"), text).unwrap();
    directory
}

/// Submits a turn and returns it once it has ended, which it must do well.
async fn ask(client: &Client, conversation: &str, question: &str) -> Value {
    let turns = format!("/v1/conversations/{conversation}/turns");
    let turn = client.post(202, &turns, json!({ "input": question })).await;
    let turn = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
    // The stream ends with the turn.
    client.get(&format!("{turn}/events")).await;
    let turn = client.get(&turn).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    turn
}
