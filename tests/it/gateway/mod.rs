//! The gateway between callers and simulated providers.

mod access;
mod anthropic;
mod badday;
mod bill;
mod bill_odd;
mod cache;
mod cache_near;
mod contract;
mod documents;
mod embeddings;
mod faults;
mod files;
mod guardrails;
mod hedging;
mod loose;
mod open_calls;
mod replay;
mod rescue;
mod rights;
mod routing;
mod scripted;
mod sixteen;
mod spending;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::llm::anthropic::{Anthropic, AnthropicConfig};
use copilotd::adapters::llm::openai::{OpenAi, OpenAiConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::file::FileKind;
use copilotd_actors::ports::ModelEvent;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{Access, Key, Keys, SharedKeys};
use copilotd_gateway::answer::{Answer, Reply};
use copilotd_gateway::error::GatewayError;
use copilotd_gateway::meter::{AttemptRecord, Meter};
use copilotd_gateway::provider::{Timeouts, Upstream};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, Caller, GatewayCall, Mode, Purpose};
use copilotd_gateway::routing::Route;
use copilotd_gateway::target::{Target, TargetName, TargetState};
use copilotd_sim::Running;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Timeouts that a healthy provider of these tests never reaches, and a silent one soon does.
pub const CLOCKS: Timeouts = Timeouts {
    connect: Duration::from_millis(150),
    first_token: Duration::from_millis(400),
    idle: Duration::from_millis(400),
    total: Duration::from_secs(6),
};

/// The protocol of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    OpenAi,
    Anthropic,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::OpenAi, Self::Anthropic];

    /// The adapter of a deployment.
    fn upstream(
        self,
        target: &TestTarget<'_>,
        key: &str,
        connect: Duration,
        hosts: &ConnectionPool,
    ) -> Arc<dyn Upstream> {
        let (name, url, model, key) = (target.name, &target.url, target.model, key.to_owned().into());
        match self {
            Self::OpenAi => {
                let mut config = OpenAiConfig::new(name, url, key, model);
                config.connect = connect;
                Arc::new(OpenAi::new(config, hosts).unwrap())
            }
            Self::Anthropic => {
                let mut config = AnthropicConfig::new(name, url, key, model);
                config.connect = connect;
                Arc::new(Anthropic::new(config, hosts).unwrap())
            }
        }
    }
}

/// A simulated provider.
pub struct Provider {
    pub speaks: Protocol,
    running: Running,
    client: reqwest::Client,
}

impl Provider {
    pub async fn start() -> Self {
        Self::speaking(Protocol::OpenAi).await
    }

    pub async fn speaking(speaks: Protocol) -> Self {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let running = match speaks {
            Protocol::OpenAi => copilotd_sim::openai::start(listen).await.unwrap(),
            Protocol::Anthropic => copilotd_sim::anthropic::start(listen).await.unwrap(),
        };
        let provider = Self {
            speaks,
            running,
            client: reqwest::Client::new(),
        };
        provider.knobs(json!({"first_ms": 5, "pace_ms": 1})).await;
        provider
    }

    /// A provider that treats every request as the directive `fault` says.
    pub async fn faulty(fault: &str) -> Self {
        let provider = Self::start().await;
        provider.knobs(json!({"fault": fault})).await;
        provider
    }

    pub async fn knobs(&self, knobs: Value) {
        let url = format!("{}/_sim/knobs", self.running.base_url());
        let set = self.client.post(url).json(&knobs).send().await.unwrap();
        assert!(set.status().is_success(), "{}", set.text().await.unwrap());
    }

    pub async fn state(&self) -> Value {
        let url = format!("{}/_sim/state", self.running.base_url());
        self.client.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// The bodies of the last requests.
    pub async fn bodies(&self) -> Vec<Value> {
        let url = format!("{}/_sim/requests", self.running.base_url());
        let seen: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        let requests = seen["requests"].as_array().unwrap();
        requests.iter().map(|request| request["body"].clone()).collect()
    }

    /// Number of requests that it has received.
    pub async fn seen(&self) -> u64 {
        self.state().await["requests"].as_u64().unwrap()
    }

    pub fn url(&self) -> String {
        format!("{}/v1", self.running.base_url())
    }
}

/// A port that refuses connections.
pub async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

/// A port that never completes a connection. The returned value keeps it alive.
pub async fn hanging() -> (String, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(connection);
    }
    (format!("http://{address}/v1"), (listener, waiting))
}

/// Collects all attempts.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<AttemptRecord>>);

impl Meter for Ledger {
    fn attempted(&self, attempt: AttemptRecord) {
        self.0.lock().push(attempt);
    }
}

impl Ledger {
    /// The outcome of each attempt, such as `a/gpt rate`.
    pub fn lines(&self) -> Vec<String> {
        let line = |attempt: &AttemptRecord| format!("{} {}", attempt.target, attempt.outcome.code());
        self.0.lock().iter().map(line).collect()
    }

    pub fn rows(&self) -> Vec<AttemptRecord> {
        self.0.lock().clone()
    }

    pub fn take(&self) -> Vec<AttemptRecord> {
        std::mem::take(&mut self.0.lock())
    }
}

/// A target in a test: name of the provider, address, keys.
pub struct TestTarget<'a> {
    pub name: &'a str,
    pub speaks: Protocol,
    pub url: String,
    pub model: &'a str,
    pub keys: Vec<&'a str>,
    pub context_tokens: u64,
    pub weight: Option<u32>,
    pub prefill: bool,
    pub reads: Vec<FileKind>,
    pub reasoning: bool,
}

pub fn place<'a>(name: &'a str, url: impl Into<String>) -> TestTarget<'a> {
    TestTarget {
        name,
        speaks: Protocol::OpenAi,
        url: url.into(),
        model: "gpt",
        keys: vec!["sk-one"],
        context_tokens: 1_000,
        weight: None,
        prefill: false,
        reads: Vec::new(),
        reasoning: false,
    }
}

/// A target at `provider`, in its protocol.
pub fn at<'a>(name: &'a str, provider: &Provider) -> TestTarget<'a> {
    TestTarget {
        speaks: provider.speaks,
        ..place(name, provider.url())
    }
}

/// A gateway with one route, `default`.
pub fn gateway(places: Vec<TestTarget<'_>>, timeouts: Timeouts) -> (Arc<Gateway>, Arc<Ledger>) {
    gateway_with(places, timeouts, false)
}

/// The same, with hedging if wanted.
pub fn gateway_with(places: Vec<TestTarget<'_>>, timeouts: Timeouts, hedged: bool) -> (Arc<Gateway>, Arc<Ledger>) {
    let shared = |keys| Arc::new(SharedKeys::new(keys)) as Arc<dyn Access>;
    gateway_for(places, timeouts, hedged, shared)
}

/// The same, with the given access.
pub fn gateway_for(
    places: Vec<TestTarget<'_>>,
    timeouts: Timeouts,
    hedged: bool,
    access: impl FnOnce(HashMap<TargetName, Keys>) -> Arc<dyn Access>,
) -> (Arc<Gateway>, Arc<Ledger>) {
    made(places, timeouts, hedged, Duration::ZERO, access)
}

/// The same, with a time for which calls wait for the first target before they fall back.
pub fn gateway_patient(
    places: Vec<TestTarget<'_>>,
    timeouts: Timeouts,
    patience: Duration,
) -> (Arc<Gateway>, Arc<Ledger>) {
    let shared = |keys| Arc::new(SharedKeys::new(keys)) as Arc<dyn Access>;
    made(places, timeouts, false, patience, shared)
}

fn made(
    places: Vec<TestTarget<'_>>,
    timeouts: Timeouts,
    hedged: bool,
    patience: Duration,
    access: impl FnOnce(HashMap<TargetName, Keys>) -> Arc<dyn Access>,
) -> (Arc<Gateway>, Arc<Ledger>) {
    // As a server does when it starts.
    copilotd_actors::domain::context::tokens::warm_up();
    let hosts = ConnectionPool::default();
    let (mut targets, mut keys) = (Vec::new(), HashMap::new());
    for place in places {
        let name = TargetName {
            provider: place.name.to_owned(),
            model: place.model.to_owned(),
        };
        let key = |secret: &&str| {
            let upstream = place.speaks.upstream(&place, secret, timeouts.connect, &hosts);
            Arc::new(Key::new((*secret).to_owned(), upstream))
        };
        let made: Vec<Arc<Key>> = place.keys.iter().map(key).collect();
        keys.insert(name.clone(), made.into());
        targets.push(Arc::new(Target {
            name,
            region: None,
            context_tokens: place.context_tokens,
            weight: place.weight,
            tools: true,
            schema: true,
            prefill: place.prefill,
            reads: place.reads,
            reasoning: place.reasoning,
            state: Arc::new(TargetState::default()),
        }));
    }
    let route = Route {
        name: "default".to_owned(),
        targets,
        timeouts,
        first_token_reasoning: timeouts.total,
        patience,
        mode: Mode::Live,
        hedges: hedged.then(Arc::default),
    };
    let ledger = Arc::new(Ledger::default());
    let gateway = Gateway::new(vec![route], access(keys)).with_meter(ledger.clone());
    (Arc::new(gateway), ledger)
}

pub fn caller() -> Caller {
    Caller {
        copilot: None,
        scope: TenantScope::from_verified("acme".parse().unwrap()),
        user: "ada".parse().unwrap(),
        role: None,
        api_key: Some("backend".to_owned()),
        conversation: None,
        turn: None,
        purpose: Purpose::Endpoint,
    }
}

/// What healthy providers of these tests answer.
pub const TEXT: &str = "All is well that ends well.";

/// A request that a healthy provider answers with [`TEXT`].
pub fn request(stream: bool, mode: Mode) -> GatewayCall {
    let prompt = format!("Say it. [[sim text=\"{TEXT}\"]]");
    let body = json!({"model": "default", "messages": [{"role": "user", "content": prompt}], "stream": stream});
    GatewayCall {
        caller: caller(),
        route: "default".to_owned(),
        body: ChatBody::from_value(&body).unwrap(),
        mode: Some(mode),
        cache: CacheControl::Bypass,
        knowledge: None,
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct ReadAnswer {
    pub text: String,
    pub error: Option<GatewayError>,
    pub finished: bool,
    pub chunks: Vec<Value>,
}

pub async fn read(reply: Reply) -> ReadAnswer {
    let mut read = ReadAnswer {
        text: String::new(),
        error: None,
        finished: false,
        chunks: Vec::new(),
    };
    match reply.answer {
        Answer::Whole(body) => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            read.text = body["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
            read.finished = body["choices"][0]["finish_reason"] == "stop";
        }
        Answer::Stream(mut pieces) => {
            while let Some(item) = pieces.next().await {
                assert!(read.error.is_none(), "an error is the last item");
                let piece = match item {
                    Ok(piece) => piece,
                    Err(error) => {
                        read.error = Some(error);
                        continue;
                    }
                };
                if let Some(chunk) = piece.chunk {
                    let chunk: Value = serde_json::from_slice(&chunk).unwrap();
                    let delta = &chunk["choices"][0]["delta"];
                    read.text += delta["content"].as_str().unwrap_or_default();
                    read.chunks.push(chunk);
                }
                read.finished |= piece
                    .events
                    .iter()
                    .any(|event| matches!(event, ModelEvent::Finished(_)));
            }
        }
    }
    read
}
