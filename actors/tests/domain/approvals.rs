//! Calls that wait for approval.

use serde_json::json;

use crate::acts::*;
use crate::support::{Act, Scenario, case, policy};

fn waiting() -> Vec<Act> {
    vec![submit(1), asks(&["ask"])]
}

fn after(mut given: Vec<Act>, more: Act) -> Vec<Act> {
    given.push(more);
    given
}

#[test]
fn a_person_decides() {
    case(
        vec![submit(1)],
        asks(&["ask", "read"]),
        "t1 message.completed tool_calls '' c0:ask c1:read
         t1 approval.requested c0
         t1 tool.called c1 read {}",
    );
    case(
        waiting(),
        approve(1, 0),
        "t1 approval.decided c0 approved bob
         t1 tool.called c0 ask {}",
    );
    case(
        waiting(),
        refuse(1, 0),
        "t1 approval.decided c0 rejected bob
         t1 tool.finished c0 rejected",
    );
    case(
        waiting(),
        approve_edited(1, 0, json!({ "n": 4 })),
        "t1 approval.decided c0 approved bob
         t1 tool.called c0 ask {\"n\":4}",
    );
    case(
        after(waiting(), refuse(1, 0)),
        says("ok"),
        "t1 message.completed stop 'ok'\n t1 turn.completed",
    );
}

#[test]
fn edited_arguments_keep_the_schema() {
    case(
        waiting(),
        approve_edited(1, 0, json!({ "n": "x" })),
        "refused Invalid([Violation { pointer: \"/arguments/n\", message: \"\\\"x\\\" is not of type \\\"integer\\\"\" }])",
    );
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    case(
        waiting(),
        approve_edited(1, 0, deep),
        "refused Invalid([Violation { pointer: \"/arguments\", message: \"nested deeper than 64 levels\" }])",
    );
}

#[test]
fn late_repeated_and_foreign_decisions_are_refused() {
    let late = |seconds| after(waiting(), wait(seconds));
    case(
        late(3599),
        approve(1, 0),
        "t1 approval.decided c0 approved bob\n t1 tool.called c0 ask {}",
    );
    case(late(3600), approve(1, 0), "refused NotWaiting");
    case(after(waiting(), approve(1, 0)), approve(1, 0), "refused NotWaiting");
    case(after(waiting(), approve(1, 0)), refuse(1, 0), "refused NotWaiting");
    case(after(waiting(), refuse(1, 0)), approve(1, 0), "refused NotWaiting");
    case(after(waiting(), cancel(1, "")), approve(1, 0), "refused NotWaiting");
    case(waiting(), approve(2, 0), "refused NotWaiting");
    case(vec![submit(1), asks(&["read"])], approve(1, 0), "refused NotWaiting");
}

#[test]
fn nobody_decides() {
    let expired = || after(waiting(), wait(3600));
    case(
        expired(),
        expire_approval(1, 0),
        "t1 approval.decided c0 expired system
         t1 tool.finished c0 rejected",
    );
    case(waiting(), expire_approval(1, 0), "nothing");
    case(
        after(expired(), expire_approval(1, 0)),
        expire_approval(1, 0),
        "nothing",
    );
    case(after(waiting(), approve(1, 0)), expire_approval(1, 0), "nothing");
}

#[test]
fn a_tool_that_was_removed_is_not_called() {
    let gone = after(waiting(), Act::Configure(|policy| drop(policy.tools.remove("ask"))));
    case(
        gone,
        approve(1, 0),
        "t1 approval.decided c0 approved bob
         t1 tool.finished c0 failed",
    );
}

#[test]
fn the_model_learns_what_a_person_changed() {
    for (arguments, told) in [(json!({ "n": 4 }), true), (json!({}), false)] {
        let mut scenario = Scenario::new(policy());
        for act in waiting().iter().chain([&approve_edited(1, 0, arguments), &done(0)]) {
            scenario.play(act);
        }
        let prompt = scenario.prompt();
        assert!(prompt.contains("assistant  ask{}\n"), "{prompt}");
        assert_eq!(
            prompt.contains("A person changed the arguments of this call to {\"n\":4}."),
            told,
            "{prompt}"
        );
        scenario.crash();
        assert_eq!(scenario.prompt(), prompt);
    }
}
