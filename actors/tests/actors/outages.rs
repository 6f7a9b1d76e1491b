//! Model providers that are down, rate-limited or silent for a while: turns visibly wait, and then continue.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::event::{Event, FailureCode, WaitReason};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{Act, Script, calls, says};
use copilotd_actors::fakes::system::Answer;
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Client, World, copilot, tool};

/// Kinds of failure, one per call.
const TROUBLE: [FailureClass; 6] = [
    FailureClass::Overload,
    FailureClass::Network,
    FailureClass::TimedOut,
    FailureClass::Rate,
    FailureClass::Cut,
    FailureClass::Malformed,
];

fn down(class: FailureClass) -> Script {
    vec![Act::Fail(class, None)]
}

/// Makes the model fail every call for `time`, and answer `text` from then on.
async fn outage(world: &World, class: FailureClass, time: Duration, text: &str) {
    world.model.on("hello", &[down(class)]);
    tokio::time::sleep(time).await;
    world.model.on("hello", &[says(&[text], Duration::ZERO)]);
}

fn waits(world: &World, id: ConversationId) -> Vec<(WaitReason, Duration)> {
    let wait = |record: copilotd_actors::domain::event::Record| match record.event {
        Event::TurnWaiting { reason, until } => Some((reason, until.duration_since(record.at).unsigned_abs())),
        _ => None,
    };
    world.log.records(id).into_iter().filter_map(wait).collect()
}

async fn assert_completed(world: &World, id: ConversationId, turn: TurnId, what: &str) {
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{what}: {end:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_fails_no_turn_whatever_its_kind() {
    for class in TROUBLE {
        let world = World::new().await;
        world.model.on("hello", &[down(class)]);
        let id = world.create().await;
        let begun = Instant::now();
        let turn = world.submit(id, "hello").await;
        let mut viewer = world.viewer(id, Some(turn), "0");
        outage(&world, class, Duration::from_secs(60), "back").await;
        assert_completed(&world, id, turn, class.code()).await;
        assert!(
            begun.elapsed() < Duration::from_secs(85),
            "{class:?}: {:?}",
            begun.elapsed()
        );
        let waits = waits(&world, id);
        let reason = match class {
            FailureClass::Rate => WaitReason::ProviderRateLimit,
            _ => WaitReason::ProviderUnavailable,
        };
        assert!(waits.iter().all(|(known, _)| *known == reason), "{class:?}: {waits:?}");
        assert!((4..20).contains(&waits.len()), "{class:?}: {waits:?}");
        viewer.read_all().await;
        let mut client = Client::default();
        client.take(&viewer.events);
        assert_eq!(client.texts, ["back"], "{class:?}");
        client.has_all(&world.log.records(id), Some(turn));
        assert!(client.names().contains(&"turn.waiting"), "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_break_off_for_a_minute_are_taken_back_and_the_turn_goes_on() {
    let world = World::new().await;
    let half = vec![
        Act::Text("half an answ".into()),
        Act::Wait(Duration::from_millis(200)),
        Act::Fail(FailureClass::Network, None),
    ];
    world.model.on("hello", &[half]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.model.on("hello", &[says(&["whole"], Duration::ZERO)]);
    assert_completed(&world, id, turn, "network").await;
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["whole"]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_neither_an_attempt_nor_the_turns_time() {
    let mut policy = copilot();
    policy.limits.attempts = 1;
    policy.limits.time = Duration::from_secs(5);
    let world = World::with(policy).await;
    world.model.on("hello", &[down(FailureClass::Overload)]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    outage(&world, FailureClass::Overload, Duration::from_secs(120), "back").await;
    assert_completed(&world, id, turn, "overload").await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_no_longer_than_its_copilot_allows() {
    for (class, code) in [
        (FailureClass::Overload, FailureCode::ProviderUnavailable),
        (FailureClass::Rate, FailureCode::RateLimited),
    ] {
        let mut policy = copilot();
        policy.limits.wait = Duration::from_secs(20);
        let world = World::with(policy).await;
        world.model.on("hello", &[down(class)]);
        let id = world.create().await;
        let begun = Instant::now();
        let turn = world.submit(id, "hello").await;
        let end = world.end_of(id, turn).await;
        assert!(
            matches!(end, Event::TurnFailed { code: c, retryable: true, .. } if c == code),
            "{end:?}"
        );
        let took = begun.elapsed().as_secs();
        assert!((20..30).contains(&took), "{class:?}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_names_a_time_is_not_asked_before() {
    for class in [FailureClass::Rate, FailureClass::Overload] {
        let world = World::new().await;
        for _ in 0..3 {
            world
                .model
                .once("hello", vec![Act::Fail(class, Some(Duration::from_secs(45)))]);
        }
        let id = world.create().await;
        let begun = Instant::now();
        let turn = world.submit(id, "hello").await;
        world.model.wait_for(|seen| seen.calls == 2).await;
        assert!(
            begun.elapsed() >= Duration::from_secs(45),
            "{class:?}: {:?}",
            begun.elapsed()
        );
        assert_completed(&world, id, turn, class.code()).await;
        let took = begun.elapsed().as_secs();
        assert!((135..145).contains(&took), "{class:?}: {took}");
        assert_eq!(world.model.seen().calls, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_waits_no_stream_is_open_and_a_stop_has_nothing_to_wait_for() {
    let world = World::new().await;
    world.model.once(
        "hello",
        vec![Act::Fail(FailureClass::Overload, Some(Duration::from_secs(60)))],
    );
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.named(id, "turn.waiting").await;
    world.settle().await;
    assert_eq!(world.model.seen().open, 0);
    let admission = &world.shared().admission;
    assert_eq!(
        (admission.busy(), admission.by_state().waiting, admission.open()),
        (0, 1, 1)
    );
    assert_completed(&world, id, turn, "overload").await;
    world.settle().await;
    assert_eq!(world.shared().admission.by_state().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_and_a_suspension_end_the_wait_at_once() {
    for suspended in [false, true] {
        let world = World::new().await;
        world.model.on("hello", &[down(FailureClass::Network)]);
        let id = world.create().await;
        let turn = world.submit(id, "hello").await;
        world.model.wait_for(|seen| seen.calls == 8).await;
        world.settle().await;
        let (begun, seen) = (Instant::now(), world.model.seen().calls);
        if suspended {
            let tenant = world.scope.tenant();
            world.policies.suspend(tenant, true);
            world.directory().notify_standing_changed(|known| known == tenant);
        } else {
            world.cancel(id, turn).await.unwrap();
        }
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(world.model.seen().calls, seen, "no more model calls are made");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_the_wait_and_costs_no_attempt() {
    let mut world = World::new().await;
    let named = || vec![Act::Fail(FailureClass::Overload, Some(Duration::from_secs(300)))];
    world.model.once("hello", named());
    let id = world.create().await;
    let begun = Instant::now();
    let turn = world.submit(id, "hello").await;
    world.named(id, "turn.waiting").await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.crash().await;
        world.restart().await;
        assert!(matches!(
            world.cancel(id, world.turn_id()).await,
            Err(Refusal::Rejected(_))
        ));
    }
    assert_eq!(
        world.model.seen().calls,
        1,
        "the provider is not called before the time it named"
    );
    assert_completed(&world, id, turn, "overload").await;
    let took = begun.elapsed().as_secs();
    assert!((300..305).contains(&took), "{took}");
    assert_eq!(world.model.lost(), [], "no call was in progress");
}

#[tokio::test(start_paused = true)]
async fn an_outage_after_a_tool_ran_does_not_run_it_again() {
    let world = World::with(tool(copilot(), "do", Repeat::Never)).await;
    world.system("do").answer_all(Answer::done(Duration::from_millis(10)));
    let step = calls(&[("do", json!({}))]);
    world.model.on("work", &[step.clone(), down(FailureClass::Overload)]);
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.named(id, "turn.waiting").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.model.on("work", &[step, says(&["done"], Duration::ZERO)]);
    assert_completed(&world, id, turn, "overload").await;
    assert_eq!(world.system("do").seen().calls, 1);
}

fn trouble() -> impl Strategy<Value = (usize, Option<u64>, u64)> {
    (0..TROUBLE.len(), proptest::option::of(0_u64..20), 0_u64..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any mixture of failures within a minute, including restarts: the turn ends well, once, and readers see its
    /// answer once.
    #[test]
    fn any_minute_of_trouble_is_survived(
        troubles in proptest::collection::vec(trouble(), 1..40),
        crashes in proptest::collection::vec(1_u64..30, 0..2),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let id = world.create().await;
            let begun = Instant::now();
            // Each kind is repeated after the script: the last one continues until the minute is over.
            for (class, retry_after, pause_s) in troubles {
                let failure = Act::Fail(TROUBLE[class], retry_after.map(Duration::from_secs));
                let script = match pause_s {
                    0 => vec![failure],
                    pause => vec![Act::Wait(Duration::from_millis(pause * 100)), Act::Text("lost ".into()), failure],
                };
                world.model.once("hello", script);
            }
            world.model.on("hello", &[down(FailureClass::Network)]);
            let turn = world.submit(id, "hello").await;
            for crash in crashes {
                tokio::time::sleep(Duration::from_secs(crash)).await;
                world.crash().await;
                world.restart().await;
                world.settle().await;
            }
            tokio::time::sleep(Duration::from_secs(60).saturating_sub(begun.elapsed())).await;
            world.model.forget();
            world.model.on("hello", &[says(&["back"], Duration::ZERO)]);
            let end = world.end_of(id, turn).await;
            prop_assert!(matches!(end, Event::TurnCompleted { .. }), "{:?}", end);
            let mut viewer = world.viewer(id, Some(turn), "0");
            viewer.read_all().await;
            let mut client = Client::default();
            client.take(&viewer.events);
            prop_assert_eq!(&client.texts, &["back"]);
            Ok(())
        })?;
    }
}
