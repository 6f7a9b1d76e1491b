//! A client that repeats each request until it gets a final answer.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::server::KEY;

/// Longest time for a request to get its answer, including restarts of the server.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// The client of one user.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: watch::Receiver<Option<SocketAddr>>,
    user: &'static str,
}

impl Client {
    pub fn new(address: watch::Receiver<Option<SocketAddr>>, user: &'static str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, address, user }
    }

    /// Returns a request to the server's present address; waits while there is none.
    pub async fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut address = self.address.clone();
        let there = address
            .wait_for(Option::is_some)
            .await
            .expect("the server outlives its clients");
        let address = there.expect("it was waited for");
        let request = self.http.request(method, format!("http://{address}{path}"));
        request.bearer_auth(KEY).header("x-copilotd-user", self.user)
    }

    /// Repeats the request until there is a final answer: after a lost connection or a 503.
    pub async fn ask(&self, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> (u16, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut request = self
                .request(method.clone(), path)
                .await
                .timeout(Duration::from_secs(45));
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let why = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    match answer.bytes().await {
                        Ok(body) if status != 503 => {
                            assert!(
                                status < 500,
                                "{method} {path}: {status} {}",
                                String::from_utf8_lossy(&body)
                            );
                            return (status, serde_json::from_slice(&body).unwrap_or(Value::Null));
                        }
                        Ok(_) => "503".to_owned(),
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            assert!(Instant::now() < deadline, "{method} {path} got no answer: {why}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None, None).await
    }

    /// A request with an `Idempotency-Key`, which is safe to repeat.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, path, Some(key), Some(body)).await
    }

    /// Creates a conversation.
    pub async fn conversation(&self, copilot: &str, key: &str) -> String {
        let (status, body) = self
            .post("/v1/conversations", key, &json!({ "copilot": copilot }))
            .await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    /// Submits a turn; returns its id.
    pub async fn submit(&self, conversation: &str, key: &str, body: &Value) -> String {
        let (status, turn) = self
            .post(&format!("/v1/conversations/{conversation}/turns"), key, body)
            .await;
        assert_eq!(status, 202, "{turn}");
        turn["id"].as_str().unwrap().to_owned()
    }

    /// Reads a turn.
    pub async fn turn(&self, id: &str) -> Value {
        let (status, turn) = self.get(&format!("/v1/turns/{id}")).await;
        assert_eq!(status, 200, "{turn}");
        turn
    }

    /// Returns all messages of a conversation.
    pub async fn messages(&self, conversation: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self
                .get(&format!("/v1/conversations/{conversation}/messages?limit=100{cursor}"))
                .await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["data"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }
}
