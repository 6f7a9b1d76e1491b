//! Cancel, expiry and erasure at every point: each open message is closed, each open call gets one result.

use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::failure::FailureClass;

use crate::acts::*;
use crate::support::{Act, case};

#[test]
fn a_waiting_turn_just_ends() {
    case(vec![submit(1), submit(2)], cancel(2, "not mine"), "t2 turn.cancelled");
    case(vec![submit(1)], cancel(2, ""), "refused TurnEnded");
    case(vec![submit(1), says("a")], cancel(1, ""), "refused TurnEnded");
}

#[test]
fn a_message_under_way_is_closed_with_what_readers_saw() {
    case(
        vec![submit(1), submit(2)],
        cancel(1, "so far"),
        "t1 message.completed cancelled 'so far'
         t1 turn.cancelled
         t2 turn.started 1",
    );
    case(
        vec![submit(1)],
        cancel(1, ""),
        "t1 message.reset stopped
         t1 model.failed cancelled
         t1 turn.cancelled",
    );
    case(
        vec![submit(1)],
        cancel_unsent(1, &[]),
        "t1 message.reset stopped
         t1 turn.cancelled",
    );
    // The sealed text of an earlier attempt says nothing about the current one.
    case(
        vec![submit(1)],
        act(|scenario| {
            let mut stop = sealed(scenario, "old");
            if let Some(sealed) = &mut stop.sealed {
                sealed.at.attempt = 9;
            }
            copilotd_actors::domain::conversation::command::Command::Cancel {
                turn: crate::support::turn(1),
                stop,
            }
        }),
        "t1 message.reset stopped
         t1 turn.cancelled",
    );
    case(
        vec![submit(1), fails(FailureClass::Rate)],
        cancel_unsent(1, &[]),
        "t1 message.reset stopped
         t1 turn.cancelled",
    );
}

#[test]
fn each_call_ends_according_to_its_progress() {
    let given = |tools: &'static [&'static str]| vec![submit(1), asks(tools)];
    for (tool, sent, unsent) in [
        ("read", "cancelled", "cancelled"),
        ("keyed", "unknown", "cancelled"),
        ("look_up", "unknown", "cancelled"),
        ("never", "unknown", "cancelled"),
    ] {
        let tools: &'static [&'static str] = match tool {
            "read" => &["read"],
            "keyed" => &["keyed"],
            "look_up" => &["look_up"],
            _ => &["never"],
        };
        let then = |status| format!("t1 tool.finished c0 {status}\n t1 turn.cancelled");
        case(given(tools), cancel_unsent(1, &[]), &then(sent));
        case(given(tools), cancel_unsent(1, &[0]), &then(unsent));
    }
    case(
        given(&["ask", "never", "read"]),
        cancel_unsent(1, &[]),
        "t1 approval.decided c0 rejected system
         t1 tool.finished c0 rejected
         t1 tool.finished c1 unknown
         t1 tool.finished c2 cancelled
         t1 turn.cancelled",
    );
    let mut half = given(&["read", "never"]);
    half.push(done(0));
    case(
        half,
        cancel_unsent(1, &[]),
        "t1 tool.finished c1 unknown\n t1 turn.cancelled",
    );
    // A tool that was removed may have changed something.
    let mut gone = given(&["read"]);
    gone.push(Act::Configure(|policy| drop(policy.tools.remove("read"))));
    case(
        gone,
        cancel_unsent(1, &[]),
        "t1 tool.finished c0 unknown\n t1 turn.cancelled",
    );
}

#[test]
fn a_late_result_is_settled_once() {
    let stopped = || vec![submit(1), asks(&["never", "read"]), cancel_unsent(1, &[])];
    case(stopped(), done(0), "t1 tool.settled c0 succeeded");
    case(stopped(), done(1), "nothing");
    case(stopped(), tool(0, ToolStatus::Unknown), "nothing");
    let mut settled = stopped();
    settled.push(done(0));
    case(settled, done(0), "nothing");
    let mut erased = stopped();
    erased.push(erase(""));
    case(erased, done(0), "refused NotFound");
}

#[test]
fn a_turns_time_runs_out() {
    case(vec![submit(1), wait(599)], expire_turn(1, "x"), "nothing");
    case(
        vec![submit(1), submit(2), wait(600)],
        expire_turn(1, "x"),
        "t1 message.completed cancelled 'x'
         t1 turn.failed limit_time
         t2 turn.started 1",
    );
    case(
        vec![submit(1), asks(&["never"]), wait(600)],
        expire_turn(1, ""),
        "t1 tool.finished c0 unknown
         t1 turn.failed limit_time",
    );
    // A timer of an earlier attempt.
    let old = act(
        |_| copilotd_actors::domain::conversation::command::Command::TurnExpired {
            turn: crate::support::turn(1),
            attempt: 1,
            stop: copilotd_actors::domain::conversation::command::StoppedWork::default(),
        },
    );
    case(vec![submit(1), fails(FailureClass::Cut), wait(600)], old, "nothing");
}

#[test]
fn people_may_take_longer_than_a_turn() {
    let waiting = |tools| vec![submit(1), asks(tools), wait(3000)];
    case(waiting(&["ask"]), expire_turn(1, ""), "nothing");
    for decide in [approve(1, 0), refuse(1, 0)] {
        let mut given = waiting(&["ask"]);
        given.push(decide);
        case(given, expire_turn(1, ""), "nothing");
    }
    let mut expired = waiting(&["ask"]);
    expired.extend([wait(600), expire_approval(1, 0)]);
    case(expired, expire_turn(1, ""), "nothing");
    // A call that runs beside the approval counts as the turn's own time.
    case(
        waiting(&["ask", "read"]),
        expire_turn(1, ""),
        "t1 approval.decided c0 rejected system
         t1 tool.finished c0 rejected
         t1 tool.finished c1 cancelled
         t1 turn.failed limit_time",
    );
}

#[test]
fn erasing_ends_every_turn() {
    case(
        vec![submit(1), submit(2)],
        erase("so far"),
        "t1 message.completed cancelled 'so far'
         t1 turn.cancelled
         t2 turn.cancelled
         conversation.erased ada",
    );
    case(
        vec![submit(1), asks(&["ask", "keyed"])],
        erase(""),
        "t1 approval.decided c0 rejected system
         t1 tool.finished c0 rejected
         t1 tool.finished c1 unknown
         t1 turn.cancelled
         conversation.erased ada",
    );
    for act in [submit(2), erase(""), cancel(1, ""), recover(), says("x")] {
        case(vec![submit(1), erase("")], act, "refused NotFound");
    }
}
