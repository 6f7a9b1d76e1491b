//! Several customers at one vendor: each sees only its own account.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use copilotd_sim::{Account, Running};
use serde_json::{Value, json};

fn accounts() -> Vec<Account> {
    let account = |name: &str| Account {
        name: name.to_owned(),
        token: format!("token-{name}"),
    };
    ["acme", "globex"].map(account).into()
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn start(directory: &Path) -> (Running, Running) {
    let zendesk = copilotd_sim::zendesk::start_accounts(loopback(), directory.join("zendesk.json"), accounts());
    let slack = copilotd_sim::slack::start_accounts(loopback(), directory.join("slack.json"), accounts());
    (zendesk.await.unwrap(), slack.await.unwrap())
}

/// Sends one request; returns status and body of the answer.
async fn ask(token: Option<&str>, url: String, body: Option<Value>) -> (u16, Value) {
    let client = reqwest::Client::new();
    let mut request = match &body {
        Some(body) => client.post(url).json(body),
        None => client.get(url),
    };
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn subjects(zendesk: &Running, token: &str) -> Vec<String> {
    let url = format!("{}/api/v2/tickets.json", zendesk.base_url());
    let (status, body) = ask(Some(token), url, None).await;
    assert_eq!(status, 200, "{body}");
    let tickets = body["tickets"].as_array().unwrap();
    tickets
        .iter()
        .map(|ticket| ticket["subject"].as_str().unwrap().to_owned())
        .collect()
}

async fn texts(slack: &Running, token: &str) -> Vec<String> {
    let url = format!("{}/api/conversations.history?channel=C0SUPPORT01", slack.base_url());
    let (_, body) = ask(Some(token), url, None).await;
    assert_eq!(body["ok"], true, "{body}");
    let messages = body["messages"].as_array().unwrap();
    messages
        .iter()
        .map(|message| message["text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn what_one_customer_does_is_seen_under_its_own_token_alone_and_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    {
        let (zendesk, slack) = start(directory.path()).await;
        let ticket = json!({ "ticket": { "subject": "For acme only", "comment": { "body": "b" } } });
        let url = format!("{}/api/v2/tickets.json", zendesk.base_url());
        assert_eq!(ask(Some("token-acme"), url, Some(ticket)).await.0, 201);
        let post = json!({ "channel": "#support", "text": "for globex only" });
        let url = format!("{}/api/chat.postMessage", slack.base_url());
        assert_eq!(ask(Some("token-globex"), url, Some(post)).await.1["ok"], true);
    }
    let (zendesk, slack) = start(directory.path()).await;
    for (token, ticket, message) in [("token-acme", true, false), ("token-globex", false, true)] {
        let subjects = subjects(&zendesk, token).await;
        assert_eq!(
            subjects.contains(&"For acme only".to_owned()),
            ticket,
            "{token}: {subjects:?}"
        );
        let texts = texts(&slack, token).await;
        assert_eq!(
            texts.contains(&"for globex only".to_owned()),
            message,
            "{token}: {texts:?}"
        );
        // The ticket does not exist in another account.
        let url = format!("{}/api/v2/tickets/1001.json", zendesk.base_url());
        assert_eq!(ask(Some(token), url, None).await.0 == 200, ticket, "{token}");
    }
}

#[tokio::test]
async fn a_token_that_nobody_has_is_refused_as_the_vendor_does() {
    let directory = tempfile::tempdir().unwrap();
    let (zendesk, slack) = start(directory.path()).await;
    for token in [
        None,
        Some("token-initech"),
        Some("token-acm"),
        Some("token-acme2"),
        Some("acme"),
    ] {
        let url = format!("{}/api/v2/tickets.json", zendesk.base_url());
        let (status, body) = ask(token, url, None).await;
        assert_eq!(
            (status, &body["error"]),
            (401, &json!("Couldn't authenticate you")),
            "{token:?}"
        );
        let url = format!("{}/api/auth.test", slack.base_url());
        let (status, body) = ask(token, url, Some(json!({}))).await;
        let error = if token.is_some() { "invalid_auth" } else { "not_authed" };
        assert_eq!(
            (status, &body),
            (200, &json!({ "ok": false, "error": error })),
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn the_control_plane_shows_one_account_or_all_with_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let (zendesk, slack) = start(directory.path()).await;
    let post = json!({ "channel": "#support", "text": "for globex only" });
    let url = format!("{}/api/chat.postMessage", slack.base_url());
    ask(Some("token-globex"), url, Some(post)).await;
    let view =
        async |vendor: &Running, path: &str| ask(None, format!("{}/_sim/{path}", vendor.base_url()), None).await.1;
    for view in [
        view(&slack, "state?account=acme").await,
        view(&slack, "changes?account=acme").await,
        view(&zendesk, "state?account=globex").await,
    ] {
        assert!(
            !view.to_string().contains("for globex only") || view["journal"].is_array(),
            "{view}"
        );
        assert!(
            view["channels"].as_array().is_none_or(|channels| channels.len() == 4),
            "{view}"
        );
    }
    let globex = view(&slack, "changes?account=globex").await;
    assert!(globex["channels"].to_string().contains("for globex only"), "{globex}");
    let version = globex["version"].as_u64().unwrap();
    let again = view(&slack, &format!("changes?account=globex&after={version}")).await;
    assert_eq!(again, json!({ "changed": false, "version": version }));
    let all = view(&slack, "state").await;
    let channels = all["channels"].as_array().unwrap();
    assert_eq!(channels.len(), 8);
    let whose = |channel: &&Value| channel.to_string().contains("for globex only");
    let found: Vec<_> = channels
        .iter()
        .filter(whose)
        .map(|channel| &channel["account"])
        .collect();
    assert_eq!(found, [&json!("globex")]);
    let unknown = ask(None, format!("{}/_sim/state?account=initech", slack.base_url()), None).await;
    assert_eq!(unknown.0, 404, "{}", unknown.1);
}

/// A file of an earlier release held one state for everybody, which belongs to no account.
#[tokio::test]
async fn what_everybody_shared_once_is_handed_to_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("slack.json");
    {
        let slack = copilotd_sim::slack::start_with_file(loopback(), file.clone())
            .await
            .unwrap();
        let url = format!("{}/api/chat.postMessage", slack.base_url());
        let post = json!({ "channel": "#support", "text": "shared" });
        assert_eq!(ask(Some("any"), url, Some(post)).await.1["ok"], true);
    }
    let slack = copilotd_sim::slack::start_accounts(loopback(), file, accounts())
        .await
        .unwrap();
    for token in ["token-acme", "token-globex"] {
        assert!(!texts(&slack, token).await.contains(&"shared".to_owned()), "{token}");
    }
}
