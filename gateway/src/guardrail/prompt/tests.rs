//! Bodies under a rule for prompts.
#![expect(clippy::disallowed_methods, reason = "tests open scopes")]

use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet};
use copilotd_actors::guardrails::Guardrails;
use copilotd_actors::tenancy::TenantScope;
use serde_json::json;

use super::*;
use crate::access::TenantPolicy;
use crate::error::GatewayErrorKind;
use crate::guardrail::Guard;

const WORD: &str = "bluebird";

/// The outcome for a body under a rule that forbids "drop table" and [`WORD`].
fn admission(body: &str) -> Option<GatewayErrorKind> {
    let rule = |name: &str, literal: &str| Rule {
        name: name.to_owned(),
        literal: literal.to_owned(),
        action: OnMatch::Block,
        confusables: false,
    };
    let rules = RuleSet::new([rule("sql", "drop table"), rule("codename", WORD)]);
    let mut policy = TenantPolicy::default();
    policy.rules.input = rules;
    let guard = Guard {
        guardrails: Guardrails::default(),
        scope: TenantScope::from_verified("acme".parse().unwrap()),
        policy: Arc::new(policy),
    };
    let body = Arc::new(ChatBody::parse(body.as_bytes()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(guard.admit(&body)).err().map(|error| error.kind)
}

#[test]
fn everything_in_a_body_is_checked() {
    let forbidden = Some(GatewayErrorKind::ContentPolicy);
    for more in [
        r#""Messages": [{"role": "system", "content": "DROP TABLE"}]"#,
        r#""MESSAGES": "drop table""#,
        r#""tools": [{"type": "function", "function": {"name": "x", "description": "drop table"}}]"#,
        r#""tools": [{"type": "function", "function": {"name": "x", "parameters": {"properties": {"drop table": {}}}}}]"#,
        r#""functions": [{"name": "drop table"}]"#,
        r#""stop": "drop table""#,
        r#""stop": ["a", "drop\u0020table"]"#,
        r#""prediction": {"type": "content", "content": [{"type": "text", "text": "drop table"}]}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["drop table"]}}}"#,
        r#""response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"drop table": {}}}}}"#,
        r#""user": "drop table""#,
        r#""metadata": {"drop table": "x"}"#,
        r#""metadata": {"x": "drop table"}"#,
        r#""drop table": 1"#,
        r#""x_own": {"a": [[{"b": "ＤＲＯＰ\u200b table"}]]}"#,
        r#""tool_choice": {"type": "drop table"}"#,
        r#""stream_options": {"x": "drop\n\ttable"}"#,
        r#""x": {"role": "system", "content": "drop table"}"#,
    ] {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],{more}}}"#);
        assert_eq!(admission(&body), forbidden, "{more}");
    }
    for message in [
        r#"{"role":"user","name":"drop table","content":"hi"}"#,
        r#"{"role":"tool","tool_call_id":"drop table","content":"hi"}"#,
        r#"{"role":"tool","content":"{\"a\": \"drop\\u0020table\"}"}"#,
        r#"{"role":"user","content":[{"type":"file","file":{"file_data":"drop table"}}]}"#,
        r#"{"role":"user","content":[{"type":"file","file":{"file_data":"data:text/plain,drop table"}}]}"#,
        r#"{"role":"user","content":[{"type":"file","file":{"filename":"drop table","file_data":"data:;base64,AAAA"}}]}"#,
        r#"{"role":"user","content":[{"type":"drop table","text":"hi"}]}"#,
        r#"{"role":"System","content":"drop table"}"#,
        r#"{"role":"system ","content":"drop table"}"#,
        r#"{"Role":"user","role":"system","content":"drop table"}"#,
        r#"{"role":"user","role":"system","content":"drop table"}"#,
        r#"{"content":"drop table"}"#,
        r#"{"role":["system"],"content":"drop table"}"#,
        r#""drop table""#,
        r#"["drop table"]"#,
    ] {
        let body = format!(r#"{{"model":"m","messages":[{message}]}}"#);
        let ambiguous = message.starts_with(r#"{"role":"user","role""#);
        let expected = if ambiguous {
            Some(GatewayErrorKind::Invalid)
        } else {
            forbidden
        };
        assert_eq!(admission(&body), expected, "{message}");
    }
}

#[test]
fn a_duplicate_name_is_refused() {
    for (messages, more) in [
        (r#"[{"role":"user","content":"hi","content":"ho"}]"#, ""),
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}]"#,
            "",
        ),
        (
            "[]",
            r#","tools":[{"type":"function","function":{"name":"a","name":"b"}}]"#,
        ),
        ("[]", r#","x":{"a":{"b":1,"b":2}}"#),
    ] {
        let body = format!(r#"{{"model":"m","messages":{messages}{more}}}"#);
        assert_eq!(admission(&body), Some(GatewayErrorKind::Invalid), "{body}");
    }
}

#[test]
fn what_the_protocol_and_the_application_say_is_not_checked() {
    let image = format!("data:image/png;base64,{}", "droptable".repeat(20));
    let body = json!({
        "model": "drop table",
        "messages": [
            {"role": "system", "content": "Never say drop table."},
            {"role": "developer", "content": "drop table", "name": "drop table"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function": {"arguments": "drop table"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "[1, 2.5, true, null]"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": image}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "temperature": 0.5, "n": 1, "stream": false, "logit_bias": {"50256": -100},
    });
    assert_eq!(admission(&body.to_string()), None);
}

#[test]
fn data_has_its_place_in_parts_of_messages_only() {
    let forbidden = Some(GatewayErrorKind::ContentPolicy);
    let url = format!("data:;base64,{WORD}");
    let long = WORD.repeat(10);
    let body = |members: serde_json::Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        body.to_string()
    };
    let schema = json!({"type": "object", "properties": {"file": {"default": {"data": &long, "url": &url}}}});
    for members in [
        json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": &schema}}]}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": &schema}}}),
        json!({"metadata": {"file": {"data": &long}}}),
        json!({"file": {"data": &long}}),
        json!({"file": &url}),
        json!({"content": [{"type": "file", "file": {"data": &long}}]}),
        json!({"prediction": {"content": [{"type": "file", "file": {"data": &long}}]}}),
    ] {
        assert_eq!(admission(&body(members.clone())), forbidden, "{members}");
    }
    let head = |head: &str| format!("data:{head};base64,AAAA");
    for message in [
        json!({"role": "user", "content": "hi", "file": {"data": &long}}),
        json!({"role": "user", "content": {"file": {"data": &long}}}),
        json!({"role": "user", "content": [[{"type": "file", "file": {"data": &long}}]]}),
        json!({"role": "user", "content": [{"type": "text", "text": "hi", "x": {"file": {"data": &long}}}]}),
        json!({"role": "user", "content": [{"type": "text", "text": &url}]}),
        json!({"role": "user", "content": [{"type": "file", "file": {"filename": &url, "file_data": &long}}]}),
        json!({"role": "user", "content": [{"type": "file", "file": {"file": {"data": &long}}}]}),
        json!({"role": "user", "content": [{"type": "file", "file": {"data": [&long]}}]}),
        json!({"role": "user", "content": [{"type": "file", "file": [{"data": &long}]}]}),
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": head("drop table please")}}]}),
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": &long}}]}),
        json!({"role": "user", "content": [{"type": "file", "file": {"file_data": head("drop table")}}]}),
        json!({"role": "user", "content": [{"type": "image_url", "image_url": head("drop table")}]}),
        json!([[{"type": "file", "file": {"data": &long}}]]),
    ] {
        let body = body(json!({"messages": [message]}));
        assert_eq!(admission(&body), forbidden, "{body}");
    }
    for part in [
        json!({"type": "image_url", "image_url": {"url": &url, "detail": "low"}}),
        json!({"type": "image_url", "image_url": &url}),
        json!({"type": "input_audio", "input_audio": {"data": &long, "format": "wav"}}),
        json!({"type": "file", "file": {"file_data": &url, "filename": "a.pdf"}}),
    ] {
        for role in ["user", "tool"] {
            let body = body(json!({"messages": [{"role": role, "content": [&part]}]}));
            assert_eq!(admission(&body), None, "{body}");
        }
    }
}
