//! Tool calls: from the model's request to exactly one result.

use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::Event;
use serde_json::{Value, json};

use crate::acts::*;
use crate::support::{Scenario, case, policy, turn};

const REPAIR: &str = "t1 guardrail.triggered tool tool_arguments repair";

#[test]
fn calls_run_side_by_side_and_the_next_step_waits_for_all() {
    case(
        vec![submit(1), asks(&["read", "never"])],
        done(1),
        "t1 tool.finished c1 succeeded",
    );
    case(vec![submit(1), asks(&["read", "never"]), done(1)], done(1), "nothing");
    case(
        vec![submit(1), asks(&["read", "never"]), done(1)],
        says("early"),
        "nothing",
    );
    case(
        vec![submit(1), asks(&["read", "never"]), done(1), done(0)],
        says("ok"),
        "t1 message.completed stop 'ok'\n t1 turn.completed",
    );
}

#[test]
fn invalid_calls_go_back_to_the_model() {
    for (name, arguments) in [
        ("read", json!({ "n": "x" })),
        ("read", json!({ "m": 1 })),
        ("read", json!("not JSON")),
        ("read", json!(null)),
        ("nothing_like_it", json!({})),
        ("", json!({})),
    ] {
        let then = format!("t1 message.completed tool_calls '' c0:{name}\n {REPAIR}\n t1 tool.finished c0 failed");
        case(vec![submit(1)], asks_with(vec![(name, arguments)]), &then);
    }
    // Several invalid calls of one step count as one repair; valid calls beside them run.
    case(
        vec![submit(1)],
        asks(&["no_tool", "read", "no_tool"]),
        &format!(
            "t1 message.completed tool_calls '' c0:no_tool c1:read c2:no_tool
             {REPAIR}
             t1 tool.finished c0 failed
             t1 tool.called c1 read {{}}
             t1 tool.finished c2 failed"
        ),
    );
}

#[test]
fn repairs_are_bounded() {
    case(
        vec![submit(1), asks(&["no_tool"]), asks(&["no_tool"])],
        asks(&["no_tool"]),
        &format!(
            "t1 message.completed tool_calls '' c2:no_tool
             {REPAIR}
             t1 tool.finished c2 failed
             t1 turn.failed schema_failed"
        ),
    );
    case(
        vec![submit(1)],
        asks(&["read", "read", "read", "read"]),
        &format!(
            "t1 message.completed tool_calls '' c0:read c1:read c2:read c3:read
             {REPAIR}
             t1 tool.called c0 read {{}}
             t1 tool.called c1 read {{}}
             t1 tool.called c2 read {{}}
             t1 tool.finished c3 failed"
        ),
    );
}

/// Returns the result of a call that answers `value`, as stored in the log.
fn kept(value: Value) -> Value {
    let mut scenario = Scenario::new(policy());
    scenario.play(&submit(1));
    scenario.play(&asks(&["read"]));
    let call = scenario.call(0);
    let command = Command::ToolReplied {
        turn: turn(1),
        call,
        status: ToolStatus::Succeeded,
        result: Some(value),
        error: None,
    };
    scenario.run(command).expect("a result");
    let written = scenario.decoded();
    assert_eq!(
        written.last(),
        scenario.log().last(),
        "the written record equals the one in memory"
    );
    match written.last().map(|record| &record.event) {
        Some(Event::ToolFinished {
            result: Some(result), ..
        }) => result.clone(),
        other => panic!("no result: {other:?}"),
    }
}

#[test]
fn results_are_bounded_in_size_and_depth() {
    assert_eq!(kept(json!(null)), json!(null));
    assert_eq!(kept(json!({ "a": [1.5, "é"] })), json!({ "a": [1.5, "é"] }));
    let deep = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(kept(deep(64)), deep(64));
    assert_eq!(kept(deep(65))["truncated"], json!(true));
    for value in [
        json!("é".repeat(900)),
        json!("\"\\".repeat(900)),
        json!("\u{1}".repeat(900)),
        json!(vec!["a"; 900]),
    ] {
        let kept = kept(value);
        let size = kept.to_string().len();
        assert!((380..=400).contains(&size), "{size}: {kept}");
        assert_eq!(kept["truncated"], json!(true));
    }
}

#[test]
fn arguments_that_nest_too_deeply_leave_the_log_readable() {
    let mut scenario = Scenario::new(policy());
    scenario.play(&submit(1));
    let deep = (0..126).fold(json!(1), |inner, _| json!({ "n": inner }));
    let out = scenario.play(&asks_with(vec![("read", deep)]));
    assert!(out.ends_with("t1 tool.finished c0 failed"), "{out}");
    scenario.crash();
    assert!(scenario.prompt().contains("does not satisfy") || scenario.prompt().contains("do not satisfy"));
}

#[test]
fn made_up_names_fit_into_later_prompts() {
    let mut scenario = Scenario::new(policy());
    scenario.play(&submit(1));
    scenario.play(&asks_with(vec![("read me\">now", json!({})), ("", json!({}))]));
    let prompt = scenario.prompt();
    assert!(prompt.contains("assistant  read_me__now{} unnamed{}"), "{prompt}");
    assert!(
        prompt.contains("tool <tool_result tool=\"read_me__now\" status=\"failed\">"),
        "{prompt}"
    );
}
