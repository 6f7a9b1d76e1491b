use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use copilotd_actors::domain::policy::Repeat;
use serde_json::{Value, json};

use super::definitions;

#[test]
fn every_file_is_a_tool_and_every_tool_has_a_file() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/tools");
    let files: BTreeSet<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".json").unwrap().to_owned())
        .collect();
    let tools: BTreeSet<String> = definitions().keys().cloned().collect();
    assert_eq!(files, tools);
    for (name, tool) in definitions() {
        assert_eq!(*name, tool.name);
        assert_eq!(name.split('_').next(), Some(tool.system.as_str()));
        assert!(tool.description.len() > 20, "{name}");
        assert!(
            tool.timeout >= Duration::from_secs(5) && tool.timeout <= Duration::from_secs(120),
            "{name}"
        );
    }
}

#[test]
fn repeating_is_described_truthfully() {
    let of = |class: fn(Repeat) -> bool| -> Vec<&str> {
        let tools = definitions().values().filter(|tool| class(tool.repeat));
        tools.map(|tool| tool.name.as_str()).collect()
    };
    assert_eq!(
        of(|repeat| repeat == Repeat::LookUp),
        [
            "slack_post_message",
            "slack_reply_in_thread",
            "slack_send_direct_message",
            "slack_update_message",
            "zendesk_add_comment",
            "zendesk_update_ticket",
        ]
    );
    assert_eq!(
        of(|repeat| repeat != Repeat::Read && repeat != Repeat::LookUp),
        ["zendesk_create_ticket"]
    );
    let create = definitions()["zendesk_create_ticket"].repeat;
    assert_eq!(create, Repeat::Keyed(Duration::from_secs(7200)));
}

#[test]
fn every_schema_is_strict_and_bounded() {
    for (name, tool) in definitions() {
        bounded(name, tool.parameters.source());
        let mut extra = json!({});
        extra["no_such_argument"] = json!(1);
        assert!(tool.parameters.check(&extra).is_err(), "{name}");
    }
}

fn bounded(at: &str, schema: &Value) {
    match schema["type"].as_str() {
        Some("object") => {
            assert_eq!(schema["additionalProperties"], false, "{at}");
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{at}.{name} has no description");
                bounded(&format!("{at}.{name}"), property);
            }
        }
        Some("array") => {
            assert!(schema["maxItems"].is_u64(), "{at}");
            bounded(&format!("{at}[]"), &schema["items"]);
        }
        Some("string") => assert!(schema["maxLength"].is_u64() || schema["enum"].is_array(), "{at}"),
        Some("integer") => assert!(schema["minimum"].is_i64() && schema["maximum"].is_i64(), "{at}"),
        Some("boolean") => {}
        other => panic!("{at}: {other:?}"),
    }
}

#[test]
fn arguments_that_are_wrong_are_refused_by_the_schema() {
    for (tool, arguments) in [
        ("zendesk_search_tickets", json!({ "limit": 51 })),
        ("zendesk_search_tickets", json!({ "status": "unread" })),
        ("zendesk_get_ticket", json!({})),
        ("zendesk_get_ticket", json!({ "ticket_id": "12" })),
        ("zendesk_get_ticket", json!({ "ticket_id": -1 })),
        (
            "zendesk_update_ticket",
            json!({ "ticket_id": 1, "tags": ["two words"] }),
        ),
        (
            "zendesk_update_ticket",
            json!({ "ticket_id": 1, "expected_updated_at": "yesterday" }),
        ),
        ("zendesk_add_comment", json!({ "ticket_id": 1, "body": "hello" })),
        (
            "zendesk_create_ticket",
            json!({ "subject": "a", "body": "b", "requester_email": "nobody" }),
        ),
        (
            "slack_reply_in_thread",
            json!({ "channel": "C1", "thread_ts": "now", "text": "x" }),
        ),
        ("slack_post_message", json!({ "channel": "C1", "text": "" })),
    ] {
        assert!(
            definitions()[tool].parameters.check(&arguments).is_err(),
            "{tool} {arguments}"
        );
    }
}
