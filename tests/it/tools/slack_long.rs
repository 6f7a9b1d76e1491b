//! Texts that become several messages: each is posted once, whatever fails in between.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::ports::{LookUp, ToolBox, ToolErrorKind, ToolRequest};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::specs::check_slack;
use super::stub::{Say, Seen, Stub, json as say, raw};
use super::{request, slack};

/// A channel that stores posts. `fails` says what happens to the post of that number.
#[derive(Default)]
struct Room {
    messages: Vec<Value>,
    posts: usize,
    fails: Option<(usize, Failure)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Failure {
    /// It takes effect, but the answer is lost.
    After,
    /// It does not take effect, and the answer is lost.
    Before,
    /// 429, once.
    Limited,
    /// 429, always.
    AlwaysLimited,
    Refused,
}

async fn room(fails: Option<(usize, Failure)>) -> (Stub, Arc<Mutex<Room>>) {
    let room = Arc::new(Mutex::new(Room {
        fails,
        ..Room::default()
    }));
    let kept = Arc::clone(&room);
    let stub = Stub::start(move |seen: &Seen| kept.lock().answer(seen)).await;
    (stub, room)
}

impl Room {
    fn answer(&mut self, seen: &Seen) -> Say {
        if seen.path.ends_with(".history") || seen.path.ends_with(".replies") {
            let newest_first: Vec<&Value> = self.messages.iter().rev().collect();
            return say(200, json!({ "ok": true, "messages": newest_first }));
        }
        self.posts += 1;
        let failure = self
            .fails
            .filter(|(post, _)| *post == self.posts)
            .map(|(_, failure)| failure);
        match failure {
            None | Some(Failure::After) => {}
            Some(Failure::Before) => return raw(502, ""),
            Some(Failure::Limited) => return raw(429, "").header("retry-after", "0"),
            Some(Failure::AlwaysLimited) => {
                self.posts -= 1;
                return raw(429, "").header("retry-after", "3600");
            }
            Some(Failure::Refused) => return say(200, json!({ "ok": false, "error": "is_archived" })),
        }
        let mut message = seen.body.clone();
        message["ts"] = json!(format!("{}.0", self.posts));
        self.messages.push(message);
        match failure {
            Some(_) => raw(502, ""),
            None => say(
                200,
                json!({ "ok": true, "channel": "C00000001", "ts": format!("{}.0", self.posts) }),
            ),
        }
    }

    fn text(&self) -> String {
        let sections = self
            .messages
            .iter()
            .flat_map(|message| message["blocks"].as_array().unwrap());
        let texts: Vec<&str> = sections.filter_map(|block| block["text"]["text"].as_str()).collect();
        texts.join(" ")
    }
}

fn words(count: usize) -> String {
    (0..count).map(|n| format!("word{n} ")).collect()
}

fn post() -> ToolRequest {
    request(
        "slack_post_message",
        json!({ "channel": "C00000001", "text": words(4_000) }),
    )
}

/// Every word is there once, in order.
fn assert_whole(room: &Room) {
    assert_eq!(
        room.text().split_whitespace().collect::<Vec<_>>(),
        words(4_000).split_whitespace().collect::<Vec<_>>()
    );
}

/// S02.
#[tokio::test]
async fn a_long_text_is_posted_in_several_messages() {
    let thread = json!({ "channel": "C00000001", "thread_ts": "1.1", "text": words(4_000) });
    for call in [post(), request("slack_reply_in_thread", thread)] {
        let (stub, room) = room(None).await;
        let workspace = slack(&stub);
        let told = workspace.call(&call).await.unwrap().result;
        assert_whole(&room.lock());
        let kept = room.lock().messages.clone();
        let parts = kept.len();
        assert!((4..=6).contains(&parts), "{parts}");
        assert_eq!(told["ts"], "1.0");
        assert_eq!(told["messages"].as_array().unwrap().len(), parts);
        for (part, message) in kept.iter().enumerate() {
            assert_eq!(message["metadata"]["event_payload"]["part"], part);
            assert_eq!(
                message["thread_ts"],
                call.arguments.get("thread_ts").cloned().unwrap_or_default()
            );
            assert!(message["blocks"].to_string().len() <= 11_000);
        }
        // A process without any state finds all of it.
        let LookUp::Found(found) = slack(&stub).look_up(&call).await.unwrap() else {
            panic!("not found")
        };
        assert_eq!(found["messages"], told["messages"]);
        check_slack(&stub.seen());
    }
}

#[tokio::test]
async fn between_two_messages_a_429_is_waited_out() {
    let (stub, room) = room(Some((3, Failure::Limited))).await;
    slack(&stub).call(&post()).await.unwrap();
    assert_whole(&room.lock());
}

#[tokio::test]
async fn a_failure_between_two_messages_is_no_refusal_and_says_what_was_posted() {
    for failure in [
        Failure::Refused,
        Failure::AlwaysLimited,
        Failure::Before,
        Failure::After,
    ] {
        let (stub, room) = room(Some((3, failure))).await;
        let workspace = slack(&stub);
        let error = workspace.call(&post()).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");
        assert!(
            error.message.starts_with("2 of 4 messages were posted, then: "),
            "{error}"
        );
        let posted = room.lock().messages.len();
        match workspace.look_up(&post()).await {
            // It may still arrive.
            Ok(LookUp::PartlyFound(_)) => assert!(failure == Failure::Before),
            Ok(told) => panic!("a part was reported as the whole or as nothing: {told:?}"),
            Err(error) => {
                assert_eq!(error.kind, ToolErrorKind::Refused);
                assert_eq!(error.message, format!("only {posted} of 4 messages were posted"));
            }
        }
        assert_eq!(room.lock().messages.len(), posted, "a look-up posts nothing");
    }
}

/// The process dies at any message. The next one reports the whole as posted only if it is, and otherwise how much of
/// it.
#[tokio::test]
async fn a_part_is_never_reported_as_the_whole() {
    for at in 1..=4 {
        for failure in [Failure::Before, Failure::After, Failure::Refused] {
            let (stub, room) = room(Some((at, failure))).await;
            let _ = slack(&stub).call(&post()).await;
            let out = room.lock().messages.len();
            match slack(&stub).look_up(&post()).await.unwrap() {
                LookUp::Found(told) => {
                    assert_eq!((out, told["messages"].as_array().unwrap().len()), (4, 4));
                    assert_whole(&room.lock());
                }
                LookUp::PartlyFound(said) => {
                    assert!((1..4).contains(&out), "{out}");
                    let expected = format!("{out} of 4 messages were found in C00000001; the others may still arrive");
                    assert_eq!(said, expected);
                }
                LookUp::NotFound => assert_eq!(out, 0),
            }
            assert_eq!(room.lock().messages.len(), out, "a look-up posts nothing");
        }
    }
}

/// Messages that arrive out of order, or of which the first one is missing, are a part too.
#[tokio::test]
async fn any_missing_message_makes_it_a_part() {
    for missing in 0..4 {
        let (stub, room) = room(None).await;
        slack(&stub).call(&post()).await.unwrap();
        room.lock().messages.remove(missing);
        let found = slack(&stub).look_up(&post()).await.unwrap();
        assert!(
            matches!(found, LookUp::PartlyFound(_)),
            "without message {missing}: {found:?}"
        );
    }
}

#[tokio::test]
async fn the_first_message_in_doubt_is_like_a_single_one() {
    let (stub, _) = room(Some((1, Failure::Limited))).await;
    let workspace = slack(&stub);
    assert_eq!(
        workspace.call(&post()).await.unwrap_err().kind,
        ToolErrorKind::RateLimited
    );
    workspace.call(&post()).await.unwrap();
    let (stub, room) = room(Some((1, Failure::After))).await;
    let workspace = slack(&stub);
    let mut call = post();
    call.timeout = Duration::from_secs(5);
    assert_eq!(
        workspace.call(&call).await.unwrap_err().kind,
        ToolErrorKind::OutcomeUnknown
    );
    let error = workspace.look_up(&call).await.unwrap_err();
    assert_eq!(error.message, "only 1 of 4 messages were posted");
    assert_eq!(room.lock().messages.len(), 1);
}

#[tokio::test]
async fn an_update_that_needs_several_messages_is_refused_before_anything_is_sent() {
    let (stub, _) = room(None).await;
    let update = request(
        "slack_update_message",
        json!({ "channel": "ops", "ts": "1.1", "text": words(4_000) }),
    );
    let error = slack(&stub).call(&update).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused);
    assert!(error.message.contains("nothing was updated"), "{error}");
    assert!(stub.seen().is_empty());
}
