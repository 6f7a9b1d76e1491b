//! Every tool against arbitrary answers, at every step of its requests: nothing panics, and whatever fails says why.

use std::sync::Arc;

use copilotd_actors::ports::{ToolBox, ToolRequest};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::slack::workspace;
use super::stub::{Say, Seen, Stub, json as say, raw};
use super::{request, slack, zendesk};

fn ticket(id: u64) -> Value {
    json!({ "id": id, "subject": "S", "description": "D", "status": "open", "priority": "low", "requester_id": 5,
            "assignee_id": 6, "tags": ["a"], "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z" })
}

fn audit() -> Value {
    json!({ "id": 1, "created_at": "2026-01-01T00:00:00Z", "metadata": { "custom": { "copilotd_call": "x" } },
            "events": [{ "id": 2, "type": "Comment" }] })
}

fn desk(seen: &Seen) -> Say {
    let page = json!({ "has_more": false, "after_cursor": null });
    let body = match seen.path.strip_prefix("/api/v2/").unwrap() {
        "search.json" => json!({ "results": [ticket(1)], "count": 1, "next_page": null }),
        "users/show_many.json" | "users/search.json" => {
            json!({ "users": [{ "id": 5, "name": "N", "email": "e", "role": "agent" }], "count": 1 })
        }
        "users/5.json" => json!({ "user": { "id": 5, "name": "N", "phone": "1", "suspended": false } }),
        "views.json" => json!({ "views": [{ "id": 1, "title": "T", "active": true }], "meta": page }),
        "views/3/tickets.json" => json!({ "tickets": [ticket(1)], "meta": page }),
        path if path.ends_with("comments.json") => {
            let comment =
                json!({ "id": 1, "author_id": 5, "public": true, "body": "b", "attachments": [{ "file_name": "f" }] });
            json!({ "comments": [comment], "meta": page })
        }
        path if path.ends_with("audits.json") => json!({ "audits": [audit()], "meta": page }),
        _ if seen.method == "PUT" && seen.body["ticket"]["safe_update"] == true => {
            return say(409, json!({ "error": "C" }));
        }
        _ => json!({ "ticket": ticket(1), "audit": audit() }),
    };
    say(200, body)
}

fn room(seen: &Seen) -> Say {
    match seen.path.as_str() {
        "/api/conversations.history" | "/api/conversations.replies" => {
            let block = json!({ "type": "section", "block_id": "x" });
            let metadata =
                json!({ "event_type": "copilotd_call", "event_payload": { "call_id": "x", "part": 0, "parts": 2 } });
            let message = json!({ "ts": "5.0", "text": "t", "blocks": [block], "metadata": metadata });
            say(
                200,
                json!({ "ok": true, "messages": [message], "response_metadata": { "next_cursor": "" } }),
            )
        }
        _ => workspace(seen),
    }
}

/// A step and the answer that it gets instead.
type Odd = Arc<Mutex<(usize, usize, Option<Say>)>>;

/// Answers as `script` does, except one request that gets the test's answer.
async fn server(script: fn(&Seen) -> Say, odd: Odd) -> (Stub, Arc<Mutex<Vec<Say>>>) {
    let answers: Arc<Mutex<Vec<Say>>> = Arc::default();
    let kept = Arc::clone(&answers);
    let stub = Stub::start(move |seen| {
        let mut odd = odd.lock();
        odd.0 += 1;
        let answer = match &odd.2 {
            Some(answer) if odd.0 == odd.1 + 1 => answer.clone(),
            _ => script(seen),
        };
        kept.lock().push(answer.clone());
        answer
    })
    .await;
    (stub, answers)
}

fn values() -> [Value; 8] {
    [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!("x"),
        json!([]),
        json!({}),
        json!([null, 1, "x", [], {}]),
    ]
}

/// All values that differ from `value` in one place, which has something odd, or nothing.
fn variants(value: &Value) -> Vec<Value> {
    let mut all = values().to_vec();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let mut without = members.clone();
                without.remove(name);
                all.push(Value::Object(without));
                all.extend(variants(member).into_iter().map(|odd| {
                    let mut members = members.clone();
                    members.insert(name.clone(), odd);
                    Value::Object(members)
                }));
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                all.extend(variants(item).into_iter().map(|odd| {
                    let mut items = items.clone();
                    items[at] = odd;
                    Value::Array(items)
                }));
            }
        }
        _ => {}
    }
    all
}

fn pages() -> Vec<Say> {
    let deep = "[".repeat(100_000);
    let bodies = [
        "",
        " ",
        "<html><body>Down</body></html>",
        "{\"ok\": tru",
        "\u{feff}{}",
        "NaN",
        deep.as_str(),
    ];
    let pages = bodies.map(|body| raw(200, body.as_bytes().to_vec()));
    let others = [
        raw(200, vec![0xff, 0xfe, 0]),
        raw(204, ""),
        raw(200, vec![0x1f, 0x8b, 8, 0]).header("content-encoding", "gzip"),
        raw(500, "x"),
        raw(429, "").header("retry-after", "-5"),
        raw(429, "").header("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ];
    pages.into_iter().chain(others).collect()
}

async fn try_all(script: fn(&Seen) -> Say, calls: Vec<ToolRequest>, make: impl Fn(&Stub) -> Box<dyn ToolBox>) {
    let odd: Odd = Arc::default();
    let (stub, answers) = server(script, Arc::clone(&odd)).await;
    for mut call in calls {
        call.timeout = std::time::Duration::from_millis(500);
        for look_up in [false, true] {
            let run = async |step: usize, answer: Option<Say>| {
                *odd.lock() = (0, step, answer);
                answers.lock().clear();
                // A new one each time: nothing is remembered.
                let toolbox = make(&stub);
                match look_up {
                    false => toolbox.call(&call).await.map(|reply| reply.result.to_string().len()),
                    true => toolbox.look_up(&call).await.map(|_| 0),
                }
            };
            let _ = run(0, None).await;
            let usual = answers.lock().clone();
            for (step, answer) in usual.iter().enumerate() {
                let body: Value = serde_json::from_slice(&answer.body).unwrap();
                let odd = variants(&body).into_iter().map(|body| say(200, body)).chain(pages());
                for answer in odd {
                    let shown = String::from_utf8_lossy(&answer.body)
                        .chars()
                        .take(300)
                        .collect::<String>();
                    match run(step, Some(answer)).await {
                        Ok(length) => assert!(length <= 24 * 1024, "{} {shown}", call.tool),
                        Err(error) => assert!(
                            (5..1000).contains(&error.message.len()),
                            "{} {shown}: {error}",
                            call.tool
                        ),
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn no_answer_of_zendesk_panics_a_tool() {
    let calls = vec![
        request("zendesk_search_tickets", json!({ "unread": true })),
        request("zendesk_search_tickets", json!({ "view_id": 3 })),
        request("zendesk_list_views", json!({})),
        request("zendesk_get_ticket", json!({ "ticket_id": 1, "comments": true })),
        request("zendesk_list_comments", json!({ "ticket_id": 1 })),
        request("zendesk_create_ticket", json!({ "subject": "s", "body": "b" })),
        request(
            "zendesk_update_ticket",
            json!({ "ticket_id": 1, "status": "open", "expected_updated_at": "2026-01-01T00:00:00Z" }),
        ),
        request(
            "zendesk_add_comment",
            json!({ "ticket_id": 1, "body": "b", "public": true }),
        ),
        request("zendesk_get_user", json!({ "user_id": 5 })),
        request("zendesk_find_users", json!({ "query": "nn" })),
    ];
    try_all(desk, calls, |stub| Box::new(zendesk(stub))).await;
}

#[tokio::test]
async fn no_answer_of_slack_panics_a_tool() {
    let calls = vec![
        request("slack_post_message", json!({ "channel": "support", "text": "x" })),
        request(
            "slack_reply_in_thread",
            json!({ "channel": "C00000001", "thread_ts": "1.1", "text": "x" }),
        ),
        request(
            "slack_update_message",
            json!({ "channel": "support", "ts": "5.0", "text": "x" }),
        ),
        request("slack_find_channel", json!({ "name": "support" })),
        request("slack_find_user", json!({ "name": "ann" })),
        request("slack_find_user", json!({ "email": "ann@x.test" })),
        request(
            "slack_send_direct_message",
            json!({ "user": "ann@x.test", "text": "x" }),
        ),
    ];
    try_all(room, calls, |stub| Box::new(slack(stub))).await;
}
