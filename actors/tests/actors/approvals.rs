//! Calls that wait for approval, and conversations that are passivated meanwhile.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::Decision;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{CallId, ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{Act, calls, says};
use serde_json::json;

use crate::support::{World, copilot, submission, tool};

async fn world(far: Duration) -> (World, ConversationId, TurnId, CallId) {
    let bounds = Bounds {
        far_approval: far,
        reconcile: Duration::from_secs(5),
        ..Bounds::default()
    };
    let policy = tool(copilot(), "do", Repeat::Never).with_approval("do");
    let world = World::bounded(policy, bounds).await;
    world.model.on(
        "work",
        &[calls(&[("do", json!({ "n": 1 }))]), says(&["done"], Duration::ZERO)],
    );
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    let requested = world.named(id, "approval.requested").await;
    let Event::ApprovalRequested { call_id, .. } = requested.event else {
        unreachable!("find selected this event")
    };
    (world, id, turn, call_id)
}

fn result(records: &[Record]) -> Option<ToolStatus> {
    records.iter().find_map(|record| match record.event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_nobody_decides_expires_and_the_turn_goes_on() {
    let (world, id, turn, _) = world(Duration::MAX).await;
    let begun = tokio::time::Instant::now();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert!(begun.elapsed() >= Duration::from_secs(3599));
    assert_eq!(result(&world.log.records(id)), Some(ToolStatus::Rejected));
    assert_eq!(world.system("do").seen().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn an_approval_with_edited_arguments_runs_with_them_once() {
    let (world, id, turn, call) = world(Duration::MAX).await;
    world.system("do");
    let edited = || Decision::Approve {
        arguments: Some(json!({ "n": 2 })),
    };
    let (a, b) = tokio::join!(
        world.decide(id, turn, call, edited()),
        world.decide(id, turn, call, edited())
    );
    a.unwrap();
    assert_eq!(
        b.unwrap_err(),
        Refusal::Rejected(Rejection::NotWaiting),
        "only one decision counts"
    );
    world.end_of(id, turn).await;
    let requests = world.system("do").requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].1.arguments, json!({ "n": 2 }));
}

#[tokio::test(start_paused = true)]
async fn a_far_approval_lets_the_conversation_go_and_the_reconciler_wakes_it_when_it_is_due() {
    let (world, id, turn, _) = world(Duration::from_secs(300)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(
        world.directory().alive(),
        0,
        "no conversation stays in memory for an hour"
    );
    assert_eq!(world.shared().admission.open(), 0);
    let begun = tokio::time::Instant::now();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert!(begun.elapsed() < Duration::from_secs(3600));
    assert_eq!(result(&world.log.records(id)), Some(ToolStatus::Rejected));
}

#[tokio::test(start_paused = true)]
async fn a_decision_wakes_a_conversation_that_was_let_go() {
    let (world, id, turn, call) = world(Duration::from_secs(300)).await;
    world.system("do");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.directory().alive(), 0);
    world
        .decide(id, turn, call, Decision::Approve { arguments: None })
        .await
        .unwrap();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert_eq!(result(&world.log.records(id)), Some(ToolStatus::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn an_approval_survives_a_crash_and_still_expires() {
    let (mut world, id, turn, _) = world(Duration::MAX).await;
    world.crash().await;
    tokio::time::sleep(Duration::from_secs(7200)).await;
    world.restart().await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert_eq!(result(&world.log.records(id)), Some(ToolStatus::Rejected));
}

#[tokio::test(start_paused = true)]
async fn a_conversation_with_a_turn_is_never_let_go() {
    let bounds = Bounds {
        idle: Duration::from_secs(1),
        ..Bounds::default()
    };
    let world = World::bounded(copilot(), bounds).await;
    world.model.on("hello", &[says(&["a", "b"], Duration::from_secs(100))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.end_of(id, turn).await;
    assert_eq!(world.model.seen().calls, 1);
    assert!(!world.names(id).contains(&"message.reset"));
    world.settle().await;
    assert_eq!(world.directory().alive(), 0);
}

/// Submits at every moment around the time of passivation.
#[tokio::test(start_paused = true)]
async fn a_submit_that_meets_a_passivation_is_never_lost() {
    let bounds = Bounds {
        idle: Duration::from_millis(5),
        ..Bounds::default()
    };
    let world = World::bounded(copilot(), bounds).await;
    let id = world.create().await;
    for round in 0..400 {
        let turn = world.turn_id();
        let other = world.turn_id();
        let (a, b) = tokio::join!(world.execute(id, submission(turn, "x")), async {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            world.execute(id, submission(other, "y")).await
        });
        a.unwrap();
        b.unwrap();
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        assert!(matches!(world.end_of(id, other).await, Event::TurnCompleted { .. }));
        tokio::time::sleep(Duration::from_micros(4_700 + round % 10 * 70)).await;
        for _ in 0..round % 13 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_conversations_touched_and_let_go_leave_nothing_behind() {
    let world = World::new().await;
    let mut turns = Vec::new();
    for n in 0..1000 {
        let id = world.create().await;
        if n % 10 == 0 {
            turns.push((id, world.submit(id, "hello").await));
        }
    }
    for (id, turn) in turns {
        world.end_of(id, turn).await;
    }
    // Including one that never existed.
    let nobody = ConversationId::new(copilotd_actors::ports::Ids::uuid(world.ids.as_ref()));
    assert!(world.execute(nobody, submission(world.turn_id(), "x")).await.is_err());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.directory().alive(), 0);
    assert_eq!(world.shared().admission.open(), 0);
    assert_eq!(world.directory().watched(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_never_stops_a_turn() {
    let world = World::new().await;
    world.model.on(
        "hello",
        &[vec![
            Act::Text("a".into()),
            Act::Wait(Duration::from_secs(60)),
            Act::Text("b".into()),
            Act::Finish(copilotd_actors::domain::content::Finish::Stop),
        ]],
    );
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    drop(viewer);
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}
