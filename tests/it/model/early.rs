//! A text chunk with a finish reason: the text reaches its reader at once, the reason when nothing follows.

use std::sync::Arc;

use copilotd::adapters::llm::openai::OpenAi;
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_gateway::provider::{Upstream, UpstreamCall};
use copilotd_gateway::request::body::ChatBody;
use futures::StreamExt;
use serde_json::{Value, json};

use super::server::{DONE, Exchange, STREAM, Server, event};
use super::{PATIENT, config};

#[tokio::test]
async fn text_reaches_its_reader_before_the_end() {
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let gone = Arc::new(tokio::sync::Mutex::new(Some(gone)));
    let server = Server::start(move |mut exchange: Exchange| {
        let gone = Arc::clone(&gone);
        async move {
            exchange.write(STREAM).await;
            let both = event(
                json!([{"index": 0, "delta": {"content": "Bon"}, "finish_reason": "stop"}]),
                Value::Null,
            );
            exchange.chunk(both).await;
            if let Some(gone) = gone.lock().await.take() {
                let _ = gone.await;
            }
            exchange.chunk(DONE).await;
            exchange.write("0\r\n\r\n").await;
            None
        }
    })
    .await;
    let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
    let body = json!({"model": "route", "messages": [], "stream": true});
    let call = UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks: true,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    };
    let mut pieces = upstream.stream(&call).await.unwrap();
    let first: Value = serde_json::from_slice(&pieces.next().await.unwrap().unwrap().chunk.unwrap()).unwrap();
    assert_eq!(first["choices"][0]["delta"]["content"], "Bon");
    assert_eq!(first["choices"][0]["finish_reason"], Value::Null);
    go.send(()).unwrap();
    let second: Value = serde_json::from_slice(&pieces.next().await.unwrap().unwrap().chunk.unwrap()).unwrap();
    assert_eq!(second["choices"][0]["finish_reason"], "stop");
}
