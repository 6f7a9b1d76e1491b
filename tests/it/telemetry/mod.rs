//! Logs, traces and metrics of the real program, as seen by an OTLP collector, a scraper and a log reader.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod collector;
mod logs;
mod metrics;
mod page;
mod traces;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use copilotd::app;
use copilotd::config::{Config, Env};
use copilotd::http::credentials::{Grant, Scopes, mint};
use copilotd_sim::Running;
use jiff::SignedDuration;
use reqwest::{Method, RequestBuilder};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until there is a result.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, patience: Duration, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {patience:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The simulated services and a data directory.
struct TestEnvironment {
    openai: Running,
    zendesk: Running,
    slack: Running,
    directory: TempDir,
}

/// Settings that differ from the default.
#[derive(Default)]
struct Options<'a> {
    otlp: Option<&'a str>,
    log_level: &'a str,
    log_content: bool,
}

impl TestEnvironment {
    async fn start() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            openai: copilotd_sim::openai::start(loopback).await.unwrap(),
            zendesk: copilotd_sim::zendesk::start(loopback, true).await.unwrap(),
            slack: copilotd_sim::slack::start(loopback, true).await.unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The log of all starts so far.
    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    async fn knob(&self, knobs: Value) {
        let url = format!("{}/_sim/knobs", self.openai.base_url());
        let answer = reqwest::Client::new().post(url).json(&knobs).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    fn config(&self, options: &Options<'_>) -> String {
        let otlp = options
            .otlp
            .map_or(String::new(), |url| format!("otlp_endpoint = \"{url}\""));
        let level = if options.log_level.is_empty() {
            "info"
        } else {
            options.log_level
        };
        let tenant = |id: &str, log_content: bool| {
            format!(
                r#"[[tenants]]
id = "{id}"
log_content = {log_content}
  [[tenants.issuers]]
  iss = "https://{id}.example"
  alg = "HS256"
  secret = {{ value = "{}" }}
  [[tenants.copilots]]
  name = "support"
  instructions = "You help. instructions-marker"
  route = "default"
  tools = ["zendesk_search_tickets", "zendesk_get_ticket", "zendesk_list_comments", "slack_post_message"]
  [tenants.zendesk]
  base_url = "{}"
  email = "bot@{id}.example"
  token = {{ value = "zendesk-secret-marker" }}
  [tenants.slack]
  base_url = "{}/api/"
  bot_token = {{ value = "xoxb-slack-secret-marker" }}
"#,
                "jwt-secret-marker-".repeat(3),
                self.zendesk.base_url(),
                self.slack.base_url(),
            )
        };
        format!(
            r#"[server]
listen = "127.0.0.1:0"
data_dir = "{data}"
drain_s = 5
[telemetry]
log_format = "json"
log_level = "{level}"
{otlp}
[[providers]]
name = "main"
kind = "openai"
base_url = "{openai}/v1"
api_key = {{ value = "sk-provider-secret-marker" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "sim-large", context_tokens = 128000 }}]
{acme}{globex}"#,
            data = self.directory.path().join("data").display(),
            openai = self.openai.base_url(),
            acme = tenant("acme", options.log_content),
            globex = tenant("globex", false),
        )
    }

    /// Starts the program and waits until it serves.
    async fn serve(&self, options: Options<'_>) -> Copilotd {
        let text = self.config(&options);
        let path = self.directory.path().join("copilotd.toml");
        std::fs::write(&path, &text).unwrap();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let begun = std::fs::metadata(self.log_path()).unwrap().len() as usize;
        let child = Command::new(env!("CARGO_BIN_EXE_copilotd"))
            .arg("serve")
            .arg("--config")
            .arg(&path)
            .env_remove("RUST_LOG")
            .stderr(log)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let served = || async {
            let log = self.log();
            log[begun..]
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .filter(|line: &Value| line["message"] == "copilotd is ready")
                .find_map(|line| line["address"].as_str().map(str::to_owned))
        };
        let address = eventually("the address", DEADLINE, served).await;
        let config = Config::parse(&text, &Env::default(), &app::context().kinds).unwrap();
        let token = |tenant: &str, scopes| {
            let grant = Grant {
                tenant: tenant.parse().unwrap(),
                user: "ada".parse().unwrap(),
                scopes,
                life: SignedDuration::from_hours(1),
            };
            mint(&config, &grant, app::context().now)
                .unwrap()
                .expose_secret()
                .to_owned()
        };
        Copilotd {
            child,
            base: format!("http://{address}"),
            acme: token("acme", Scopes::CHAT),
            globex: token("globex", Scopes::CHAT),
            gateway: token("acme", Scopes::GATEWAY),
            client: reqwest::Client::new(),
        }
    }
}

/// The running program.
struct Copilotd {
    child: Child,
    base: String,
    acme: String,
    globex: String,
    /// Acme's, for the OpenAI-compatible endpoint.
    gateway: String,
    client: reqwest::Client,
}

impl Copilotd {
    fn request(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        request.bearer_auth(token)
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Value {
        let answer = self
            .request(token, Method::POST, path)
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    async fn conversation(&self, token: &str) -> String {
        let made = self.post(token, "/v1/conversations", json!({})).await;
        made["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a turn has ended and returns it.
    async fn ended(&self, token: &str, turn: &str) -> Value {
        let path = format!("/v1/turns/{turn}");
        let ask = || async {
            let answer = self.request(token, Method::GET, &path).send().await.unwrap();
            let turn: Value = answer.json().await.unwrap();
            let status = turn["status"].as_str().unwrap().to_owned();
            matches!(status.as_str(), "completed" | "failed" | "cancelled").then_some(turn)
        };
        eventually("the end of the turn", Duration::from_secs(60), ask).await
    }

    /// Runs one turn to its end.
    async fn turn(&self, token: &str, input: &str) -> (String, Value) {
        let conversation = self.conversation(token).await;
        let path = format!("/v1/conversations/{conversation}/turns");
        let turn = self.post(token, &path, json!({ "input": input })).await;
        let turn = self.ended(token, turn["id"].as_str().unwrap()).await;
        (conversation, turn)
    }

    /// Stops it gracefully, so that remaining spans are sent.
    async fn stop(mut self) {
        let pid = self.child.id().unwrap().to_string();
        let signalled = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(signalled.success());
        let ended = tokio::time::timeout(DEADLINE, self.child.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Kills it.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
