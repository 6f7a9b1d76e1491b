//! Work is refused at the door.

use std::time::Duration;

use copilotd_actors::conversation::Refusal;
use copilotd_actors::domain::decide::Rejection;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::fakes::model::{Act, says};
use copilotd_actors::shared::{Bounds, Full};

use crate::support::{World, copilot, submission};

async fn submit_at_once(world: &World, count: usize) -> (Vec<(ConversationId, TurnId)>, Vec<Refusal>) {
    let mut conversations = Vec::new();
    for _ in 0..count {
        conversations.push(world.create().await);
    }
    // The store is slow, so all of them stand at the door together.
    world.log.delay_appends(Duration::from_millis(50));
    let asks = conversations.iter().map(|id| async move {
        let turn = world.turn_id();
        world.ask(*id, submission(turn, "hello")).await.map(|_| (*id, turn))
    });
    let answers = futures::future::join_all(asks).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    (
        accepted.into_iter().flatten().collect(),
        refused.into_iter().filter_map(Result::err).collect(),
    )
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_node_and_tenant_hold_for_requests_that_come_at_once() {
    for (node, tenant, full) in [(7, 100, Full::Node), (100, 7, Full::Tenant)] {
        let bounds = Bounds {
            node_turns: node,
            tenant_turns: tenant,
            ..Bounds::default()
        };
        let world = World::bounded(copilot(), bounds).await;
        world.model.on("hello", &[says(&["x"], Duration::from_secs(5))]);
        let (accepted, refused) = submit_at_once(&world, 30).await;
        assert_eq!(accepted.len(), 7);
        assert!(
            refused.iter().all(|refusal| *refusal == Refusal::Full(full)),
            "{refused:?}"
        );
        for (id, turn) in accepted {
            world.end_of(id, turn).await;
        }
        world.settle().await;
        assert_eq!(world.shared().admission.open(), 0);
        let (accepted, _) = submit_at_once(&world, 1).await;
        assert_eq!(accepted.len(), 1, "there is room again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_or_failed_submit_gives_its_place_back() {
    let bounds = Bounds {
        node_turns: 1,
        ..Bounds::default()
    };
    let world = World::bounded(copilot(), bounds).await;
    let id = world.create().await;
    for _ in 0..3 {
        let empty = world.ask(id, submission(world.turn_id(), " ")).await.unwrap_err();
        assert!(matches!(empty, Refusal::Rejected(Rejection::Invalid(_))), "{empty:?}");
        world.log.refuse_append(1, "the disk is full");
        let refused = world.ask(id, submission(world.turn_id(), "x")).await.unwrap_err();
        assert_eq!(refused, Refusal::Unavailable);
    }
    world.log.fail_append(1, copilotd_actors::fakes::log::Fault::Before);
    world.ask(id, submission(world.turn_id(), "x")).await.unwrap_err();
    world.settle().await;
    assert_eq!(world.shared().admission.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_a_conversation_is_bounded() {
    let world = World::new().await;
    world.model.on("hello", &[vec![Act::Stall]]);
    let id = world.create().await;
    for _ in 0..17 {
        world.submit(id, "hello").await;
    }
    let full = world.ask(id, submission(world.turn_id(), "hello")).await.unwrap_err();
    assert_eq!(full, Refusal::Rejected(Rejection::QueueFull { waiting: 16 }));
    assert_eq!(world.shared().admission.open(), 17);
}

#[tokio::test(start_paused = true)]
async fn a_crash_and_recovery_counts_open_turns_anew() {
    let mut world = World::new().await;
    world.model.on("hello", &[says(&["x"], Duration::from_secs(5))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.submit(id, "hello").await;
    world.crash().await;
    world.restart().await;
    world.named(id, "message.reset").await;
    assert_eq!(world.shared().admission.open(), 2);
    world.end_of(id, turn).await;
    world.settle().await;
    assert_eq!(world.shared().admission.open(), 0);
}
