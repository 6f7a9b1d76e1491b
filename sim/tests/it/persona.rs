//! Whole turns of the persona, with tool results as copilotd sends them.

use serde_json::{Value, json};

use crate::behaviour::{send, start};

const TOOLS: [&str; 4] = [
    "zendesk_search_tickets",
    "zendesk_get_ticket",
    "zendesk_create_ticket",
    "slack_post_message",
];

/// Runs a turn to its end; `tool` answers each call. Returns the calls and the final text.
async fn turn(request: Value, tool: impl Fn(&str, &Value) -> String) -> (Vec<(String, Value)>, String) {
    let provider = start().await;
    let mut body = request;
    body["model"] = json!("m");
    let described = TOOLS
        .iter()
        .map(|name| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}));
    body["tools"] = described.collect();
    let mut calls = Vec::new();
    for _ in 0..8 {
        let response = send(&provider, &body).await;
        assert_eq!(response.status(), 200);
        let answer: Value = response.json().await.unwrap();
        let message = answer["choices"][0]["message"].clone();
        let messages = body["messages"].as_array_mut().unwrap();
        messages.push(message.clone());
        let Some(wanted) = message["tool_calls"].as_array() else {
            return (calls, message["content"].as_str().unwrap().to_owned());
        };
        for call in wanted {
            let name = call["function"]["name"].as_str().unwrap();
            let arguments = call["function"]["arguments"].as_str().unwrap();
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            let content = tool(name, &arguments);
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": content}));
            calls.push((name.to_owned(), arguments));
        }
    }
    panic!("the turn did not end: {calls:?}");
}

fn tickets(name: &str, arguments: &Value) -> String {
    let ticket = |id: u64| {
        json!({"id": id, "subject": format!("Ticket {id}"), "status": "open", "priority": "urgent",
            "description": "The payment failed with an error. It is urgent.", "requester": {"id": 7, "name": "Ada"}})
    };
    let data = match name {
        "zendesk_search_tickets" => json!({"tickets": [ticket(5), ticket(6)], "count": 2}),
        "zendesk_get_ticket" => {
            json!({"ticket": ticket(arguments["ticket_id"].as_u64().unwrap()), "comments": []})
        }
        _ => json!({"ok": true, "ts": "1.2", "channel": "C1"}),
    };
    format!("<untrusted source=\"{name}\">\n{data}\n</untrusted>")
}

#[tokio::test]
async fn the_showcase_is_played_through() {
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["total", "summary", "tickets"],
        "properties": {
            "total": {"type": "integer"},
            "summary": {"type": "string", "maxLength": 500},
            "tickets": {"type": "array", "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["id", "subject", "priority", "summary"],
                "properties": {
                    "id": {"type": "integer"},
                    "subject": {"type": "string"},
                    "priority": {"enum": ["low", "normal", "high", "urgent"]},
                    "summary": {"type": "string"},
                },
            }},
        },
    });
    let (calls, text) = turn(
        json!({
            "messages": [{"role": "user", "content": "Summarise the unread tickets, put them into the report schema, alert #support"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "report", "schema": schema, "strict": true}},
        }),
        tickets,
    )
    .await;
    let names: Vec<_> = calls.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "zendesk_search_tickets",
            "zendesk_get_ticket",
            "zendesk_get_ticket",
            "slack_post_message"
        ]
    );
    assert_eq!(calls[0].1, json!({"unread": true}));
    assert_eq!(calls[2].1, json!({"ticket_id": 6}));
    assert_eq!(calls[3].1["channel"], "#support");
    assert!(calls[3].1["text"].as_str().unwrap().contains("2 unread tickets"));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(jsonschema::is_valid(&schema, &report), "{report:#}");
    assert_eq!(report["total"], 2);
    assert_eq!(report["tickets"][1]["subject"], "Ticket 6");
}

#[tokio::test]
async fn a_rejected_call_is_told_plainly() {
    let request = json!({"messages": [{"role": "user", "content": "Create a ticket about the broken printer"}]});
    let (calls, text) = turn(request.clone(), |_, _| "The user rejected this call.".to_owned()).await;
    assert_eq!(calls.len(), 1);
    assert!(text.contains("was rejected"), "{text}");
    let (_, text) = turn(request.clone(), |_, _| json!({"status": "unknown"}).to_string()).await;
    assert!(text.contains("I cannot tell whether"), "{text}");
    let created = |_: &str, _: &Value| json!({"ticket": {"id": 77, "subject": "x"}}).to_string();
    let (_, text) = turn(request, created).await;
    assert!(text.contains("#77"), "{text}");
}

#[tokio::test]
async fn a_summary_is_made_when_asked_for() {
    let provider = start().await;
    let body = json!({"model": "m", "messages": [
        {"role": "system", "content": "You summarise conversations. Keep names and numbers."},
        {"role": "user", "content": "User: My order 4711 from Berlin is late.\nAssistant: I am sorry to hear that, let me look.\n".repeat(20)},
    ]});
    let answer: Value = send(&provider, &body).await.json().await.unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("4711"), "{text}");
    assert!(text.split_whitespace().count() <= 80);
}

#[tokio::test]
async fn a_tool_that_is_named_is_called() {
    let request =
        json!({ "messages": [{ "role": "user", "content": "Call slack_post_message with {\"channel\": \"#a\"}" }] });
    let answered = |said: &'static str| move |_: &str, _: &Value| format!("<tool_result>\n{said}\n</tool_result>");
    let (calls, text) = turn(request.clone(), answered("{\"title\": \"Orders\"}")).await;
    assert_eq!(calls, [("slack_post_message".to_owned(), json!({ "channel": "#a" }))]);
    assert_eq!(text, "Done. slack_post_message answered: {\"title\": \"Orders\"}");
    let (_, text) = turn(request, answered("{\"error\": \"no such page\"}")).await;
    assert!(text.starts_with("I could not use slack_post_message"), "{text}");
    let (calls, _) = turn(
        json!({ "messages": [{ "role": "user", "content": "call nobody" }] }),
        tickets,
    )
    .await;
    assert_eq!(calls, []);
}
