//! Limits, circuit breakers, retries and look-ups of an external system.

use std::time::Duration;

use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::domain::tool::rate::RateHint;
use copilotd_actors::fakes::model::{calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use copilotd_actors::ports::{LookUp, ToolErrorKind};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{World, copilot, tool};

const KEYED: Repeat = Repeat::Keyed(Duration::from_secs(3600));

/// A copilot whose turns make `count` calls at once.
async fn world(repeat: Repeat, count: usize, bounds: Bounds) -> World {
    let bounds = Bounds {
        reconcile: Duration::from_secs(1),
        ..bounds
    };
    let world = World::bounded(tool(copilot(), "do", repeat), bounds).await;
    let all = vec![("do", json!({})); count];
    world.model.on("work", &[calls(&all), says(&["done"], Duration::ZERO)]);
    world.system("do");
    world
}

async fn one(repeat: Repeat) -> World {
    world(repeat, 1, Bounds::default()).await
}

async fn start(world: &World) -> (ConversationId, TurnId) {
    let id = world.create().await;
    (id, world.submit(id, "work").await)
}

/// Runs a turn to its end and returns how its calls ended.
async fn run(world: &World) -> Vec<ToolStatus> {
    let (id, turn) = start(world).await;
    end(world, id, turn).await
}

async fn end(world: &World, id: ConversationId, turn: TurnId) -> Vec<ToolStatus> {
    world.end_of(id, turn).await;
    let status = |event| match event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    };
    world
        .log
        .records(id)
        .into_iter()
        .filter_map(|record| status(record.event))
        .collect()
}

fn failed(kind: ToolErrorKind) -> Answer {
    Answer::failed(kind, None, None)
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_step_run_at_once_up_to_the_bound_and_the_rest_follows() {
    let bounds = Bounds {
        connector_concurrency: 3,
        ..Bounds::default()
    };
    let world = world(Repeat::Never, 7, bounds).await;
    world.system("do").answer_all(Answer::done(Duration::from_secs(1)));
    let begun = Instant::now();
    assert_eq!(run(&world).await, [ToolStatus::Succeeded; 7]);
    assert_eq!(world.system("do").seen().peak, 3);
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_beyond_the_queues_bound_fails_at_once_and_is_never_sent() {
    let bounds = Bounds {
        connector_concurrency: 1,
        connector_queue: 2,
        ..Bounds::default()
    };
    let world = world(Repeat::Never, 5, bounds).await;
    world.system("do").answer_all(Answer::done(Duration::from_secs(1)));
    let statuses = run(&world).await;
    assert_eq!(
        statuses.iter().filter(|status| **status == ToolStatus::Failed).count(),
        2,
        "{statuses:?}"
    );
    assert_eq!(world.system("do").seen().effects, 3);
}

#[tokio::test(start_paused = true)]
async fn a_429_is_waited_out_as_the_vendor_says_even_for_a_call_that_must_not_be_repeated() {
    let world = one(Repeat::Never).await;
    world.system("do").answer(Answer::failed(
        ToolErrorKind::RateLimited,
        Some(Duration::from_secs(3)),
        None,
    ));
    assert_eq!(run(&world).await, [ToolStatus::Succeeded]);
    let arrived: Vec<Instant> = world.system("do").requests().iter().map(|(at, _)| *at).collect();
    assert!(arrived[1] - arrived[0] >= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_429_that_outlasts_the_call_fails_it_at_once() {
    let world = one(Repeat::Never).await;
    world.system("do").answer(Answer::failed(
        ToolErrorKind::RateLimited,
        Some(Duration::from_secs(600)),
        None,
    ));
    let begun = Instant::now();
    assert_eq!(run(&world).await, [ToolStatus::Failed]);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_bucket_and_the_vendors_headers_pace_the_calls() {
    let bounds = Bounds {
        connector_per_minute: 60,
        ..Bounds::default()
    };
    let world = world(Repeat::Read, 13, bounds).await;
    let begun = Instant::now();
    assert_eq!(run(&world).await, [ToolStatus::Succeeded; 13]);
    assert_eq!(begun.elapsed().as_secs(), 3, "ten at once, then one a second");
    let (limit, remaining, reset) = (None, Some(0), Some(Duration::from_secs(2)));
    world.system("do").set_rate(RateHint {
        limit,
        remaining,
        reset,
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.system("do").answer(Answer::done(Duration::ZERO));
    let (first, second) = (run(&world), run(&world));
    let _ = tokio::join!(first, second);
    let arrived: Vec<Instant> = world.system("do").requests().iter().map(|(at, _)| *at).collect();
    assert!(
        *arrived.last().unwrap() - begun > Duration::from_secs(65),
        "the vendor's rate window was used up"
    );
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_after_five_failures_sends_one_probe_and_closes_with_its_success() {
    let world = world(Repeat::Read, 5, Bounds::default()).await;
    for _ in 0..5 {
        world.system("do").answer(failed(ToolErrorKind::Unreachable));
    }
    let slow = Answer::done(Duration::from_millis(700));
    world.system("do").answer_all(slow);
    let (id, turn) = start(&world).await;
    world.system("do").wait_for(|seen| seen.calls == 5).await;
    let opened = Instant::now();
    world.system("do").wait_for(|seen| seen.calls == 6).await;
    assert!(
        opened.elapsed() >= Duration::from_secs(2),
        "nothing is sent while the breaker is open"
    );
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.system("do").seen().calls, 6, "one probe at a time");
    assert_eq!(end(&world, id, turn).await, [ToolStatus::Succeeded; 5]);
}

/// For every Retry-After of the vendor: zero, none, or less than our own backoff.
#[tokio::test(start_paused = true)]
async fn a_vendor_that_asks_for_patience_for_ever_is_asked_ever_more_slowly_and_a_bounded_number_of_times() {
    for wish in [None, Some(Duration::ZERO), Some(Duration::from_millis(1))] {
        for repeat in [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never] {
            let world = one(repeat).await;
            let answer = Answer::failed(ToolErrorKind::RateLimited, wish, None);
            world.system("do").answer_all(answer);
            assert_eq!(run(&world).await, [ToolStatus::Failed], "{repeat:?} {wish:?}");
            let arrived: Vec<Instant> = world.system("do").requests().iter().map(|(at, _)| *at).collect();
            assert!(
                (4..=8).contains(&arrived.len()),
                "{repeat:?} {wish:?}: {}",
                arrived.len()
            );
            let pauses: Vec<Duration> = arrived.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_hours_of_patience_stops_the_tenants_other_calls_for_a_minute_at_most() {
    let world = one(Repeat::Read).await;
    let hours = Some(Duration::from_secs(7_200));
    world
        .system("do")
        .answer(Answer::failed(ToolErrorKind::RateLimited, hours, None));
    assert_eq!(run(&world).await, [ToolStatus::Failed]);
    tokio::time::sleep(Duration::from_secs(61)).await;
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    assert_eq!(run(&world).await, [ToolStatus::Succeeded]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_cannot_be_read_open_no_breaker() {
    let world = world(Repeat::Read, 5, Bounds::default()).await;
    let unreadable = Answer {
        effect: None,
        delay: Duration::ZERO,
        says: SystemReply::Unreadable,
    };
    world.system("do").answer_all(unreadable);
    assert_eq!(run(&world).await, [ToolStatus::Failed; 5]);
    assert_eq!(world.system("do").seen().calls, 15, "each call gets three attempts");
    let begun = Instant::now();
    world.system("do").answer_all(Answer::done(Duration::ZERO));
    assert_eq!(run(&world).await, [ToolStatus::Succeeded; 5]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_cannot_be_read_is_in_doubt() {
    for (repeat, expected) in [
        (Repeat::LookUp, ToolStatus::Succeeded),
        (KEYED, ToolStatus::Succeeded),
        (Repeat::Never, ToolStatus::Unknown),
    ] {
        let world = one(repeat).await;
        world.system("do").know_keys();
        world.system("do").answer(Answer {
            effect: Some(Duration::ZERO),
            delay: Duration::ZERO,
            says: SystemReply::Unreadable,
        });
        assert_eq!(run(&world).await, [expected], "{repeat:?}");
        assert_eq!(world.system("do").seen().effects, 1, "{repeat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_arrived_is_failed_and_not_unknown() {
    let world = one(Repeat::Never).await;
    world.system("do").answer_all(failed(ToolErrorKind::Unreachable));
    assert_eq!(run(&world).await, [ToolStatus::Failed]);
    assert_eq!(world.system("do").seen().calls, 3, "attempts of one call are bounded");
    // Two more open the breaker: the second turn's call waits behind it until its time is up.
    assert_eq!(run(&world).await, [ToolStatus::Failed]);
    assert_eq!(run(&world).await, [ToolStatus::Failed]);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_doubt_is_treated_as_its_tool_allows() {
    let applied = Answer::failed(ToolErrorKind::OutcomeUnknown, None, Some(Duration::ZERO));
    for (repeat, expected, calls) in [
        (Repeat::Read, ToolStatus::Succeeded, 2),
        (KEYED, ToolStatus::Succeeded, 2),
        (Repeat::LookUp, ToolStatus::Succeeded, 1),
        (Repeat::Never, ToolStatus::Unknown, 1),
    ] {
        let world = one(repeat).await;
        world.system("do").know_keys();
        world.system("do").answer(applied.clone());
        assert_eq!(run(&world).await, [expected], "{repeat:?}");
        assert_eq!(world.system("do").seen().calls, calls, "{repeat:?}");
        assert!(
            world.system("do").effects().values().all(|times| *times == 1),
            "{repeat:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn doubt_is_not_forgotten_when_a_later_try_is_refused_or_put_off() {
    for kind in [
        ToolErrorKind::Refused,
        ToolErrorKind::Unreachable,
        ToolErrorKind::RateLimited,
    ] {
        let world = one(KEYED).await;
        world.system("do").answer(Answer::failed(
            ToolErrorKind::OutcomeUnknown,
            None,
            Some(Duration::ZERO),
        ));
        world.system("do").answer_all(failed(kind));
        assert_eq!(run(&world).await, [ToolStatus::Unknown], "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_finds_nothing_in_this_life_never_leads_to_a_second_call() {
    let world = one(Repeat::LookUp).await;
    // Takes effect four seconds later, when nobody waits for it any more.
    let late = Answer {
        effect: Some(Duration::from_secs(4)),
        delay: Duration::ZERO,
        says: SystemReply::Failed(ToolErrorKind::OutcomeUnknown, None),
    };
    world.system("do").answer(late);
    assert_eq!(run(&world).await, [ToolStatus::Succeeded], "it was found in the end");
    assert_eq!(world.system("do").seen().calls, 1);
    let nothing = Answer::failed(ToolErrorKind::OutcomeUnknown, None, None);
    world.system("do").answer(nothing);
    assert_eq!(
        run(&world).await,
        [ToolStatus::Unknown],
        "a call that is never found ends as unknown"
    );
    assert_eq!(world.system("do").seen().calls, 2);
}

#[tokio::test(start_paused = true)]
async fn a_keyed_call_of_an_earlier_life_that_cannot_be_reached_again_is_unknown() {
    let mut world = one(KEYED).await;
    world.system("do").answer(Answer {
        effect: Some(Duration::ZERO),
        delay: Duration::ZERO,
        says: SystemReply::Nothing,
    });
    let (id, turn) = start(&world).await;
    world.system("do").wait_for(|seen| seen.effects == 1).await;
    world.crash().await;
    world.system("do").look_up_answers(Ok(LookUp::NotFound));
    world.system("do").answer_all(failed(ToolErrorKind::Unreachable));
    world.restart().await;
    assert_eq!(
        end(&world, id, turn).await,
        [ToolStatus::Unknown],
        "the first call took effect, although its repetition was refused"
    );
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_fails_says_nothing_about_the_call() {
    let world = one(Repeat::LookUp).await;
    world.system("do").answer(Answer::failed(
        ToolErrorKind::OutcomeUnknown,
        None,
        Some(Duration::ZERO),
    ));
    world.system("do").look_up_answers(Ok(LookUp::NotFound));
    world.system("do").look_up_answers(Err(ToolErrorKind::Refused));
    assert_eq!(run(&world).await, [ToolStatus::Unknown]);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline_whatever_the_system_does() {
    for repeat in [Repeat::Read, KEYED, Repeat::LookUp, Repeat::Never] {
        let world = one(repeat).await;
        world.system("do").answer_all(Answer {
            effect: None,
            delay: Duration::ZERO,
            says: SystemReply::Nothing,
        });
        let begun = Instant::now();
        let statuses = run(&world).await;
        let expected = if repeat == Repeat::Read {
            ToolStatus::Failed
        } else {
            ToolStatus::Unknown
        };
        assert_eq!(statuses, [expected], "{repeat:?}");
        assert!(
            begun.elapsed() <= Duration::from_secs(21),
            "{repeat:?}: {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_of_a_system_that_is_not_configured_fails_clearly() {
    let world = World::with(tool(copilot(), "nowhere", Repeat::Never)).await;
    world.model.on(
        "work",
        &[calls(&[("nowhere", json!({}))]), says(&["done"], Duration::ZERO)],
    );
    assert_eq!(run(&world).await, [ToolStatus::Failed]);
}

#[tokio::test(start_paused = true)]
async fn a_connector_without_calls_is_let_go_and_comes_back() {
    let world = one(Repeat::Read).await;
    let living = || world.shared().connectors.get().unwrap().get_cell().get_children().len();
    assert_eq!(run(&world).await, [ToolStatus::Succeeded]);
    assert_eq!(living(), 1);
    tokio::time::sleep(Duration::from_secs(800)).await;
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    assert_eq!(run(&world).await, [ToolStatus::Succeeded]);
    // The idle time counts from the last call.
    tokio::time::sleep(Duration::from_secs(800)).await;
    assert_eq!(living(), 1);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(living(), 0);
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    assert_eq!(run(&world).await, [ToolStatus::Succeeded]);
    assert_eq!(living(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_calendar_that_is_set_changes_no_pace_no_breaker_and_no_time_of_a_call() {
    for step in [-86_400_000, -3_600_000, 3_600_000, 86_400_000] {
        let bounds = Bounds {
            connector_per_minute: 60,
            ..Bounds::default()
        };
        // The rate budget: ten at once, then one a second.
        let world = world(Repeat::Read, 13, bounds.clone()).await;
        let slow = Answer::done(Duration::from_millis(100));
        world.system("do").answer_all(slow);
        let begun = Instant::now();
        let (id, turn) = start(&world).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.clock.step(step);
        let end = world.end_of(id, turn).await;
        assert!(matches!(end, Event::TurnCompleted { .. }), "set by {step} ms: {end:?}");
        let seconds = begun.elapsed().as_secs();
        assert!((3..=4).contains(&seconds), "set by {step} ms: {seconds} s");
        assert_eq!(world.system("do").requests().len(), 13, "set by {step} ms");
    }
    for step in [-86_400_000, -3_600_000, 3_600_000, 86_400_000] {
        // The breaker: open for two seconds, then a probe.
        let world = world(Repeat::Read, 5, Bounds::default()).await;
        for _ in 0..5 {
            world.system("do").answer(failed(ToolErrorKind::Unreachable));
        }
        world.system("do").answer_all(Answer::done(Duration::ZERO));
        let (id, turn) = start(&world).await;
        world.system("do").wait_for(|seen| seen.calls == 5).await;
        world.clock.step(step);
        let opened = Instant::now();
        world.system("do").wait_for(|seen| seen.calls >= 6).await;
        let time = opened.elapsed();
        assert!((2..4).contains(&time.as_secs()), "set by {step} ms: {time:?}");
        assert_eq!(
            end(&world, id, turn).await,
            [ToolStatus::Succeeded; 5],
            "set by {step} ms"
        );
    }
}
