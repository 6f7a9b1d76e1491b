use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use copilotd_actors::ports::{ToolBox, ToolErrorKind};
use serde_json::{Value, json};

use super::specs::check_slack;
use super::stub::{Say, Seen, Stub, json as say, raw};
use super::{call_id, request, slack};

/// Two pages of channels, a few people, and messages that are accepted.
pub fn workspace(seen: &Seen) -> Say {
    let first = seen.param("cursor").is_none();
    let next = if first { "page2" } else { "" };
    match seen.path.strip_prefix("/api/").unwrap() {
        "conversations.list" => {
            let channels = match first {
                true => {
                    json!([{ "id": "C00000001", "name": "general" }, { "id": "C00000002", "name": "support-team" }])
                }
                false => json!([{ "id": "C00000003", "name": "support", "is_member": true, "num_members": 4,
                                  "topic": { "value": "Help" } }]),
            };
            ok(json!({ "channels": channels, "response_metadata": { "next_cursor": next } }))
        }
        "conversations.info" => {
            let named = [
                ("C00000001", "general"),
                ("C00000002", "support-team"),
                ("C00000003", "support"),
            ];
            let wanted = seen.param("channel").unwrap();
            let (id, name) = named.into_iter().find(|(id, _)| *id == wanted).unwrap();
            ok(json!({ "channel": { "id": id, "name": name } }))
        }
        "users.list" => {
            let members = match first {
                true => json!([
                    { "id": "U00000001", "name": "ann", "profile": { "real_name": "Ann Miller", "email": "ann@x.test" } },
                    { "id": "U00000002", "name": "gone", "deleted": true, "profile": { "real_name": "Ann Old" } },
                ]),
                false => json!([{ "id": "U00000003", "name": "bo", "profile": { "display_name": "Annie" } }]),
            };
            ok(json!({ "members": members, "response_metadata": { "next_cursor": next } }))
        }
        "users.lookupByEmail" => match seen.param("email") {
            Some("ann@x.test") => ok(json!({ "user": { "id": "U00000001", "name": "ann" } })),
            _ => say(200, json!({ "ok": false, "error": "users_not_found" })),
        },
        "conversations.open" => ok(json!({ "channel": { "id": "D00000001" } })),
        "chat.postMessage" => ok(json!({ "channel": seen.body["channel"], "ts": "1790000000.000100", "message": {} })),
        "chat.update" => {
            ok(json!({ "channel": seen.body["channel"], "ts": seen.body["ts"], "text": "", "message": {} }))
        }
        other => panic!("unexpected {other}"),
    }
}

fn ok(mut body: Value) -> Say {
    body["ok"] = json!(true);
    say(200, body)
}

#[tokio::test]
async fn a_post_carries_our_mark_and_can_notify_nobody() {
    let stub = Stub::start(workspace).await;
    let workspace = slack(&stub);
    let arguments = json!({ "channel": "#Support", "text": "**3** tickets <!channel>" });
    let reply = workspace
        .call(&request("slack_post_message", arguments.clone()))
        .await
        .unwrap();
    assert_eq!(
        reply.result,
        json!({ "channel": "C00000003", "ts": "1790000000.000100" })
    );
    let seen = stub.seen();
    let post = seen.last().unwrap();
    assert_eq!(post.header("authorization"), Some("Bearer xoxb-secret"));
    assert_eq!(
        post.body,
        json!({
            "channel": "C00000003",
            "text": "*3* tickets &lt;!channel&gt;",
            "blocks": [{
                "block_id": format!("copilotd_call:{}", call_id(7)),
                "type": "section",
                "text": { "type": "mrkdwn", "text": "*3* tickets &lt;!channel&gt;", "verbatim": true },
                "expand": true,
            }],
            "parse": "none",
            "link_names": false,
            "unfurl_links": false,
            "unfurl_media": false,
            "metadata": { "event_type": "copilotd_call", "event_payload": { "call_id": call_id(7).to_string() } },
        })
    );
    check_slack(&seen);
    workspace.call(&request("slack_post_message", arguments)).await.unwrap();
    let again: Vec<String> = stub.lines().split_off(seen.len());
    let expected = ["GET /api/conversations.info", "POST /api/chat.postMessage"];
    assert_eq!(again, expected, "the channel's id is remembered, and verified");
    check_slack(&stub.seen());
}

#[tokio::test]
async fn threads_updates_and_direct_messages() {
    let stub = Stub::start(workspace).await;
    let workspace = slack(&stub);
    let reply = json!({ "channel": "C00000001", "thread_ts": "1.1", "text": "yes" });
    let told = workspace.call(&request("slack_reply_in_thread", reply)).await.unwrap();
    assert_eq!(told.result["thread_ts"], "1.1");
    let update = json!({ "channel": "general", "ts": "1.1", "text": "no" });
    workspace.call(&request("slack_update_message", update)).await.unwrap();
    let direct = json!({ "user": "ann@x.test", "text": "psst" });
    let told = workspace
        .call(&request("slack_send_direct_message", direct))
        .await
        .unwrap();
    assert_eq!(told.result["channel"], "D00000001");
    let lines = stub.lines();
    assert_eq!(
        lines,
        [
            "POST /api/chat.postMessage",
            "GET /api/conversations.list",
            "POST /api/chat.update",
            "GET /api/users.lookupByEmail",
            "POST /api/conversations.open",
            "POST /api/chat.postMessage",
        ]
    );
    let seen = stub.seen();
    assert_eq!(seen[0].body["thread_ts"], "1.1");
    assert_eq!(seen[2].body["ts"], "1.1");
    assert_eq!(seen[4].body, json!({ "users": "U00000001" }));
    check_slack(&seen);
}

#[tokio::test]
async fn channels_and_people_are_found() {
    let stub = Stub::start(workspace).await;
    let workspace = slack(&stub);
    let found = workspace
        .call(&request("slack_find_channel", json!({ "name": "#support" })))
        .await
        .unwrap();
    let names: Vec<&Value> = found.result["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["support", "support-team"], "the exact match comes first");
    assert_eq!(found.result["channels"][0]["topic"], "Help");
    let found = workspace
        .call(&request("slack_find_user", json!({ "name": "ann" })))
        .await
        .unwrap();
    let ids: Vec<&Value> = found.result["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(ids, ["U00000001", "U00000003"]);
    let found = workspace
        .call(&request("slack_find_user", json!({ "email": "no@x.test" })))
        .await
        .unwrap();
    assert_eq!(found.result["users"], json!([]));
    check_slack(&stub.seen());
}

#[tokio::test]
async fn what_does_not_exist_is_refused_before_anything_is_posted() {
    let stub = Stub::start(workspace).await;
    let workspace = slack(&stub);
    for (tool, arguments, text) in [
        (
            "slack_post_message",
            json!({ "channel": "nowhere", "text": "x" }),
            "#nowhere",
        ),
        (
            "slack_send_direct_message",
            json!({ "user": "no@x.test", "text": "x" }),
            "nobody",
        ),
        (
            "slack_send_direct_message",
            json!({ "user": "Ann", "text": "x" }),
            "slack_find_user",
        ),
        ("slack_find_user", json!({}), "give"),
        (
            "slack_post_message",
            json!({ "channel": "C00000001", "text": "---" }),
            "no text",
        ),
    ] {
        let error = workspace.call(&request(tool, arguments)).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Refused, "{error}");
        assert!(error.message.contains(text), "{error}");
    }
    assert!(stub.lines().iter().all(|line| !line.contains("chat.")));
}

#[tokio::test]
async fn each_error_says_what_is_known_of_the_effect() {
    use ToolErrorKind::{OutcomeUnknown, RateLimited, Refused};
    let code = |code: &str| say(200, json!({ "ok": false, "error": code, "needed": "chat:write" }));
    for (answer, kind, text) in [
        (
            code("channel_not_found"),
            Refused,
            "slack refused: channel_not_found (no such channel",
        ),
        (code("not_in_channel"), Refused, "invited"),
        (code("missing_scope"), Refused, "needs chat:write"),
        (code("invalid_auth"), Refused, "token is not accepted"),
        (code("ratelimited"), RateLimited, "ratelimited"),
        (code("rate_limited"), RateLimited, "rate_limited"),
        (code("internal_error"), OutcomeUnknown, "internal_error"),
        (code("fatal_error"), OutcomeUnknown, "fatal_error"),
        (raw(429, "").header("retry-after", "30"), RateLimited, "429"),
        (raw(502, ""), OutcomeUnknown, "502"),
        (raw(404, ""), Refused, "404"),
        (raw(200, "oops"), OutcomeUnknown, "not JSON"),
        (say(200, json!({})), OutcomeUnknown, "neither"),
    ] {
        let patience = answer.status == 429;
        let stub = Stub::start(move |_| answer.clone()).await;
        let post = request("slack_post_message", json!({ "channel": "C00000001", "text": "x" }));
        let error = slack(&stub).call(&post).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(text), "{error}");
        assert_eq!(error.retry_after.is_some(), patience);
    }
}

#[tokio::test]
async fn a_failure_before_the_post_leaves_no_doubt() {
    let stub = Stub::start(|seen| match seen.path.as_str() {
        "/api/conversations.list" => raw(500, ""),
        _ => workspace(seen),
    })
    .await;
    let post = request("slack_post_message", json!({ "channel": "support", "text": "x" }));
    let error = slack(&stub).call(&post).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Unreachable, "{error}");
    let read = request("slack_find_channel", json!({ "name": "support" }));
    let error = slack(&stub).call(&read).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "a read is repeated anyway");
}

#[tokio::test]
async fn lists_are_bounded() {
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&asked);
    let stub = Stub::start(move |_| {
        let page = counter.fetch_add(1, Ordering::SeqCst);
        ok(json!({ "channels": [], "members": [], "response_metadata": { "next_cursor": format!("c{page}") } }))
    })
    .await;
    let workspace = slack(&stub);
    let mut read = request("slack_find_channel", json!({ "name": "support" }));
    read.timeout = Duration::from_secs(20);
    let found = workspace.call(&read).await.unwrap();
    assert_eq!(found.result["incomplete"], true);
    assert_eq!(asked.load(Ordering::SeqCst), 250);
    let found = workspace
        .call(&request("slack_find_user", json!({ "name": "ann" })))
        .await
        .unwrap();
    assert_eq!(found.result["more"], true);
    assert_eq!(asked.load(Ordering::SeqCst), 270);
}
