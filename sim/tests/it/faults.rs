//! Injected failures: what happened to a request, and what its client learnt.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use copilotd_sim::Running;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::specs::Spec;

async fn zendesk() -> Running {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    copilotd_sim::zendesk::start(listen, true).await.unwrap()
}

async fn control(sim: &Running, path: &str, body: Value) -> Value {
    let request = reqwest::Client::new().post(format!("{}/_sim/{path}", sim.base_url()));
    let answer = request.json(&body).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{body}");
    body
}

async fn state(sim: &Running) -> Value {
    let answer = reqwest::get(format!("{}/_sim/state", sim.base_url())).await;
    answer.unwrap().json().await.unwrap()
}

/// Waits until the state satisfies `wanted`.
async fn until(sim: &Running, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let now = state(sim).await;
        if wanted(&now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("timed out waiting for {what}");
}

fn create(sim: &Running, subject: &str) -> RequestBuilder {
    reqwest::Client::new()
        .post(format!("{}/api/v2/tickets.json", sim.base_url()))
        .bearer_auth("token")
        .json(&json!({"ticket": {"subject": subject, "comment": {"body": "Help"}}}))
}

fn count(state: &Value, subject: &str) -> usize {
    let tickets = state["tickets"].as_array().unwrap();
    tickets.iter().filter(|ticket| ticket["subject"] == subject).count()
}

#[tokio::test]
async fn a_fault_comes_before_or_after_the_effect() {
    let sim = zendesk().await;
    for (fault, status, created) in [
        (json!({"status": 503, "apply": false}), Some(503), 0),
        (json!({"status": 503, "apply": true}), Some(503), 1),
        (json!({"apply": false}), None, 0),
        (json!({"apply": true}), None, 1),
    ] {
        control(&sim, "reset", json!({})).await;
        let mut fault = fault;
        fault["path_contains"] = json!("/tickets");
        fault["method"] = json!("POST");
        control(&sim, "knobs", json!({"fail_next": [fault]})).await;
        let answer = create(&sim, "doubtful").send().await;
        assert_eq!(answer.ok().map(|answer| answer.status().as_u16()), status, "{fault}");
        let now = state(&sim).await;
        assert_eq!(count(&now, "doubtful"), created, "{fault}");
        assert_eq!(now["journal"][0]["applied"], created == 1, "{fault}");
        // Only once: the next one succeeds.
        assert_eq!(create(&sim, "sure").send().await.unwrap().status(), 201);
    }
}

#[tokio::test]
async fn a_held_request_is_carried_out_though_its_client_is_gone() {
    let sim = zendesk().await;
    for apply_first in [true, false] {
        control(&sim, "reset", json!({})).await;
        let hold = json!({"method": "POST", "path_contains": "/tickets", "apply_first": apply_first});
        control(&sim, "knobs", json!({"hold": hold})).await;
        let impatient = create(&sim, "held").timeout(Duration::from_millis(100));
        assert!(impatient.send().await.unwrap_err().is_timeout());
        let held = until(&sim, "the hold", |state| state["held"] == 1).await;
        assert_eq!(count(&held, "held"), usize::from(apply_first));
        let patient = tokio::spawn(create(&sim, "patient").send());
        until(&sim, "the second", |state| state["held"] == 2).await;
        assert_eq!(control(&sim, "release", json!({})).await["released"], 2);
        assert_eq!(patient.await.unwrap().unwrap().status(), 201);
        let after = until(&sim, "the release", |state| count(state, "held") == 1).await;
        assert_eq!(after["held"], 0);
        assert_eq!(count(&after, "held"), 1);
    }
}

#[tokio::test]
async fn rate_limits_and_faults_fit_the_descriptions() {
    let (Some(zendesk_spec), Some(slack_spec)) = (Spec::zendesk(), Spec::slack()) else {
        return;
    };
    let sim = zendesk().await;
    control(&sim, "knobs", json!({"rate_limit_per_minute": 1})).await;
    let list = || {
        let url = format!("{}/api/v2/tickets.json", sim.base_url());
        reqwest::Client::new().get(url).bearer_auth("token")
    };
    let first = zendesk_spec.call("/api/v2/tickets", list()).await;
    assert_eq!(first.header("x-rate-limit-remaining"), "0");
    let second = zendesk_spec.call("/api/v2/tickets", list()).await;
    assert_eq!(second.status, 429);
    assert!(second.header("retry-after").parse::<u64>().unwrap() >= 1);

    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let slack = copilotd_sim::slack::start(listen, true).await.unwrap();
    let fault = json!({"path_contains": "chat.postMessage", "status": 429, "retry_after": 7});
    control(
        &slack,
        "knobs",
        json!({"fail_next": [fault], "require_token": "xoxb-right"}),
    )
    .await;
    let post = |token: &str| {
        let url = format!("{}/api/chat.postMessage", slack.base_url());
        let request = reqwest::Client::new().post(url).bearer_auth(token);
        request.form(&[("channel", "#support"), ("text", "Hi")])
    };
    let limited = slack_spec.call("/chat.postMessage", post("xoxb-right")).await;
    assert_eq!(limited.header("retry-after"), "7");
    assert_eq!(limited.body["error"], "ratelimited");
    let wrong = slack_spec.call("/chat.postMessage", post("xoxb-wrong")).await;
    assert_eq!(wrong.body["error"], "invalid_auth");
    let right = slack_spec.call("/chat.postMessage", post("xoxb-right")).await;
    assert_eq!(right.body["ok"], true);
}

#[tokio::test]
async fn changes_are_numbered() {
    let sim = zendesk().await;
    let changes = async |after: u64| -> Value {
        let url = format!("{}/_sim/changes?after={after}", sim.base_url());
        reqwest::get(url).await.unwrap().json().await.unwrap()
    };
    let first = changes(0).await;
    assert_eq!(first["tickets"].as_array().unwrap().len(), 8);
    let version = first["version"].as_u64().unwrap();
    assert_eq!(changes(version).await, json!({"changed": false, "version": version}));
    create(&sim, "new one").send().await.unwrap();
    let second = changes(version).await;
    assert!(second["version"].as_u64().unwrap() > version);
    assert_eq!(second["tickets"][0]["subject"], "new one");
    let url = format!("{}/_sim/requests", sim.base_url());
    let kept: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let body = &kept["requests"][0]["body"];
    assert_eq!(body["ticket"]["subject"], "new one");
}

#[tokio::test]
async fn a_dropped_simulator_cuts_its_connections() {
    let sim = zendesk().await;
    control(&sim, "knobs", json!({"hold": {"method": "POST"}})).await;
    let waiting = tokio::spawn(create(&sim, "cut").send());
    until(&sim, "the hold", |state| state["held"] == 1).await;
    let url = sim.base_url().to_owned();
    drop(sim);
    assert!(waiting.await.unwrap().is_err());
    assert!(reqwest::get(url).await.is_err());
}
