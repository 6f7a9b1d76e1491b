//! Calls that a page of the user runs.

use std::collections::BTreeSet;

use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::snapshot;
use copilotd_actors::domain::conversation::turn::Turn;
use copilotd_actors::domain::conversation::view::{ToolCallStatus, TurnView};
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet};
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::domain::tool::client::MAX_ANSWER;
use proptest::prelude::*;
use serde_json::json;

use crate::acts::*;
use crate::audit::audit;
use crate::support::{Act, Scenario, case, case_with, conversation_id, policy};

fn offered() -> Vec<Act> {
    vec![submit_with_tools(1), asks(&["page"])]
}

fn claimed() -> Vec<Act> {
    after(offered(), claim(1, 0, "p0", None))
}

fn answered() -> Vec<Act> {
    after(claimed(), answer(1, 0, "p0", Some(json!({ "title": "Home" }))))
}

fn after(mut given: Vec<Act>, more: Act) -> Vec<Act> {
    given.push(more);
    given
}

#[test]
fn a_page_claims_a_call_and_answers_it() {
    case(
        vec![submit_with_tools(1)],
        asks(&["page", "read", "ask"]),
        "t1 message.completed tool_calls '' c0:page c1:read c2:ask
         t1 client_tool.requested c0
         t1 tool.called c1 read {}
         t1 approval.requested c2",
    );
    case(offered(), claim(1, 0, "p0", None), "t1 tool.called c0 page {} by p0");
    case(
        claimed(),
        answer(1, 0, "p0", Some(json!(null))),
        "t1 tool.finished c0 succeeded",
    );
    case(claimed(), answer(1, 0, "p0", None), "t1 tool.finished c0 failed");
    case(
        answered(),
        says("ok"),
        "t1 message.completed stop 'ok'\n t1 turn.completed",
    );
}

#[test]
fn one_page_runs_a_call() {
    case(claimed(), claim(1, 0, "p1", None), "refused NotClaimable");
    case(claimed(), claim(1, 0, "p0", None), "refused NotClaimable");
    case(claimed(), answer(1, 0, "p1", None), "refused NotClaimable");
    case(offered(), answer(1, 0, "p0", None), "refused NotClaimable");
    case(answered(), claim(1, 0, "p1", None), "refused NotClaimable");
    case(answered(), answer(1, 0, "p0", Some(json!(1))), "refused NotClaimable");
    case(offered(), claim(2, 0, "p0", None), "refused NotClaimable");
    // Calls that a connector runs or a person decides on.
    for tool in ["read", "ask"] {
        let given = || vec![submit_with_tools(1), asks_with(vec![(tool, json!({}))])];
        case(given(), claim(1, 0, "p0", None), "refused NotClaimable");
        case(given(), answer(1, 0, "p0", None), "refused NotClaimable");
        case(given(), expire_client_tool(1, 0), "nothing");
    }
    // And the other way round.
    for given in [offered, claimed] {
        case(given(), done(0), "nothing");
        case(given(), approve(1, 0), "refused NotWaiting");
    }
}

#[test]
fn a_claim_is_repeated_under_its_key_only() {
    let keyed = || after(offered(), claim(1, 0, "p0", Some("k")));
    case(keyed(), claim(1, 0, "p9", Some("k")), "answers t1");
    case(keyed(), claim(1, 0, "p9", Some("other")), "refused NotClaimable");
    case(keyed(), claim(1, 0, "p9", None), "refused NotClaimable");
    case(
        after(keyed(), wait(300)),
        claim(1, 0, "p9", Some("k")),
        "refused NotClaimable",
    );
    let done = after(keyed(), answer(1, 0, "p0", None));
    case(done, claim(1, 0, "p9", Some("k")), "refused NotClaimable");
    // The first token stays.
    case(
        after(keyed(), claim(1, 0, "p9", Some("k"))),
        answer(1, 0, "p9", None),
        "refused NotClaimable",
    );
}

#[test]
fn nobody_claims_or_answers() {
    let late = |given: fn() -> Vec<Act>, seconds| after(given(), wait(seconds));
    case(
        late(offered, 59),
        claim(1, 0, "p0", None),
        "t1 tool.called c0 page {} by p0",
    );
    case(late(offered, 59), expire_client_tool(1, 0), "nothing");
    case(late(offered, 60), claim(1, 0, "p0", None), "refused NotClaimable");
    case(
        late(offered, 60),
        expire_client_tool(1, 0),
        "t1 tool.finished c0 failed",
    );
    case(late(claimed, 299), expire_client_tool(1, 0), "nothing");
    case(
        late(claimed, 299),
        answer(1, 0, "p0", None),
        "t1 tool.finished c0 failed",
    );
    case(late(claimed, 300), answer(1, 0, "p0", None), "refused NotClaimable");
    case(
        late(claimed, 300),
        expire_client_tool(1, 0),
        "t1 tool.finished c0 unknown",
    );
    case(answered(), expire_client_tool(1, 0), "nothing");
}

#[test]
fn the_time_of_a_page_is_not_the_turns() {
    let slow = || {
        let mut given = after(offered(), wait(59));
        given.extend([claim(1, 0, "p0", None), wait(299), answer(1, 0, "p0", None)]);
        given
    };
    case(after(slow(), wait(599)), expire_turn(1, ""), "nothing");
    case(
        after(slow(), wait(600)),
        expire_turn(1, ""),
        "t1 message.reset stopped
         t1 model.failed cancelled
         t1 turn.failed limit_time",
    );
    case(after(claimed(), wait(601)), expire_turn(1, ""), "nothing");
}

#[test]
fn a_turn_that_is_stopped_says_whether_a_page_may_have_run_its_call() {
    case(
        offered(),
        cancel(1, ""),
        "t1 tool.finished c0 cancelled\n t1 turn.cancelled",
    );
    case(
        claimed(),
        cancel(1, ""),
        "t1 tool.finished c0 unknown\n t1 turn.cancelled",
    );
    case(
        after(claimed(), cancel(1, "")),
        answer(1, 0, "p0", None),
        "refused NotClaimable",
    );
    case(
        after(offered(), cancel(1, "")),
        claim(1, 0, "p0", None),
        "refused NotClaimable",
    );
}

#[test]
fn nothing_of_it_is_lost_or_repeated_in_a_crash() {
    for given in [offered, claimed] {
        case(after(given(), Act::Crash), recover(), "answers t1");
    }
    let crashed = after(claimed(), Act::Crash);
    case(
        after(crashed, recover()),
        answer(1, 0, "p0", Some(json!(1))),
        "t1 tool.finished c0 succeeded",
    );
    let crashed = after(answered(), Act::Crash);
    case(
        crashed,
        recover(),
        "t1 message.reset recovered
         t1 turn.started 2",
    );
    // Nor does a stop or a tenant that is left out change anything.
    for given in [offered, claimed] {
        case(given(), pause(&[], false), "nothing");
        case(given(), hand_over(&[], false), "nothing");
        case(given(), resume(&[]), "nothing");
    }
}

#[test]
fn a_page_never_sees_arguments_that_violate_the_schema() {
    case(
        vec![submit_with_tools(1)],
        asks_with(vec![("page", json!({ "n": "x" })), ("other", json!({ "n": "x" }))]),
        "t1 message.completed tool_calls '' c0:page c1:other
         t1 guardrail.triggered tool tool_arguments repair
         t1 tool.finished c0 failed
         t1 client_tool.requested c1",
    );
    // Of another turn.
    case(
        vec![submit(1)],
        asks(&["page"]),
        "t1 message.completed tool_calls '' c0:page
         t1 guardrail.triggered tool tool_arguments repair
         t1 tool.finished c0 failed",
    );
}

#[test]
fn a_copilot_may_forbid_client_tools_and_owns_its_names() {
    let forbid = |policy: &mut Policy| policy.client_tools = false;
    case(
        vec![Act::Configure(forbid)],
        submit_with_tools(1),
        "refused Invalid([Violation { pointer: \"/client_tools\", message: \"this copilot's configuration does not allow \
         client tools; leave them out\" }])",
    );
    let taken = |policy: &mut Policy| {
        let tool = policy.tools["read"].clone();
        policy.tools.insert("other".to_owned(), tool);
    };
    case(
        vec![Act::Configure(taken)],
        submit_with_tools(1),
        "refused Invalid([Violation { pointer: \"/client_tools/1/name\", message: \"the copilot has a tool named \
         \\\"other\\\"; choose another name\" }])",
    );
    // The configuration changes while the turn runs: no page gets the call, and the copilot's own tool wins.
    case(
        vec![submit_with_tools(1), Act::Configure(forbid)],
        asks(&["page"]),
        "t1 message.completed tool_calls '' c0:page
         t1 guardrail.triggered tool tool_arguments repair
         t1 tool.finished c0 failed",
    );
    case(
        vec![submit_with_tools(1), Act::Configure(taken)],
        asks(&["other"]),
        "t1 message.completed tool_calls '' c0:other
         t1 tool.called c0 other {}",
    );
}

#[test]
fn answers_are_bounded_and_guarded() {
    case(
        claimed(),
        answer(1, 0, "p0", Some(json!("x".repeat(MAX_ANSWER)))),
        "refused TooLarge { what: \"the answer\", max: 65536 }",
    );
    let rule = |action| {
        let mut policy = policy();
        policy.rules.output = RuleSet::new([Rule {
            name: "no_home".into(),
            literal: "Home".into(),
            action,
            confusables: false,
        }]);
        policy
    };
    let home = || answer(1, 0, "p0", Some(json!({ "title": "Home" })));
    case_with(
        rule(OnMatch::Block),
        claimed(),
        home(),
        "t1 guardrail.triggered tool no_home block
         t1 tool.finished c0 succeeded",
    );
    case_with(
        rule(OnMatch::Redact),
        claimed(),
        home(),
        "t1 guardrail.triggered tool no_home redact
         t1 tool.finished c0 succeeded",
    );
    // What a page says of its tools is part of the prompt.
    let mut policy = policy();
    policy.rules.input = RuleSet::new([Rule {
        name: "no_pages".into(),
        literal: "Does page.".into(),
        action: OnMatch::Block,
        confusables: false,
    }]);
    case_with(
        policy,
        vec![],
        submit_with_tools(1),
        "t1 turn.queued
         t1 guardrail.triggered input no_pages block
         t1 turn.failed guardrail_blocked",
    );
}

#[test]
fn a_turn_that_waits_for_a_page_is_parked_and_a_snapshot_keeps_its_tools() {
    for given in [offered(), claimed()] {
        let mut scenario = Scenario::new(policy());
        given.iter().for_each(|act| drop(scenario.play(act)));
        let is_parked = scenario.conversation.active().is_some_and(Turn::is_parked);
        assert!(is_parked);
        assert!(scenario.conversation.active().is_some_and(Turn::awaits_user));
        let (id, seq, bytes) = (
            conversation_id(),
            scenario.conversation.seq,
            snapshot::encode(&scenario.conversation),
        );
        assert!(
            !String::from_utf8_lossy(&bytes).contains("Does page"),
            "no text of a turn"
        );
        let (mut woken, from) = snapshot::decode(id, seq, &bytes).expect("a snapshot of this version");
        for record in scenario.log().filter(|record| record.seq >= from) {
            snapshot::refill(&mut woken, record);
        }
        assert_eq!(woken, scenario.conversation);
    }
}

#[test]
fn a_reader_sees_until_when_a_page_may_claim_or_answer() {
    for (given, status, expires) in [
        (offered(), ToolCallStatus::Proposed, Some(60)),
        (claimed(), ToolCallStatus::Running, Some(300)),
        (answered(), ToolCallStatus::Succeeded, None),
    ] {
        let mut scenario = Scenario::new(policy());
        given.iter().for_each(|act| drop(scenario.play(act)));
        let records: Vec<Record> = scenario.log().filter(|record| record.turn.is_some()).cloned().collect();
        let view = TurnView::fold(conversation_id(), &records, None).expect("a turn");
        let call = &view.tool_calls[0];
        let until = call.expires_at.map(|at| at.duration_since(scenario.now).as_secs());
        assert_eq!((call.status, until), (status, expires));
        assert!(
            !serde_json::to_string(&view).expect("a view").contains("p0"),
            "the token is secret"
        );
    }
}

/// What may happen to two calls and three pages.
#[derive(Debug, Clone)]
enum Happens {
    /// A page claims; its request may be repeated because the answer got lost.
    Claim {
        call: usize,
        page: usize,
        answer_lost: bool,
    },
    Answer {
        call: usize,
        page: usize,
        failed: bool,
    },
    Expire {
        call: usize,
    },
    Pass {
        seconds: u64,
    },
    Cancel,
    Crash,
}

fn happens() -> impl Strategy<Value = Happens> {
    let (call, page) = (0..2_usize, 0..3_usize);
    prop_oneof![
        6 => (call.clone(), page.clone(), any::<bool>())
            .prop_map(|(call, page, answer_lost)| Happens::Claim { call, page, answer_lost }),
        4 => (call.clone(), page, any::<bool>())
            .prop_map(|(call, page, failed)| Happens::Answer { call, page, failed }),
        2 => call.prop_map(|call| Happens::Expire { call }),
        3 => (0..200_u64).prop_map(|seconds| Happens::Pass { seconds }),
        1 => Just(Happens::Cancel),
        2 => Just(Happens::Crash),
    ]
}

const TOKENS: [&str; 3] = ["p0", "p1", "p2"];
const KEYS: [&str; 3] = ["k0", "k1", "k2"];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariant: every call ends exactly once, at most one page runs it, and the end says what that page did.
    #[test]
    fn a_call_is_run_once_and_ends_once_whatever_happens(steps in prop::collection::vec(happens(), 1..40)) {
        let mut scenario = Scenario::new(policy());
        for act in [submit_with_tools(1), asks(&["page", "other"])] {
            scenario.play(&act);
        }
        let calls = [scenario.call(0), scenario.call(1)];
        let mut run_by: [BTreeSet<usize>; 2] = Default::default();
        for step in steps {
            match step {
                Happens::Claim { call, page, answer_lost } => {
                    let said = scenario.play(&claim(1, call, TOKENS[page], Some(KEYS[page])));
                    // A page runs a call once it has read that it may.
                    if !said.starts_with("refused") && !answer_lost {
                        run_by[call].insert(page);
                    }
                }
                // Only a page that knows its token answers.
                Happens::Answer { call, page, failed } if run_by[call].contains(&page) => {
                    scenario.play(&answer(1, call, TOKENS[page], (!failed).then(|| json!(page))));
                }
                Happens::Answer { .. } => {}
                Happens::Expire { call } => drop(scenario.play(&expire_client_tool(1, call))),
                Happens::Pass { seconds } => drop(scenario.play(&wait(seconds))),
                Happens::Cancel => drop(scenario.play(&cancel(1, ""))),
                Happens::Crash => {
                    scenario.crash();
                    scenario.play(&recover());
                }
            }
        }
        // Whatever is open now ends by its timer.
        for call in [0, 1, 0, 1] {
            scenario.play(&wait(300));
            scenario.play(&expire_client_tool(1, call));
        }
        audit(&scenario.appends);
        for (call, pages) in calls.iter().zip(&run_by) {
            prop_assert!(pages.len() <= 1, "{pages:?} have run the same call");
            let ends: Vec<_> = scenario.log().filter_map(|record| match &record.event {
                Event::ToolFinished { call_id, status, answer_hash, .. } if call_id == call => {
                    Some((*status, answer_hash.is_some()))
                }
                _ => None,
            }).collect();
            prop_assert_eq!(ends.len(), 1, "{:?}", ends);
            let (status, was_answered) = ends[0];
            if !pages.is_empty() {
                prop_assert!(was_answered || status == ToolStatus::Unknown, "{:?}, but {:?} has run it", status, pages);
            }
        }
    }
}
