//! Answers of Slack that are not as documented.

use copilotd_actors::ports::{LookUp, ToolBox, ToolErrorKind};
use serde_json::{Value, json};

use super::slack::workspace;
use super::stub::{Say, Seen, Stub, json as say, raw};
use super::{request, slack};

async fn with(method: &'static str, odd: Say) -> Stub {
    Stub::start(move |seen: &Seen| match seen.path.strip_prefix("/api/") {
        Some(asked) if asked == method => odd.clone(),
        _ => workspace(seen),
    })
    .await
}

#[tokio::test]
async fn unreadable_items_are_left_out_and_counted() {
    let channels = json!([null, 7, {}, { "id": null }, { "id": "C00000009", "name": "support" }]);
    let stub = with(
        "conversations.list",
        say(200, json!({ "ok": true, "channels": channels })),
    )
    .await;
    let told = slack(&stub)
        .call(&request("slack_find_channel", json!({ "name": "support" })))
        .await
        .unwrap()
        .result;
    assert_eq!(told["channels"].as_array().unwrap().len(), 1);
    assert_eq!(told["channels_unreadable"], "4 could not be read");
    assert_eq!(told["incomplete"], true);
    let members = json!([[], "x", { "id": "U00000001", "name": "ann", "profile": null }]);
    let stub = with("users.list", say(200, json!({ "ok": true, "members": members }))).await;
    let told = slack(&stub)
        .call(&request("slack_find_user", json!({ "name": "ann" })))
        .await
        .unwrap()
        .result;
    assert_eq!(told["users"][0]["id"], "U00000001");
    assert_eq!(told["users_unreadable"], "2 could not be read");
}

#[tokio::test]
async fn a_malformed_optional_member_fails_no_channel_or_person() {
    let odd = [
        json!(null),
        json!(-1),
        json!(1.5),
        json!("12"),
        json!(true),
        json!([]),
        json!({}),
        json!([null, {}]),
    ];
    for value in &odd {
        for name in ["is_private", "is_member", "num_members", "topic", "previous_names"] {
            let mut channel = json!({ "id": "C00000009", "name": "odd" });
            channel[name] = value.clone();
            let answer = say(
                200,
                json!({ "ok": true, "channels": [channel], "response_metadata": value }),
            );
            let stub = with("conversations.list", answer).await;
            let post = request("slack_post_message", json!({ "channel": "odd", "text": "x" }));
            let told = slack(&stub).call(&post).await.unwrap().result;
            assert_eq!(told["channel"], "C00000009", "{name}: {value}");
        }
        for name in ["name", "deleted", "is_bot", "tz", "profile"] {
            let mut person = json!({ "id": "U00000001", "profile": { "email": "ann@x.test" } });
            person[name] = value.clone();
            let stub = with("users.lookupByEmail", say(200, json!({ "ok": true, "user": person }))).await;
            let find = request("slack_find_user", json!({ "email": "ann@x.test" }));
            let told = slack(&stub).call(&find).await.unwrap().result;
            assert_eq!(told["users"][0]["id"], "U00000001", "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn an_answer_of_the_wrong_type_is_a_clear_error_of_a_reachable_system() {
    let bodies = [
        json!(null),
        json!([]),
        json!("x"),
        json!(7),
        json!({}),
        json!({ "ok": "yes" }),
        json!({ "ok": false, "error": 7 }),
    ];
    let pages = ["", "<html>", "{\"ok\": true", "\u{1f}\u{8b}"].map(|body| raw(200, body.as_bytes().to_vec()));
    let answers = bodies.into_iter().map(|body| say(200, body)).chain(pages);
    for answer in answers {
        let stub = Stub::start(move |_| answer.clone()).await;
        let error = slack(&stub)
            .call(&request("slack_find_user", json!({ "name": "ann" })))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");
        assert!(
            error.answered && error.message.starts_with("slack sent an answer"),
            "{error}"
        );
    }
}

/// An unreadable answer after a post leaves its outcome unknown; before it, nothing was posted.
#[tokio::test]
async fn only_what_was_sent_is_in_doubt() {
    let post = request("slack_post_message", json!({ "channel": "support", "text": "x" }));
    let stub = with("chat.postMessage", raw(200, "<html>")).await;
    let error = slack(&stub).call(&post).await.unwrap_err();
    assert_eq!((error.kind, error.answered), (ToolErrorKind::OutcomeUnknown, true));
    let stub = with("conversations.list", raw(200, "<html>")).await;
    let error = slack(&stub).call(&post).await.unwrap_err();
    assert_eq!((error.kind, error.answered), (ToolErrorKind::Unreachable, true));
}

#[tokio::test]
async fn a_message_that_cannot_be_read_may_be_ours() {
    for odd in [json!(null), json!([]), json!("x")] {
        let answer = say(200, json!({ "ok": true, "messages": [odd] }));
        let stub = with("conversations.history", answer).await;
        let post = request("slack_post_message", json!({ "channel": "C00000001", "text": "x" }));
        let error = slack(&stub).look_up(&post).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Refused, "{error}");
    }
}

#[tokio::test]
async fn a_post_without_a_readable_ts_is_a_post() {
    for ts in [Value::Null, json!({}), json!(5.1)] {
        let stub = with("chat.postMessage", say(200, json!({ "ok": true, "ts": ts }))).await;
        let post = request("slack_post_message", json!({ "channel": "C00000001", "text": "x" }));
        let told = slack(&stub).call(&post).await.unwrap().result;
        assert_eq!(told["channel"], "C00000001");
    }
    let stub = with("conversations.history", say(200, json!({ "ok": true, "messages": [] }))).await;
    let post = request("slack_post_message", json!({ "channel": "C00000001", "text": "x" }));
    assert!(matches!(slack(&stub).look_up(&post).await, Ok(LookUp::NotFound)));
}
