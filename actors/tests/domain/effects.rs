//! The effects that a state asks for.

use std::time::Duration;

use copilotd_actors::domain::context_record::ContextRecord;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::effects::{Effect, open_effects};
use copilotd_actors::domain::failure::FailureClass;
use jiff::Timestamp;

use crate::acts::*;
use crate::support::{Act, Scenario, policy, sent};

/// Plays a script and checks which effects are open then; times are seconds since the beginning.
#[track_caller]
fn due(script: Vec<Act>, then: &str) {
    let mut scenario = Scenario::new(policy());
    let start = scenario.now;
    for act in &script {
        scenario.play(act);
    }
    let since = |at: Timestamp| at.duration_since(start).as_secs();
    let lines: Vec<String> = open_effects(&scenario.conversation, &scenario.policy)
        .into_iter()
        .map(|effect| match effect {
            Effect::CallModel { at, not_before: None } => format!("model {}/{}", at.attempt, at.step),
            Effect::CallModel {
                at,
                not_before: Some(then),
            } => format!("model {}/{} from {}", at.attempt, at.step, since(then)),
            Effect::CallTool { retry, settles_at, .. } => format!("tool retry {retry} settles {}", since(settles_at)),
            Effect::ExpireClientTool { at, .. } => format!("page until {}", since(at)),
            Effect::ExpireApproval { at, .. } => format!("approval until {}", since(at)),
            Effect::ExpireTurn { attempt, at, .. } => format!("turn {attempt} until {}", since(at)),
        })
        .collect();
    assert_eq!(lines.join(", "), then);
}

#[test]
fn what_is_due_follows_the_state() {
    due(vec![], "");
    due(vec![submit(1), submit(2)], "model 1/1, turn 1 until 600");
    due(vec![submit(1), says("a")], "");
    due(vec![submit(1), cancel(1, "")], "");
    due(vec![submit(1), submit(2), erase("")], "");
    due(
        vec![submit(1), wait(5), asks(&["read"])],
        "tool retry 0 settles 45, turn 1 until 600",
    );
    due(vec![submit(1), asks(&["read"]), done(0)], "model 1/2, turn 1 until 600");
    due(
        vec![submit(1), wait(5), fails(FailureClass::Cut)],
        "model 2/1 from 6, turn 2 until 606",
    );
    due(
        vec![submit(1), asks(&["look_up"]), wait(5), Act::Crash, recover()],
        "tool retry 1 settles 45, turn 1 until 600",
    );
}

#[test]
fn a_turns_time_does_not_run_while_it_only_waits_for_approval() {
    due(vec![submit(1), asks(&["ask"])], "approval until 3600");
    due(
        vec![submit(1), asks(&["ask", "read"])],
        "approval until 3600, tool retry 0 settles 40, turn 1 until 600",
    );
    due(vec![submit(1), asks(&["ask", "read"]), done(1)], "approval until 3600");
    due(
        vec![submit(1), asks(&["ask", "ask"]), wait(1000), refuse(1, 0)],
        "approval until 3600",
    );
    due(
        vec![submit(1), asks(&["ask"]), wait(1000), approve(1, 0)],
        "tool retry 0 settles 1040, turn 1 until 1600",
    );
    due(
        vec![submit(1), asks(&["ask"]), wait(1000), refuse(1, 0)],
        "model 1/2, turn 1 until 1600",
    );
}

#[test]
fn a_wait_holds_one_model_step_back() {
    let limited = || fails_for(FailureClass::Rate, Some(Duration::from_secs(30)));
    let assembled = || {
        act(|scenario| Command::ContextAssembled {
            at: present(scenario),
            prompt_tokens: 1,
            summary_upto_seq: None,
            retrieved: Vec::new(),
            retrieval: None,
            guardrails: Vec::new(),
            context: ContextRecord::default(),
            sent: sent(),
        })
    };
    let waiting = "model 2/1 from 30, turn 2 until 630";
    due(vec![submit(1), limited()], waiting);
    // The running effect stays the same, or it would be stopped and started again.
    due(vec![submit(1), limited(), wait(31), assembled()], waiting);
    due(
        vec![submit(1), limited(), wait(31), fails(FailureClass::Cut)],
        "model 3/1 from 33, turn 3 until 633",
    );
    due(
        vec![submit(1), limited(), wait(31), asks(&["read"]), done(0)],
        "model 2/2, turn 2 until 630",
    );
}
