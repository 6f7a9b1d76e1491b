//! The simulated Slack against Slack's description.

use std::net::{Ipv4Addr, SocketAddr};

use copilotd_sim::Running;
use serde_json::{Value, json};

use crate::specs::{Answer, Spec};

struct Slack {
    spec: Spec,
    running: Running,
}

impl Slack {
    async fn start() -> Option<Self> {
        let spec = Spec::slack()?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let running = copilotd_sim::slack::start(listen, true).await.unwrap();
        Some(Self { spec, running })
    }

    fn url(&self, method: &str) -> String {
        format!("{}/api/{method}", self.running.base_url())
    }

    /// Posts JSON.
    async fn post(&self, method: &str, arguments: Value) -> Answer {
        let request = reqwest::Client::new()
            .post(self.url(method))
            .bearer_auth("xoxb-1")
            .json(&arguments);
        self.spec.call(&format!("/{method}"), request).await
    }

    /// Gets with arguments in the query.
    async fn get(&self, method: &str, arguments: &[(&str, &str)]) -> Answer {
        let request = reqwest::Client::new()
            .get(self.url(method))
            .bearer_auth("xoxb-1")
            .query(arguments);
        self.spec.call(&format!("/{method}"), request).await
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn reading_fits_the_description() {
    let Some(slack) = Slack::start().await else {
        return;
    };
    for (method, arguments, error) in [
        ("auth.test", vec![], None),
        ("users.list", vec![], None),
        ("users.list", vec![("limit", "2")], None),
        ("users.list", vec![("cursor", "nonsense")], Some("invalid_cursor")),
        ("users.info", vec![("user", "U0SIMADA01")], None),
        ("users.info", vec![("user", "U0NOBODY01")], Some("user_not_found")),
        ("users.lookupByEmail", vec![("email", "bob@example.com")], None),
        (
            "users.lookupByEmail",
            vec![("email", "x@example.com")],
            Some("users_not_found"),
        ),
        ("conversations.list", vec![("limit", "2")], None),
        (
            "conversations.list",
            vec![("types", "im"), ("exclude_archived", "true")],
            None,
        ),
        ("conversations.info", vec![("channel", "C0SUPPORT01")], None),
        (
            "conversations.info",
            vec![("channel", "C0NOWHERE01")],
            Some("channel_not_found"),
        ),
        ("conversations.members", vec![("channel", "C0SUPPORT01")], None),
        ("conversations.history", vec![("channel", "C0SUPPORT01")], None),
        ("conversations.history", vec![("channel", "C0OLDNEWS01")], None),
        (
            "conversations.history",
            vec![("channel", "C0RANDOM001")],
            Some("not_in_channel"),
        ),
        (
            "conversations.history",
            vec![("channel", "C0SUPPORT01"), ("oldest", "x")],
            Some("invalid_ts_oldest"),
        ),
        (
            "conversations.replies",
            vec![("channel", "C0SUPPORT01"), ("ts", "1.000001")],
            Some("thread_not_found"),
        ),
    ] {
        let answer = slack.get(method, &arguments).await;
        assert_eq!(answer.body["error"].as_str(), error, "{method} {arguments:?}");
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn messages_are_posted_changed_and_found_again() {
    let Some(slack) = Slack::start().await else {
        return;
    };
    let metadata = json!({"event_type": "copilotd", "event_payload": {"call": "c1"}});
    let posted = slack
        .post(
            "chat.postMessage",
            json!({
                "channel": "#support",
                "text": "Eight tickets",
                "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "Eight *tickets*"}}],
                "metadata": metadata,
                "unfurl_links": false,
            }),
        )
        .await;
    let (channel, ts) = (text(&posted.body["channel"]), text(&posted.body["ts"]));
    assert_eq!(channel, "C0SUPPORT01");
    let history = slack
        .get(
            "conversations.history",
            &[("channel", channel), ("include_all_metadata", "true")],
        )
        .await;
    assert_eq!(history.body["messages"][0]["metadata"], metadata);
    let without = slack.get("conversations.history", &[("channel", channel)]).await;
    assert!(without.body["messages"][0]["metadata"].is_null());

    let reply = json!({"channel": channel, "thread_ts": ts, "text": "And a ninth"});
    slack.post("chat.postMessage", reply).await;
    let thread = slack
        .get("conversations.replies", &[("channel", channel), ("ts", ts)])
        .await;
    assert_eq!(thread.body["messages"][0]["reply_count"], 1);
    assert_eq!(thread.body["messages"][1]["text"], "And a ninth");
    let history = slack.get("conversations.history", &[("channel", channel)]).await;
    assert_eq!(history.body["messages"][0]["ts"], ts, "replies stay in their thread");

    slack
        .post(
            "chat.update",
            json!({"channel": channel, "ts": ts, "text": "Nine tickets"}),
        )
        .await;
    let reaction = json!({"channel": channel, "timestamp": ts, "name": "eyes"});
    slack.post("reactions.add", reaction.clone()).await;
    let again = slack.post("reactions.add", reaction).await;
    assert_eq!(again.body["error"], "already_reacted");
    let history = slack.get("conversations.history", &[("channel", channel)]).await;
    assert_eq!(history.body["messages"][0]["text"], "Nine tickets");
    slack.post("chat.delete", json!({"channel": channel, "ts": ts})).await;
    let gone = slack
        .post("chat.update", json!({"channel": channel, "ts": ts, "text": "x"}))
        .await;
    assert_eq!(gone.body["error"], "message_not_found");
}

#[tokio::test]
async fn refusals_are_slacks_own() {
    let Some(slack) = Slack::start().await else {
        return;
    };
    for (arguments, error) in [
        (json!({"channel": "C0NOWHERE01", "text": "a"}), "channel_not_found"),
        (json!({"channel": "#old-news", "text": "a"}), "is_archived"),
        (json!({"channel": "#random", "text": "a"}), "not_in_channel"),
        (json!({"channel": "#support"}), "no_text"),
        (
            json!({"channel": "#support", "text": "a".repeat(40_001)}),
            "msg_too_long",
        ),
        (
            json!({"channel": "#support", "text": "a", "metadata": {"event_type": "a"}}),
            "invalid_metadata_format",
        ),
        (
            json!({"channel": "#support", "text": "a", "blocks": [{}]}),
            "invalid_blocks",
        ),
    ] {
        let answer = slack.post("chat.postMessage", arguments).await;
        assert_eq!(answer.body["error"], error);
    }
    let nobody = reqwest::Client::new().get(slack.url("auth.test"));
    let answer = slack.spec.call("/auth.test", nobody).await;
    assert_eq!(answer.body["error"], "not_authed");
    let broken = reqwest::Client::new()
        .post(slack.url("chat.postMessage"))
        .bearer_auth("xoxb-1")
        .header("content-type", "application/json")
        .body("{");
    let answer = slack.spec.call("/chat.postMessage", broken).await;
    assert_eq!(answer.body["error"], "invalid_json");
}

#[tokio::test]
async fn direct_messages_are_opened() {
    let Some(slack) = Slack::start().await else {
        return;
    };
    let opened = slack.post("conversations.open", json!({"users": "U0SIMBOB01"})).await;
    let channel = text(&opened.body["channel"]["id"]).to_owned();
    let again = slack
        .post("conversations.open", json!({"users": "U0SIMBOB01", "return_im": true}))
        .await;
    assert_eq!(again.body["channel"]["id"], channel.as_str());
    assert_eq!(again.body["already_open"], true);
    let posted = slack
        .post("chat.postMessage", json!({"channel": "U0SIMBOB01", "text": "Hi"}))
        .await;
    assert_eq!(posted.body["channel"], channel.as_str());
    let nobody = slack.post("conversations.open", json!({"users": "U0NOBODY01"})).await;
    assert_eq!(nobody.body["error"], "user_not_found");
    slack.get("conversations.list", &[("types", "im,public_channel")]).await;
}

#[tokio::test]
async fn streamed_messages_grow() {
    let Some(slack) = Slack::start().await else {
        return;
    };
    let parent = slack
        .post("chat.postMessage", json!({"channel": "#support", "text": "Ask me"}))
        .await;
    let channel = "C0SUPPORT01";
    let thread = text(&parent.body["ts"]);
    let start = json!({"channel": channel, "thread_ts": thread, "markdown_text": "Once "});
    let missing = slack.post("chat.startStream", start.clone()).await;
    assert_eq!(missing.body["error"], "missing_recipient_team_id");
    let mut start = start;
    start["recipient_team_id"] = json!("T0SIMULATED");
    start["recipient_user_id"] = json!("U0SIMADA01");
    slack
        .spec
        .check("/definitions/ChatStartStreamArguments", &start, "the request");
    let started = slack.post("chat.startStream", start).await;
    let ts = text(&started.body["ts"]);
    let append = json!({"channel": channel, "ts": ts, "chunks": [{"type": "markdown_text", "text": "upon "}]});
    slack
        .spec
        .check("/definitions/ChatAppendStreamArguments", &append, "the request");
    slack.post("chat.appendStream", append.clone()).await;
    let stop = json!({"channel": channel, "ts": ts, "markdown_text": "a time", "metadata": {"event_type": "e", "event_payload": {}}});
    slack
        .spec
        .check("/definitions/ChatStopStreamArguments", &stop, "the request");
    let stopped = slack.post("chat.stopStream", stop).await;
    assert_eq!(stopped.body["message"]["text"], "Once upon a time");
    let late = slack.post("chat.appendStream", append).await;
    assert_eq!(late.body["error"], "message_not_in_streaming_state");
    let status = json!({"channel_id": channel, "thread_ts": thread, "status": "is thinking"});
    slack.spec.check(
        "/definitions/AssistantThreadsSetStatusArguments",
        &status,
        "the request",
    );
    slack.post("assistant.threads.setStatus", status).await;
}
