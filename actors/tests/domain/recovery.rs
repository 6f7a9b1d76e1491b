//! After a crash: first a claim, then the same as in normal operation; no effect twice.

use std::time::Duration;

use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::policy::{Limits, Policy};

use crate::acts::*;
use crate::support::{Act, Scenario, WINDOW, case, case_with, policy};

fn crashed(mut given: Vec<Act>, times: usize) -> Vec<Act> {
    (0..times).for_each(|_| given.extend([Act::Crash, recover()]));
    given.push(Act::Crash);
    given
}

fn then(mut given: Vec<Act>, more: Vec<Act>) -> Vec<Act> {
    given.extend(more);
    given
}

#[test]
fn recovery_without_open_turns_does_nothing() {
    case(vec![], recover(), "nothing");
    case(crashed(vec![submit(1), says("a")], 0), recover(), "nothing");
}

#[test]
fn an_interrupted_model_step_is_a_new_attempt() {
    case(
        crashed(vec![submit(1), submit(2)], 0),
        recover(),
        "t1 message.reset recovered\n t1 turn.started 2",
    );
    case(
        crashed(vec![submit(1), submit(2)], 2),
        recover(),
        "t1 message.reset recovered
         t1 turn.failed attempts_exhausted
         t2 turn.started 1",
    );
    case(
        crashed(vec![submit(1), asks(&["read"]), done(0)], 0),
        recover(),
        "t1 message.reset recovered
         t1 turn.started 2",
    );
}

#[test]
fn what_a_lost_call_used_is_the_turns_usage() {
    let lost_twice = || {
        let given = vec![submit(1), Act::Crash, recover_lost(1), Act::Crash];
        then(given, vec![recover_lost(2), says("done")])
    };
    let mut scenario = Scenario::new(policy());
    lost_twice().iter().for_each(|act| drop(scenario.play(act)));
    let records: Vec<_> = scenario.appends.concat();
    let Some(Event::TurnCompleted { usage, .. }) = records.last().map(|record| &record.event) else {
        panic!("{records:?}")
    };
    // Three lost calls, and the one that answered.
    assert_eq!((usage.sum.prompt_tokens, usage.sum.cost), (400, 20));
    case(
        vec![submit(1), Act::Crash],
        recover_lost(1),
        "t1 message.reset recovered
         t1 model.failed lost
         t1 turn.started 2",
    );
    // A turn that fails because of lost calls includes them too.
    case(
        vec![
            submit(1),
            Act::Crash,
            recover_lost(1),
            Act::Crash,
            recover_lost(1),
            Act::Crash,
        ],
        recover_lost(1),
        "t1 message.reset recovered
         t1 model.failed lost
         t1 turn.failed attempts_exhausted",
    );
    // Lost calls are billed: a retry counts against the turn's limit.
    let cheap = Policy {
        limits: Limits {
            cost: 9,
            ..policy().limits
        },
        ..policy()
    };
    case_with(
        cheap,
        vec![submit(1), Act::Crash],
        recover_lost(2),
        "t1 message.reset recovered
         t1 model.failed lost
         t1 model.failed lost
         t1 turn.failed limit_cost",
    );
    // A lost call is not a failure of the provider: the first failure afterwards waits as a first one does.
    case(
        vec![submit(1), Act::Crash, recover_lost(1)],
        fails_for(FailureClass::Rate, Some(Duration::from_secs(300))),
        "t1 message.reset rate
         t1 model.failed rate
         t1 turn.started 3
         t1 turn.waiting provider_rate_limit 300s",
    );
    // While tools run, no model call was running.
    case(
        vec![submit(1), asks(&["read"]), Act::Crash],
        recover_lost(1),
        "t1 tool.retried c0 1 repeat",
    );
}

#[test]
fn a_wait_goes_on_where_it_was() {
    let waiting = || {
        vec![
            submit(1),
            fails_for(FailureClass::Rate, Some(Duration::from_secs(300))),
            wait(100),
        ]
    };
    case(
        crashed(waiting(), 0),
        recover(),
        "t1 message.reset recovered
         t1 turn.started 3
         t1 turn.waiting provider_rate_limit 200s",
    );
    // Neither waits nor restarts during a wait cost an attempt.
    let often = (0..9).flat_map(|_| [Act::Crash, recover()]);
    case(
        waiting().into_iter().chain(often).collect(),
        recover(),
        "t1 message.reset recovered
         t1 turn.started 12
         t1 turn.waiting provider_rate_limit 200s",
    );
    let mut over = waiting();
    over.push(wait(200));
    case(
        crashed(over, 0),
        recover(),
        "t1 message.reset recovered\n t1 turn.started 3",
    );
}

#[test]
fn each_kind_of_call_has_its_own_rule() {
    let acting = |tools| vec![submit(1), asks(tools)];
    case(crashed(acting(&["read"]), 0), recover(), "t1 tool.retried c0 1 repeat");
    case(
        crashed(acting(&["keyed"]), 0),
        recover(),
        "t1 tool.retried c0 1 look_up",
    );
    case(
        crashed(acting(&["look_up"]), 0),
        recover(),
        "t1 tool.retried c0 1 look_up",
    );
    case(crashed(acting(&["never"]), 0), recover(), "t1 tool.finished c0 unknown");
    case(crashed(acting(&["ask"]), 0), recover(), "answers t1");
    case(
        crashed(acting(&["ask", "read", "never"]), 0),
        recover(),
        "t1 tool.retried c1 1 repeat
         t1 tool.finished c2 unknown",
    );
    let mut approved = acting(&["ask"]);
    approved.push(approve(1, 0));
    case(crashed(approved, 0), recover(), "t1 tool.finished c0 unknown");
    let mut done_already = acting(&["never", "read"]);
    done_already.push(done(0));
    case(crashed(done_already, 0), recover(), "t1 tool.retried c1 1 repeat");
    let mut gone = acting(&["read"]);
    gone.push(Act::Configure(|policy| drop(policy.tools.remove("read"))));
    case(crashed(gone, 0), recover(), "t1 tool.finished c0 unknown");
}

#[test]
fn a_call_is_resumed_at_most_twice() {
    let acting = |tools| vec![submit(1), asks(tools)];
    case(crashed(acting(&["read"]), 1), recover(), "t1 tool.retried c0 2 repeat");
    case(crashed(acting(&["read"]), 2), recover(), "t1 tool.finished c0 failed");
    case(crashed(acting(&["keyed"]), 2), recover(), "t1 tool.finished c0 unknown");
    case(
        crashed(acting(&["look_up"]), 2),
        recover(),
        "t1 tool.finished c0 unknown",
    );
    // And then the turn continues.
    let mut given = crashed(acting(&["never"]), 0);
    given.push(recover());
    case(
        given,
        says("it may have worked"),
        "t1 message.completed stop 'it may have worked'\n t1 turn.completed",
    );
}

/// The wall clocks of two processes do not give the age of a key: the vendor is asked first, however long ago the call
/// was.
#[test]
fn a_keyed_call_of_an_earlier_process_is_looked_up_first() {
    for seconds in [0, WINDOW.as_secs() / 2, WINDOW.as_secs() * 2] {
        let given = vec![submit(1), asks(&["keyed"]), wait(seconds)];
        case(crashed(given, 0), recover(), "t1 tool.retried c0 1 look_up");
    }
}

#[test]
fn a_late_report_of_a_retried_call_is_its_result() {
    case(
        crashed(vec![submit(1), asks(&["read"])], 1),
        done(0),
        "t1 tool.finished c0 succeeded",
    );
    let mut unknown = crashed(vec![submit(1), asks(&["never", "read"])], 0);
    unknown.push(recover());
    case(unknown, done(0), "t1 tool.settled c0 succeeded");
}

#[test]
fn a_paused_step_that_was_not_asked_costs_no_attempt() {
    let paused = |asked| vec![submit(1), submit(2), pause(&[], asked), wait(7200)];
    for resumes in [resume(&[]), recover()] {
        case(paused(false), resumes, "t1 turn.resumed");
    }
    case(paused(true), resume(&[]), "t1 turn.resumed");
    case(
        crashed(paused(true), 0),
        recover(),
        "t1 message.reset recovered\n t1 turn.started 2",
    );
    // Its time starts where it continues.
    case(
        then(paused(false), vec![resume(&[]), wait(599)]),
        expire_turn(1, ""),
        "nothing",
    );
    case(paused(false), pause(&[], false), "nothing");
    case(vec![], pause(&[], false), "nothing");
    case(vec![], resume(&[]), "nothing");
}

#[test]
fn a_paused_call_that_was_never_sent_is_sent_whatever_repeating_it_would_do() {
    for tool in ["read", "never", "keyed", "look_up"] {
        let asked = || match tool {
            "read" => vec![submit(1), asks(&["read"])],
            "never" => vec![submit(1), asks(&["never"])],
            "keyed" => vec![submit(1), asks(&["keyed"])],
            _ => vec![submit(1), asks(&["look_up"])],
        };
        let again = "t1 turn.resumed
             t1 tool.retried c0 0 repeat";
        for resumes in [resume(&[]), recover()] {
            case(then(asked(), vec![pause(&[0], false), wait(7200)]), resumes, again);
        }
        // Once resumed, it may have been sent.
        let taken_up = then(asked(), vec![pause(&[0], false), wait(7200), resume(&[]), Act::Crash]);
        let claimed = match tool {
            "never" => "t1 tool.finished c0 unknown",
            "read" => "t1 tool.retried c0 1 repeat",
            _ => "t1 tool.retried c0 1 look_up",
        };
        case(taken_up, recover(), claimed);
        // Running calls continue.
        case(then(asked(), vec![pause(&[], false)]), resume(&[0]), "t1 turn.resumed");
    }
}

/// A process hands over cleanly, and another one takes over.
fn handed_over(mut given: Vec<Act>, times: usize, asked: bool) -> Vec<Act> {
    (0..times).for_each(|_| given.extend([hand_over(&[], asked), Act::Crash, recover()]));
    given
}

#[test]
fn a_hand_over_counts_as_no_attempt_however_often_it_happens() {
    case(vec![submit(1)], hand_over(&[], true), "t1 turn.handed_over  asked");
    case(
        then(
            handed_over(vec![submit(1)], 19, true),
            vec![hand_over(&[], true), Act::Crash],
        ),
        recover(),
        "t1 message.reset recovered\n t1 turn.started 21",
    );
    // Crashes still count, whatever was handed over in between: two are left, and the third is the last.
    let crash = || vec![Act::Crash, recover()];
    let mixed = |crashes: usize| {
        let mut given = handed_over(vec![submit(1)], 5, true);
        for _ in 0..crashes {
            given = handed_over(then(given, crash()), 5, true);
        }
        then(given, vec![Act::Crash])
    };
    case(mixed(1), recover(), "t1 message.reset recovered\n t1 turn.started 13");
    case(
        mixed(2),
        recover(),
        "t1 message.reset recovered\n t1 turn.failed attempts_exhausted",
    );
    // A step that was not started continues where it was.
    case(
        then(vec![submit(1)], vec![hand_over(&[], false), Act::Crash]),
        recover(),
        "t1 turn.resumed",
    );
    // Handed over twice before anyone resumed it, it counts as one attempt.
    let twice = vec![
        submit(1),
        hand_over(&[], true),
        Act::Crash,
        hand_over(&[], true),
        Act::Crash,
    ];
    case(
        crashed(then(twice, vec![recover()]), 1),
        recover(),
        "t1 message.reset recovered\n t1 turn.started 4",
    );
    case(vec![], hand_over(&[], true), "nothing");
    case(vec![submit(1), hand_over(&[], true)], hand_over(&[], true), "nothing");
}

#[test]
fn a_wait_that_is_handed_over_is_excused_once() {
    // Attempt 2 waits; handed over, attempt 3 continues to wait. Then the wait is over, and attempts 3 to 5 are lost in
    // crashes: of them 4 and 5 count, and attempt 1 does.
    let given = || {
        let waiting = vec![
            submit(1),
            fails_for(FailureClass::Rate, Some(Duration::from_secs(300))),
            wait(100),
        ];
        then(handed_over(waiting, 1, true), vec![wait(300)])
    };
    case(
        crashed(given(), 1),
        recover(),
        "t1 message.reset recovered\n t1 turn.started 5",
    );
    case(
        crashed(given(), 2),
        recover(),
        "t1 message.reset recovered\n t1 turn.failed attempts_exhausted",
    );
}

#[test]
fn calls_of_a_turn_that_is_handed_over_follow_the_rules_of_a_crash_but_count_for_nothing() {
    let taken_up = |tool: &str, unsent: bool| match (tool, unsent) {
        (_, true) => "t1 turn.resumed\n t1 tool.retried c0 0 repeat",
        ("never", false) => "t1 turn.resumed\n t1 tool.finished c0 unknown",
        ("keyed" | "look_up", false) => "t1 turn.resumed\n t1 tool.retried c0 1 look_up",
        (_, false) => "t1 turn.resumed\n t1 tool.retried c0 1 repeat",
    };
    type Begun = fn() -> Vec<Act>;
    let begun: [(&str, Begun); 4] = [
        ("read", || vec![submit(1), asks(&["read"])]),
        ("never", || vec![submit(1), asks(&["never"])]),
        ("keyed", || vec![submit(1), asks(&["keyed"])]),
        ("look_up", || vec![submit(1), asks(&["look_up"])]),
    ];
    for (tool, begun) in begun {
        for (unsent, indexes) in [(true, &[0][..]), (false, &[][..])] {
            let given = then(begun(), vec![hand_over(indexes, false), Act::Crash]);
            case(given, recover(), taken_up(tool, unsent));
        }
        if tool != "never" {
            let often = then(handed_over(begun(), 20, false), vec![hand_over(&[], false), Act::Crash]);
            case(often, recover(), taken_up(tool, false));
        }
    }
    // The attempt continues, so losing it in a later crash counts.
    let later = then(handed_over(vec![submit(1), asks(&["read"])], 1, false), vec![done(0)]);
    case(
        crashed(later, 2),
        recover(),
        "t1 message.reset recovered\n t1 turn.failed attempts_exhausted",
    );
    // A turn that waits for approval is not handed over.
    case(vec![submit(1), asks(&["ask"])], hand_over(&[], false), "nothing");
}
