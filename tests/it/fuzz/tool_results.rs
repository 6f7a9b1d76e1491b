//! Answers of Zendesk and Slack: whatever a vendor sends, a tool returns a result or an error.

use std::sync::Arc;

use copilotd_actors::ports::ToolBox;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::text;
use crate::tools::stub::{Stub, raw};
use crate::tools::{request, slack, zendesk};

/// A call of each tool with only the required arguments.
fn calls() -> Vec<(&'static str, Value)> {
    vec![
        ("zendesk_search_tickets", json!({ "query": "printer" })),
        ("zendesk_get_ticket", json!({ "ticket_id": 1 })),
        ("zendesk_list_comments", json!({ "ticket_id": 1 })),
        ("zendesk_get_user", json!({ "user_id": 1 })),
        ("zendesk_find_users", json!({ "query": "ada" })),
        ("zendesk_list_views", json!({})),
        ("zendesk_create_ticket", json!({ "subject": "a", "body": "b" })),
        (
            "zendesk_add_comment",
            json!({ "ticket_id": 1, "body": "b", "public": false }),
        ),
        ("zendesk_update_ticket", json!({ "ticket_id": 1, "status": "open" })),
        ("slack_find_channel", json!({ "name": "general" })),
        ("slack_find_user", json!({ "email": "ada@acme.test" })),
        ("slack_post_message", json!({ "channel": "C0123456789", "text": "a" })),
        (
            "slack_reply_in_thread",
            json!({ "channel": "C0123456789", "thread_ts": "1790000000.000100", "text": "a" }),
        ),
        (
            "slack_send_direct_message",
            json!({ "user": "U0123456789", "text": "a" }),
        ),
        (
            "slack_update_message",
            json!({ "channel": "C0123456789", "ts": "1790000000.000100", "text": "a" }),
        ),
    ]
}

/// Names of members in vendors' answers, so that a grown body passes the first checks.
const SHAPES: &[&str] = &[
    "{}",
    "{\"ticket\":@}",
    "{\"tickets\":@,\"meta\":@}",
    "{\"results\":@,\"count\":@,\"next_page\":@}",
    "{\"comments\":[@,@]}",
    "{\"user\":{\"id\":@,\"name\":@}}",
    "{\"users\":[@]}",
    "{\"views\":@}",
    "{\"ticket\":{\"id\":@,\"subject\":@,\"tags\":@,\"via\":@},\"audit\":@}",
    "{\"ok\":true,\"channel\":@,\"ts\":@,\"message\":@}",
    "{\"ok\":true,\"channels\":[@,@],\"response_metadata\":@}",
    "{\"ok\":true,\"user\":@}",
    "{\"ok\":true,\"channel\":{\"id\":@}}",
    "{\"ok\":@,\"error\":@}",
    "@",
    "[@,@]",
];

#[test]
fn fuzz_tool_results() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answer = Arc::new(Mutex::new((200_u16, String::new())));
    let script = Arc::clone(&answer);
    let stub = runtime.block_on(Stub::start(move |_| {
        let (status, body) = script.lock().clone();
        raw(status, body).header("content-type", "application/json")
    }));
    let (zendesk, slack, calls) = (zendesk(&stub), slack(&stub), calls());
    super::fuzz(512, |input| {
        let mut choices = text::Choices::new(input);
        let (tool, arguments) = &calls[usize::from(choices.byte()) % calls.len()];
        let status = choices.of(&[200, 200, 200, 201, 400, 404, 409, 422, 500]);
        let mut body = choices.of(SHAPES).to_owned();
        while body.contains('@') {
            body = body.replacen('@', &text::json(choices.take(24)).replace('@', ""), 1);
        }
        *answer.lock() = (status, body);
        let request = request(tool, arguments.clone());
        let reply = if tool.starts_with("slack") {
            runtime.block_on(slack.call(&request))
        } else {
            runtime.block_on(zendesk.call(&request))
        };
        if let Ok(reply) = reply {
            assert!(reply.result.to_string().len() < 256 * 1024, "{tool}");
        }
    });
}
