//! Tenants that are suspended while their turns run: nothing more is sent on their behalf.

use std::time::Duration;

use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::{Finish, ToolStatus};
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use copilotd_actors::ports::ToolErrorKind;
use serde_json::json;

use crate::support::{World, copilot, tool};

const KEYED: Repeat = Repeat::Keyed(Duration::from_secs(3600));

/// A copilot whose turns make `count` calls, one at a time.
async fn world(repeat: Repeat, count: usize) -> World {
    let bounds = Bounds {
        connector_concurrency: 1,
        reconcile: Duration::from_secs(5),
        ..Bounds::default()
    };
    let world = World::bounded(tool(copilot(), "do", repeat), bounds).await;
    let all = vec![("do", json!({})); count];
    world.model.on("work", &[calls(&all), says(&["done"], Duration::ZERO)]);
    world
}

/// Suspends the tenant and notifies, as the application does.
fn suspend(world: &World) {
    let tenant = world.scope.tenant();
    world.policies.suspend(tenant, true);
    world.directory().notify_standing_changed(|known| known == tenant);
}

fn statuses(world: &World, id: ConversationId) -> Vec<ToolStatus> {
    let status = |record: Record| match record.event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    };
    world.log.records(id).into_iter().filter_map(status).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_that_have_not_left_never_do() {
    let world = world(Repeat::Never, 3).await;
    let system = world.system("do");
    system.answer_all(Answer::done(Duration::from_secs(2)));
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    let queued = world.submit(id, "work").await;
    system.wait_for(|seen| seen.open == 1).await;
    suspend(&world);
    for turn in [turn, queued] {
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
    }
    world.settle().await;
    assert_eq!(
        statuses(&world, id),
        [ToolStatus::Unknown, ToolStatus::Cancelled, ToolStatus::Cancelled]
    );
    assert_eq!((system.seen().calls, world.model.seen().calls), (1, 1));
    // Serving it again needs no notification.
    world.policies.suspend(world.scope.tenant(), false);
    let turn = world.submit(id, "hello").await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_connector_asks_before_each_try() {
    let world = world(KEYED, 1).await;
    let system = world.system("do");
    let patience = Some(Duration::from_secs(2));
    system.answer(Answer::failed(ToolErrorKind::RateLimited, patience, None));
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    system.wait_for(|seen| seen.calls == 1 && seen.open == 0).await;
    // The conversation is not notified.
    world.policies.suspend(world.scope.tenant(), true);
    world.settle().await;
    assert_eq!(system.seen().calls, 1);
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
    assert_eq!(world.model.seen().calls, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_sealed_where_it_is() {
    let world = World::new().await;
    world
        .model
        .on("hello", &[says(&["One ", "two ", "three"], Duration::from_secs(1))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    suspend(&world);
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
    assert_eq!(world.model.wait_for(|seen| seen.dropped == 1).await.open, 0);
    let sealed = world.log.records(id).into_iter().find_map(|record| match record.event {
        Event::MessageCompleted {
            text,
            finish: Finish::Cancelled,
            ..
        } => Some(text),
        _ => None,
    });
    assert_eq!(sealed.as_deref(), Some("One "));
}

#[tokio::test(start_paused = true)]
async fn a_restart_calls_no_model_and_no_tool() {
    for repeat in [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never] {
        let mut world = world(repeat, 1).await;
        let system = world.system("do");
        system.answer_all(Answer {
            says: SystemReply::Nothing,
            ..Answer::done(Duration::ZERO)
        });
        let acting = world.create().await;
        let acting_turn = world.submit(acting, "work").await;
        system.wait_for(|seen| seen.open == 1).await;
        world.model.on("hello", &[says(&["One "], Duration::from_secs(60))]);
        let thinking = world.create().await;
        let thinking_turn = world.submit(thinking, "hello").await;
        world.model.wait_for(|seen| seen.open == 1).await;
        let asked = (world.model.seen().calls, system.seen().calls, system.seen().look_ups);
        world.crash().await;
        world.policies.suspend(world.scope.tenant(), true);
        world.restart().await;
        for (id, turn) in [(acting, acting_turn), (thinking, thinking_turn)] {
            assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
        }
        world.settle().await;
        let now = (world.model.seen().calls, system.seen().calls, system.seen().look_ups);
        assert_eq!(now, asked, "{repeat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_person_ends_though_its_conversation_sleeps() {
    let bounds = Bounds {
        far_approval: Duration::from_secs(60),
        reconcile: Duration::from_secs(5),
        ..Bounds::default()
    };
    let policy = tool(copilot(), "do", Repeat::Never).with_approval("do");
    let world = World::bounded(policy, bounds).await;
    world.model.on("work", &[calls(&[("do", json!({}))])]);
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.named(id, "approval.requested").await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.directory().alive(), 0);
    suspend(&world);
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
    assert_eq!(statuses(&world, id), [ToolStatus::Rejected]);
}
