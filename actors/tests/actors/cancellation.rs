//! Cancel, interrupt and erase: the log records exactly what readers saw and what was sent.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::content::{Finish, ToolStatus};
use copilotd_actors::domain::conversation::command::{Command, StoppedWork, WhenBusy};
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::{Event, Idempotency, Record};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::domain::usage::Price;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use copilotd_actors::ports::{Ids as _, ToolErrorKind};
use serde_json::json;

use crate::support::{Client, World, copilot, submission, submitted, tool};

fn cancelled_text(records: &[Record]) -> Vec<String> {
    let cancelled = |record: &Record| match &record.event {
        Event::MessageCompleted {
            text,
            finish: Finish::Cancelled,
            ..
        } => Some(text.clone()),
        _ => None,
    };
    records.iter().filter_map(cancelled).collect()
}

fn statuses(records: &[Record]) -> Vec<ToolStatus> {
    let status = |record: &Record| match record.event {
        Event::ToolFinished { status, .. } => Some(status),
        _ => None,
    };
    records.iter().filter_map(status).collect()
}

#[tokio::test(start_paused = true)]
async fn a_cancel_in_mid_stream_closes_the_connection_and_keeps_exactly_what_readers_saw() {
    for ms in [0, 50, 149, 150, 151, 300, 320, 449] {
        let world = World::new().await;
        world.model.on(
            "hello",
            &[says(&["One ", "twö ", "three ", "four"], Duration::from_millis(150))],
        );
        let id = world.create().await;
        let turn = world.submit(id, "hello").await;
        world.model.wait_for(|seen| seen.open == 1).await;
        let mut viewer = world.viewer(id, Some(turn), "0");
        let _ = tokio::time::timeout(Duration::from_millis(ms), viewer.read_until(|_| false)).await;
        world.cancel(id, turn).await.unwrap();
        assert_eq!(world.model.wait_for(|seen| seen.dropped == 1).await.open, 0, "{ms}");
        world.settle().await;
        let begun: String = viewer.events.iter().filter_map(|e| e.data["text"].as_str()).collect();
        viewer.read_all().await;
        let mut client = Client::default();
        client.take(&viewer.events);
        let records = world.log.records(id);
        client.has_all(&records, Some(turn));
        let kept = cancelled_text(&records).concat();
        assert!(kept.starts_with(&begun), "{ms}: {kept:?} after {begun:?}");
        assert_eq!(kept.is_empty(), ms < 150, "{ms}: {kept:?}");
        assert_eq!(client.names().last(), Some(&"turn.cancelled"));
        world.cancel(id, turn).await.unwrap_err();
        assert_eq!(world.log.records(id), records, "a second cancel changes nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_answer_is_paid_for() {
    let mut policy = copilot();
    policy
        .prices
        .add(jiff::Timestamp::MIN, Price::flat(1_000_000, 2_000_000));
    let world = World::with(policy).await;
    world
        .model
        .on("hello", &[says(&["some words ", "more"], Duration::from_millis(100))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    world.cancel(id, turn).await.unwrap();
    viewer.read_all().await;
    let usage = &viewer.events.last().unwrap().data["usage"];
    let tokens = |name: &str| usage[name].as_u64().unwrap();
    assert!(
        tokens("prompt_tokens") > 0 && tokens("completion_tokens") > 0,
        "{usage}"
    );
    let nano = tokens("prompt_tokens") + 2 * tokens("completion_tokens");
    assert_eq!(usage["cost_usd"], nano as f64 / 1e9);
    assert_eq!(usage["estimated"], true, "the provider reported no usage");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_after_a_wait_for_the_providers_limit_keeps_the_text_too() {
    let world = World::new().await;
    world.model.once(
        "hello",
        vec![Act::Fail(FailureClass::Rate, Some(Duration::from_secs(3)))],
    );
    world.model.on("hello", &[vec![Act::Text("seen".into()), Act::Stall]]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    world.cancel(id, turn).await.unwrap();
    assert_eq!(cancelled_text(&world.log.records(id)), ["seen"]);
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_keeps_what_was_said_and_runs_before_what_waits() {
    let world = World::new().await;
    world.model.on("long", &[vec![Act::Text("begun".into()), Act::Stall]]);
    let id = world.create().await;
    let long = world.submit(id, "long").await;
    let waits = world.submit(id, "waits").await;
    let mut viewer = world.viewer(id, None, "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    let now = world.turn_id();
    world
        .execute(id, submitted(now, "now", WhenBusy::Interrupt, None))
        .await
        .unwrap();
    world.end_of(id, waits).await;
    let records = world.log.records(id);
    assert_eq!(cancelled_text(&records), ["begun"]);
    let ends: Vec<_> = records
        .iter()
        .filter(|r| r.event.is_terminal())
        .filter_map(|r| r.turn)
        .collect();
    assert_eq!(ends, [long, now, waits]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_interrupt_stops_nothing() {
    let world = World::new().await;
    world.model.on("long", &[says(&["a", "b"], Duration::from_secs(1))]);
    let id = world.create().await;
    let long = world.submit(id, "long").await;
    let mut viewer = world.viewer(id, Some(long), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    let empty = world
        .execute(id, submitted(world.turn_id(), " ", WhenBusy::Interrupt, None))
        .await;
    assert!(matches!(empty, Err(Refusal::Rejected(Rejection::Invalid(_)))));
    let deltas = viewer
        .read_all()
        .await
        .iter()
        .filter(|event| event.name == "message.delta")
        .count();
    assert_eq!(deltas, 2, "the answer was still streamed while it was written");
    assert!(matches!(world.end_of(id, long).await, Event::TurnCompleted { .. }));
}

async fn with_call(repeat: Repeat, answers: &[Answer]) -> World {
    let world = World::with(tool(copilot(), "do", repeat)).await;
    answers
        .iter()
        .for_each(|answer| world.system("do").answer(answer.clone()));
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    world
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_that_is_in_flight_ends_unknown_and_its_late_result_is_kept() {
    let slow = Answer::done(Duration::from_secs(3));
    let world = with_call(Repeat::Never, &[slow]).await;
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.system("do").wait_for(|seen| seen.open == 1).await;
    world.cancel(id, turn).await.unwrap();
    assert_eq!(statuses(&world.log.records(id)), [ToolStatus::Unknown]);
    let settled = world.named(id, "tool.settled").await;
    assert!(matches!(
        settled.event,
        Event::ToolSettled {
            status: ToolStatus::Succeeded,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_late_result_is_kept_though_its_conversation_is_idle_for_longer_than_it_may_be() {
    let bounds = Bounds {
        idle: Duration::from_secs(1),
        ..Bounds::default()
    };
    let world = World::bounded(tool(copilot(), "do", Repeat::Never), bounds).await;
    world.system("do").answer(Answer::done(Duration::from_secs(3)));
    world.model.on("work", &[calls(&[("do", json!({}))])]);
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.system("do").wait_for(|seen| seen.open == 1).await;
    world.cancel(id, turn).await.unwrap();
    world.named(id, "tool.settled").await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_read_ends_cancelled_though_it_is_in_flight() {
    let world = with_call(Repeat::Read, &[Answer::done(Duration::from_secs(3))]).await;
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.system("do").wait_for(|seen| seen.open == 1).await;
    world.cancel(id, turn).await.unwrap();
    world.settle().await;
    assert_eq!(statuses(&world.log.records(id)), [ToolStatus::Cancelled]);
    assert!(!world.names(id).contains(&"tool.settled"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_that_waits_in_the_queue_is_never_sent() {
    let world = with_call(Repeat::Never, &[]).await;
    world.system("do").answer_all(Answer::done(Duration::from_secs(4)));
    let mut turns = Vec::new();
    for _ in 0..9 {
        let id = world.create().await;
        turns.push((id, world.submit(id, "work").await));
    }
    world.system("do").wait_for(|seen| seen.open == 8).await;
    let sent = world.system("do").effects();
    let waits = |(id, _): &&(_, _)| {
        let called = world
            .log
            .records(*id)
            .into_iter()
            .find_map(|record| match record.event {
                Event::ToolCalled { call_id, .. } => Some(call_id),
                _ => None,
            });
        called.is_none_or(|call| !sent.contains_key(&call))
    };
    let (id, turn) = *turns.iter().find(waits).unwrap();
    world.named(id, "tool.called").await;
    world.cancel(id, turn).await.unwrap();
    world.settle().await;
    assert_eq!(statuses(&world.log.records(id)), [ToolStatus::Cancelled]);
    assert_eq!(world.system("do").seen().effects, 8);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_that_the_vendor_put_off_is_known_to_be_unsent() {
    for kind in [ToolErrorKind::RateLimited, ToolErrorKind::Unreachable] {
        let put_off = Answer::failed(kind, Some(Duration::from_secs(2)), None);
        let world = with_call(Repeat::Never, &[put_off]).await;
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        world.system("do").wait_for(|seen| seen.calls == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.cancel(id, turn).await.unwrap();
        world.settle().await;
        assert_eq!(statuses(&world.log.records(id)), [ToolStatus::Cancelled], "{kind:?}");
        assert_eq!(world.system("do").seen().calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_while_calls_wait_behind_an_open_breaker_sends_none_of_them() {
    let unreachable = Answer::failed(ToolErrorKind::Unreachable, None, None);
    let world = with_call(Repeat::Never, &[]).await;
    world.system("do").answer_all(unreachable);
    let first = world.create().await;
    let turn = world.submit(first, "work").await;
    let second = world.create().await;
    world.submit(second, "work").await;
    world.system("do").wait_for(|seen| seen.calls >= 5).await;
    let _ = world.cancel(first, turn).await;
    let third = world.create().await;
    let turn = world.submit(third, "work").await;
    world.named(third, "tool.called").await;
    let calls = world.system("do").seen().calls;
    world.cancel(third, turn).await.unwrap();
    assert_eq!(statuses(&world.log.records(third)), [ToolStatus::Cancelled]);
    assert_eq!(world.system("do").seen().calls, calls);
}

#[tokio::test(start_paused = true)]
async fn an_erased_conversation_ends_its_streams_its_model_and_every_later_request() {
    let world = World::new().await;
    world.model.on("long", &[vec![Act::Text("secret".into()), Act::Stall]]);
    let id = world.create().await;
    let long = world.submit(id, "long").await;
    world.submit(id, "waits").await;
    let mut viewer = world.viewer(id, None, "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    let (by, stop) = ("ada".to_owned(), StoppedWork::default());
    world.execute(id, Command::Erase { by, stop }).await.unwrap();
    viewer.read_all().await;
    assert_eq!(viewer.events.last().unwrap().name, "conversation.erased");
    assert_eq!(world.model.wait_for(|seen| seen.dropped == 1).await.open, 0);
    let late = world.execute(id, submission(world.turn_id(), "late")).await;
    assert_eq!(late.unwrap_err(), Refusal::Rejected(Rejection::NotFound));
    assert!(world.cancel(id, long).await.is_err());
    world.settle().await;
    assert_eq!(
        world.names(id),
        ["conversation.erased"],
        "the reconciler deleted the rest"
    );
}

#[tokio::test(start_paused = true)]
async fn the_key_of_an_erased_conversation_is_refused_before_and_after_it_was_cleaned() {
    let world = World::new().await;
    let id = ConversationId::new(world.ids.uuid());
    let key = Some(Idempotency {
        key: "k".into(),
        body_hash: "00".into(),
    });
    world.execute(id, world.creation(key.clone())).await.unwrap();
    let (by, stop) = ("ada".to_owned(), StoppedWork::default());
    world.execute(id, Command::Erase { by, stop }).await.unwrap();
    let again = world.execute(id, world.creation(key.clone())).await;
    assert_eq!(again.unwrap_err(), Refusal::Rejected(Rejection::KeyReused));
    world.settle().await;
    let cleaned = world.execute(id, world.creation(key)).await;
    assert_eq!(cleaned.unwrap_err(), Refusal::Rejected(Rejection::KeyReused));
    assert_eq!(world.names(id), ["conversation.erased"]);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_answers_nothing_ends_the_call_by_its_timeout() {
    let silent = Answer {
        effect: Some(Duration::ZERO),
        delay: Duration::ZERO,
        says: SystemReply::Nothing,
    };
    let world = with_call(Repeat::Never, &[silent]).await;
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.end_of(id, turn).await;
    assert_eq!(statuses(&world.log.records(id)), [ToolStatus::Unknown]);
}
