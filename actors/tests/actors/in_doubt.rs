//! Requests that reach the system long after the process that sent them died, and clocks that are wrong: no effect
//! happens twice, and a restart finds out within seconds what can be found out.

use std::time::Duration;

use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use copilotd_actors::ports::{LookUp, ToolErrorKind};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{World, copilot, tool};

const KEYED: Repeat = Repeat::Keyed(Duration::from_secs(7200));
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// How long a fruitless look-up may delay a restart; the call's own timeout and margin are fifteen seconds here.
const SOON: Duration = Duration::from_secs(8);

async fn one(repeat: Repeat) -> World {
    let bounds = Bounds {
        reconcile: Duration::from_secs(1),
        ..Bounds::default()
    };
    let world = World::bounded(tool(copilot(), "do", repeat), bounds).await;
    let steps = [calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)];
    world.model.on("work", &steps);
    world.system("do").know_keys();
    world
}

/// A call whose bytes arrive this much later, and whose caller gets no answer.
fn held(late: Duration) -> Answer {
    Answer {
        effect: Some(late),
        delay: Duration::ZERO,
        says: SystemReply::Nothing,
    }
}

/// Submits a turn and waits until its call was sent.
async fn sent(world: &World) -> (ConversationId, TurnId) {
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.system("do").wait_for(|seen| seen.calls == 1).await;
    (id, turn)
}

async fn crash(world: &mut World, step: i64) {
    world.crash().await;
    world.clock.step(step);
    world.restart().await;
}

/// Returns how the call ended, and the text that the model and the user get.
async fn ended(world: &World, id: ConversationId, turn: TurnId) -> (ToolStatus, String) {
    world.end_of(id, turn).await;
    let mut ends = world
        .log
        .records(id)
        .into_iter()
        .filter_map(|record| match record.event {
            Event::ToolFinished { status, error, .. } => Some((status, error.unwrap_or_default())),
            _ => None,
        });
    let end = ends.next().unwrap();
    assert_eq!(ends.next(), None, "one result");
    end
}

/// Varies the kind of call, how late its bytes arrive, the next process's wall clock, and the number of crashes.
#[tokio::test(start_paused = true)]
async fn bytes_that_arrive_long_after_a_crash_take_effect_once_whatever_the_calendar_says() {
    for repeat in [KEYED, Repeat::LookUp, Repeat::Never] {
        for late in [0, 4, 16, 41, 300] {
            for step in [-DAY, 0, HOUR] {
                for crashes in if step == 0 { 1..=2 } else { 1..=1 } {
                    let what = format!("{repeat:?}, {late} s late, clock set by {step} ms, {crashes} crashes");
                    let mut world = one(repeat).await;
                    let late = Duration::from_secs(late);
                    world.system("do").answer(held(late));
                    let (id, turn) = sent(&world).await;
                    for _ in 0..crashes {
                        crash(&mut world, step).await;
                    }
                    let restarted = Instant::now();
                    let (status, _) = ended(&world, id, turn).await;
                    assert!(restarted.elapsed() < SOON, "{what}: {:?}", restarted.elapsed());
                    tokio::time::sleep(late + Duration::from_secs(1)).await;
                    let effects = world.system("do").seen().effects;
                    assert_eq!(effects, 1, "{what}: {status:?}");
                    let calls = world.system("do").seen().calls;
                    assert!(calls == 1 || repeat == KEYED, "{what}: sent {calls} times");
                    match (repeat, step) {
                        // By the wall clock its turn has timed out.
                        (_, HOUR) => assert!([ToolStatus::Succeeded, ToolStatus::Unknown].contains(&status)),
                        (Repeat::Never, _) => assert_eq!(status, ToolStatus::Unknown, "{what}"),
                        (KEYED, 0) => assert_eq!(status, ToolStatus::Succeeded, "{what}"),
                        _ if late <= Duration::from_secs(4) => assert_eq!(status, ToolStatus::Succeeded, "{what}"),
                        _ => assert_eq!(status, ToolStatus::Unknown, "{what}"),
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_is_found_after_a_restart_costs_no_wait() {
    for repeat in [KEYED, Repeat::LookUp] {
        let mut world = one(repeat).await;
        world.system("do").answer(held(Duration::ZERO));
        let (id, turn) = sent(&world).await;
        crash(&mut world, 0).await;
        let restarted = Instant::now();
        assert_eq!(ended(&world, id, turn).await.0, ToolStatus::Succeeded, "{repeat:?}");
        assert!(
            restarted.elapsed() < Duration::from_millis(100),
            "{repeat:?}: {:?}",
            restarted.elapsed()
        );
        let seen = world.system("do").seen();
        assert_eq!((seen.calls, seen.look_ups, seen.effects), (1, 1, 1), "{repeat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_keyed_call_that_left_no_trace_is_repeated_at_once() {
    let mut world = one(KEYED).await;
    world.system("do").answer(held(Duration::from_secs(60)));
    let (id, turn) = sent(&world).await;
    crash(&mut world, 0).await;
    let restarted = Instant::now();
    assert_eq!(ended(&world, id, turn).await.0, ToolStatus::Succeeded);
    assert!(
        restarted.elapsed() < Duration::from_millis(100),
        "{:?}",
        restarted.elapsed()
    );
}

/// The vendor may have forgotten the key: no clock can tell how long the process was down.
#[tokio::test(start_paused = true)]
async fn a_keyed_call_is_not_repeated_when_the_vendor_cannot_say_what_it_knows() {
    let mut world = one(KEYED).await;
    world.system("do").answer(held(Duration::from_secs(60)));
    let (id, turn) = sent(&world).await;
    world.system("do").look_up_answers(Err(ToolErrorKind::Refused));
    crash(&mut world, 0).await;
    assert_eq!(ended(&world, id, turn).await.0, ToolStatus::Unknown);
    assert_eq!(world.system("do").seen().calls, 1);
}

/// A vendor that is down gives no answer: it is asked until the call's time is up.
#[tokio::test(start_paused = true)]
async fn a_look_up_waits_for_a_vendor_that_is_away() {
    for kind in [
        ToolErrorKind::Unreachable,
        ToolErrorKind::OutcomeUnknown,
        ToolErrorKind::RateLimited,
    ] {
        let mut world = one(Repeat::LookUp).await;
        world.system("do").answer(held(Duration::ZERO));
        let (id, turn) = sent(&world).await;
        for _ in 0..3 {
            world.system("do").look_up_answers(Err(kind));
        }
        crash(&mut world, 0).await;
        assert_eq!(ended(&world, id, turn).await.0, ToolStatus::Succeeded, "{kind:?}");
        assert_eq!(world.system("do").seen().effects, 1, "{kind:?}");
    }
}

/// Normal operation and recovery end with the same status and report the same partial result.
#[tokio::test(start_paused = true)]
async fn what_was_found_in_part_is_told_and_never_taken_for_the_whole() {
    let part = || LookUp::PartlyFound("2 of 4 messages were found".to_owned());
    for crashes in [0, 1, 2] {
        let mut world = one(Repeat::LookUp).await;
        let cut = Answer::failed(ToolErrorKind::OutcomeUnknown, None, None);
        let first = if crashes == 0 {
            cut
        } else {
            held(Duration::from_secs(600))
        };
        world.system("do").answer(first);
        for _ in 0..20 {
            world.system("do").look_up_answers(Ok(part()));
        }
        let (id, turn) = sent(&world).await;
        for _ in 0..crashes {
            crash(&mut world, 0).await;
        }
        let (status, error) = ended(&world, id, turn).await;
        assert_eq!(status, ToolStatus::Unknown, "{crashes}");
        assert!(error.contains("2 of 4 messages were found"), "{crashes}: {error}");
        assert!(
            error.contains("check in do before doing it again"),
            "{crashes}: {error}"
        );
        assert_eq!(world.system("do").seen().calls, 1, "{crashes}");
    }
}

/// At a clean stop it is known which calls were not sent: the next process sends them, of whatever kind.
#[tokio::test(start_paused = true)]
async fn calls_that_wait_at_a_clean_stop_are_sent_by_the_next_process() {
    for repeat in [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never] {
        let bounds = Bounds {
            reconcile: Duration::from_secs(1),
            connector_concurrency: 1,
            ..Bounds::default()
        };
        let mut world = World::bounded(tool(copilot(), "do", repeat), bounds).await;
        let all = [("do", json!({})), ("do", json!({})), ("do", json!({}))];
        world.model.on("work", &[calls(&all), says(&["done"], Duration::ZERO)]);
        world.system("do").know_keys();
        world.system("do").answer(held(Duration::ZERO));
        let (id, turn) = sent(&world).await;
        world.directory().stop(Duration::from_secs(1)).await;
        world.crash().await;
        world.restart().await;
        world.end_of(id, turn).await;
        let ends: Vec<ToolStatus> = world
            .log
            .records(id)
            .into_iter()
            .filter_map(|record| match record.event {
                Event::ToolFinished { status, .. } => Some(status),
                _ => None,
            })
            .collect();
        let count = |wanted| ends.iter().filter(|status| **status == wanted).count();
        let unknown = usize::from(repeat == Repeat::Never);
        let expected = (3 - unknown, unknown);
        assert_eq!(
            (count(ToolStatus::Succeeded), count(ToolStatus::Unknown)),
            expected,
            "{repeat:?}: {ends:?}"
        );
        let effects = world.system("do").effects();
        assert_eq!(effects.len(), 3, "{repeat:?}");
        assert!(
            repeat == Repeat::Read || effects.values().all(|times| *times == 1),
            "{repeat:?}: {effects:?}"
        );
    }
}
