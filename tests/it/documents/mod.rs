//! Documents over HTTP with the real program: PDF from upload to the page in a citation, poisoned and large documents, and
//! a process that is killed while it ingests.

mod generations;
mod killed;
mod large;
mod pdf;

use std::net::SocketAddr;
use std::path::Path;

use copilotd_actors::domain::access::key_hash::KeyHash;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::live::child::Child;

pub const KEY: &str = "cpk_documentsdocumentsdocumentsdocumentsdocumen";

/// A server of one tenant with a copilot that draws on the collection `handbook`.
struct Server {
    directory: TempDir,
    child: Child,
    client: Client,
}

/// A client with the key, for one user.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    http: reqwest::Client,
    user: String,
}

impl Server {
    /// Starts a server. `provider` is the address of its model, `more` goes to the end of its configuration.
    async fn start(provider: &str, more: &str) -> Self {
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
[[tenants]]
id = "acme"
  [[tenants.api_keys]]
  name = "backend"
  hash = "{hash}"
  scopes = ["chat", "knowledge"]
  [[tenants.copilots]]
  name = "support"
  route = "default"
  knowledge = ["handbook"]
{more}
"#,
            data = directory.path().join("data"),
            hash = KeyHash::of(KEY),
        );
        std::fs::write(directory.path().join("copilotd.toml"), text).unwrap();
        let (child, client) = serve(directory.path()).await;
        Self {
            directory,
            child,
            client,
        }
    }

    /// Kills the process and starts another one on the same data.
    async fn restart(&mut self) {
        self.child.kill().await;
        (self.child, self.client) = serve(self.directory.path()).await;
    }
}

/// Starts a server with the configuration in the directory.
pub async fn serve(directory: &Path) -> (Child, Client) {
    let config = directory.join("copilotd.toml");
    let program = Path::new(env!("CARGO_BIN_EXE_copilotd"));
    let arguments = ["serve", "--config", config.to_str().unwrap()];
    let mut child = Child::start(program, &arguments, &[], &directory.join("log")).await;
    let serving = |log: &str| {
        let line = log.lines().find(|line| line.contains("copilotd is ready"))?;
        let (_, port) = line.split_once("127.0.0.1:")?;
        let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
        Some(SocketAddr::from(([127, 0, 0, 1], digits.parse().ok()?)))
    };
    let address = child.wait_for(serving).await;
    let address = address.unwrap_or_else(|| panic!("it did not start: {}", child.output()));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let user = "ada".to_owned();
    (child, Client { address, http, user })
}

impl Client {
    /// Returns a client for another user.
    pub fn of(&self, user: &str) -> Self {
        let user = user.to_owned();
        Self { user, ..self.clone() }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method.parse().unwrap(), format!("http://{}{path}", self.address));
        request.bearer_auth(KEY).header("x-copilotd-user", &self.user)
    }

    /// Returns the body of an answer with this status.
    pub async fn done(&self, status: u16, request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let (found, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(found, status, "{text}");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.done(200, self.request("GET", path)).await
    }

    pub async fn post(&self, status: u16, path: &str, body: Value) -> Value {
        self.done(status, self.request("POST", path).json(&body)).await
    }

    /// Stores a document and returns its job.
    async fn put(&self, id: &str, media: &str, content: impl Into<reqwest::Body>) -> Value {
        let put = self.request("PUT", &document(id)).header("content-type", media);
        self.done(202, put.body(content)).await
    }

    /// Waits until a document is no longer pending.
    async fn settled(&self, id: &str) -> Value {
        loop {
            let document = self.get(&document(id)).await;
            if document["status"] != "pending" {
                return document;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn search(&self, query: &str) -> Value {
        self.post(200, "/v1/knowledge/handbook/search", json!({ "query": query }))
            .await
    }

    /// Asks in a new conversation and returns the turn once it has ended.
    async fn asked(&self, question: &str) -> Value {
        let conversation = self
            .post(201, "/v1/conversations", json!({ "copilot": "support" }))
            .await;
        let turns = format!("/v1/conversations/{}/turns", conversation["id"].as_str().unwrap());
        let turn = self.post(202, &turns, json!({ "input": question })).await;
        let turn = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
        // The stream ends with the turn.
        self.get(&format!("{turn}/events")).await;
        self.get(&turn).await
    }

    /// Returns a value of the page of metrics.
    pub async fn metric(&self, series: &str) -> u64 {
        let page = self.get("/metrics").await;
        let page = page.as_str().unwrap();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {page}")).parse().unwrap()
    }
}

fn document(id: &str) -> String {
    format!("/v1/knowledge/handbook/documents/{id}")
}
