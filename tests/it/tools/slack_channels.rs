//! Channels by name: on any page, after a 429, after a rename.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use copilotd_actors::ports::{LookUp, ToolBox, ToolErrorKind, ToolRequest};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::specs::check_slack;
use super::stub::{Say, Seen, Stub, json as say, raw};
use super::{call_id, request, slack};

fn ok(mut body: Value) -> Say {
    body["ok"] = json!(true);
    say(200, body)
}

fn posted(seen: &Seen) -> Say {
    ok(json!({ "channel": seen.body["channel"], "ts": "1.1" }))
}

fn post(channel: &str) -> ToolRequest {
    request("slack_post_message", json!({ "channel": channel, "text": "x" }))
}

/// A list of `pages` pages, with one channel `page-N` on each.
fn page(seen: &Seen, pages: usize) -> Say {
    let at: usize = seen.param("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let next = if at + 1 < pages {
        (at + 1).to_string()
    } else {
        String::new()
    };
    let channel = json!({ "id": format!("C0000{at:04}"), "name": format!("page-{at}") });
    ok(json!({ "channels": [channel], "response_metadata": { "next_cursor": next } }))
}

fn count(stub: &Stub, method: &str) -> usize {
    stub.lines().iter().filter(|line| line.ends_with(method)).count()
}

/// S01.
#[tokio::test]
async fn a_channel_on_any_page_is_posted_to() {
    for at in [0, 19, 20, 25, 249] {
        let stub = Stub::start(move |seen| match seen.path.as_str() {
            "/api/conversations.list" => page(seen, 250),
            _ => posted(seen),
        })
        .await;
        let told = slack(&stub).call(&post(&format!("page-{at}"))).await.unwrap().result;
        assert_eq!(told["channel"], format!("C0000{at:04}"));
        assert_eq!(count(&stub, "conversations.list"), at + 1, "later pages are not read");
    }
}

#[tokio::test]
async fn a_list_without_end_is_bounded_and_says_so() {
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pages);
    let stub = Stub::start(move |_| {
        let n = counted.fetch_add(1, Ordering::SeqCst);
        ok(json!({ "channels": [], "response_metadata": { "next_cursor": n } }))
    })
    .await;
    let error = slack(&stub).call(&post("nowhere")).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused);
    assert!(error.message.contains("give the channel's id"), "{error}");
    assert_eq!(pages.load(Ordering::SeqCst), 250);
    let stub = Stub::start(|_| ok(json!({ "channels": [], "response_metadata": { "next_cursor": "same" } }))).await;
    let error = slack(&stub).call(&post("nowhere")).await.unwrap_err();
    assert!(error.message.contains("give the channel's id"), "{error}");
    assert_eq!(stub.seen().len(), 2, "the same page again is the end");
}

/// S05: whatever interrupts the list, the next try continues from that page.
#[tokio::test]
async fn a_list_that_was_interrupted_goes_on_from_that_page() {
    for (trouble, kind) in [
        (raw(429, "").header("retry-after", "0"), ToolErrorKind::RateLimited),
        (
            say(200, json!({ "ok": false, "error": "ratelimited" })),
            ToolErrorKind::RateLimited,
        ),
        (raw(503, ""), ToolErrorKind::Unreachable),
        (raw(200, "<html>"), ToolErrorKind::Unreachable),
    ] {
        let tries = AtomicUsize::new(0);
        let stub = Stub::start(move |seen| match seen.path.as_str() {
            "/api/conversations.list" => {
                let is_third = seen.param("cursor") == Some("2");
                if is_third && tries.fetch_add(1, Ordering::SeqCst) < 2 {
                    return trouble.clone();
                }
                page(seen, 6)
            }
            _ => posted(seen),
        })
        .await;
        let workspace = slack(&stub);
        for _ in 0..2 {
            assert_eq!(workspace.call(&post("page-5")).await.unwrap_err().kind, kind);
        }
        let told = workspace.call(&post("page-5")).await.unwrap().result;
        assert_eq!(told["channel"], "C00000005");
        let seen = stub.seen();
        let cursors: Vec<&str> = seen
            .iter()
            .filter(|one| one.method == "GET")
            .map(|one| one.param("cursor").unwrap_or(""))
            .collect();
        assert_eq!(cursors, ["", "1", "2", "2", "2", "3", "4", "5"]);
    }
}

#[tokio::test]
async fn a_cursor_that_slack_no_longer_knows_begins_the_list_again_once() {
    let stub = Stub::start(move |seen| match seen.path.as_str() {
        "/api/conversations.list" if seen.param("cursor").is_some() => {
            say(200, json!({ "ok": false, "error": "invalid_cursor" }))
        }
        "/api/conversations.list" => page(seen, 3),
        _ => posted(seen),
    })
    .await;
    let error = slack(&stub).call(&post("page-2")).await.unwrap_err();
    assert!(error.message.contains("invalid_cursor"), "{error}");
    assert_eq!(stub.seen().len(), 4);
}

/// Two channels that swap names when the flag is set.
async fn renamed(info: bool) -> (Stub, Arc<AtomicBool>) {
    let swapped = Arc::new(AtomicBool::new(false));
    let is_swapped = Arc::clone(&swapped);
    let stub = Stub::start(move |seen| {
        let names = match is_swapped.load(Ordering::SeqCst) {
            false => [("C00000001", "ops"), ("C00000002", "other")],
            true => [("C00000001", "ops-old"), ("C00000002", "ops")],
        };
        match seen.path.as_str() {
            "/api/conversations.list" => {
                let channels = names.map(|(id, name)| json!({ "id": id, "name": name }));
                ok(json!({ "channels": channels }))
            }
            "/api/conversations.info" if info => {
                let named = names.iter().find(|(id, _)| seen.param("channel") == Some(id)).unwrap();
                ok(json!({ "channel": { "id": named.0, "name": named.1, "is_archived": false } }))
            }
            "/api/conversations.info" => say(200, json!({ "ok": false, "error": "missing_scope", "needed": "x" })),
            _ => posted(seen),
        }
    })
    .await;
    (stub, swapped)
}

#[tokio::test]
async fn a_name_stands_for_the_channel_that_has_it_now() {
    for info in [true, false] {
        let (stub, swapped) = renamed(info).await;
        let workspace = slack(&stub);
        for _ in 0..2 {
            assert_eq!(
                workspace.call(&post("#ops")).await.unwrap().result["channel"],
                "C00000001"
            );
        }
        swapped.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(
                workspace.call(&post("#ops")).await.unwrap().result["channel"],
                "C00000002"
            );
        }
        assert_eq!(
            workspace.call(&post("ops-old")).await.unwrap().result["channel"],
            "C00000001"
        );
        let gone = workspace.call(&post("other")).await.unwrap_err();
        assert_eq!(gone.kind, ToolErrorKind::Refused);
        check_slack(&stub.seen());
    }
}

/// A message that was posted before its channel was renamed is found after a restart: it is not posted again elsewhere.
#[tokio::test]
async fn a_look_up_by_a_name_looks_where_the_name_was() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&asked);
    let stub = Stub::start(move |seen| match seen.path.as_str() {
        "/api/conversations.list" => ok(json!({ "channels": [
            { "id": "C00000001", "name": "ops-old", "previous_names": ["ops"] },
            { "id": "C00000002", "name": "ops" },
        ] })),
        _ => {
            let channel = seen.param("channel").unwrap().to_owned();
            kept.lock().push(channel.clone());
            let block = json!({ "block_id": format!("copilotd_call:{}", call_id(7)) });
            let messages = if channel == "C00000001" {
                json!([{ "ts": "9.9", "blocks": [block] }])
            } else {
                json!([])
            };
            ok(json!({ "messages": messages }))
        }
    })
    .await;
    let LookUp::Found(found) = slack(&stub).look_up(&post("ops")).await.unwrap() else {
        panic!("not found")
    };
    assert_eq!((&found["channel"], &found["ts"]), (&json!("C00000001"), &json!("9.9")));
    assert_eq!(asked.lock()[0], "C00000001");
}
