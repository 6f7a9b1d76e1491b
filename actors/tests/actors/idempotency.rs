//! Idempotency keys of submissions hold for 24 hours, however many there are, and a refusal for lack of permits changes
//! nothing.

use std::time::Duration;

use copilotd_actors::actors::conversation::{Accepted, Refusal};
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::conversation::command::WhenBusy;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::conversation::quota::{Quota, Quotas};
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::fakes::model::Act;
use copilotd_actors::ports::EventLog as _;

use crate::support::{World, copilot, submitted};

/// More keys than the state of a conversation remembers.
const MANY: usize = 600;

async fn submit(world: &World, id: ConversationId, key: &str, text: &str) -> Result<Accepted, Refusal> {
    let command = submitted(world.turn_id(), text, WhenBusy::Enqueue, Some(key));
    world.execute(id, command).await
}

async fn answered(world: &World, id: ConversationId, key: &str) -> Accepted {
    let accepted = submit(world, id, key, "hi").await.unwrap();
    world.end_of(id, accepted.turn.unwrap()).await;
    accepted
}

#[tokio::test(start_paused = true)]
async fn a_key_holds_for_a_day_whatever_the_number_of_keys_and_restarts() {
    let bounds = Bounds {
        snapshot_every: 16,
        ..Bounds::default()
    };
    let mut world = World::bounded(copilot(), bounds).await;
    let id = world.create().await;
    let mut turns = Vec::new();
    for n in 0..MANY {
        turns.push(answered(&world, id, &format!("key-{n}-{}", "x".repeat(200))).await.turn);
    }
    world.settle().await;
    let kept = world.log.snapshot(&world.scope, id).await.unwrap().unwrap();
    assert!(
        kept.state.len() < 128 * 1024,
        "a snapshot of {} bytes",
        kept.state.len()
    );
    for round in 0..2 {
        for n in [0, 1, MANY / 2, MANY - 1] {
            let key = format!("key-{n}-{}", "x".repeat(200));
            let before = world.log.commits();
            let again = submit(&world, id, &key, "hi").await.unwrap();
            assert_eq!(
                (again.turn, again.records.len()),
                (turns[n], 0),
                "key {n} in round {round}"
            );
            let other = submit(&world, id, &key, "another body").await;
            assert_eq!(
                other.unwrap_err(),
                Rejection::KeyReused.into(),
                "key {n} in round {round}"
            );
            assert_eq!(world.log.commits(), before);
        }
        world.crash().await;
        world.restart().await;
    }
    // After a day a key is free, and then holds for a day again.
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let key = format!("key-0-{}", "x".repeat(200));
    let next = submit(&world, id, &key, "another body").await.unwrap();
    assert_ne!(next.turn, turns[0]);
    world.end_of(id, next.turn.unwrap()).await;
    world.crash().await;
    world.restart().await;
    assert_eq!(submit(&world, id, &key, "another body").await.unwrap().turn, next.turn);
    let reused = submit(&world, id, &key, "hi").await.unwrap_err();
    assert_eq!(reused, Rejection::KeyReused.into());
    let queued = |turn| {
        let records = world.log.records(id).into_iter();
        records
            .filter(|record| record.turn == turn && matches!(record.event, Event::TurnQueued { .. }))
            .count()
    };
    assert!(
        turns.iter().chain([&next.turn]).all(|turn| queued(*turn) == 1),
        "no turn is queued twice"
    );
}

#[tokio::test(start_paused = true)]
async fn copies_that_arrive_at_once_are_one_turn() {
    let world = World::new().await;
    let id = world.create().await;
    let copies = (0..8).map(|_| submit(&world, id, "k", "hi"));
    let turns: Vec<_> = futures::future::join_all(copies)
        .await
        .into_iter()
        .map(|accepted| accepted.unwrap().turn)
        .collect();
    assert!(turns.iter().all(|turn| *turn == turns[0]), "{turns:?}");
    // The same key in another conversation is a different one.
    let other = world.create().await;
    assert_ne!(submit(&world, other, "k", "hi").await.unwrap().turn, turns[0]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_makes_no_second_turn() {
    let mut world = World::new().await;
    let id = world.create().await;
    let first = answered(&world, id, "k").await;
    for n in 0..MANY {
        answered(&world, id, &format!("other {n}")).await;
    }
    world.log.set_down(true);
    assert_eq!(submit(&world, id, "k", "hi").await.unwrap_err(), Refusal::NotStored);
    world.log.set_down(false);
    world.crash().await;
    world.restart().await;
    assert_eq!(submit(&world, id, "k", "hi").await.unwrap().turn, first.turn);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_for_which_there_is_no_room_stops_nothing() {
    let world = World::new().await;
    world.model.on("work", &[vec![Act::Text("so far".into()), Act::Stall]]);
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.model.wait_for(|seen| seen.open == 1).await;
    world.named(id, "context.assembled").await;
    let quota = |bytes| Quotas {
        user: Quota {
            conversations: None,
            bytes,
        },
        ..Quotas::default()
    };
    world.policies.limit(quota(Some(1)));
    let interrupt = || submitted(world.turn_id(), "hi", WhenBusy::Interrupt, None);
    let refused = world.execute(id, interrupt()).await.unwrap_err();
    assert!(
        matches!(refused, Refusal::Quota(exceeded) if exceeded.name == "log_bytes"),
        "{refused:?}"
    );
    world.settle().await;
    assert_eq!(world.model.seen().open, 1, "the running turn continues");
    // What ends a turn is never refused, and a running turn finishes.
    world.cancel(id, turn).await.unwrap();
    world.policies.limit(quota(None));
    world.execute(id, interrupt()).await.unwrap();
}
