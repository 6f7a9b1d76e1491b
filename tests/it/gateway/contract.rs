//! What the gateway expects of every adapter, whatever its protocol: the contract of `Upstream`, against the simulated
//! provider.

use std::sync::Arc;

use async_trait::async_trait;
use copilotd::adapters::llm::provider::{ConnectionPool, Errors};
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::{Piece, PieceStream, Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::body::ChatBody;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{Protocol, Provider, TEXT, at};
use crate::model::PATIENT;

const KEY: &str = "sk-contract-secret";

#[tokio::test]
async fn every_adapter_keeps_the_contract() {
    for speaks in Protocol::ALL {
        let provider = Provider::speaking(speaks).await;
        let upstream = speaks.upstream(&at("main", &provider), KEY, PATIENT.connect, &ConnectionPool::default());
        assert!(!format!("{upstream:?}").contains(KEY), "{speaks:?}");
        contract(&*upstream, &provider).await;
    }
}

#[tokio::test]
#[should_panic(expected = "a plain question is answered")]
async fn an_adapter_that_translates_nothing_is_refused() {
    let provider = Provider::start().await;
    contract(&Skeleton(Errors::new("skeleton", Vec::new())), &provider).await;
}

/// An adapter as it begins: it refuses every request.
#[derive(Debug)]
struct Skeleton(Errors);

#[async_trait]
impl Upstream for Skeleton {
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError> {
        call.progress.refused();
        Err(self.0.unsupported("messages", "nothing is translated yet"))
    }

    async fn whole(&self, call: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        call.progress.refused();
        Err(self.0.unsupported("messages", "nothing is translated yet"))
    }
}

/// Asserts that an adapter keeps the contract. `provider` speaks its protocol.
async fn contract(upstream: &dyn Upstream, provider: &Provider) {
    let whole = plain(upstream).await;
    calls(upstream).await;
    let prompt = whole.usage.prompt_tokens;
    assert!(prompt > 0 && !whole.usage.estimated, "{whole:?}");
    refusals(upstream, provider).await;
    cut(upstream).await;
}

/// A plain question has the same answer in each form.
async fn plain(upstream: &dyn Upstream) -> WholeAnswer {
    let prompt = format!("Say it. [[sim text=\"{TEXT}\"]]");
    let whole = upstream.whole(&call(&prompt, false)).await;
    let whole = whole.expect("a plain question is answered");
    let body: Value = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"]["content"], TEXT);
    assert_eq!(whole.finish, Finish::Stop);
    for chunks in [false, true] {
        let (pieces, error) = read(upstream, &call(&prompt, chunks)).await;
        assert!(error.is_none(), "{error:?}");
        let answer = Streamed::of(&pieces);
        assert_eq!(answer.text, TEXT);
        assert_eq!(answer.finished, [Finish::Stop], "the end is reported once");
        assert_eq!(answer.usage.map(tokens), Some(tokens(whole.usage)));
        let written: u64 = pieces.iter().map(|piece| piece.written).sum();
        assert_eq!(written, TEXT.len() as u64);
        for piece in &pieces {
            let has_text = piece.events.iter().any(|event| matches!(event, ModelEvent::Text(_)));
            assert!(piece.content || !has_text, "text is content: {piece:?}");
            assert!(chunks || piece.chunk.is_none(), "no chunk was wanted: {piece:?}");
        }
        assert_eq!(answer.chunk_text, if chunks { TEXT } else { "" });
    }
    whole
}

/// Calls of tools arrive whole, in their order, in each form.
async fn calls(upstream: &dyn Upstream) {
    let prompt = r#"Weather? [[sim tool=get_weather calls=2 args={"city": "Łódź", "day": "$i"} ]]"#;
    let expected = [0, 1].map(|day| json!({ "city": "Łódź", "day": day.to_string() }));
    let (pieces, error) = read(upstream, &call(prompt, true)).await;
    assert!(error.is_none(), "{error:?}");
    let answer = Streamed::of(&pieces);
    assert_eq!(answer.finished, [Finish::ToolCalls]);
    let streamed = answer.calls.iter().map(|(name, arguments)| {
        assert_eq!(name, "get_weather");
        serde_json::from_str::<Value>(arguments).unwrap()
    });
    assert_eq!(streamed.collect::<Vec<_>>(), expected);

    let whole = upstream.whole(&call(prompt, false)).await.unwrap();
    assert_eq!(whole.finish, Finish::ToolCalls);
    let body: Value = serde_json::from_slice(&whole.body).unwrap();
    let calls = body["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    let arguments = calls.iter().map(|call| {
        assert_eq!(call["function"]["name"], "get_weather");
        serde_json::from_str::<Value>(call["function"]["arguments"].as_str().unwrap()).unwrap()
    });
    assert_eq!(arguments.collect::<Vec<_>>(), expected);
}

/// A refusal has its class, names no key, and is not followed by another request.
async fn refusals(upstream: &dyn Upstream, provider: &Provider) {
    for (status, class) in [
        (401, FailureClass::Key),
        (429, FailureClass::Rate),
        (500, FailureClass::Overload),
    ] {
        let call = call(&format!("Say it. [[sim status={status}]]"), false);
        let before = provider.seen().await;
        let streamed = upstream.stream(&call).await.err().expect("a refusal");
        let whole = upstream.whole(&call).await.expect_err("a refusal");
        for error in [streamed, whole] {
            assert_eq!(error.class, class, "{status}: {error}");
            assert!(!error.message.contains(KEY), "{error}");
        }
        assert_eq!(provider.seen().await - before, 2, "{status}: one request for each call");
    }
}

/// A stream without its end yields what came, then an error, and nothing after it.
async fn cut(upstream: &dyn Upstream) {
    let prompt = format!("Say it. [[sim text=\"{TEXT}\" end_without_finish_after=9]]");
    let (pieces, error) = read(upstream, &call(&prompt, false)).await;
    let answer = Streamed::of(&pieces);
    assert_eq!(error.map(|error| error.class), Some(FailureClass::Cut));
    assert!(!answer.text.is_empty() && TEXT.starts_with(&answer.text), "{answer:?}");
    assert!(answer.finished.is_empty(), "{answer:?}");
}

fn call(prompt: &str, chunks: bool) -> UpstreamCall {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let body = json!({
        "model": "default",
        "messages": [{ "role": "user", "content": prompt }],
        "tools": [{ "type": "function", "function": { "name": "get_weather", "parameters": parameters } }],
    });
    UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks,
        conversation: None,
        tenant: None,
        progress: Arc::default(),
    }
}

/// Reads a stream to its end: the pieces, and the error that ended it.
async fn read(upstream: &dyn Upstream, call: &UpstreamCall) -> (Vec<Piece>, Option<ModelError>) {
    let mut stream = upstream.stream(call).await.expect("the stream opens");
    let (mut pieces, mut error) = (Vec::new(), None);
    while let Some(item) = stream.next().await {
        assert!(error.is_none(), "an error is the last item");
        match item {
            Ok(piece) => pieces.push(piece),
            Err(last) => error = Some(last),
        }
    }
    (pieces, error)
}

/// What the pieces of a stream say together.
#[derive(Debug, Default)]
struct Streamed {
    text: String,
    /// The text of its chunks.
    chunk_text: String,
    /// Name and arguments of each call.
    calls: Vec<(String, String)>,
    usage: Option<Usage>,
    finished: Vec<Finish>,
}

impl Streamed {
    fn of(pieces: &[Piece]) -> Self {
        let mut all = Self::default();
        for piece in pieces {
            for event in &piece.events {
                all.add(event);
            }
            if let Some(chunk) = &piece.chunk {
                let chunk: Value = serde_json::from_slice(chunk).unwrap();
                assert_eq!(chunk["object"], "chat.completion.chunk");
                all.chunk_text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
            }
        }
        all
    }

    fn add(&mut self, event: &ModelEvent) {
        match event {
            ModelEvent::Text(text) => self.text += text,
            ModelEvent::ToolCall { index, name, arguments } => {
                if self.calls.len() <= *index {
                    self.calls.resize_with(index + 1, Default::default);
                }
                let call = &mut self.calls[*index];
                call.0 += name.as_deref().unwrap_or_default();
                call.1 += arguments;
            }
            ModelEvent::Usage(usage) => self.usage = Some(*usage),
            ModelEvent::Finished(finish) => self.finished.push(*finish),
            ModelEvent::Fallback { .. } | ModelEvent::Model(_) => {}
        }
    }
}

fn tokens(usage: Usage) -> (u64, u64) {
    (usage.prompt_tokens, usage.completion_tokens)
}
