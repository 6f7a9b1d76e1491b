//! One trace from the request to the model and the tools, and across a restart.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::collector::{Collector, Span};
use super::{DEADLINE, Options, TestEnvironment, eventually};

/// Content of users, models and tools, and secrets. None of it may appear in a log line or span.
const PRIVATE: [&str; 7] = [
    "prompt-marker",
    "answer-marker",
    "instructions-marker",
    "secret-marker",
    "Bearer ",
    "ticket=",
    // From a ticket in the simulated Zendesk.
    "export the customer list",
];

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

#[tokio::test]
async fn one_trace_runs_from_the_request_to_the_model_and_the_tools() {
    let (environment, collector) = (TestEnvironment::start().await, Collector::start().await);
    let server = environment
        .serve(Options {
            otlp: Some(&collector.url),
            // The most verbose level: no level may log content.
            log_level: "trace",
            ..Options::default()
        })
        .await;
    let token = server.acme.clone();
    let conversation = server.conversation(&token).await;
    let path = format!("/v1/conversations/{conversation}/turns");
    let schema =
        json!({ "type": "object", "required": ["summary"], "properties": { "summary": { "type": "string" } } });
    let input = "Summarise the unread tickets, put them into the report, alert #support. prompt-marker";
    let answer = server
        .request(&token, Method::POST, &path)
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("x-request-id", "request-1")
        .json(&json!({ "input": input, "response_schema": schema }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    let turn: Value = answer.json().await.unwrap();
    let turn_id = turn["id"].as_str().unwrap().to_owned();
    let turn = server.ended(&token, &turn_id).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let (_, said) = server
        .turn(&token, r#"prompt-marker [[sim text="an answer-marker for you"]]"#)
        .await;
    assert_eq!(said["status"], "completed", "{said}");
    let ticket = server
        .post(&token, "/v1/stream-tickets", json!({ "conversation_id": conversation }))
        .await;
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    let events = format!("{}/v1/turns/{turn_id}/events?ticket={ticket}", server.base);
    let events = reqwest::get(events).await.unwrap().text().await.unwrap();
    assert!(events.contains("turn.completed"), "{events}");
    let unknown = server.request(&token, Method::GET, "/v1/secret-marker").send().await;
    assert_eq!(unknown.unwrap().status(), 404);
    server.stop().await;

    let spans: Vec<Span> = collector.spans();
    let trace: Vec<&Span> = spans.iter().filter(|span| span.trace == TRACE).collect();
    let one = |name: &str| -> &Span {
        let named: Vec<&&Span> = trace.iter().filter(|span| span.name == name).collect();
        assert_eq!(named.len(), 1, "{name}: {trace:#?}");
        named[0]
    };
    let has = |span: &Span, attributes: &[(&str, &str)]| {
        for (name, value) in attributes {
            assert_eq!(span.attribute(name), *value, "{name}: {span:#?}");
        }
    };

    let request = one("POST /v1/conversations/{id}/turns");
    assert_eq!((request.parent.as_str(), request.kind), (CALLER, SERVER));
    has(
        request,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/v1/conversations/{id}/turns"),
            ("http.response.status_code", "202"),
            ("url.path", &path),
            ("url.scheme", "http"),
            ("server.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("request_id", "request-1"),
        ],
    );
    let whole = one("turn");
    assert_eq!(whole.parent, request.id);
    let agent = one("invoke_agent support");
    assert_eq!(agent.parent, whole.id);
    assert!(!agent.failed);
    has(
        agent,
        &[
            ("gen_ai.operation.name", "invoke_agent"),
            ("gen_ai.agent.name", "support"),
            ("gen_ai.conversation.id", &conversation),
            ("gen_ai.request.model", "sim-large"),
            ("copilotd.tenant", "acme"),
            ("copilotd.turn.id", &turn_id),
            ("copilotd.turn.attempt", "1"),
            (
                "gen_ai.usage.output_tokens",
                &turn["usage"]["completion_tokens"].to_string(),
            ),
        ],
    );

    let chats: Vec<&&Span> = trace.iter().filter(|span| span.name == "chat sim-large").collect();
    assert!(chats.len() >= 3, "search, reads and posts, then text: {chats:#?}");
    for chat in &chats {
        assert_eq!((chat.parent.as_str(), chat.kind), (agent.id.as_str(), CLIENT));
        has(
            chat,
            &[
                ("gen_ai.operation.name", "chat"),
                ("gen_ai.provider.name", "openai"),
                ("gen_ai.request.model", "sim-large"),
                ("gen_ai.conversation.id", &conversation),
                ("error.type", ""),
            ],
        );
        assert!(chat.attribute("gen_ai.usage.input_tokens").parse::<u64>().unwrap() > 0);
    }
    // A span lasts as long as what it represents: a turn at least as long as its attempt, and an attempt as its work.
    // The last message of an agent may still be in flight when its turn has ended.
    let slack = std::time::Duration::from_millis(250);
    assert!(
        whole.lasted + slack >= agent.lasted,
        "{:?} {:?}",
        whole.lasted,
        agent.lasted
    );
    for span in trace.iter().filter(|span| span.parent == agent.id) {
        assert!(agent.lasted + slack >= span.lasted, "{agent:#?} {span:#?}");
    }
    let asked: std::time::Duration = chats.iter().map(|chat| chat.lasted).sum();
    assert!(
        agent.lasted + slack >= asked,
        "one after the other: {asked:?} {agent:#?}"
    );
    let mut tools = BTreeSet::new();
    let mut calls = BTreeSet::new();
    for tool in trace.iter().filter(|span| span.name.starts_with("execute_tool ")) {
        assert_eq!(tool.parent, agent.id, "{tool:#?}");
        assert_eq!(tool.attribute("gen_ai.operation.name"), "execute_tool");
        assert_eq!(
            tool.name,
            format!("execute_tool {}", tool.attribute("gen_ai.tool.name"))
        );
        assert!(calls.insert(tool.attribute("gen_ai.tool.call.id")), "{tool:#?}");
        tools.insert(tool.attribute("gen_ai.tool.name"));
    }
    assert!(calls.iter().all(|call| call.starts_with("call_")), "{calls:?}");
    assert!(
        tools.contains("zendesk_search_tickets") && tools.contains("slack_post_message"),
        "{tools:?}"
    );
    let known: BTreeSet<&str> = [request, agent, whole].map(|span| span.id.as_str()).into();
    let appends: Vec<&&Span> = trace.iter().filter(|span| span.name == "append").collect();
    assert!(appends.len() >= 3, "{appends:#?}");
    assert!(
        appends.iter().all(|append| known.contains(append.parent.as_str())),
        "{appends:#?}"
    );
    // No span is orphaned: every parent is a span of the trace or the caller's.
    let ids: BTreeSet<&str> = trace.iter().map(|span| span.id.as_str()).chain([CALLER]).collect();
    assert!(
        trace.iter().all(|span| ids.contains(span.parent.as_str())),
        "{trace:#?}"
    );

    let nowhere = spans
        .iter()
        .find(|span| span.attribute("http.response.status_code") == "404")
        .unwrap();
    assert_eq!((nowhere.name.as_str(), nowhere.attribute("url.path")), ("GET", ""));
    assert!(!nowhere.failed, "a client's mistake is no error of the server");
    let (sent, log) = (collector.text(), environment.log());
    for private in PRIVATE.iter().copied().chain([ticket.as_str(), token.as_str()]) {
        assert!(!sent.contains(private), "{private} is in a span");
        let line = log.lines().find(|line| line.contains(private));
        assert_eq!(line, None, "{private} is in the log");
    }
}

#[tokio::test]
async fn a_turn_that_is_taken_up_after_a_kill_stays_in_its_trace() {
    let (environment, collector) = (TestEnvironment::start().await, Collector::start().await);
    let options = || Options {
        otlp: Some(&collector.url),
        ..Options::default()
    };
    environment.knob(json!({ "hold": true })).await;
    let server = environment.serve(options()).await;
    let token = server.acme.clone();
    let conversation = server.conversation(&token).await;
    let path = format!("/v1/conversations/{conversation}/turns");
    let turn = server.post(&token, &path, json!({ "input": "Hello" })).await;
    let turn = turn["id"].as_str().unwrap().to_owned();
    let request = collector
        .span("the request's span", |span| {
            span.name == "POST /v1/conversations/{id}/turns"
        })
        .await;
    let requests = format!("{}/_sim/requests", environment.openai.base_url());
    eventually("the model call", DEADLINE, || async {
        let text = reqwest::get(&requests).await.unwrap().text().await.unwrap();
        text.contains("Hello").then_some(())
    })
    .await;
    server.kill().await;
    environment.knob(json!({ "hold": false })).await;

    let server = environment.serve(options()).await;
    let ended = server.ended(&token, &turn).await;
    assert_eq!(
        (&ended["status"], &ended["attempt"]),
        (&json!("completed"), &json!(2)),
        "{ended}"
    );
    server.stop().await;
    let later: Vec<Span> = collector
        .spans()
        .into_iter()
        .filter(|span| span.instance != request.instance && span.trace == request.trace)
        .collect();
    let one = |name: &str| -> &Span {
        let named: Vec<&Span> = later.iter().filter(|span| span.name == name).collect();
        assert_eq!(named.len(), 1, "{name}: {later:#?}");
        named[0]
    };
    let (whole, agent, chat) = (one("turn"), one("invoke_agent support"), one("chat sim-large"));
    assert_eq!(
        [&whole.parent, &agent.parent, &chat.parent],
        [&request.id, &whole.id, &agent.id]
    );
    assert_eq!(agent.attribute("copilotd.turn.attempt"), "2");
    // Also the claim made by the recovery, which belongs to the turn itself.
    assert!(
        later
            .iter()
            .any(|span| span.name == "append" && span.parent == whole.id),
        "{later:#?}"
    );
}
