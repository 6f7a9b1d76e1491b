//! The metrics page of a small run, and the lists that must match the code.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use copilotd::telemetry::{METRICS, PROCESS_METRICS};
use reqwest::Method;
use serde_json::json;

use super::page::Page;
use super::{Copilotd, Options, TestEnvironment, eventually};

async fn page(server: &Copilotd) -> Page {
    let answer = reqwest::get(format!("{}/metrics", server.base)).await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    Page::read(&answer.text().await.unwrap())
}

#[tokio::test]
async fn the_page_counts_what_happened() {
    let environment = TestEnvironment::start().await;
    let server = environment.serve(Options::default()).await;
    let token = server.acme.clone();
    let (_, first) = server
        .turn(&token, "Summarise the unread tickets and alert #support")
        .await;
    let (_, second) = server.turn(&token, "Hello").await;
    let (_, failed) = server.turn(&token, "[[sim status=400 code=bad]]").await;
    assert_eq!(
        [&first["status"], &second["status"], &failed["status"]],
        ["completed", "completed", "failed"]
    );
    let unknown = server
        .request(&token, Method::GET, "/v1/some/made-up/path-1")
        .send()
        .await
        .unwrap();
    assert_eq!(unknown.status(), 404);
    let conversation = server.conversation(&token).await;
    let path = format!("/v1/conversations/{conversation}/events");
    let stream = server.request(&token, Method::GET, &path).send().await.unwrap();
    assert_eq!(stream.status(), 200);

    let page_1 = page(&server).await;
    let route = ("route", "/v1/conversations/{id}/turns");
    for (name, labels, value) in [
        ("copilotd_turns_total", vec![("state", "queued")], 3.0),
        ("copilotd_turns_total", vec![("state", "started")], 3.0),
        ("copilotd_turns_total", vec![("state", "completed")], 2.0),
        ("copilotd_turns_total", vec![("state", "failed")], 1.0),
        ("copilotd_open_turns", vec![], 0.0),
        ("copilotd_model_failures_total", vec![("class", "rejected")], 1.0),
        (
            "copilotd_http_requests_total",
            vec![route, ("method", "POST"), ("status", "202")],
            3.0,
        ),
        (
            "copilotd_http_request_seconds_count",
            vec![route, ("method", "POST")],
            3.0,
        ),
        (
            "copilotd_http_requests_total",
            vec![("route", "none"), ("status", "404")],
            1.0,
        ),
        ("copilotd_open_streams", vec![], 1.0),
        ("copilotd_actors_alive", vec![("actor", "conversation")], 4.0),
        ("copilotd_actors_alive", vec![("actor", "agent")], 0.0),
        ("copilotd_actors_alive", vec![("actor", "connector")], 2.0),
        ("copilotd_breaker_state", vec![("system", "zendesk")], 0.0),
        ("copilotd_connector_queue", vec![("system", "slack")], 0.0),
        ("copilotd_build_info", vec![("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        assert_eq!(page_1.sum(name, &labels), value, "{name} {labels:?}");
    }
    let usage = |name: &str| first["usage"][name].as_f64().unwrap() + second["usage"][name].as_f64().unwrap();
    for (kind, name) in [("prompt", "prompt_tokens"), ("completion", "completion_tokens")] {
        assert_eq!(
            page_1.sum("copilotd_tokens_total", &[("kind", kind)]),
            usage(name),
            "{kind}"
        );
    }
    for (name, labels, least) in [
        (
            "copilotd_model_calls_total",
            vec![("outcome", "ok"), ("route", "default")],
            4.0,
        ),
        (
            "copilotd_model_calls_total",
            vec![("outcome", "rejected"), ("model", "sim-large")],
            1.0,
        ),
        (
            "copilotd_model_call_seconds_count",
            vec![("route", "default"), ("model", "sim-large")],
            5.0,
        ),
        (
            "copilotd_model_first_content_seconds_count",
            vec![("route", "default")],
            4.0,
        ),
    ] {
        assert!(page_1.sum(name, &labels) >= least, "{name} {labels:?}");
    }
    assert_eq!(page_1.sum("copilotd_model_calls_estimated_total", &[]), 0.0);
    let cost = first["usage"]["cost_usd"].as_f64().unwrap() + second["usage"]["cost_usd"].as_f64().unwrap();
    let counted = page_1.sum("copilotd_model_cost_usd_total", &[]);
    assert!((counted - cost).abs() < 1e-9, "{counted} {cost}");
    let appends = page_1.sum("copilotd_append_wait_seconds_count", &[]);
    assert!(appends >= 12.0, "{appends}");
    assert_eq!(
        page_1.sum("copilotd_append_seconds_count", &[("store", "sqlite")]),
        appends
    );
    assert!(page_1.sum("copilotd_first_token_seconds_count", &[]) >= 2.0);
    assert!(
        page_1.sum("copilotd_first_token_seconds_sum", &[]) > 0.1,
        "the provider takes that long"
    );
    assert!(page_1.sum("copilotd_tool_tries_total", &[("outcome", "ok")]) >= 2.0);

    // No value chosen by a client, and no id, became a label.
    let known: BTreeSet<&str> = METRICS
        .iter()
        .map(|metric| metric.name)
        .chain(PROCESS_METRICS.iter().copied())
        .collect();
    for family in page_1.types.keys() {
        assert!(known.contains(family.as_str()), "{family} is not listed");
    }
    assert!(
        page_1
            .samples
            .iter()
            .any(|sample| sample.name == "copilotd_connector_queue")
    );
    for sample in &page_1.samples {
        assert!(!sample.labels.contains_key("tenant"), "{sample:?}");
    }
    for value in page_1.samples.iter().flat_map(|sample| sample.labels.values()) {
        assert!(
            !value.contains("path-1") && !value.contains("conv_") && !value.contains("turn_"),
            "{value}"
        );
    }
    drop(stream);
    let closed = || async { (page(&server).await.sum("copilotd_open_streams", &[]) == 0.0).then_some(()) };
    eventually("the end of the stream", Duration::from_secs(10), closed).await;
    server.stop().await;
}

#[tokio::test]
async fn model_calls_of_every_kind_are_counted_and_nothing_that_a_caller_names_is_a_label() {
    let environment = TestEnvironment::start().await;
    let server = environment.serve(Options::default()).await;
    let ask = async |path: &str, body: serde_json::Value| {
        let asked = server
            .request(&server.gateway, Method::POST, path)
            .json(&body)
            .send()
            .await;
        let answer = asked.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let chat = |model: &str, text: &str, stream: bool| {
        json!({"model": model, "messages": [{"role": "user", "content": text}], "stream": stream,
            "stream_options": if stream { json!({"include_usage": true}) } else { json!(null) }})
    };
    let path = "/v1/chat/completions";
    let (status, document) = ask(path, chat("default", "Hello", false)).await;
    assert_eq!(status, 200, "{document}");
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let (status, stream) = ask(path, chat("main/sim-large", "Hello", true)).await;
    assert_eq!(status, 200, "{stream}");
    let last = stream.lines().rfind(|line| line.contains("\"usage\":{")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap();
    let (status, list) = ask("/v1/embeddings", json!({"model": "default", "input": "Hello"})).await;
    assert_eq!(status, 200, "{list}");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        ask(path, chat("default", "[[sim status=400 code=bad]]", false)).await.0,
        400
    );
    for unknown in ["main/made-up-1", "made-up-2/sim-large", "made-up-3"] {
        assert_eq!(ask(path, chat(unknown, "Hello", false)).await.0, 404);
    }
    let page = page(&server).await;
    let of =
        |route: &'static str, outcome: &'static str| vec![("route", route), ("outcome", outcome), ("provider", "main")];
    for (name, labels, value) in [
        ("copilotd_model_calls_total", of("default", "ok"), 2.0),
        ("copilotd_model_calls_total", of("direct", "ok"), 1.0),
        ("copilotd_model_calls_total", of("default", "rejected"), 1.0),
        (
            "copilotd_model_call_seconds_count",
            vec![("route", "default"), ("model", "sim-large")],
            3.0,
        ),
    ] {
        assert_eq!(page.sum(name, &labels), value, "{name} {labels:?}");
    }
    let reported = |name: &str| -> f64 {
        let usages = [&document["usage"], &last["usage"], &list["usage"]];
        usages.iter().map(|usage| usage[name].as_f64().unwrap_or(0.0)).sum()
    };
    for (kind, name) in [("prompt", "prompt_tokens"), ("completion", "completion_tokens")] {
        assert_eq!(
            page.sum("copilotd_tokens_total", &[("kind", kind)]),
            reported(name),
            "{kind}"
        );
    }
    for value in page.samples.iter().flat_map(|sample| sample.labels.values()) {
        assert!(!value.contains("made-up"), "{value}");
    }
    server.stop().await;
}

#[tokio::test]
async fn counters_are_there_before_anything_has_happened_and_so_are_the_process_and_its_runtime() {
    let environment = TestEnvironment::start().await;
    let server = environment.serve(Options::default()).await;
    let page = page(&server).await;
    for (name, labels) in [
        ("copilotd_turns_total", vec![("state", "failed")]),
        ("copilotd_model_failures_total", vec![("class", "overload")]),
        (
            "copilotd_tool_tries_total",
            vec![("system", "slack"), ("outcome", "in_doubt")],
        ),
        ("copilotd_actor_deaths_total", vec![("actor", "agent")]),
        ("copilotd_auth_failures_total", vec![("reason", "unknown")]),
        ("copilotd_usage_records_lost_total", vec![]),
        ("copilotd_usage_records_refused_total", vec![]),
        ("copilotd_gateway_attempts_total", vec![("outcome", "silence")]),
        (
            "copilotd_model_calls_total",
            vec![("route", "default"), ("outcome", "silence")],
        ),
        (
            "copilotd_model_calls_total",
            vec![("route", "direct"), ("outcome", "ok")],
        ),
        (
            "copilotd_tokens_total",
            vec![("route", "default"), ("kind", "completion")],
        ),
        ("copilotd_model_cost_usd_total", vec![("route", "default")]),
    ] {
        let fits = |sample: &&super::page::Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        let found: Vec<f64> = page.samples.iter().filter(fits).map(|sample| sample.value).collect();
        assert!(
            !found.is_empty() && found.iter().all(|value| *value == 0.0),
            "{name} {labels:?}: {found:?}"
        );
    }
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_threads",
        "copilotd_runtime_workers",
        "copilotd_runtime_tasks",
    ] {
        assert!(page.sum(name, &[]) > 0.0, "{name}");
    }
    server.stop().await;
}

#[test]
fn every_metric_of_the_code_is_listed_and_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut recorded = BTreeSet::new();
    for directory in ["src", "actors/src", "gateway/src", "knowledge/src"] {
        collect(&root.join(directory), &mut recorded);
    }
    let listed: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(recorded, listed);
    let document = std::fs::read_to_string(root.join("docs/operate/observability.md")).unwrap();
    for name in METRICS
        .iter()
        .map(|metric| metric.name)
        .chain(PROCESS_METRICS.iter().copied())
    {
        assert!(
            document.contains(&format!("| `{name}` |")),
            "{name} is not in the document"
        );
    }
}

/// Finds the names in `counter!`, `gauge!` and `histogram!`.
fn collect(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for name in ["counter!(", "gauge!(", "histogram!("] {
                for part in text.split(name).skip(1) {
                    if let Some((metric, _)) = part
                        .trim_start()
                        .strip_prefix('"')
                        .and_then(|part| part.split_once('"'))
                    {
                        names.insert(metric.to_owned());
                    }
                }
            }
        }
    }
}
