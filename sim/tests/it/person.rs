//! What a person does in a vendor's own app.

use std::net::{Ipv4Addr, SocketAddr};

use copilotd_sim::{Account, Running};
use serde_json::{Value, json};

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn start(directory: &std::path::Path) -> Running {
    let account = |name: &str| Account {
        name: name.to_owned(),
        token: format!("token-{name}"),
    };
    let accounts = ["acme", "globex"].map(account).into();
    copilotd_sim::slack::start_accounts(loopback(), directory.join("slack.json"), accounts)
        .await
        .unwrap()
}

async fn write(slack: &Running, query: &str, message: &Value) -> (u16, Value) {
    let url = format!("{}/_sim/messages{query}", slack.base_url());
    let answer = reqwest::Client::new().post(url).json(message).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn support(slack: &Running, account: &str) -> Vec<Value> {
    let url = format!("{}/_sim/changes?account={account}", slack.base_url());
    let view: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let channels = view["channels"].as_array().unwrap();
    let channel = channels.iter().find(|channel| channel["name"] == "#support").unwrap();
    channel["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_person_writes_in_a_channel_and_in_a_thread_of_one_account() {
    let directory = tempfile::tempdir().unwrap();
    let (root, reply) = {
        let slack = start(directory.path()).await;
        let root = json!({"channel": "support", "user": "bob", "text": "Who looks after invoice 1042?"});
        let (status, root) = write(&slack, "?account=acme", &root).await;
        assert_eq!(status, 201, "{root}");
        let reply = json!({"channel": "C0SUPPORT01", "user": "U0SIMADA01", "text": "I do", "thread_ts": root["ts"]});
        let (status, reply) = write(&slack, "?account=acme", &reply).await;
        assert_eq!(status, 201, "{reply}");
        assert_eq!(reply["thread_ts"], root["ts"]);
        // A reply to the reply is in the same thread.
        let third = json!({"channel": "support", "user": "bob", "text": "Thanks", "thread_ts": reply["ts"]});
        assert_eq!(write(&slack, "?account=acme", &third).await.1["thread_ts"], root["ts"]);
        (root, reply)
    };
    // It was stored before it was answered.
    let slack = start(directory.path()).await;
    let acme = support(&slack, "acme").await;
    let shown = |message: &Value| {
        let of = |name: &str| message[name].clone();
        (of("ts"), of("user"), of("is_bot"), of("text"))
    };
    let author = |name: &str| json!(name);
    assert_eq!(
        acme[1..3].iter().map(shown).collect::<Vec<_>>(),
        [
            (
                root["ts"].clone(),
                author("Bob Colleague"),
                json!(false),
                json!("Who looks after invoice 1042?")
            ),
            (
                reply["ts"].clone(),
                author("Ada Colleague"),
                json!(false),
                json!("I do")
            ),
        ]
    );
    assert_eq!(support(&slack, "globex").await.len(), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_posted_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let slack = start(directory.path()).await;
    let good = json!({"channel": "support", "user": "bob", "text": "Hello"});
    let with = |name: &str, value: Value| {
        let mut message = good.clone();
        message[name] = value;
        message
    };
    for (query, message, expected, said) in [
        ("", good.clone(), 404, "no account \"\""),
        ("?account=initech", good.clone(), 404, "no account \"initech\""),
        ("?account=acme", with("channel", json!("nowhere")), 404, "no channel"),
        ("?account=acme", with("channel", json!("old-news")), 422, "archived"),
        ("?account=acme", with("user", json!("eve")), 404, "no person"),
        ("?account=acme", with("user", json!("copilot")), 404, "no person"),
        ("?account=acme", with("text", json!(" \n ")), 422, "empty"),
        (
            "?account=acme",
            with("text", json!("x".repeat(12_001))),
            422,
            "12000 characters",
        ),
        ("?account=acme", with("text", json!(7)), 422, "invalid type"),
        ("?account=acme", with("thread_ts", json!("1.0")), 404, "no message"),
        ("?account=acme", with("blocks", json!([])), 422, "unknown field"),
        ("?account=acme", json!([]), 422, "invalid length"),
    ] {
        let (status, body) = write(&slack, query, &message).await;
        assert_eq!(status, expected, "{query} {body}");
        let error = body["error"].as_str().unwrap();
        assert!(error.contains(said), "{error}");
    }
    for account in ["acme", "globex"] {
        assert_eq!(support(&slack, account).await.len(), 1);
    }
}

#[tokio::test]
async fn a_page_on_another_site_can_neither_write_nor_read() {
    let directory = tempfile::tempdir().unwrap();
    let slack = start(directory.path()).await;
    let url = format!("{}/_sim/messages?account=acme", slack.base_url());
    let body = json!({"channel": "support", "user": "bob", "text": "Hello"}).to_string();
    // A page sends these types without asking; application/json it may send only after a preflight.
    for media_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = reqwest::Client::new().post(&url).body(body.clone());
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        assert_eq!(request.send().await.unwrap().status(), 415, "{media_type:?}");
    }
    let preflight = reqwest::Client::new()
        .request(reqwest::Method::OPTIONS, &url)
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type");
    let changes = format!("{}/_sim/changes?account=acme", slack.base_url());
    for request in [
        preflight,
        reqwest::Client::new()
            .get(changes)
            .header("origin", "https://evil.example"),
    ] {
        let answer = request.send().await.unwrap();
        assert!(answer.headers().get("access-control-allow-origin").is_none());
    }
    assert_eq!(support(&slack, "acme").await.len(), 1);
}

#[tokio::test]
async fn nobody_writes_messages_at_zendesk() {
    let zendesk = copilotd_sim::zendesk::start(loopback(), true).await.unwrap();
    let (status, body) = write(&zendesk, "", &json!({})).await;
    assert_eq!(status, 404, "{body}");
}
