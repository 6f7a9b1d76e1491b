//! A prompt that is too long while the summary that would make it fit is not ready: the turn waits for it and does not
//! fail.

use std::time::Duration;

use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::event::{CompressionMethod, Event, FailureCode};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::fakes::model::{Act, Script, says};
use tokio::time::Instant;

use crate::support::{World, copilot};

/// The model accepts 450 tokens; the window is compressed above 200. A summary may take a minute.
fn policy() -> Policy {
    let memory = MemoryPolicy {
        context_tokens: 450,
        trigger_tokens: 200,
        keep_tokens: 60,
        hard_tokens: 10_000,
        summary_tokens: 50,
        timeout: Duration::from_secs(60),
        ..copilot().memory
    };
    Policy { memory, ..copilot() }
}

fn slow(seconds: u64) -> Script {
    says(&["They spoke."], Duration::from_secs(seconds))
}

async fn submit(world: &World, id: ConversationId, words: usize) -> TurnId {
    world.submit(id, &"word ".repeat(words)).await
}

/// A conversation whose next long prompt does not fit, with a compression that was started a second ago.
async fn full(summary: Script) -> (World, ConversationId) {
    let world = World::with(policy()).await;
    world.model.on("small", &[summary]);
    let id = world.create().await;
    for _ in 0..2 {
        let turn = submit(&world, id, 120).await;
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    (world, id)
}

fn methods(world: &World, id: ConversationId) -> Vec<CompressionMethod> {
    let method = |event: &Event| match event {
        Event::MemoryCompressed { method, .. } => Some(*method),
        _ => None,
    };
    world
        .log
        .records(id)
        .iter()
        .filter_map(|record| method(&record.event))
        .collect()
}

/// Returns the conversation part of the last model call.
fn shown(world: &World) -> String {
    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.route == "main").unwrap();
    let text = |message: &PromptMessage| match message {
        PromptMessage::User { text } => text.clone(),
        _ => String::new(),
    };
    last.messages.iter().map(text).collect::<Vec<_>>().join("\n")
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_too_long_waits_for_the_summary_under_way() {
    let (world, id) = full(slow(30)).await;
    let begun = Instant::now();
    let turn = submit(&world, id, 220).await;
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    assert_eq!(begun.elapsed().as_secs(), 29);
    assert_eq!(methods(&world, id), [CompressionMethod::Summarised]);
    assert!(shown(&world).contains("They spoke."), "{}", shown(&world));
    assert!(world.names(id).iter().all(|name| *name != "model.failed"));
}

#[tokio::test(start_paused = true)]
async fn a_summary_that_does_not_come_is_not_waited_for_for_ever() {
    for summary in [
        vec![Act::Stall],
        vec![Act::Panic],
        slow(3_600),
        vec![
            Act::Wait(Duration::from_secs(5)),
            Act::Fail(FailureClass::Overload, None),
        ],
    ] {
        let (world, id) = full(summary.clone()).await;
        let begun = Instant::now();
        let turn = submit(&world, id, 220).await;
        let end = world.end_of(id, turn).await;
        assert!(matches!(end, Event::TurnCompleted { .. }), "{summary:?}: {end:?}");
        assert!(begun.elapsed() <= Duration::from_secs(61), "{summary:?}");
        assert_eq!(methods(&world, id)[0], CompressionMethod::Truncated, "{summary:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_counts_otherwise_is_asked_again_with_the_summary() {
    // While the summary is being made, and when no compression runs.
    for settles in [false, true] {
        let (world, id) = full(slow(30)).await;
        if settles {
            world.named(id, "memory.compressed").await;
            world.settle().await;
        }
        world
            .model
            .once("please", vec![Act::Fail(FailureClass::ContextLength, None)]);
        let turn = world.submit(id, "please").await;
        let end = world.end_of(id, turn).await;
        assert!(matches!(end, Event::TurnCompleted { .. }), "{settles} {end:?}");
        assert!(shown(&world).contains("They spoke."), "{}", shown(&world));
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_summary_makes_fit_fails_and_says_why() {
    let (world, id) = full(slow(30)).await;
    let alone = submit(&world, id, 600).await;
    let refused = world.end_of(id, alone).await;
    let too_long = |end: &Event| matches!(end, Event::TurnFailed { code, .. } if *code == FailureCode::ContextTooLong);
    assert!(too_long(&refused), "{refused:?}");
    // A provider that never accepts the prompt is not called forever.
    let (world, id) = full(slow(30)).await;
    world
        .model
        .on("please", &[vec![Act::Fail(FailureClass::ContextLength, None)]]);
    let turn = world.submit(id, "please").await;
    let refused = world.end_of(id, turn).await;
    assert!(too_long(&refused), "{refused:?}");
    assert!(
        world
            .model
            .requests()
            .iter()
            .filter(|request| request.route == "main")
            .count()
            <= 5
    );
    // The next turn is answered.
    let next = submit(&world, id, 1).await;
    assert!(matches!(world.end_of(id, next).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_makes_room_again() {
    let (mut world, id) = full(slow(30)).await;
    let turn = submit(&world, id, 220).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.crash().await;
    world.restart().await;
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    assert_eq!(methods(&world, id), [CompressionMethod::Summarised]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_waits_for_room_can_be_cancelled_and_the_next_one_goes_on() {
    let (world, id) = full(slow(30)).await;
    let turn = submit(&world, id, 220).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.cancel(id, turn).await.unwrap();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
    let next = submit(&world, id, 100).await;
    let end = world.end_of(id, next).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
}
