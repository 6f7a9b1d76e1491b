//! A turn from its acceptance to its end.

use std::time::Duration;

use copilotd_actors::actors::conversation::{Principal, Refusal};
use copilotd_actors::domain::conversation::command::{Command, WhenBusy};
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::{Event, FailureCode, Idempotency};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::fakes::model::{Act, says};

use crate::support::{Client, World, scope, submission, submitted};

#[tokio::test(start_paused = true)]
async fn a_turn_is_answered_and_streamed_to_its_end() {
    let world = World::new().await;
    world
        .model
        .on("hello", &[says(&["Good ", "day", "!"], Duration::from_millis(20))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    let names: Vec<String> = viewer.read_all().await.iter().map(|e| e.name.clone()).collect();
    assert_eq!(
        names,
        [
            "turn.queued",
            "turn.started",
            "context.assembled",
            "message.delta",
            "message.delta",
            "message.delta",
            "message.completed",
            "turn.completed",
        ]
    );
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_turn_without_tools_takes_at_most_four_commits_and_its_start_is_in_the_first() {
    let world = World::new().await;
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.end_of(id, turn).await;
    let appends = &world.probe.appends()[1..];
    assert_eq!(appends[0], ["turn.queued", "turn.started"]);
    assert!(appends.len() <= 4, "{appends:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_and_no_model_is_called_before_the_append_is_stored() {
    let world = World::new().await;
    let id = world.create().await;
    world.log.hold();
    let turn = world.turn_id();
    let execute = world.execute(id, submission(turn, "hello"));
    assert!(tokio::time::timeout(Duration::from_secs(20), execute).await.is_err());
    assert_eq!(world.model.seen().calls, 0);
    world.log.release();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn four_copies_of_one_submit_at_once_are_one_turn() {
    let world = World::new().await;
    let id = world.create().await;
    let copy = || world.execute(id, submitted(world.turn_id(), "hello", WhenBusy::Enqueue, Some("k")));
    let (a, b, c, d) = tokio::join!(copy(), copy(), copy(), copy());
    let turns: Vec<_> = [a, b, c, d]
        .into_iter()
        .map(|copy| copy.unwrap().turn.unwrap())
        .collect();
    assert!(turns.iter().all(|turn| *turn == turns[0]), "{turns:?}");
    world.end_of(id, turns[0]).await;
    assert_eq!(world.model.seen().calls, 1);
    let again = copy().await.unwrap();
    assert_eq!(
        (again.turn, again.records),
        (Some(turns[0]), Vec::new()),
        "even after the turn has ended"
    );
    let other = world.execute(
        id,
        submitted(world.turn_id(), "other body", WhenBusy::Enqueue, Some("k")),
    );
    assert_eq!(other.await.unwrap_err(), Refusal::Rejected(Rejection::KeyReused));
}

#[tokio::test(start_paused = true)]
async fn two_submits_within_a_millisecond_both_run_in_order() {
    let world = World::new().await;
    let id = world.create().await;
    let (a, b) = (world.turn_id(), world.turn_id());
    let (first, second) = tokio::join!(
        world.execute(id, submission(a, "first")),
        world.execute(id, submission(b, "second"))
    );
    assert_eq!(first.unwrap().position, Some(0));
    assert_eq!(second.unwrap().position, Some(1));
    world.end_of(id, b).await;
    let ends: Vec<_> = world
        .log
        .records(id)
        .into_iter()
        .filter(|r| r.event.is_terminal())
        .map(|r| r.turn)
        .collect();
    assert_eq!(ends, [Some(a), Some(b)]);
    assert_eq!(world.model.seen().peak, 1, "one turn of a conversation at a time");
}

#[tokio::test(start_paused = true)]
async fn two_copies_of_one_create_at_once_are_one_conversation() {
    let world = World::new().await;
    let key = || {
        Some(Idempotency {
            key: "k".into(),
            body_hash: "h".into(),
        })
    };
    let id = ConversationId::derived(world.scope.tenant(), &world.principal().user, "k", 0);
    let copy = || world.execute(id, world.creation(key()));
    let (a, b) = tokio::join!(copy(), copy());
    assert_eq!(a.unwrap().header, b.unwrap().header);
    assert_eq!(world.names(id), ["conversation.created"]);
}

#[tokio::test(start_paused = true)]
async fn another_user_finds_nothing_and_an_administrator_does() {
    let world = World::new().await;
    let id = world.create().await;
    let mut principal = Principal {
        user: "bob".parse().unwrap(),
        admin: false,
    };
    let rename = || Command::Update {
        title: Some("x".into()),
        metadata: None,
    };
    let foreign = world.directory().execute(&world.scope, id, &principal, rename()).await;
    assert_eq!(foreign.unwrap_err(), Refusal::Rejected(Rejection::NotFound));
    let elsewhere = world
        .directory()
        .execute(&scope("globex"), id, &world.principal(), rename())
        .await;
    assert_eq!(elsewhere.unwrap_err(), Refusal::Rejected(Rejection::NotFound));
    principal.admin = true;
    world
        .directory()
        .execute(&world.scope, id, &principal, rename())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_providers_limit_is_shown_and_costs_one_call_more() {
    let world = World::new().await;
    world.model.once(
        "hello",
        vec![Act::Fail(FailureClass::Rate, Some(Duration::from_secs(7)))],
    );
    world
        .model
        .on("hello", &[says(&["a", "b", "c"], Duration::from_secs(1))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let begun = tokio::time::Instant::now();
    let mut viewer = world.viewer(id, Some(turn), "0");
    let deltas = viewer
        .read_all()
        .await
        .iter()
        .filter(|event| event.name == "message.delta")
        .count();
    assert_eq!(deltas, 3, "the answer is streamed while it is written");
    assert!(begun.elapsed() >= Duration::from_secs(7));
    world.settle().await;
    assert_eq!(
        world.model.seen().calls,
        2,
        "the end of the wait starts one call, not two"
    );
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_cuts_its_stream_is_asked_again_and_the_text_is_reset() {
    let world = World::new().await;
    world.model.once(
        "hello",
        vec![Act::Text("half".into()), Act::Wait(Duration::from_secs(1))],
    );
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["ok"]);
    assert!(client.names().contains(&"message.reset"));
    client.has_all(&world.log.records(id), Some(turn));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fails_for_ever_ends_the_turn_when_it_may_wait_no_longer() {
    let world = World::new().await;
    world
        .model
        .on("hello", &[vec![Act::Fail(FailureClass::Overload, None)]]);
    let id = world.create().await;
    let begun = tokio::time::Instant::now();
    let turn = world.submit(id, "hello").await;
    let end = world.end_of(id, turn).await;
    assert!(
        matches!(
            end,
            Event::TurnFailed {
                code: FailureCode::ProviderUnavailable,
                ..
            }
        ),
        "{end:?}"
    );
    let (waited, calls) = (begun.elapsed().as_secs(), world.model.seen().calls);
    assert!((590..700).contains(&waited), "{waited}");
    assert!((30..80).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_model_ends_with_the_turns_time() {
    let world = World::new().await;
    world.model.on("hello", &[vec![Act::Text("so far".into()), Act::Stall]]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let end = world.end_of(id, turn).await;
    assert!(
        matches!(
            end,
            Event::TurnFailed {
                code: FailureCode::LimitTime,
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(world.model.wait_for(|seen| seen.dropped == 1).await.open, 0);
}
