//! The API key that submitted a turn is attached to every model call made for it: its steps, its attempts after a
//! restart, calls lost with a process, and the summary after it.

use std::time::Duration;

use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::{MemoryPolicy, Policy, Repeat};
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::Answer;
use serde_json::json;

use crate::support::{World, copilot, submission, tool};

async fn submit(world: &World, id: ConversationId, text: &str, key: Option<&str>) -> TurnId {
    let turn = world.turn_id();
    let mut command = submission(turn, text);
    if let Command::Submit { api_key, .. } = &mut command {
        *api_key = key.map(str::to_owned);
    }
    world.execute(id, command).await.unwrap();
    turn
}

/// Keys of all calls of a route, in order.
fn keys(world: &World, route: &str) -> Vec<Option<String>> {
    let requests = world.model.requests().into_iter();
    requests
        .filter(|request| request.route == route)
        .map(|request| request.api_key)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn steps_and_attempts_after_a_restart_bear_the_key_of_their_turn() {
    let mut world = World::with(tool(copilot(), "read", Repeat::Read)).await;
    world.system("read").answer_all(Answer::done(Duration::from_millis(10)));
    let stalls = vec![Act::Text("I ".into()), Act::Stall];
    world.model.on("work", &[calls(&[("read", json!({}))]), stalls]);
    let id = world.create().await;
    let first = submit(&world, id, "work", Some("key:acme/one")).await;
    let second = submit(&world, id, "more", Some("key:acme/two")).await;
    let third = submit(&world, id, "last", None).await;
    world.model.wait_for(|seen| seen.calls == 2).await;
    // Calls of an earlier process started earlier.
    world.settle().await;
    world.crash().await;
    world.model.on(
        "work",
        &[calls(&[("read", json!({}))]), says(&["done"], Duration::ZERO)],
    );
    world.restart().await;
    for turn in [first, second, third] {
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    }
    let (one, two) = (Some("key:acme/one".to_owned()), Some("key:acme/two".to_owned()));
    assert_eq!(keys(&world, "main"), [one.clone(), one.clone(), one.clone(), two, None]);
    let lost: Vec<_> = world.model.lost().into_iter().map(|call| call.api_key).collect();
    assert_eq!(lost, [one]);
}

#[tokio::test(start_paused = true)]
async fn a_summary_bears_the_key_of_the_turn_before_it() {
    let memory = MemoryPolicy {
        trigger_tokens: 200,
        keep_tokens: 60,
        hard_tokens: 10_000,
        summary_tokens: 50,
        ..copilot().memory
    };
    let world = World::with(Policy { memory, ..copilot() }).await;
    let id = world.create().await;
    for (n, key) in ["key:acme/one", "key:acme/two"].into_iter().enumerate() {
        for _ in 0..3 {
            let turn = submit(&world, id, &"word ".repeat(100), Some(key)).await;
            world.end_of(id, turn).await;
        }
        world.settle().await;
        let summaries = keys(&world, "small");
        assert!(summaries.len() > n, "{summaries:?}");
        assert_eq!(summaries.last(), Some(&Some(key.to_owned())));
    }
    let compressed = |record: &&Record| matches!(record.event, Event::MemoryCompressed { .. });
    assert!(world.log.records(id).iter().filter(compressed).count() > 0);
}
