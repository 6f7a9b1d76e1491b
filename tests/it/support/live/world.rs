//! The simulated provider and vendors as a child process, which outlives every server that is killed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::child::Child;

/// The simulators.
pub struct World {
    http: reqwest::Client,
    pub openai: String,
    pub anthropic: String,
    pub zendesk: String,
    pub slack: String,
    _child: Child,
}

/// The simulators' program: `COPILOTD_SIM_BIN`, else the one built beside the server.
fn program() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_copilotd")).with_file_name("copilotd-sim");
    let program = std::env::var_os("COPILOTD_SIM_BIN").map_or_else(beside, PathBuf::from);
    assert!(
        program.is_file(),
        "{} is not built: test with --workspace, or set COPILOTD_SIM_BIN",
        program.display()
    );
    program
}

impl World {
    /// Starts all of them, with their fixtures.
    pub async fn start(directory: &Path) -> Self {
        let log = directory.join("sim.log");
        let mut child = Child::start(&program(), &["--fixtures"], &[], &log).await;
        let urls = child
            .wait_for(|output| serde_json::from_str::<Value>(output).ok())
            .await;
        let urls = urls.unwrap_or_else(|| panic!("the simulators did not start: {}", child.output()));
        let url = |name: &str| urls[name].as_str().unwrap().to_owned();
        let http = reqwest::Client::new();
        let world = Self {
            http,
            openai: url("openai"),
            anthropic: url("anthropic"),
            zendesk: url("zendesk"),
            slack: url("slack"),
            _child: child,
        };
        // Tests need a model that answers quickly.
        for provider in [&world.openai, &world.anthropic] {
            let knobs = json!({"first_ms": 30, "pace_ms": 10});
            world.post(provider, "knobs", &knobs).await;
        }
        world
    }

    /// Changes settings, sets scripts, releases held requests.
    pub async fn post(&self, vendor: &str, what: &str, body: &Value) -> Value {
        let answer = self
            .http
            .post(format!("{vendor}/_sim/{what}"))
            .json(body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{what}: {answer:?}");
        answer.json().await.unwrap()
    }

    /// Returns everything that a vendor has stored.
    pub async fn state(&self, vendor: &str) -> Value {
        self.get(vendor, "state").await
    }

    /// Reads a vendor's control plane.
    pub async fn get(&self, vendor: &str, what: &str) -> Value {
        let answer = self.http.get(format!("{vendor}/_sim/{what}")).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Counts the effects that contain this mark: tickets by subject, messages and comments by text.
    pub async fn effects(&self, mark: &str) -> usize {
        let (zendesk, slack) = tokio::join!(self.state(&self.zendesk), self.state(&self.slack));
        let tickets = zendesk["tickets"].as_array().unwrap();
        let subjects = tickets.iter().filter(|ticket| bears(&ticket["subject"], mark));
        // A ticket's first comment is the ticket's own text.
        let comments = tickets
            .iter()
            .flat_map(|ticket| ticket["comments"].as_array().unwrap().iter().skip(1));
        let comments = comments.filter(|comment| bears(&comment["body"], mark));
        let channels = slack["channels"].as_array().unwrap();
        let messages = channels
            .iter()
            .flat_map(|channel| channel["messages"].as_array().unwrap());
        let messages = messages.filter(|message| bears(&message["text"], mark));
        subjects.count() + comments.count() + messages.count()
    }

    /// Returns how often each writing request was carried out; no `Idempotency-Key` may occur twice.
    pub async fn keyed_changes(&self) -> Vec<String> {
        let state = self.state(&self.zendesk).await;
        let journal = state["journal"].as_array().unwrap();
        let applied = journal.iter().filter(|entry| entry["applied"] == true);
        applied
            .filter_map(|entry| Some(entry["idempotency_key"].as_str()?.to_owned()))
            .collect()
    }
}

fn bears(text: &Value, mark: &str) -> bool {
    text.as_str().is_some_and(|text| text.contains(mark))
}
