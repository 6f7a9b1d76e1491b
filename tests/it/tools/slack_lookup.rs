use copilotd_actors::ports::{LookUp, ToolBox, ToolErrorKind, ToolRequest};
use serde_json::{Value, json};

use super::slack::workspace;
use super::specs::check_slack;
use super::stub::{Seen, Stub, json as say, raw};
use super::{NOW, call_id, request, slack};

fn message(ts: &str, call: u128) -> Value {
    json!({
        "type": "message", "ts": ts, "text": "hello",
        "metadata": { "event_type": "copilotd_call", "event_payload": { "call_id": call_id(call).to_string() } },
    })
}

async fn channel_with(messages: Vec<Value>, more: bool) -> Stub {
    Stub::start(move |seen: &Seen| match seen.path.as_str() {
        "/api/conversations.history" | "/api/conversations.replies" => {
            assert_eq!(seen.param("include_all_metadata"), Some("true"));
            let next = if more { "again" } else { "" };
            say(
                200,
                json!({ "ok": true, "messages": messages, "response_metadata": { "next_cursor": next } }),
            )
        }
        "/api/chat.postMessage" => raw(502, ""),
        _ => workspace(seen),
    })
    .await
}

fn calls() -> [ToolRequest; 4] {
    [
        request("slack_post_message", json!({ "channel": "support", "text": "hello" })),
        request(
            "slack_reply_in_thread",
            json!({ "channel": "support", "thread_ts": "5.0", "text": "hello" }),
        ),
        request(
            "slack_send_direct_message",
            json!({ "user": "U00000001", "text": "hello" }),
        ),
        request(
            "slack_update_message",
            json!({ "channel": "support", "ts": "9.1", "text": "hello" }),
        ),
    ]
}

#[tokio::test]
async fn a_message_of_unknown_outcome_is_found_by_our_metadata() {
    let other = json!({ "type": "message", "ts": "9.2", "text": "hello" });
    let stub = channel_with(vec![other, message("9.3", 8), message("9.1", 7)], false).await;
    let workspace = slack(&stub);
    for call in calls() {
        let LookUp::Found(found) = workspace.look_up(&call).await.unwrap() else {
            panic!("{}", call.tool)
        };
        assert_eq!(found["ts"], "9.1", "{}", call.tool);
    }
    assert!(
        !stub.lines().iter().any(|line| line.contains("chat.")),
        "nothing is posted"
    );
    check_slack(&stub.seen());
}

#[tokio::test]
async fn a_forgotten_scope_does_not_make_a_message_look_absent() {
    let blocks = json!([{ "type": "section", "block_id": format!("copilotd_call:{}", call_id(7)) }]);
    let bare = json!({ "type": "message", "ts": "9.1", "text": "hello", "blocks": blocks });
    let stub = channel_with(vec![bare], false).await;
    let workspace = slack(&stub);
    for call in calls() {
        let found = workspace.look_up(&call).await.unwrap();
        assert!(matches!(found, LookUp::Found(_)), "{}", call.tool);
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let stub = channel_with(vec![message("9.1", 8)], false).await;
    let workspace = slack(&stub);
    for call in calls() {
        assert!(
            matches!(workspace.look_up(&call).await.unwrap(), LookUp::NotFound),
            "{}",
            call.tool
        );
    }
}

#[tokio::test]
async fn a_busy_channel_is_not_called_empty() {
    let stub = channel_with(vec![message("9.3", 8)], true).await;
    let [post, ..] = calls();
    let error = slack(&stub).look_up(&post).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused, "{error}");
    let pages = stub.lines().iter().filter(|line| line.contains("history")).count();
    assert_eq!(pages, 10);
}

#[tokio::test]
async fn the_outcome_of_updating_a_vanished_message_is_unknown() {
    let stub = channel_with(vec![], false).await;
    let [.., update] = calls();
    assert_eq!(
        slack(&stub).look_up(&update).await.unwrap_err().kind,
        ToolErrorKind::Refused
    );
}

#[tokio::test]
async fn only_what_was_posted_since_the_call_began_is_read() {
    let stub = channel_with(vec![], false).await;
    let workspace = slack(&stub);
    let [post, ..] = calls();
    workspace.look_up(&post).await.unwrap();
    let error = workspace.call(&post).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown);
    workspace.look_up(&post).await.unwrap();
    let seen = stub.seen();
    let oldest: Vec<&str> = seen.iter().filter_map(|one| one.param("oldest")).collect();
    let week_ago = format!("{}.000000", NOW - 7 * 24 * 3600);
    let begin = format!("{}.000000", NOW - 300);
    assert_eq!(oldest, [week_ago, begin]);
}
