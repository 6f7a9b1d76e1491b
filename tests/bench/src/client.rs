//! The calls that the benchmarks make: to the server's API, and directly to the provider for comparison.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::Connection;
use crate::sse::Events;
use crate::stats::Samples;

/// How fast the provider answers.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Words of the answer; each word is one piece of the provider's stream.
    pub words: u64,
    /// Time to the first word.
    pub first_ms: u64,
    /// Time between two words.
    pub pace_ms: u64,
}

impl Pace {
    fn prompt(self) -> String {
        let Self {
            words,
            first_ms,
            pace_ms,
        } = self;
        format!("[[sim tokens={words} first_ms={first_ms} pace_ms={pace_ms}]]")
    }
}

/// What the reader of one answer saw.
#[derive(Debug, Default)]
pub struct AnswerTimings {
    /// Time from the request to the first text.
    pub first: Duration,
    /// Times between two pieces of text.
    pub gaps: Samples,
    /// Number of words received.
    pub words: u64,
    /// Bytes of text received.
    pub bytes: u64,
    /// Time from the request to the 202; zero for the provider.
    pub accepted: Duration,
    /// Prompt tokens as counted by the server.
    pub prompt_tokens: u64,
}

/// Bytes that the server has handed to its store since it started.
#[derive(Debug, Default, Clone, Copy)]
pub struct StoreBytes {
    /// Log records.
    pub records: f64,
    /// Data derived from the records.
    pub projections: f64,
    /// Snapshots of folded logs.
    pub snapshots: f64,
    /// Number of appends.
    pub appends: f64,
}

impl StoreBytes {
    /// Returns the sum of all bytes.
    pub fn all(self) -> f64 {
        self.records + self.projections + self.snapshots
    }
}

/// The page of the server's metrics.
#[derive(Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Returns the sum of the series whose names begin with `name` and that have a label.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let lines = self.0.lines();
        let lines = lines.filter(|line| line.starts_with(name) && line.contains(label));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// A client of the server.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    key: String,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: std::borrow::Cow<'a, str>,
}

impl Client {
    /// Creates a client with an API key.
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self {
            address,
            key: key.to_owned(),
        }
    }

    /// Address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address).await
    }

    fn headers(&self, user: usize) -> String {
        format!("authorization: Bearer {}\r\nx-copilotd-user: user-{user}\r\n", self.key)
    }

    async fn call(
        &self,
        connection: &mut Connection,
        user: usize,
        (method, path): (&str, &str),
        body: Option<&Value>,
        expected: u16,
    ) -> anyhow::Result<Value> {
        let body = body.map(Value::to_string);
        let headers = self.headers(user);
        let response = connection.send(method, path, &headers, body.as_deref()).await?;
        let status = response.status;
        let text = connection.text(response).await?;
        ensure!(status == expected, "{method} {path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Sends a request as a user and reads its answer, whatever its status.
    pub async fn send(
        &self,
        connection: &mut Connection,
        user: usize,
        (method, path): (&str, &str),
        headers: &str,
        body: &str,
    ) -> anyhow::Result<(u16, String)> {
        let headers = format!("{}{headers}", self.headers(user));
        let response = connection.send(method, path, &headers, Some(body)).await?;
        let status = response.status;
        Ok((status, connection.text(response).await?))
    }

    /// Creates a conversation.
    pub async fn create(&self, connection: &mut Connection, user: usize) -> anyhow::Result<String> {
        let path = ("POST", "/v1/conversations");
        let made = self.call(connection, user, path, Some(&json!({})), 201).await?;
        Ok(made["id"]
            .as_str()
            .context("the answer has no conversation id")?
            .to_owned())
    }

    /// Submits a turn and returns its id.
    pub async fn submit(
        &self,
        connection: &mut Connection,
        user: usize,
        conversation: &str,
        pace: Pace,
    ) -> anyhow::Result<String> {
        let path = format!("/v1/conversations/{conversation}/turns");
        let body = json!({ "input": pace.prompt() });
        let turn = self.call(connection, user, ("POST", &path), Some(&body), 202).await?;
        Ok(turn["id"].as_str().context("the answer has no turn id")?.to_owned())
    }

    /// Submits a prompt and waits for the end of its turn.
    pub async fn ask(
        &self,
        connection: &mut Connection,
        user: usize,
        conversation: &str,
        input: &str,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/conversations/{conversation}/turns");
        let body = json!({ "input": input });
        let turn = self.call(connection, user, ("POST", &path), Some(&body), 202).await?;
        let turn = turn["id"].as_str().context("the answer has no turn id")?;
        loop {
            match self.status(connection, user, turn).await?.as_str() {
                "completed" => return Ok(()),
                "failed" | "cancelled" => anyhow::bail!("turn {turn} did not complete"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Reads a turn's state.
    pub async fn status(&self, connection: &mut Connection, user: usize, turn: &str) -> anyhow::Result<String> {
        let path = format!("/v1/turns/{turn}");
        let turn = self.call(connection, user, ("GET", &path), None, 200).await?;
        Ok(turn["status"]
            .as_str()
            .context("the answer has no turn status")?
            .to_owned())
    }

    /// Reads the server's metrics.
    pub async fn metrics(&self, connection: &mut Connection) -> anyhow::Result<Metrics> {
        let response = connection.send("GET", "/metrics", "", None).await?;
        Ok(Metrics(connection.text(response).await?))
    }

    /// Stores a text as a document of the collection `handbook` and returns the path of its job.
    pub async fn put(&self, connection: &mut Connection, id: &str, text: &str) -> anyhow::Result<String> {
        let path = format!("/v1/knowledge/handbook/documents/{id}");
        let body = json!({ "text": text });
        let job = self.call(connection, 0, ("PUT", &path), Some(&body), 202).await?;
        let job = job["id"].as_str().context("the answer has no job id")?;
        Ok(format!("/v1/jobs/{job}"))
    }

    /// Waits for the end of a job and returns the number of its chunks.
    pub async fn ingested(&self, connection: &mut Connection, job: &str) -> anyhow::Result<usize> {
        loop {
            let seen = self.call(connection, 0, ("GET", job), None, 200).await?;
            match seen["status"].as_str() {
                Some("completed") => return Ok(usize::try_from(seen["progress"]["total"].as_u64().unwrap_or(0))?),
                Some("queued" | "running") => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => anyhow::bail!("a document was not ingested: {seen}"),
            }
        }
    }

    /// Reads the progress of a job: its members `done` and `total`.
    pub async fn progress(
        &self,
        connection: &mut Connection,
        job: &str,
    ) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
        let seen = self.call(connection, 0, ("GET", job), None, 200).await?;
        ensure!(seen["status"] != "failed", "a document was not ingested: {seen}");
        Ok(serde_json::from_value(seen["progress"].clone())?)
    }

    /// Searches the collection `handbook` and returns the number of passages; fails if meaning took no part.
    pub async fn search(&self, connection: &mut Connection, user: usize, query: &str) -> anyhow::Result<usize> {
        let path = ("POST", "/v1/knowledge/handbook/search");
        let body = json!({ "query": query });
        let found = self.call(connection, user, path, Some(&body), 200).await?;
        ensure!(found["semantic"] == true, "a search without the model");
        Ok(found["data"].as_array().map_or(0, Vec::len))
    }

    /// Reads the bytes handed to the store so far.
    pub async fn stored(&self, connection: &mut Connection) -> anyhow::Result<StoreBytes> {
        let metrics = self.metrics(connection).await?;
        let sum = |name: &str, label: &str| metrics.sum(name, label);
        Ok(StoreBytes {
            records: sum("copilotd_store_bytes_total", "part=\"records\""),
            projections: sum("copilotd_store_bytes_total", "part=\"projections\""),
            snapshots: sum("copilotd_store_bytes_total", "part=\"snapshots\""),
            appends: sum("copilotd_append_seconds_count", ""),
        })
    }

    /// Submits a turn and reads its stream to the end, on one connection.
    pub async fn turn(
        &self,
        connection: &mut Connection,
        user: usize,
        conversation: &str,
        pace: Pace,
    ) -> anyhow::Result<AnswerTimings> {
        let begun = Instant::now();
        let turn = self.submit(connection, user, conversation, pace).await?;
        let accepted = begun.elapsed();
        let headers = self.headers(user);
        let path = format!("/v1/turns/{turn}/events");
        let mut response = connection.send("GET", &path, &headers, None).await?;
        ensure!(
            response.status == 200,
            "the event stream was answered with status {}",
            response.status
        );
        let mut reading = AnswerReader::new(begun);
        let (mut ended, mut prompt_tokens) = (None, 0);
        let mut events = Events::default();
        while connection.next(&mut response, &mut events.bytes).await? {
            events.drain(|name, data| match name {
                "message.delta" => {
                    if let Ok(delta) = serde_json::from_str::<Delta<'_>>(data) {
                        reading.text(&delta.text);
                    }
                }
                "context.assembled" => {
                    let event: Value = serde_json::from_str(data).unwrap_or_default();
                    prompt_tokens = event["prompt_tokens"].as_u64().unwrap_or(0);
                }
                "turn.completed" | "turn.failed" | "turn.cancelled" => ended = Some(format!("{name} {data}")),
                _ => {}
            });
        }
        let ended = ended.context("the stream ended before its turn")?;
        ensure!(ended.starts_with("turn.completed"), "{ended}");
        let seen = AnswerTimings {
            accepted,
            prompt_tokens,
            ..reading.seen
        };
        ensure!(
            seen.words == pace.words,
            "received {} of {} words",
            seen.words,
            pace.words
        );
        Ok(seen)
    }
}

/// Calls the provider directly and reads its stream to the end.
pub async fn direct(connection: &mut Connection, pace: Pace) -> anyhow::Result<AnswerTimings> {
    let body = json!({
        "model": "sim-large",
        "stream": true,
        "stream_options": { "include_usage": true },
        "messages": [
            { "role": "system", "content": "You are measured." },
            { "role": "user", "content": pace.prompt() },
        ],
    });
    let begun = Instant::now();
    let headers = "authorization: Bearer simulated\r\n";
    let body = body.to_string();
    let mut response = connection
        .send("POST", "/v1/chat/completions", headers, Some(&body))
        .await?;
    ensure!(
        response.status == 200,
        "the provider answered with status {}",
        response.status
    );
    let mut reading = AnswerReader::new(begun);
    let mut done = false;
    let mut events = Events::default();
    while connection.next(&mut response, &mut events.bytes).await? {
        events.drain(|_, data| {
            if data == "[DONE]" {
                done = true;
                return;
            }
            let chunk: Value = serde_json::from_str(data).unwrap_or_default();
            reading.text(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        });
    }
    ensure!(done, "the provider's stream was cut");
    let seen = reading.seen;
    ensure!(
        seen.words == pace.words,
        "received {} of {} words",
        seen.words,
        pace.words
    );
    Ok(seen)
}

/// Records when pieces of text arrive.
struct AnswerReader {
    begun: Instant,
    last: Option<Instant>,
    seen: AnswerTimings,
}

impl AnswerReader {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            last: None,
            seen: AnswerTimings::default(),
        }
    }

    fn text(&mut self, piece: &str) {
        if piece.is_empty() {
            return;
        }
        let now = Instant::now();
        match self.last.replace(now) {
            Some(last) => self.seen.gaps.add(now - last),
            None => {
                self.seen.first = now - self.begun;
                // The provider's words are separated by single spaces.
                self.seen.words = 1;
            }
        }
        self.seen.bytes += piece.len() as u64;
        self.seen.words += piece.bytes().filter(|byte| *byte == b' ').count() as u64;
    }
}
