//! Tenants that are left out for a fault in their settings while turns run: no work starts, and everything continues
//! once they are served again.

use std::collections::BTreeMap;
use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::{Command, Decision};
use copilotd_actors::domain::event::{ApprovalOutcome, Event, Record};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::{Policy, Repeat};
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::fakes::log::Fault;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use copilotd_actors::ports::{ServingState, ToolErrorKind};
use serde_json::json;

use crate::support::{World, copilot, submission, tool};

const KEYED: Repeat = Repeat::Keyed(Duration::from_secs(3600));
/// Longer than a turn may take (600 s), and than a call has to settle.
const LONG: Duration = Duration::from_secs(2 * 3600);

async fn world_with(policy: Policy) -> World {
    let bounds = Bounds {
        connector_concurrency: 1,
        reconcile: Duration::from_secs(5),
        ..Bounds::default()
    };
    World::bounded(policy, bounds).await
}

/// A copilot whose turns make `count` calls, one at a time.
async fn world(repeat: Repeat, count: usize) -> World {
    let world = world_with(tool(copilot(), "do", repeat)).await;
    let all = vec![("do", json!({})); count];
    world.model.on("work", &[calls(&all), says(&["done"], Duration::ZERO)]);
    world
}

/// Sets the standing and notifies, as the application does after a configuration change.
fn stand(world: &World, standing: ServingState) {
    let tenant = world.scope.tenant();
    world.policies.stand(tenant, standing);
    world.directory().notify_standing_changed(|known| known == tenant);
}

fn statuses(world: &World, id: ConversationId) -> Vec<ToolStatus> {
    let status = |record: Record| match record.event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    };
    world.log.records(id).into_iter().filter_map(status).collect()
}

/// Attempts of all turns of a conversation.
fn attempts(world: &World, id: ConversationId) -> Vec<u32> {
    let attempt = |record: Record| match record.event {
        Event::TurnStarted { attempt, .. } => Some(attempt),
        _ => None,
    };
    world.log.records(id).into_iter().filter_map(attempt).collect()
}

/// Counts what was sent so far: model calls, tool calls, look-ups, and schema checks.
fn sent(world: &World) -> (usize, usize, usize, usize) {
    let seen = world.system("do").seen();
    (
        world.model.seen().calls,
        seen.calls,
        seen.look_ups,
        world.schemas.begun(),
    )
}

/// Asserts that nothing is sent for a long time.
async fn nothing_is_sent(world: &World) {
    let before = sent(world);
    tokio::time::sleep(LONG).await;
    assert_eq!(sent(world), before);
}

/// How a tenant gets served again: in the same process, by a restart, or by a restart while it is left out and another
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mended {
    Told,
    /// The conversations are not notified: the reconciler finds out.
    Untold,
    Restarted,
    RestartedTwice,
}

const ALL: [Mended; 4] = [Mended::Told, Mended::Untold, Mended::Restarted, Mended::RestartedTwice];

async fn mend(world: &mut World, how: Mended) {
    match how {
        Mended::Told => stand(world, ServingState::Served),
        Mended::Untold => world.policies.stand(world.scope.tenant(), ServingState::Served),
        Mended::Restarted => {
            world.crash().await;
            world.policies.stand(world.scope.tenant(), ServingState::Served);
            world.restart().await;
        }
        Mended::RestartedTwice => {
            world.crash().await;
            world.restart().await;
            nothing_is_sent(world).await;
            world.crash().await;
            world.restart().await;
            nothing_is_sent(world).await;
            stand(world, ServingState::Served);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_under_way_ends_and_the_next_turn_waits() {
    for how in ALL {
        let mut world = world(Repeat::Read, 0).await;
        world
            .model
            .on("hello", &[says(&["One ", "two"], Duration::from_secs(1))]);
        let id = world.create().await;
        let turn = world.submit(id, "hello").await;
        let next = world.submit(id, "hello again").await;
        world.model.wait_for(|seen| seen.open == 1).await;
        stand(&world, ServingState::LeftOut);
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        nothing_is_sent(&world).await;
        assert_eq!((world.model.seen().calls, world.directory().alive()), (1, 0), "{how:?}");
        assert_eq!(world.shared().admission.working(), 0);
        mend(&mut world, how).await;
        assert!(
            matches!(world.end_of(id, next).await, Event::TurnCompleted { .. }),
            "{how:?}"
        );
        assert_eq!(
            (world.model.seen().calls, attempts(&world, id)),
            (2, vec![1, 1]),
            "{how:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_an_answer_asks_for_wait_whatever_repeating_them_would_do() {
    for how in ALL {
        for repeat in [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never] {
            let mut world = world(repeat, 0).await;
            let mut asks = calls(&[("do", json!({})), ("do", json!({}))]);
            asks.insert(0, Act::Wait(Duration::from_secs(5)));
            world.model.on("work", &[asks, says(&["done"], Duration::ZERO)]);
            let id = world.create().await;
            let turn = world.submit(id, "work").await;
            world.model.wait_for(|seen| seen.open == 1).await;
            stand(&world, ServingState::LeftOut);
            world.named(id, "tool.called").await;
            nothing_is_sent(&world).await;
            assert_eq!(world.system("do").seen().calls, 0);
            mend(&mut world, how).await;
            let end = world.end_of(id, turn).await;
            assert!(
                matches!(end, Event::TurnCompleted { .. }),
                "{how:?} {repeat:?}: {end:?}"
            );
            assert_eq!(statuses(&world, id), [ToolStatus::Succeeded; 2], "{how:?} {repeat:?}");
            let effects: BTreeMap<_, _> = world.system("do").effects();
            assert_eq!(effects.into_values().collect::<Vec<_>>(), [1, 1], "{how:?} {repeat:?}");
            assert_eq!(attempts(&world, id), [1], "{how:?} {repeat:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_ends_and_those_behind_it_wait() {
    for how in ALL {
        let mut world = world(Repeat::Never, 3).await;
        let system = world.system("do");
        system.answer_all(Answer::done(Duration::from_secs(2)));
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        system.wait_for(|seen| seen.open == 1).await;
        stand(&world, ServingState::LeftOut);
        world.named(id, "tool.finished").await;
        nothing_is_sent(&world).await;
        assert_eq!((system.seen().calls, world.shared().admission.working()), (1, 0));
        mend(&mut world, how).await;
        assert!(
            matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }),
            "{how:?}"
        );
        assert_eq!(statuses(&world, id), [ToolStatus::Succeeded; 3], "{how:?}");
        assert!(system.effects().values().all(|times| *times == 1), "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_in_doubt_keeps_its_tools_rule() {
    let doubt = || {
        Answer::failed(
            ToolErrorKind::OutcomeUnknown,
            Some(Duration::from_secs(2)),
            Some(Duration::ZERO),
        )
    };
    for how in ALL {
        for (repeat, expected) in [
            (Repeat::Read, ToolStatus::Succeeded),
            (Repeat::Keyed(4 * LONG * 3), ToolStatus::Succeeded),
            // By then the vendor has forgotten the key, but not the effect.
            (KEYED, ToolStatus::Succeeded),
            (Repeat::LookUp, ToolStatus::Succeeded),
            (Repeat::Never, ToolStatus::Unknown),
        ] {
            let mut world = world(repeat, 1).await;
            let system = world.system("do");
            system.know_keys();
            system.answer(doubt());
            let id = world.create().await;
            let turn = world.submit(id, "work").await;
            system.wait_for(|seen| seen.calls == 1 && seen.open == 0).await;
            stand(&world, ServingState::LeftOut);
            nothing_is_sent(&world).await;
            mend(&mut world, how).await;
            assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
            assert_eq!(statuses(&world, id), [expected], "{how:?} {repeat:?}");
            assert!(system.effects().values().all(|times| *times == 1), "{how:?} {repeat:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_vendor_put_off_is_sent_later() {
    for how in ALL {
        let mut world = world(Repeat::Never, 1).await;
        let system = world.system("do");
        let patience = Some(Duration::from_secs(2));
        system.answer(Answer::failed(ToolErrorKind::RateLimited, patience, None));
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        system.wait_for(|seen| seen.calls == 1 && seen.open == 0).await;
        // The conversation is not notified: the connector notices and returns the call.
        world.policies.stand(world.scope.tenant(), ServingState::LeftOut);
        nothing_is_sent(&world).await;
        mend(&mut world, how).await;
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        assert_eq!(statuses(&world, id), [ToolStatus::Succeeded], "{how:?}");
        assert_eq!(system.seen().calls, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_left_out_for_a_moment_loses_nothing() {
    for repeat in [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never] {
        let world = world(repeat, 3).await;
        let system = world.system("do");
        system.answer_all(Answer::done(Duration::from_secs(2)));
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        for seen in 1..=3 {
            system.wait_for(|now| now.calls == seen).await;
            stand(&world, ServingState::LeftOut);
            stand(&world, ServingState::Served);
            stand(&world, ServingState::LeftOut);
            tokio::time::sleep(Duration::from_millis(100)).await;
            stand(&world, ServingState::Served);
        }
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        assert_eq!(statuses(&world, id), [ToolStatus::Succeeded; 3], "{repeat:?}");
        assert_eq!((system.seen().calls, world.model.seen().calls), (3, 2), "{repeat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_has_its_deadline_all_the_same() {
    for how in ALL {
        let mut policy = tool(copilot(), "do", Repeat::Never).with_approval("do");
        policy.limits.approval = Duration::from_secs(1000);
        // Even in an actor that never knew the copilot's limits.
        policy.limits.steps = 40;
        let mut world = world_with(policy).await;
        world
            .model
            .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        let asked = world.named(id, "approval.requested").await;
        stand(&world, ServingState::LeftOut);
        if how == Mended::RestartedTwice {
            world.crash().await;
            world.restart().await;
        }
        let decided = world.named(id, "approval.decided").await;
        assert!(matches!(
            decided.event,
            Event::ApprovalDecided {
                decision: ApprovalOutcome::Expired,
                ..
            }
        ));
        let took = decided.at.duration_since(asked.at).as_secs();
        assert!((1000..1020).contains(&took), "{how:?}: {took} s");
        nothing_is_sent(&world).await;
        mend(&mut world, how).await;
        assert!(
            matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }),
            "{how:?}"
        );
        assert_eq!(
            (world.model.seen().calls, attempts(&world, id)),
            (2, vec![1]),
            "{how:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_is_still_due_can_be_made_afterwards() {
    for how in ALL {
        let mut policy = tool(copilot(), "do", Repeat::Never).with_approval("do");
        policy.limits.approval = 10 * LONG;
        let mut world = world_with(policy).await;
        world
            .model
            .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        let Event::ApprovalRequested { call_id, .. } = world.named(id, "approval.requested").await.event else {
            unreachable!("find selected this event")
        };
        stand(&world, ServingState::LeftOut);
        nothing_is_sent(&world).await;
        let approve = || Decision::Approve { arguments: None };
        let refused = world.decide(id, turn, call_id, approve()).await;
        assert!(matches!(refused, Err(Refusal::LeftOut)), "{refused:?}");
        mend(&mut world, how).await;
        world.decide(id, turn, call_id, approve()).await.unwrap();
        assert!(
            matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }),
            "{how:?}"
        );
        assert_eq!(world.system("do").seen().calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_schema_is_checked_once_the_tenant_is_served_again() {
    for how in [Mended::Told, Mended::Untold] {
        let mut world = world(Repeat::Read, 0).await;
        world
            .model
            .on("json", &[says(&["{\"n\": ", "1}"], Duration::from_secs(1))]);
        let id = world.create().await;
        let turn = world.turn_id();
        let mut command = submission(turn, "json");
        if let Command::Submit { response_schema, .. } = &mut command {
            *response_schema = Some(AcceptedSchema::unchecked(json!({ "required": ["n"] })));
        }
        world.execute(id, command).await.unwrap();
        world.model.wait_for(|seen| seen.open == 1).await;
        stand(&world, ServingState::LeftOut);
        nothing_is_sent(&world).await;
        assert_eq!(world.schemas.begun(), 0);
        mend(&mut world, how).await;
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        assert_eq!(
            (world.schemas.begun(), world.model.seen().calls),
            (1, 1),
            "checked and called once"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_asked_then_is_asked_later() {
    for how in ALL {
        let mut world = world(Repeat::Read, 0).await;
        // The error of a route without targets for the tenant; normally it ends a turn at once.
        let late = vec![
            Act::Wait(Duration::from_secs(5)),
            Act::Fail(FailureClass::Rejected, None),
        ];
        world.model.once("hello", late);
        let id = world.create().await;
        let turn = world.submit(id, "hello").await;
        world.model.wait_for(|seen| seen.open == 1).await;
        stand(&world, ServingState::LeftOut);
        nothing_is_sent(&world).await;
        mend(&mut world, how).await;
        let end = world.end_of(id, turn).await;
        assert!(matches!(end, Event::TurnCompleted { .. }), "{how:?}: {end:?}");
        assert_eq!(world.model.seen().calls, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn suspended_while_left_out_it_is_cancelled() {
    for restarted in [false, true] {
        let mut world = world(Repeat::Never, 3).await;
        let system = world.system("do");
        system.answer_all(Answer::done(Duration::from_secs(2)));
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        let queued = world.submit(id, "work").await;
        system.wait_for(|seen| seen.open == 1).await;
        stand(&world, ServingState::LeftOut);
        nothing_is_sent(&world).await;
        if restarted {
            world.crash().await;
            world.policies.stand(world.scope.tenant(), ServingState::Suspended);
            world.restart().await;
        } else {
            stand(&world, ServingState::Suspended);
        }
        for turn in [turn, queued] {
            assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
        }
        // Calls that were never sent are known to have had no effect.
        assert_eq!(
            statuses(&world, id),
            [ToolStatus::Succeeded, ToolStatus::Cancelled, ToolStatus::Cancelled]
        );
        stand(&world, ServingState::LeftOut);
        stand(&world, ServingState::Served);
        nothing_is_sent(&world).await;
        let turn = world.submit(id, "hello").await;
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        assert_eq!(system.seen().calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_in_the_middle_of_a_call_it_recovers_by_its_tools_rule() {
    for (repeat, expected) in [
        (Repeat::Read, ToolStatus::Succeeded),
        (Repeat::Never, ToolStatus::Unknown),
    ] {
        let mut world = world(repeat, 1).await;
        let system = world.system("do");
        system.answer(Answer {
            says: SystemReply::Nothing,
            ..Answer::done(Duration::ZERO)
        });
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        system.wait_for(|seen| seen.open == 1).await;
        stand(&world, ServingState::LeftOut);
        world.named(id, "turn.paused").await;
        world.crash().await;
        world.restart().await;
        nothing_is_sent(&world).await;
        stand(&world, ServingState::Served);
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        assert_eq!(statuses(&world, id), [expected], "{repeat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_for_it_meanwhile_and_others_are_served() {
    let world = world(Repeat::Read, 0).await;
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    let before = world.names(id);
    stand(&world, ServingState::LeftOut);
    let refused = world.execute(id, submission(world.turn_id(), "hello")).await;
    assert!(matches!(refused, Err(Refusal::LeftOut)), "{refused:?}");
    let refused = world.cancel(id, turn).await;
    assert!(matches!(refused, Err(Refusal::LeftOut)), "{refused:?}");
    nothing_is_sent(&world).await;
    assert_eq!(world.names(id), before);
    stand(&world, ServingState::Served);
    let turn = world.submit(id, "hello").await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_append_nothing_is_lost_and_nothing_is_done_twice() {
    for nth in 1.. {
        let mut reached = false;
        for fault in [Fault::Before, Fault::After] {
            let mut world = world(Repeat::Never, 3).await;
            let system = world.system("do");
            system.answer_all(Answer::done(Duration::from_secs(2)));
            let id = world.create().await;
            let turn = world.submit(id, "work").await;
            system.wait_for(|seen| seen.open == 1).await;
            world.probe.stop_at(nth, fault);
            stand(&world, ServingState::LeftOut);
            let dies = async |world: &World, rest: Duration| {
                tokio::select! {
                    biased;
                    () = world.probe.stopped() => true,
                    () = tokio::time::sleep(rest) => false,
                }
            };
            let mut died = dies(&world, LONG).await;
            if died {
                world.crash().await;
                world.restart().await;
                nothing_is_sent(&world).await;
            }
            stand(&world, ServingState::Served);
            if !died {
                died = dies(&world, LONG).await;
                if died {
                    world.crash().await;
                    world.restart().await;
                }
            }
            reached |= died;
            let end = world.end_of(id, turn).await;
            assert!(
                matches!(end, Event::TurnCompleted { .. }),
                "append {nth}, {fault:?}: {end:?}"
            );
            let found = statuses(&world, id);
            let told = |status: &ToolStatus| matches!(status, ToolStatus::Succeeded | ToolStatus::Unknown);
            assert!(
                found.len() == 3 && found.iter().all(told),
                "append {nth}, {fault:?}: {found:?}"
            );
            let effects = system.effects();
            assert!(
                effects.values().all(|times| *times == 1),
                "append {nth}, {fault:?}: {effects:?}"
            );
        }
        if !reached {
            assert!(nth > 5, "the process died only {nth} times");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_that_the_store_refuses_stops_nothing() {
    let world = world(Repeat::Read, 0).await;
    world
        .model
        .on("hello", &[says(&["One ", "two"], Duration::from_secs(1))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.named(id, "context.assembled").await;
    world.log.refuse_append(1, "disk full");
    stand(&world, ServingState::LeftOut);
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert_eq!(
        (world.model.seen().calls, attempts(&world, id)),
        (1, vec![1]),
        "the running answer was lost"
    );
}
