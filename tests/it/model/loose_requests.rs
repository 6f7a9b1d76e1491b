//! Parameters that are added to requests, and servers that reject them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use copilotd::adapters::llm::openai::OpenAi;
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_gateway::provider::{Upstream, UpstreamCall};
use copilotd_gateway::request::body::ChatBody;
use futures::StreamExt;
use serde_json::{Value, json};

use super::server::{DONE, Exchange, Server, UNTIL_CLOSE, finish, said};
use super::{Direct, PATIENT, ask, config, request, text};

/// Rejects each member of `refused` in `words`, one at a time; counts requests.
async fn picky(refused: &'static [&'static str], status: u16, words: fn(&str) -> String) -> (Server, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |mut exchange: Exchange| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            let found = refused.iter().find(|name| exchange.body.get(**name).is_some());
            let answer = match found {
                Some(name) => {
                    let body = words(name);
                    format!(
                        "HTTP/1.1 {status} No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    )
                }
                None => format!("{UNTIL_CLOSE}{}{}{DONE}", said("Bon"), finish("stop")),
            };
            exchange.write(answer).await;
            None
        }
    })
    .await;
    (server, asked)
}

fn direct(url: &str, hosts: &ConnectionPool) -> Direct {
    Direct {
        upstream: OpenAi::new(config(url, PATIENT), hosts).unwrap(),
        timeouts: PATIENT,
    }
}

#[tokio::test]
async fn a_rejected_parameter_is_omitted_for_all_deployments_of_the_server() {
    let message = |name: &str| {
        json!({"error": {"message": format!("Unrecognized request argument supplied: {name}")}}).to_string()
    };
    let list = |name: &str| {
        json!([{"error": {"code": 400, "message": format!("Invalid JSON payload: Unknown name \"{name}\"")}}])
            .to_string()
    };
    let places = |name: &str| {
        json!({"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]})
            .to_string()
    };
    let german = |name: &str| format!("Das Feld `{name}` gibt es hier nicht.");
    type Words = fn(&str) -> String;
    let words: [(u16, Words); 4] = [(400, message), (400, list), (422, places), (422, german)];
    for (status, words) in words {
        let (server, asked) = picky(&["stream_options", "user"], status, words).await;
        let hosts = ConnectionPool::default();
        let first = direct(&server.url, &hosts);
        let (events, error) = ask(&first, request()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(text(&events), "Bon");
        assert_eq!(asked.load(Ordering::SeqCst), 3, "each member is refused once");
        // Another key, or another route to the same model.
        let (_, error) = ask(&direct(&server.url, &hosts), request()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        drop(first);
    }
}

#[tokio::test]
async fn a_parameter_that_the_caller_sent_is_not_omitted() {
    let words = |name: &str| json!({"error": {"message": format!("unknown field {name}"), "param": name}}).to_string();
    let (server, asked) = picky(&["stream_options", "user"], 400, words).await;
    let upstream = OpenAi::new(config(&server.url, PATIENT), &ConnectionPool::default()).unwrap();
    let call = |body: Value| UpstreamCall {
        body: Arc::new(ChatBody::from_value(&body).unwrap()),
        timeouts: PATIENT,
        chunks: true,
        conversation: None,
        tenant: None,
        progress: std::sync::Arc::default(),
    };
    // A caller who sent neither gets an answer.
    let plain = json!({"model": "route", "messages": [], "stream": true});
    let pieces: Vec<_> = upstream.stream(&call(plain.clone())).await.unwrap().collect().await;
    assert!(pieces.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    // A caller who asked for a report gets an estimate.
    let mut reporting = plain.clone();
    reporting["stream_options"] = json!({"include_usage": true});
    let pieces: Vec<_> = upstream.stream(&call(reporting)).await.unwrap().collect().await;
    let last: Value = serde_json::from_slice(pieces.last().unwrap().as_ref().unwrap().chunk.as_ref().unwrap()).unwrap();
    assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{last}");
    // A caller who sent a user gets the error.
    let mut named = plain;
    named["user"] = json!("ada");
    let error = upstream.stream(&call(named)).await.err().unwrap();
    assert_eq!(error.class, FailureClass::Rejected);
    assert_eq!(error.refusal.unwrap().param.as_deref(), Some("user"));
}

#[tokio::test]
async fn a_rejection_that_persists_is_reported_and_omits_nothing() {
    let (server, asked) = picky(&["messages"], 400, |_| {
        json!({"error": {"message": "messages have to alternate between user and assistant"}}).to_string()
    })
    .await;
    let hosts = ConnectionPool::default();
    for n in 1..=2 {
        let (_, error) = ask(&direct(&server.url, &hosts), request()).await;
        assert_eq!(error.unwrap().class, FailureClass::Rejected);
        // It names a member by chance: without it the answer is the same.
        assert_eq!(asked.load(Ordering::SeqCst), 2 * n);
    }
    // A failing server is not one that rejects a parameter.
    let (server, asked) = picky(&["messages"], 500, |_| "user: stream_options".to_owned()).await;
    let (_, error) = ask(&direct(&server.url, &hosts), request()).await;
    assert_eq!(error.unwrap().class, FailureClass::Overload);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn both_can_be_switched_off() {
    let (server, asked) = picky(&["stream_options", "user"], 422, str::to_owned).await;
    let mut config = config(&server.url, PATIENT);
    config.dialect.stream_usage = false;
    config.dialect.user = false;
    let model = Direct {
        upstream: OpenAi::new(config, &ConnectionPool::default()).unwrap(),
        timeouts: PATIENT,
    };
    let (_, error) = ask(&model, request()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
