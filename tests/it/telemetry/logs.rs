//! JSON log lines, the ids in them, and content logging.

use std::time::Duration;

use serde_json::Value;

use super::collector::Collector;
use super::{Options, TestEnvironment, eventually};

fn lines(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

#[tokio::test]
async fn content_is_logged_only_for_tenants_that_ask_for_it_and_at_debug() {
    let (environment, collector) = (TestEnvironment::start().await, Collector::start().await);
    let server = environment
        .serve(Options {
            otlp: Some(&collector.url),
            log_level: "info,copilotd=debug",
            log_content: true,
        })
        .await;
    let input = |tenant: &str| format!(r#"prompt-of-{tenant} [[sim text="answer-to-{tenant}"]]"#);
    let (conversation, acme) = server.turn(&server.acme, &input("acme")).await;
    let (_, globex) = server.turn(&server.globex, &input("globex")).await;
    assert_eq!([&acme["status"], &globex["status"]], ["completed", "completed"]);
    server.stop().await;
    let log = environment.log();
    let lines = lines(&log);
    let content: Vec<&Value> = lines
        .iter()
        .filter(|line| line["target"] == "copilotd::content")
        .collect();
    let said = |role: &str| -> &str {
        let line = content.iter().find(|line| line["role"] == role).expect(role);
        assert_eq!(line["tenant"], "acme");
        assert_eq!(line["conversation"], conversation.as_str());
        assert_eq!(line["level"], "DEBUG");
        line["text"].as_str().unwrap()
    };
    assert!(said("system").contains("instructions-marker"));
    assert!(said("user").contains("prompt-of-acme"));
    assert_eq!(said("assistant"), "answer-to-acme");
    assert!(!log.contains("globex [[") && !log.contains("answer-to-globex"));
    assert!(!collector.text().contains("prompt-of-") && !collector.text().contains("answer-to-"));

    // Lines logged inside a request or turn have its ids.
    let answered = |line: &&Value| line["message"] == "request finished" && line["status"] == 202;
    let answered = lines.iter().find(answered).unwrap();
    assert_eq!(answered["route"], "/v1/conversations/{id}/turns");
    assert!(answered["request_id"].as_str().unwrap().starts_with("req_"));
    let trace = answered["trace_id"].as_str().unwrap();
    assert!(collector.spans().iter().any(|span| span.trace == trace));
    let user = content.iter().find(|line| line["role"] == "user").unwrap();
    assert_eq!(user["turn"], acme["id"]);
    assert_eq!(user["trace_id"].as_str().unwrap(), trace);
}

#[tokio::test]
async fn an_unreachable_collector_is_logged_once_and_blocks_nothing() {
    let environment = TestEnvironment::start().await;
    // A reserved port on loopback where nothing listens.
    let options = Options {
        otlp: Some("http://127.0.0.1:1"),
        ..Options::default()
    };
    let server = environment.serve(options).await;
    let lost = || async {
        let page = reqwest::get(format!("{}/metrics", server.base)).await.unwrap();
        let page = page.text().await.unwrap();
        let line = page
            .lines()
            .find(|line| line.starts_with("copilotd_spans_lost_total "))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let (_, turn) = server.turn(&server.acme, "Hello").await;
    assert_eq!(turn["status"], "completed");
    let first = eventually("the first loss", Duration::from_secs(30), lost).await;
    let more = || async { lost().await.filter(|lost| *lost > first) };
    eventually("a second loss", Duration::from_secs(30), more).await;
    server.stop().await;
    let lines = lines(&environment.log());
    let said = lines.iter().filter(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("trace export to the collector failed")
    });
    assert_eq!(said.count(), 1, "{lines:#?}");
    assert!(lines.iter().all(|line| line["level"] != "ERROR"), "{lines:#?}");
}
