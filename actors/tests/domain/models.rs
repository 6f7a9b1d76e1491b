//! Reports of model steps: answers, failures, limits.

use std::time::Duration;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::conversation::command::{Command, OutputCheck};
use copilotd_actors::domain::failure::FailureClass;

use crate::acts::*;
use crate::support::{Scenario, case, case_with, policy};

#[test]
fn an_answer_ends_the_turn() {
    case(
        vec![submit(1)],
        says("hi"),
        "t1 message.completed stop 'hi'\n t1 turn.completed",
    );
    case(
        vec![submit(1)],
        says(""),
        "t1 message.completed stop ''\n t1 turn.completed",
    );
    let long = act(|scenario| {
        let mut reply = reply("cut", Vec::new());
        reply.finish = Finish::Length;
        let at = present(scenario);
        Command::ModelReplied { at, reply }
    });
    case(
        vec![submit(1)],
        long,
        "t1 message.completed length 'cut'\n t1 turn.completed",
    );
}

#[test]
fn no_call_of_a_step_that_reached_its_bound_runs() {
    let cut = |text: &'static str| {
        act(move |scenario| {
            let calls = vec![
                ("read".to_owned(), serde_json::json!({})),
                ("write".to_owned(), serde_json::json!({})),
            ];
            let mut reply = reply(text, calls);
            reply.finish = Finish::Length;
            let at = present(scenario);
            Command::ModelReplied { at, reply }
        })
    };
    for text in ["", "so far"] {
        case(
            vec![submit(1)],
            cut(text),
            &format!("t1 message.completed length '{text}'\n t1 turn.completed"),
        );
    }
}

#[test]
fn stale_reports_change_nothing() {
    let old = |attempt, step| {
        act(move |scenario| {
            let at = copilotd_actors::domain::conversation::command::Step {
                turn: crate::support::turn(1),
                attempt,
                step,
            };
            let _ = scenario;
            let reply = reply("old", Vec::new());
            Command::ModelReplied { at, reply }
        })
    };
    case(vec![submit(1), fails(FailureClass::Cut)], old(1, 1), "nothing");
    case(vec![submit(1), asks(&["read"])], old(1, 1), "nothing");
    case(vec![submit(1), asks(&["read"]), done(0)], old(1, 1), "nothing");
    case(vec![submit(1), says("a")], old(1, 1), "nothing");
    case(vec![submit(2), submit(1)], old(0, 1), "nothing");
    case(vec![submit(1), asks(&["read"])], fails(FailureClass::Key), "nothing");
}

#[test]
fn failures_have_their_own_rules() {
    use FailureClass::*;
    for (class, code) in [
        (Key, "provider_rejected"),
        (Rejected, "provider_rejected"),
        (ContextLength, "context_too_long"),
        (ContentPolicy, "content_policy"),
    ] {
        let reason = class.code();
        let then =
            format!("t1 message.reset {reason}\n t1 model.failed {reason}\n t1 turn.failed {code}\n t2 turn.started 1");
        case(vec![submit(1), submit(2)], fails(class), &then);
    }
    for (class, seconds) in [(Overload, 0), (TimedOut, 0), (Network, 0), (Cut, 1), (Malformed, 1)] {
        let reason = class.code();
        let again = |attempt: u32, seconds: u64| {
            format!(
                "t1 message.reset {reason}\n t1 model.failed {reason}\n t1 turn.started {attempt}
                 t1 turn.waiting provider_unavailable {seconds}s"
            )
        };
        case(vec![submit(1)], fails(class), &again(2, seconds));
        // A time named by the provider is honoured.
        let named = fails_for(class, Some(Duration::from_secs(40)));
        case(vec![submit(1)], named, &again(2, 40));
        // None of this counts as an attempt, and the wait is limited to what is left of the allowed total.
        let named = || fails_for(class, Some(Duration::from_secs(299)));
        let given = || vec![submit(1), named(), wait(299), named(), wait(299)];
        let then =
            format!("t1 message.reset {reason}\n t1 model.failed {reason}\n t1 turn.failed provider_unavailable");
        case(given(), named(), &then);
        if matches!(class, Overload | TimedOut | Network) {
            case(given(), fails(class), &again(4, 1));
        }
    }
}

#[test]
fn each_new_step_has_its_whole_wait() {
    use FailureClass::Overload;
    let named = || fails_for(Overload, Some(Duration::from_secs(599)));
    case(
        vec![submit(1), named(), wait(599), asks(&["read"]), done(0)],
        named(),
        "t1 message.reset overload
         t1 model.failed overload
         t1 turn.started 3
         t1 turn.waiting provider_unavailable 599s",
    );
}

#[test]
fn retries_keep_within_the_turns_limits() {
    let mut policy = policy();
    policy.limits.tokens = 250;
    let given = || vec![submit(1), fails(FailureClass::Cut), wait(2)];
    case_with(
        policy.clone(),
        given(),
        fails(FailureClass::Cut),
        "t1 message.reset cut
         t1 model.failed cut
         t1 turn.started 3
         t1 turn.waiting provider_unavailable 2s",
    );
    let mut given = given();
    given.extend([fails(FailureClass::Cut), wait(3)]);
    case_with(
        policy,
        given,
        fails(FailureClass::Cut),
        "t1 message.reset cut\n t1 model.failed cut\n t1 turn.failed limit_cost",
    );
}

#[test]
fn a_rate_limit_is_waited_for_visibly() {
    use FailureClass::Rate;
    let waits = |seconds| {
        format!(
            "t1 message.reset rate\n t1 model.failed rate\n t1 turn.started 2\n t1 turn.waiting provider_rate_limit {seconds}s"
        )
    };
    let fails = "t1 message.reset rate\n t1 model.failed rate\n t1 turn.failed rate_limited";
    let after = |seconds| fails_for(Rate, Some(Duration::from_secs(seconds)));
    case(vec![submit(1)], after(30), &waits(30));
    case(vec![submit(1)], fails_for(Rate, None), &waits(2));
    case(vec![submit(1)], after(600), &waits(600));
    case(vec![submit(1)], after(601), fails);
    let many = || std::iter::once(submit(1)).chain((0..20).flat_map(|_| [after(29), wait(29)]));
    case(
        many().collect(),
        after(20),
        "t1 message.reset rate\n t1 model.failed rate\n t1 turn.started 22\n t1 turn.waiting provider_rate_limit 20s",
    );
    case(many().collect(), after(21), fails);
    // The wait does not count as the turn's time.
    case(vec![submit(1), after(600), wait(1100)], expire_turn(1, ""), "nothing");
}

#[test]
fn an_answer_keeps_the_schema_or_is_repaired() {
    let given = || vec![submit_schema(1)];
    let rejected = "t1 guardrail.triggered output response_schema repair
         t1 message.reset response_schema
         t1 output.rejected";
    let failed = format!("{rejected}\n t1 turn.failed schema_failed");
    case(
        given(),
        says("{\"n\": 1}"),
        "t1 message.completed stop '{\"n\": 1}'\n t1 turn.completed",
    );
    for text in ["no JSON", "{}", "", "[]"] {
        let say = act(move |scenario| Command::ModelReplied {
            at: present(scenario),
            reply: reply(text, Vec::new()),
        });
        case(given(), say, rejected);
    }
    let mut repaired = given();
    repaired.extend([says("x"), says("y")]);
    case(
        repaired,
        says("{\"n\": 2}"),
        "t1 message.completed stop '{\"n\": 2}'\n t1 turn.completed",
    );
    let mut exhausted = given();
    exhausted.extend([says("x"), says("y")]);
    case(exhausted, says("z"), &failed);
    // A check that did not finish ends the turn: neither the check nor the model call is repeated.
    for (output, code) in [
        (OutputCheck::TooExpensive, "schema_failed"),
        (OutputCheck::Unavailable, "internal"),
        (OutputCheck::NotNeeded, "internal"),
    ] {
        let say = act(move |scenario| {
            let mut reply = reply("{\"n\": 1}", Vec::new());
            reply.output = output.clone();
            Command::ModelReplied {
                at: present(scenario),
                reply,
            }
        });
        let expected =
            format!("t1 message.reset response_schema\n t1 model.failed response_schema\n t1 turn.failed {code}");
        case(given(), say, &expected);
    }
    // Tool calls on the way to the answer are not checked.
    case(
        given(),
        asks(&["read"]),
        "t1 message.completed tool_calls '' c0:read\n t1 tool.called c0 read {}",
    );
}

#[test]
fn a_blocked_answer_is_reset() {
    let blocked = act(|scenario| Command::OutputBlocked {
        at: present(scenario),
        rule: "r".into(),
        model: "m".into(),
        usage: USAGE,
    });
    case(
        vec![submit(1)],
        blocked,
        "t1 guardrail.triggered output r block
         t1 message.reset guardrail
         t1 model.failed blocked
         t1 turn.failed guardrail_blocked",
    );
}

#[test]
fn a_turn_keeps_within_its_limits() {
    let round = || [asks(&["read"]), done(0)];
    let rounds = |n| {
        let mut given = vec![submit(1)];
        (0..n).for_each(|_| given.extend(round()));
        given
    };
    let last = |code: &str| format!("t1 tool.finished c0 succeeded\n t1 turn.failed {code}");
    for (steps, tokens, cost, code) in [
        (1, 1000, 1000, "limit_steps"),
        (9, 109, 1000, "limit_cost"),
        (9, 1000, 4, "limit_cost"),
    ] {
        let mut policy = policy();
        (policy.limits.steps, policy.limits.tokens, policy.limits.cost) = (steps, tokens, cost);
        case_with(policy.clone(), vec![submit(1), asks(&["read"])], done(0), &last(code));
        // An answer is never rejected for what it cost.
        case_with(
            policy,
            vec![submit(1)],
            says("a"),
            "t1 message.completed stop 'a'\n t1 turn.completed",
        );
    }
    case(
        rounds(3),
        asks(&["read"]),
        "t1 message.completed tool_calls '' c3:read\n t1 tool.called c3 read {}",
    );
    let mut full = rounds(3);
    full.push(asks(&["read"]));
    case(
        full,
        done(0),
        "t1 tool.finished c3 succeeded\n t1 turn.failed limit_steps",
    );
}

#[test]
fn usage_of_all_attempts_is_added_up() {
    let mut scenario = Scenario::new(policy());
    for act in [submit(1), fails(FailureClass::Cut), asks(&["read"]), done(0), says("a")] {
        scenario.play(&act);
    }
    let header = &scenario.conversation.book.as_ref().expect("it exists").header;
    assert_eq!(header.usage.sum.total_tokens(), 3 * 110);
    assert_eq!(header.usage.sum.cost, 15);
}
