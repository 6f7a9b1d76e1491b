//! State that survives a restart of the process.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn post(url: String, body: Value) -> Value {
    let request = reqwest::Client::new().post(url).bearer_auth("t").json(&body);
    let request = request.header("idempotency-key", "once");
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_vendor_on_a_file_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (tickets, messages) = (
        directory.path().join("zendesk.json"),
        directory.path().join("slack.json"),
    );
    let ticket = json!({ "ticket": { "subject": "Kept", "comment": { "body": "over a restart" } } });
    let message = json!({ "channel": "#support", "text": "kept" });
    let create = |base: &str| format!("{base}/api/v2/tickets.json");
    let (created, posted) = {
        let zendesk = copilotd_sim::zendesk::start_with_file(loopback(), tickets.clone())
            .await
            .unwrap();
        let slack = copilotd_sim::slack::start_with_file(loopback(), messages.clone())
            .await
            .unwrap();
        let created = post(create(zendesk.base_url()), ticket.clone()).await;
        let posted = post(format!("{}/api/chat.postMessage", slack.base_url()), message.clone()).await;
        (created, posted)
    };
    assert_eq!(posted["ok"], true, "{posted}");

    let zendesk = copilotd_sim::zendesk::start_with_file(loopback(), tickets)
        .await
        .unwrap();
    let slack = copilotd_sim::slack::start_with_file(loopback(), messages)
        .await
        .unwrap();
    let again = post(create(zendesk.base_url()), ticket).await;
    assert_eq!(
        again["ticket"]["id"], created["ticket"]["id"],
        "the idempotency key was not remembered"
    );
    let next = post(format!("{}/api/chat.postMessage", slack.base_url()), message).await;
    assert_ne!(next["ts"], posted["ts"], "a timestamp was issued twice");
    let state: Value = reqwest::get(format!("{}/_sim/state", slack.base_url()))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(state.to_string().contains(posted["ts"].as_str().unwrap()), "{state}");
}

#[tokio::test]
async fn a_file_that_is_no_state_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("slack.json");
    std::fs::write(&file, "{").unwrap();
    let error = copilotd_sim::slack::start_with_file(loopback(), file)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("slack.json"), "{error}");
    assert_eq!(std::fs::read(directory.path().join("slack.json")).unwrap(), b"{");
}
