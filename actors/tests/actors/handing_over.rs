//! Hand-over to the standby: no work starts any more, running calls get a moment to finish, and resuming does not count
//! as an attempt. Also: an actor whose log another writer has extended.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{calls, says};
use copilotd_actors::fakes::system::Answer;
use copilotd_actors::ports::{Append, EventLog as _};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Client, World, copilot, submission, tool};

/// Time for running calls, and for the whole hand-over.
const CALLS: Duration = Duration::from_secs(1);
const ALL: Duration = Duration::from_millis(1500);

async fn hand_over(world: &mut World) {
    let begun = Instant::now();
    world.directory().hand_over(begun + CALLS, begun + ALL).await;
    assert!(begun.elapsed() < ALL, "it took {:?}", begun.elapsed());
    assert_eq!(world.directory().alive(), 0);
    world.crash().await;
}

fn attempts(records: &[Record], of: TurnId) -> Vec<u32> {
    let attempt = |record: &Record| match record.event {
        Event::TurnStarted { attempt, .. } if record.turn == Some(of) => Some(attempt),
        _ => None,
    };
    records.iter().filter_map(attempt).collect()
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_handed_over_twenty_times_ends_well_and_its_reader_sees_one_answer() {
    let mut world = World::with(copilot()).await;
    let slow = says(&["One ", "long ", "answer."], Duration::from_secs(2));
    world.model.on("work", &vec![slow; 21]);
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    let mut client = Client::default();
    for _ in 0..20 {
        let after = if client.last_id.is_empty() {
            "0".to_owned()
        } else {
            client.last_id.clone()
        };
        let mut viewer = world.viewer(id, Some(turn), &after);
        viewer
            .read_until(|seen| seen.iter().any(|event| event.name == "message.delta"))
            .await;
        client.take(&viewer.events);
        drop(viewer);
        hand_over(&mut world).await;
        assert_eq!(world.model.seen().open, 0, "no model call outlives its process");
        world.restart().await;
    }
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    let mut viewer = world.viewer(id, Some(turn), &client.last_id);
    viewer.read_all().await;
    client.take(&viewer.events);
    let records = world.log.records(id);
    client.has_all(&records, Some(turn));
    assert_eq!(client.texts, ["One long answer."]);
    assert_eq!(attempts(&records, turn), (1..=21).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_or_begun_any_more_and_nothing_is_lost() {
    let mut world = World::with(copilot()).await;
    world.model.on(
        "work",
        &[
            says(&["Done."], Duration::from_secs(60)),
            says(&["Done."], Duration::ZERO),
        ],
    );
    world.model.on("next", &[says(&["Next."], Duration::ZERO)]);
    let id = world.create().await;
    let idle = world.create().await;
    let turn = world.submit(id, "work").await;
    let next = world.submit(id, "next").await;
    world.model.wait_for(|seen| seen.open == 1).await;
    let begun = Instant::now();
    world.directory().hand_over(begun + CALLS, begun + ALL).await;
    for known in [id, idle] {
        let refused = world.execute(known, submission(world.turn_id(), "late")).await;
        assert_eq!(refused.unwrap_err(), Refusal::HandingOver);
    }
    assert_eq!((world.directory().alive(), world.model.seen().calls), (0, 1));
    world.crash().await;
    world.restart().await;
    for (of, attempts_of) in [(turn, vec![1, 2]), (next, vec![1])] {
        assert!(matches!(world.end_of(id, of).await, Event::TurnCompleted { .. }));
        assert_eq!(attempts(&world.log.records(id), of), attempts_of);
    }
}

/// A turn with one call of a tool that may never be repeated, which takes `time`.
async fn calling(time: Duration, concurrent: bool) -> (World, ConversationId, TurnId) {
    let world = World::with(tool(copilot(), "do", Repeat::Never)).await;
    world.system("do").answer_all(Answer::done(time));
    let all = if concurrent {
        vec![("do", json!({})); 12]
    } else {
        vec![("do", json!({}))]
    };
    world.model.on("work", &[calls(&all), says(&["Done."], Duration::ZERO)]);
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.system("do").wait_for(|seen| seen.calls > 0).await;
    (world, id, turn)
}

fn statuses(world: &World, id: ConversationId) -> Vec<ToolStatus> {
    let status = |record: Record| match record.event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    };
    world.log.records(id).into_iter().filter_map(status).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_gets_a_moment_to_end_and_the_step_behind_it_is_the_successors() {
    let (mut world, id, turn) = calling(Duration::from_millis(500), false).await;
    hand_over(&mut world).await;
    assert_eq!(
        (statuses(&world, id), world.model.seen().calls),
        (vec![ToolStatus::Succeeded], 1)
    );
    world.restart().await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    // No work was in progress: the attempt continues.
    assert_eq!(attempts(&world.log.records(id), turn), [1]);
    assert_eq!((world.model.seen().calls, world.system("do").seen().calls), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_follows_the_rules_of_a_crash() {
    let (mut world, id, turn) = calling(Duration::from_secs(20), false).await;
    hand_over(&mut world).await;
    assert_eq!(statuses(&world, id), []);
    world.restart().await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert_eq!(
        (statuses(&world, id), world.system("do").seen().calls),
        (vec![ToolStatus::Unknown], 1)
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_were_not_sent_are_sent_once_by_the_successor() {
    // Eight are sent at once; four wait behind them.
    let (mut world, id, turn) = calling(Duration::from_millis(500), true).await;
    hand_over(&mut world).await;
    assert_eq!(world.system("do").seen().calls, 8);
    world.restart().await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert_eq!(statuses(&world, id), [ToolStatus::Succeeded; 12]);
    assert!(world.system("do").effects().values().all(|count| *count == 1));
    assert_eq!(world.system("do").seen().calls, 12);
}

/// Writes to a conversation's log like a process that was the owner before.
async fn write_late(world: &World, id: ConversationId, make: impl FnOnce(TurnId) -> Vec<Event>) -> TurnId {
    let turn = world.turn_id();
    let mut header = world.probe.header(&world.scope, id).await.unwrap().unwrap();
    let mut records = Vec::new();
    for event in make(turn) {
        let seq = header.last_seq + 1;
        let record = Record {
            seq,
            at: header.updated_at,
            turn: Some(turn),
            event,
        };
        header.apply(&record);
        records.push(record);
    }
    let append = Append {
        conversation: id,
        user: header.user.clone(),
        append_id: world.shared().ports.ids.uuid(),
        records: records.into(),
        header,
    };
    world.log.append(&world.scope, &append).await.unwrap();
    turn
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_a_stale_writer_left_in_the_log_is_taken_up_though_a_copy_lives() {
    let world = World::with(copilot()).await;
    world.model.on("hello", &[says(&["Hello."], Duration::ZERO)]);
    world.model.on("late", &[says(&["Late."], Duration::ZERO)]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.end_of(id, turn).await;
    assert_eq!(
        world.directory().alive(),
        1,
        "the actor that does not know the late records"
    );
    let queued = world.log.records(id).into_iter().find_map(|record| match record.event {
        Event::TurnQueued { .. } => Some(record.event),
        _ => None,
    });
    let mut queued = queued.unwrap();
    if let Event::TurnQueued { input, .. } = &mut queued {
        *input = serde_json::from_value(json!("late")).unwrap();
    }
    let begun = Instant::now();
    let late = write_late(&world, id, |_| {
        vec![
            queued,
            Event::TurnStarted {
                attempt: 1,
                model: "m".into(),
            },
        ]
    })
    .await;
    assert!(matches!(world.end_of(id, late).await, Event::TurnCompleted { .. }));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
