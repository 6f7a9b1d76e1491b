//! Crashes at every append and in mid-stream: accepted turns finish, no effect happens twice, no reader loses or
//! repeats anything.

use std::time::Duration;

use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::event::{Event, FailureCode, Record};
use copilotd_actors::domain::ids::{CallId, ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::log::Fault;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::Answer;
use serde_json::json;

use crate::support::{Client, World, copilot, submission, tool};

const KINDS: [(&str, Repeat); 4] = [
    ("read", Repeat::Read),
    ("keyed", Repeat::Keyed(Duration::from_secs(3600))),
    ("found", Repeat::LookUp),
    ("never", Repeat::Never),
];

/// A turn of three steps: four calls at once, one call, the answer.
async fn world() -> (World, ConversationId) {
    let mut policy = copilot();
    for (name, repeat) in KINDS {
        policy = tool(policy, name, repeat);
    }
    let world = World::with(policy).await;
    for (name, _) in KINDS {
        world.system(name).answer_all(Answer::done(Duration::from_millis(300)));
    }
    world.system("keyed").know_keys();
    let all: Vec<(&str, serde_json::Value)> = KINDS.iter().map(|(name, _)| (*name, json!({}))).collect();
    let mut first = vec![Act::Text("Let me see. ".into()), Act::Wait(Duration::from_millis(100))];
    first.extend(calls(&all));
    let answer = says(&["All ", "is ", "döne", " now."], Duration::from_millis(150));
    world.model.on("work", &[first, calls(&[("never", json!({}))]), answer]);
    let id = world.create().await;
    (world, id)
}

/// Checks what must hold for every finished log and its systems.
fn truthful(world: &World, records: &[Record], what: &str) {
    for turn in records
        .iter()
        .filter(|r| matches!(r.event, Event::TurnQueued { .. }))
        .filter_map(|r| r.turn)
    {
        let ends = records
            .iter()
            .filter(|r| r.turn == Some(turn) && r.event.is_terminal())
            .count();
        assert_eq!(ends, 1, "{what}: {turn} ends once");
    }
    let mut asked: Vec<(CallId, String)> = Vec::new();
    for record in records {
        if let Event::MessageCompleted { tool_calls, .. } = &record.event {
            asked.extend(tool_calls.iter().map(|call| (call.id, call.name.clone())));
        }
    }
    for (call, name) in asked {
        let results: Vec<ToolStatus> = records
            .iter()
            .filter_map(|record| match record.event {
                Event::ToolFinished { call_id, status, .. } if call_id == call => Some(status),
                _ => None,
            })
            .collect();
        assert_eq!(results.len(), 1, "{what}: {name} has one result");
        let effects = world.system(&name).effects().get(&call).copied().unwrap_or(0);
        if name != "read" {
            assert!(effects <= 1, "{what}: {name} took effect {effects} times");
        }
        match results[0] {
            ToolStatus::Succeeded => assert!(effects > 0, "{what}: {name} succeeded without an effect"),
            ToolStatus::Failed | ToolStatus::Cancelled | ToolStatus::Rejected if name != "read" => {
                assert_eq!(effects, 0, "{what}: {name} failed but took effect");
            }
            _ => {}
        }
    }
}

/// Reads with one client across all crashes; each connection resumes where the last one was cut.
async fn finish(world: &World, id: ConversationId, turn: TurnId, client: &mut Client, what: &str) {
    world.end_of(id, turn).await;
    let after = if client.last_id.is_empty() {
        "0".to_owned()
    } else {
        client.last_id.clone()
    };
    if !client.has_ended() {
        let mut viewer = world.viewer(id, Some(turn), &after);
        viewer.read_all().await;
        client.take(&viewer.events);
    }
    let records = world.log.records(id);
    client.has_all(&records, Some(turn));
    truthful(world, &records, what);
}

async fn appends_of_a_calm_turn() -> usize {
    let (world, id) = world().await;
    let turn = world.submit(id, "work").await;
    finish(&world, id, turn, &mut Client::default(), "calm").await;
    world.probe.appends().len() - 1
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_any_append_finishes_every_accepted_turn_without_a_second_effect() {
    let count = appends_of_a_calm_turn().await;
    for nth in 1..=count as u64 {
        for fault in [Fault::Before, Fault::After] {
            let what = format!("append {nth}, {fault:?}");
            let (mut world, id) = world().await;
            world.probe.stop_at(nth, fault);
            let turn = world.turn_id();
            let mut client = Client::default();
            let mut viewer = world.viewer(id, Some(turn), "0");
            let accepted = tokio::select! {
                biased;
                () = world.probe.stopped() => false,
                accepted = world.execute(id, submission(turn, "work")) => { accepted.unwrap(); true }
            };
            tokio::select! {
                biased;
                () = world.probe.stopped() => {}
                () = viewer.read_until(|_| false) => {}
            }
            client.take(&viewer.events);
            drop(viewer);
            world.crash().await;
            world.restart().await;
            let stored = world.log.records(id).iter().any(|record| record.turn == Some(turn));
            assert!(stored || !accepted, "{what}: an accepted turn was not stored");
            if stored {
                finish(&world, id, turn, &mut client, &what).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_whose_append_has_an_unknown_outcome_is_folded_anew_and_its_readers_miss_nothing() {
    let count = appends_of_a_calm_turn().await;
    for nth in 1..=count as u64 {
        for fault in [Fault::Before, Fault::After] {
            let what = format!("append {nth}, {fault:?}");
            let (world, id) = world().await;
            let turn = world.turn_id();
            let mut viewer = world.viewer(id, Some(turn), "0");
            viewer.poll(true).await;
            world.log.fail_append(nth, fault);
            let accepted = world.execute(id, submission(turn, "work")).await.is_ok();
            if !accepted && fault == Fault::Before {
                continue;
            }
            // This reader stays connected while the actor dies and is restarted.
            viewer.read_all().await;
            let mut client = Client::default();
            client.take(&viewer.events);
            finish(&world, id, turn, &mut client, &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_in_mid_stream_loses_no_turn_and_repeats_no_effect() {
    for step in 0..40 {
        let what = format!("after {} ms", step * 37);
        let (mut world, id) = world().await;
        let turn = world.submit(id, "work").await;
        let mut client = Client::default();
        for _ in 0..2 {
            let after = if client.last_id.is_empty() {
                "0".to_owned()
            } else {
                client.last_id.clone()
            };
            let mut viewer = world.viewer(id, Some(turn), &after);
            let _ = tokio::time::timeout(Duration::from_millis(step * 37), viewer.read_until(|_| false)).await;
            client.take(&viewer.events);
            drop(viewer);
            world.crash().await;
            world.restart().await;
        }
        finish(&world, id, turn, &mut client, &what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_kills_the_process_three_times_ends_as_exhausted() {
    let mut world = World::new().await;
    world.model.on("poison", &[vec![Act::Text("I ".into()), Act::Stall]]);
    let id = world.create().await;
    let turn = world.submit(id, "poison").await;
    let next = world.submit(id, "after it").await;
    for calls in 1..=3 {
        world.model.wait_for(|seen| seen.calls == calls).await;
        world.crash().await;
        world.restart().await;
    }
    let end = world.end_of(id, turn).await;
    assert!(
        matches!(
            end,
            Event::TurnFailed {
                code: FailureCode::AttemptsExhausted,
                ..
            }
        ),
        "{end:?}"
    );
    assert!(
        matches!(world.end_of(id, next).await, Event::TurnCompleted { .. }),
        "the next queued turn ran"
    );
    assert_eq!(world.model.seen().calls, 4);
}

#[tokio::test(start_paused = true)]
async fn queued_turns_of_many_conversations_all_end_after_a_crash() {
    let (mut world, _) = world().await;
    let mut turns = Vec::new();
    for _ in 0..20 {
        let id = world.create().await;
        for _ in 0..3 {
            turns.push((id, world.submit(id, "work").await));
        }
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.crash().await;
    world.restart().await;
    for (id, turn) in &turns {
        assert!(matches!(world.end_of(*id, *turn).await, Event::TurnCompleted { .. }));
    }
    for (id, _) in turns {
        truthful(&world, &world.log.records(id), "many");
    }
}
