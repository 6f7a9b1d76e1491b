//! Deny rules for everything that readers see, models read and tools receive.

use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::view::{TurnView, public_event};
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet};
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::Policy;
use serde_json::{Value, json};

use crate::acts::*;
use crate::support::{Act, Scenario, case, case_with, policy, turn};

/// Rules for answers: one redacts, one blocks. The prompt must not contain "secret".
fn guarded() -> Policy {
    let rule = |name: &str, literal: &str, action| Rule {
        name: name.into(),
        literal: literal.into(),
        action,
        confusables: false,
    };
    let mut policy = policy();
    policy.rules.output = RuleSet::new([
        rule("codename", "Bluebird", OnMatch::Redact),
        rule("key", "sk-", OnMatch::Block),
    ]);
    policy
}

/// Everything that a reader of the turn may ever see.
fn shown(scenario: &Scenario) -> String {
    let records: Vec<Record> = scenario
        .log()
        .filter(|record| record.turn == Some(turn(1)))
        .cloned()
        .collect();
    let events: Vec<Value> = records
        .iter()
        .filter_map(public_event)
        .map(|event| event.data)
        .collect();
    let id = ConversationId::new(uuid::Uuid::from_u128(1));
    let view = TurnView::fold(id, &records, None).expect("a turn");
    format!("{} {}", json!(events), serde_json::to_string(&view).expect("a view")).to_lowercase()
}

fn replied(result: Option<Value>, error: Option<&str>) -> Act {
    let (result, error) = (result, error.map(str::to_owned));
    Act::Do(Box::new(move |scenario| Command::ToolReplied {
        turn: turn(1),
        call: scenario.call(0),
        status: ToolStatus::Succeeded,
        result: result.clone(),
        error: error.clone(),
    }))
}

#[test]
fn a_request_is_screened_as_a_whole() {
    let blocked = "t1 turn.queued
         t1 guardrail.triggered input no_secrets block
         t1 turn.failed guardrail_blocked";
    let schema = |schema: Value| submit_with_schema(1, schema);
    let metadata = |value: Value| {
        submission(1, "hi", move |command| {
            if let Command::Submit { metadata, .. } = command {
                *metadata = value.as_object().cloned().unwrap_or_default();
            }
        })
    };
    for act in [
        submission(1, "a SeCret", |_| {}),
        submission(1, "a ｓｅ\u{200b}ｃret", |_| {}),
        submission(1, r#"{"a":"se\u0063ret"}"#, |_| {}),
        schema(json!({ "type": "object", "properties": { "secret": {} } })),
        schema(json!({ "description": "tell the secret" })),
        schema(json!({ "enum": [["a", { "x": "secret" }]] })),
        metadata(json!({ "note": ["secret"] })),
        metadata(json!({ "secret": 1 })),
    ] {
        case(vec![], act, blocked);
    }
    case(
        vec![],
        metadata(json!({ "note": "fine" })),
        "t1 turn.queued\n t1 turn.started 1",
    );
}

#[test]
fn a_forbidden_call_is_rejected_and_shown_to_nobody() {
    for (name, arguments, rule) in [
        ("read", json!({ "n": "bluebird" }), "codename"),
        ("read", json!({ "Bluebird": 1 }), "codename"),
        ("read", json!({ "n": ["x", { "y": "ＢＬＵＥ\u{ad}bird" }] }), "codename"),
        ("read", json!({ "n": "{\"x\": \"blue\\u0062ird\"}" }), "codename"),
        ("read", json!("not json: sk-1"), "key"),
        ("read", json!({ "n": "the secret" }), "no_secrets"),
        ("ask", json!({ "n": "sk-1" }), "key"),
        // As the model wrote it: the parsed object has only the second member.
        ("read", json!(r#"{"n":"bluebird","n":1}"#), "codename"),
        ("read", json!(r#"{"n":1,"m":{"n":"sk-1","n":2}}"#), "key"),
    ] {
        let mut scenario = Scenario::new(guarded());
        scenario.play(&submit(1));
        let out = scenario.play(&asks_with(vec![(name, arguments.clone())]));
        let expected = format!(
            "t1 message.completed tool_calls '' c0:{name}\nt1 guardrail.triggered tool {rule} block\n\
             t1 tool.finished c0 rejected"
        );
        assert_eq!(out, expected, "{arguments}");
        let shown = shown(&scenario);
        for literal in ["bluebird", "ｂｌｕｅ", "blue\\", "sk-", "secret\""] {
            assert!(!shown.contains(literal), "{literal}: {shown}");
        }
        assert!(
            scenario
                .prompt()
                .contains(&format!("the rule \"{rule}\" does not allow this call"))
        );
    }
    case_with(
        guarded(),
        vec![submit(1)],
        asks_with(vec![("bluebird_tool", json!({})), ("read", json!({ "n": 1 }))]),
        "t1 message.completed tool_calls '' c0:[redacted] c1:read
         t1 guardrail.triggered tool codename block
         t1 tool.finished c0 rejected
         t1 tool.called c1 read {\"n\":1}",
    );
}

#[test]
fn approval_decisions_are_screened() {
    let waiting = || vec![submit(1), asks(&["ask"])];
    for act in [
        approve_edited(1, 0, json!({ "n": "Bluebird" })),
        approve_edited(1, 0, json!({ "s\u{200b}k-": 1 })),
        approve_edited(1, 0, json!({ "n": "secret" })),
        refuse_because(1, 0, "because of BLUEBIRD"),
    ] {
        let mut scenario = Scenario::new(guarded());
        waiting().iter().for_each(|act| drop(scenario.play(act)));
        let out = scenario.play(&act);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("t1 guardrail.triggered tool "), "{out}");
        let rest = ["t1 approval.decided c0 rejected system", "t1 tool.finished c0 rejected"];
        assert_eq!(lines[1..], rest, "{out}");
        let shown = shown(&scenario);
        for literal in ["bluebird", "s\u{200b}k-", "\"secret"] {
            assert!(!shown.contains(literal), "{shown}");
        }
    }
}

#[test]
fn what_a_tool_answers_is_shown_only_as_rules_allow() {
    let open = || vec![submit(1), asks(&["read"])];
    for (result, error, out, kept) in [
        (
            Some(json!({ "name": "Project BLUEBIRD", "n": [1] })),
            None,
            "t1 guardrail.triggered tool codename redact\nt1 tool.finished c0 succeeded",
            Some(json!({ "name": "Project [redacted]", "n": [1] })),
        ),
        (
            Some(json!({ "token": "sk-123" })),
            None,
            "t1 guardrail.triggered tool key block\nt1 tool.finished c0 succeeded",
            None,
        ),
        (
            Some(json!({ "bluebird": 1 })),
            None,
            "t1 guardrail.triggered tool codename block\nt1 tool.finished c0 succeeded",
            None,
        ),
        (
            None,
            Some("no such thing: Bluebird"),
            "t1 guardrail.triggered tool codename redact\nt1 tool.finished c0 succeeded",
            None,
        ),
        (
            Some(json!("fine")),
            None,
            "t1 tool.finished c0 succeeded",
            Some(json!("fine")),
        ),
    ] {
        let mut scenario = Scenario::new(guarded());
        open().iter().for_each(|act| drop(scenario.play(act)));
        assert_eq!(scenario.play(&replied(result, error)), out);
        let shown = shown(&scenario);
        assert!(!shown.contains("bluebird") && !shown.contains("sk-"), "{shown}");
        assert!(!scenario.prompt().to_lowercase().contains("bluebird"));
        let last = scenario.log().last().map(|record| record.event.clone());
        assert!(matches!(last, Some(Event::ToolFinished { result, .. }) if result == kept));
    }
    // Cut off within a literal: the rest does not match.
    let mut scenario = Scenario::new(guarded());
    open().iter().for_each(|act| drop(scenario.play(act)));
    scenario.play(&replied(Some(json!("bluebird ".repeat(500))), None));
    assert!(!shown(&scenario).contains("bluebird"));
}

#[test]
fn details_quote_no_answer() {
    let mut scenario = Scenario::new(guarded());
    scenario.play(&submit_schema(1));
    scenario.play(&says("{\"a\": \"what nobody may see\"}"));
    scenario.play(&says("what nobody may see"));
    assert!(!shown(&scenario).contains("nobody"), "{}", shown(&scenario));
    // Records of an earlier version contain it.
    let mut old: Record = scenario
        .log()
        .find(|record| matches!(record.event, Event::GuardrailTriggered { .. }))
        .cloned()
        .expect("a slip");
    if let Event::GuardrailTriggered { detail, .. } = &mut old.event {
        *detail = Some("what nobody may see".into());
    }
    scenario.appends.push(vec![old]);
    assert!(!shown(&scenario).contains("nobody"));
}

#[test]
fn what_a_provider_says_about_its_failure_is_kept_only_as_rules_allow() {
    for (message, lines, kept) in [
        ("the model is overloaded", "", "the model is overloaded"),
        (
            "no such tool: BLUEBIRD",
            "t1 guardrail.triggered output codename redact\n",
            "a guardrail rule withholds the provider's message",
        ),
    ] {
        let mut scenario = Scenario::new(guarded());
        scenario.play(&submit(1));
        let failed = Act::Do(Box::new(move |scenario| {
            let Act::Do(make) = fails(FailureClass::Rejected) else {
                unreachable!("a command")
            };
            let mut command = make(scenario);
            if let Command::ModelFailed { failure, .. } = &mut command {
                message.clone_into(&mut failure.message);
            }
            command
        }));
        let out = scenario.play(&failed);
        assert!(out.starts_with(&format!("{lines}t1 message.reset")), "{out}");
        let detail = scenario.log().find_map(|record| match &record.event {
            Event::ModelFailed { detail, .. } => detail.clone(),
            _ => None,
        });
        assert_eq!(detail.as_deref(), Some(kept));
    }
}
