//! Accepting prompts: the queue, rejections, copies of requests.

use copilotd_actors::domain::content::{Input, Part};
use copilotd_actors::domain::conversation::command::{Command, WhenBusy};
use serde_json::json;

use crate::acts::*;
use crate::support::case;

#[test]
fn a_prompt_starts_at_once_or_waits() {
    case(vec![], submit(1), "t1 turn.queued\n t1 turn.started 1");
    case(vec![submit(1)], submit(2), "t2 turn.queued");
    case(
        vec![submit(1), submit(2)],
        says("hello"),
        "t1 message.completed stop 'hello'
         t1 turn.completed
         t2 turn.started 1",
    );
}

#[test]
fn a_busy_conversation_refuses_when_asked_to() {
    let reject = || submit_when(9, WhenBusy::Reject);
    case(vec![], reject(), "t9 turn.queued\n t9 turn.started 1");
    case(vec![submit(1)], reject(), "refused TurnRunning");
    case(vec![submit(1), asks(&["ask"])], reject(), "refused TurnRunning");
    case(vec![submit(1), submit(2), submit(3)], reject(), "refused TurnRunning");
}

#[test]
fn the_queue_is_bounded_but_an_interrupt_does_not_lengthen_it() {
    let full = || vec![submit(1), submit(2), submit(3)];
    case(full(), submit(4), "refused QueueFull { waiting: 2 }");
    case(
        full(),
        interrupt(4, "so far"),
        "t1 message.completed cancelled 'so far'
         t1 turn.cancelled
         t4 turn.queued
         t4 turn.started 1",
    );
    let mut after = full();
    after.push(interrupt(4, ""));
    case(after, submit(5), "refused QueueFull { waiting: 2 }");
}

#[test]
fn an_interrupt_runs_next_and_the_queue_keeps_its_order() {
    case(
        vec![submit(1), submit(2), submit(3), interrupt(4, ""), says("a")],
        says("b"),
        "t2 message.completed stop 'b'
         t2 turn.completed
         t3 turn.started 1",
    );
    case(vec![], interrupt(1, ""), "t1 turn.queued\n t1 turn.started 1");
    case(
        vec![submit(1), asks(&["ask", "never"])],
        interrupt(2, ""),
        "t1 approval.decided c0 rejected system
         t1 tool.finished c0 rejected
         t1 tool.finished c1 unknown
         t1 turn.cancelled
         t2 turn.queued
         t2 turn.started 1",
    );
}

#[test]
fn a_forbidden_prompt_is_kept_and_fails() {
    let forbidden = || submission(2, "the SECRET plan", |_| {});
    case(
        vec![],
        forbidden(),
        "t2 turn.queued
         t2 guardrail.triggered input no_secrets block
         t2 turn.failed guardrail_blocked",
    );
    case(
        vec![submit(1)],
        forbidden(),
        "t2 turn.queued
         t2 guardrail.triggered input no_secrets block
         t2 turn.failed guardrail_blocked",
    );
}

#[test]
fn what_is_not_a_prompt_is_refused() {
    let input = |input: Input| {
        submission(1, "", move |command| {
            if let Command::Submit { input: place, .. } = command {
                *place = input.clone();
            }
        })
    };
    let parts = |texts: &[&str]| {
        let part = |text: &&str| Part::Text {
            text: (*text).to_owned(),
        };
        input(Input::Parts(texts.iter().map(part).collect()))
    };
    let empty = "refused Invalid([Violation { pointer: \"/input\", message: \"must not be empty\" }])";
    let large = "refused TooLarge { what: \"input\", max: 1000 }";
    case(vec![], input(Input::Text(String::new())), empty);
    case(vec![], input(Input::Text(" \n\t".into())), empty);
    case(vec![], parts(&[]), empty);
    case(vec![], parts(&["", " "]), empty);
    case(vec![], parts(&["", "x"]), "t1 turn.queued\n t1 turn.started 1");
    case(vec![], input(Input::Text("é".repeat(501))), large);
    case(
        vec![],
        parts(&["x".repeat(600).as_str(), "y".repeat(600).as_str()]),
        large,
    );
    case(
        vec![],
        input(Input::Text("é".repeat(500))),
        "t1 turn.queued\n t1 turn.started 1",
    );
    let metadata = submission(1, "hi", |command| {
        if let Command::Submit { metadata, .. } = command {
            metadata.insert("a".into(), json!("x".repeat(200)));
        }
    });
    case(vec![], metadata, "refused TooLarge { what: \"metadata\", max: 100 }");
}

#[test]
fn a_copy_of_a_request_is_one_turn_for_a_day() {
    let first = || vec![submit_keyed(1, "k", "body")];
    let and = |mut given: Vec<_>, more| {
        given.push(more);
        given
    };
    case(first(), submit_keyed(2, "k", "body"), "answers t1");
    case(first(), submit_keyed(2, "k", "other"), "refused KeyReused");
    case(first(), submit_keyed(2, "l", "body"), "t2 turn.queued");
    case(and(first(), says("done")), submit_keyed(2, "k", "body"), "answers t1");
    case(
        and(first(), crate::support::Act::Crash),
        submit_keyed(2, "k", "body"),
        "answers t1",
    );
    case(and(first(), wait(86_399)), submit_keyed(2, "k", "body"), "answers t1");
    case(
        and(first(), wait(86_400)),
        submit_keyed(2, "k", "other"),
        "t2 turn.queued",
    );
    // Limits do not reject a copy.
    case(
        and(and(first(), submit(2)), submit(3)),
        submit_keyed(4, "k", "body"),
        "answers t1",
    );
    case(
        and(and(first(), wait(86_400)), submit_keyed(2, "k", "other")),
        submit_keyed(3, "k", "other"),
        "answers t2",
    );
}

#[test]
fn a_submission_that_is_repeated_with_its_turn_is_one_turn_without_a_key() {
    case(vec![submit(1)], submit(1), "answers t1");
    case(vec![submit(1), says("done")], submit(1), "answers t1");
    case(vec![submit(1), crate::support::Act::Crash], submit(1), "answers t1");
}
