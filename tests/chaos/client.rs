//! A user's persistent client: requests without an answer are repeated until there is one.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::findings::{Findings, Promise};
use crate::history::History;
use crate::server::ServerState;

/// A request that is not answered in this time is sent again.
const ANSWER: Duration = Duration::from_secs(20);
/// Pause before the repetition.
const PAUSE: Duration = Duration::from_millis(100);

/// What all clients of a run share.
pub struct Shared {
    pub history: Arc<History>,
    pub findings: Findings,
    pub life: watch::Receiver<ServerState>,
    /// Deadline for the end of every turn.
    pub end: Instant,
    /// Deadline for the answer to every request, including the checker's.
    pub deadline: Instant,
}

/// The client of one user.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    pub shared: Arc<Shared>,
    key: String,
    user: String,
}

impl Client {
    pub fn new(shared: Arc<Shared>, key: String, user: String) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("without TLS there is nothing that can fail");
        Self {
            http,
            shared,
            key,
            user,
        }
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Builds a request to the server's current address; waits while there is none.
    pub async fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut life = self.shared.life.clone();
        let there = life.wait_for(|life| life.address().is_some()).await;
        let address = there.ok().and_then(|life| life.address());
        let address = address.expect("the server outlives its clients");
        let request = self.http.request(method, format!("http://{address}{path}"));
        request.bearer_auth(&self.key).header("x-copilotd-user", &self.user)
    }

    /// Repeats a request until there is a final answer; `None` when the run is over.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let mut why = "no attempt finished".to_owned();
        loop {
            let attempt = self.attempt(method.clone(), path, key, body, ANSWER);
            let Ok(attempt) = tokio::time::timeout_at(self.shared.deadline, attempt).await else {
                let what = format!("{method} {path} was never answered: {why}");
                self.shared.findings.add(Promise::Kept, conversation_of(path), what);
                return None;
            };
            why = match attempt {
                Ok((503, body)) => format!("503 {body}"),
                Ok((status, body)) if status >= 500 => {
                    let what = format!("{method} {path} was answered with status {status} {body}");
                    self.shared.findings.add(Promise::Process, conversation_of(path), &what);
                    what
                }
                Ok(answer) => return Some(answer),
                Err(error) => error,
            };
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends the request once.
    pub async fn attempt(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<(u16, Value), String> {
        let mut request = self.request(method, path).await.timeout(within);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(|error| error.to_string())?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        self.ask(Method::GET, path, None, None).await
    }

    /// Returns every entry of a paged list.
    pub async fn all(&self, path: &str) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self.get(&format!("{path}?limit=100{cursor}")).await?;
            if status != 200 {
                return None;
            }
            all.extend(page["data"].as_array().into_iter().flatten().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Some(all),
            }
        }
    }
}

/// Returns the conversation id in a path, if any.
fn conversation_of(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/v1/conversations/")?;
    rest.split(['/', '?']).next()
}
