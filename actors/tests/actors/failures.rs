//! Stores, agents, connectors and clocks that fail.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::content::ToolStatus;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::{Event, FailureCode, Record, WaitReason};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{Act, LOST_COMPLETION, calls, says};
use copilotd_actors::fakes::system::{Answer, SystemReply};
use copilotd_actors::ports::{Append, EventLog, Ids};
use serde_json::json;

use crate::support::{Client, World, copilot, submission, tool};

fn rename(title: &str) -> Command {
    Command::Update {
        title: Some(title.to_owned()),
        metadata: None,
    }
}

/// Another process writes to the conversation's log.
async fn write_behind_the_actors_back(world: &World, id: copilotd_actors::domain::ids::ConversationId) {
    let mut header = world.log.header(&world.scope, id).await.unwrap().unwrap();
    let record = Record {
        seq: header.last_seq + 1,
        at: header.updated_at,
        turn: None,
        event: Event::ConversationUpdated {
            title: Some("theirs".into()),
            metadata: None,
        },
    };
    header.apply(&record);
    let (user, append_id) = (header.user.clone(), world.ids.uuid());
    let append = Append {
        conversation: id,
        user,
        append_id,
        records: vec![record].into(),
        header,
    };
    world.log.append(&world.scope, &append).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_loses_its_append_dies_and_its_callers_are_served_by_a_successor() {
    let world = World::new().await;
    let id = world.create().await;
    write_behind_the_actors_back(&world, id).await;
    let (a, b) = tokio::join!(world.execute(id, rename("a")), world.execute(id, rename("b")));
    a.unwrap();
    b.unwrap();
    let records = world.log.records(id);
    assert_eq!(records.len(), 4, "{records:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_in_mid_turn_is_recovered_and_the_turn_ends() {
    let world = World::new().await;
    world
        .model
        .on("hello", &[says(&["a", "b", "c"], Duration::from_secs(1))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    write_behind_the_actors_back(&world, id).await;
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    client.has_all(&world.log.records(id), Some(turn));
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_the_models_text_waits_and_nothing_of_it_is_lost() {
    let world = World::new().await;
    world
        .model
        .on("hello", &[says(&["a", "b", "c"], Duration::from_secs(1))]);
    let id = world.create().await;
    world.log.delay_appends(Duration::from_secs(30));
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    let _ = tokio::time::timeout(Duration::from_secs(20), viewer.read_until(|_| false)).await;
    assert!(
        viewer.events.iter().all(|event| event.name != "message.delta"),
        "nothing is shown before it is stored"
    );
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["abc"]);
    assert_eq!(world.model.seen().calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_for_minutes_loses_nothing_that_was_accepted() {
    let world = World::new().await;
    let id = world.create().await;
    world.model.on("hello", &[says(&["a"], Duration::from_secs(1))]);
    let turn = world.submit(id, "hello").await;
    world.log.set_down(true);
    assert_eq!(world.execute(id, rename("x")).await.unwrap_err(), Refusal::Unavailable);
    // Its actor is gone and cannot be restarted: certainly nothing of a request is stored now.
    assert_eq!(world.execute(id, rename("y")).await.unwrap_err(), Refusal::NotStored);
    tokio::time::sleep(Duration::from_secs(600)).await;
    world.log.set_down(false);
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_leaves_the_conversation_as_it_was() {
    let world = World::new().await;
    let id = world.create().await;
    world.log.refuse_append(1, "the disk is full");
    assert_eq!(
        world.execute(id, rename("x")).await.unwrap_err(),
        Refusal::Refused { disk_full: false }
    );
    let turn = world.submit(id, "hello").await;
    world.end_of(id, turn).await;
    let header = world.execute(id, rename("y")).await.unwrap().header;
    assert_eq!(header.last_seq, world.log.records(id).last().unwrap().seq);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_the_store_refuses_leaves_a_turn_that_still_ends_and_is_still_seen() {
    let world = World::with(tool(copilot(), "do", Repeat::Never)).await;
    world.model.on(
        "work",
        &[calls(&[("do", json!({}))]), says(&["a", "b"], Duration::from_secs(1))],
    );
    world.system("do").answer(Answer::done(Duration::from_secs(2)));
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    world.log.refuse_append(1, "the disk is full");
    assert_eq!(
        world.cancel(id, turn).await.unwrap_err(),
        Refusal::Refused { disk_full: false }
    );
    let begun = tokio::time::Instant::now();
    let deltas = viewer
        .read_all()
        .await
        .iter()
        .filter(|event| event.name == "message.delta")
        .count();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the turn ended without waiting for a deadline"
    );
    assert!(deltas > 2, "the answer was still streamed while it was written");
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_queued_call_survives_a_cancel_that_the_store_refuses() {
    let world = World::with(tool(copilot(), "do", Repeat::Never)).await;
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    world.system("do").answer(Answer::failed(
        copilotd_actors::ports::ToolErrorKind::RateLimited,
        Some(Duration::from_secs(1)),
        None,
    ));
    let id = world.create().await;
    let turn = world.submit(id, "work").await;
    world.system("do").wait_for(|seen| seen.calls == 1).await;
    world.log.refuse_append(1, "the disk is full");
    world.cancel(id, turn).await.unwrap_err();
    let begun = tokio::time::Instant::now();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the call ended without waiting for a deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_dies_is_reset_once_and_the_log_says_who_answers_instead() {
    let world = World::new().await;
    let half = vec![
        Act::Text("half an answ".into()),
        Act::Wait(Duration::from_secs(1)),
        Act::Fail(FailureClass::Cut, None),
    ];
    let mut whole = vec![Act::Fallback("a/large", "b/large", "cut")];
    whole.extend(says(&["the ", "whole ", "answer"], Duration::from_millis(100)));
    world.model.once("hello", half);
    world.model.once("hello", whole);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["the whole answer"]);
    client.has_all(&world.log.records(id), Some(turn));
    let names: Vec<&str> = viewer.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(
        names.iter().filter(|name| **name == "message.reset").count(),
        1,
        "{names:?}"
    );
    let fallback = viewer
        .events
        .iter()
        .find(|event| event.name == "model.fallback")
        .unwrap();
    let said = |name: &str| fallback.data[name].as_str().unwrap().to_owned();
    assert_eq!(
        (said("from"), said("to"), said("reason")),
        ("a/large".into(), "b/large".into(), "cut".into())
    );
    let turns: Vec<_> = world.model.requests().iter().map(|request| request.turn).collect();
    assert_eq!(turns, [Some(turn), Some(turn)]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_panics_is_replaced_and_its_turn_taken_up() {
    let world = World::new().await;
    world.model.once(
        "hello",
        vec![Act::Text("half ".into()), Act::Wait(Duration::from_secs(1)), Act::Panic],
    );
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["ok"]);
    client.has_all(&world.log.records(id), Some(turn));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_panics_for_ever_ends_its_turn_after_three_attempts() {
    let world = World::new().await;
    world.model.on("hello", &[vec![Act::Panic]]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
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
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_panics_is_in_doubt_and_gives_its_place_back() {
    let world = World::with(tool(copilot(), "do", Repeat::Never)).await;
    world
        .model
        .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
    let panics = Answer {
        effect: None,
        delay: Duration::ZERO,
        says: SystemReply::Panic,
    };
    for _ in 0..3 {
        for _ in 0..4 {
            world.system("do").answer(panics.clone());
        }
        for _ in 0..4 {
            let id = world.create().await;
            let turn = world.submit(id, "work").await;
            let begun = tokio::time::Instant::now();
            world.end_of(id, turn).await;
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            let unknown = |r: &Record| {
                matches!(
                    r.event,
                    Event::ToolFinished {
                        status: ToolStatus::Unknown,
                        ..
                    }
                )
            };
            assert!(world.log.records(id).iter().any(unknown));
        }
        // The breaker would open at five failures in a row.
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        world.end_of(id, turn).await;
        let done = |r: &Record| {
            matches!(
                r.event,
                Event::ToolFinished {
                    status: ToolStatus::Succeeded,
                    ..
                }
            )
        };
        assert!(world.log.records(id).iter().any(done));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connectors_are_lost_ends_by_its_deadline() {
    for (repeat, status) in [(Repeat::Never, ToolStatus::Unknown), (Repeat::Read, ToolStatus::Failed)] {
        let world = World::with(tool(copilot(), "do", repeat)).await;
        world
            .model
            .on("work", &[calls(&[("do", json!({}))]), says(&["done"], Duration::ZERO)]);
        world.system("do").answer_all(Answer::done(Duration::from_secs(2)));
        let id = world.create().await;
        let turn = world.submit(id, "work").await;
        world.system("do").wait_for(|seen| seen.open == 1).await;
        world.shared().connectors.get().unwrap().kill();
        world.end_of(id, turn).await;
        let finished = world.named(id, "tool.finished").await;
        assert!(
            matches!(finished.event, Event::ToolFinished { status: s, .. } if s == status),
            "{finished:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_neither_delays_an_end_nor_loses_it() {
    let world = World::new().await;
    world.model.on(
        "hello",
        &[vec![
            Act::Text("so ".into()),
            Act::Wait(Duration::from_secs(590)),
            Act::Text("far".into()),
            Act::Stall,
        ]],
    );
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    world.clock.step(-3_600_000);
    let begun = tokio::time::Instant::now();
    viewer
        .read_until(|e| e.iter().filter(|e| e.name == "message.delta").count() == 2)
        .await;
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
    assert!(begun.elapsed() < Duration::from_secs(610), "{:?}", begun.elapsed());
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["so far"]);
}

#[tokio::test(start_paused = true)]
async fn a_copilot_that_is_not_configured_any_more_ends_its_turns_clearly() {
    let mut world = World::new().await;
    world.model.on("hello", &[vec![Act::Stall]]);
    let id = world.create().await;
    let turn = world.turn_id();
    world.execute(id, submission(turn, "hello")).await.unwrap();
    world.crash().await;
    world.policies = std::sync::Arc::default();
    world.model.on(
        "hello",
        &[vec![Act::Fail(
            copilotd_actors::domain::failure::FailureClass::Rejected,
            None,
        )]],
    );
    world.restart().await;
    let end = world.end_of(id, turn).await;
    assert!(
        matches!(
            end,
            Event::TurnFailed {
                code: FailureCode::ProviderRejected,
                ..
            }
        ),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_our_own_is_waited_for_visibly_and_costs_no_attempt() {
    let mut policy = copilot();
    policy.limits.attempts = 1;
    let world = World::with(policy).await;
    for _ in 0..3 {
        let limited = vec![Act::Fail(FailureClass::Limit, Some(Duration::from_secs(20)))];
        world.model.once("hello", limited);
    }
    world.model.once("hello", says(&["now"], Duration::ZERO));
    let id = world.create().await;
    let begun = tokio::time::Instant::now();
    let turn = world.submit(id, "hello").await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    let waited = begun.elapsed().as_secs();
    assert!((60..64).contains(&waited), "{waited} s");
    let records = world.log.records(id);
    let waits = records
        .iter()
        .filter(|record| matches!(&record.event, Event::TurnWaiting { reason, .. } if *reason == WaitReason::Limit));
    assert_eq!(waits.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_no_wait_can_mend_ends_the_turn_with_its_reason() {
    let never = Duration::from_secs(3_600);
    for (class, retry_after, expected) in [
        (FailureClass::Limit, None, FailureCode::RateLimited),
        (FailureClass::Limit, Some(never), FailureCode::RateLimited),
        (FailureClass::Budget, Some(never), FailureCode::BudgetExhausted),
    ] {
        let world = World::new().await;
        world.model.once("hello", vec![Act::Fail(class, retry_after)]);
        let id = world.create().await;
        let turn = world.submit(id, "hello").await;
        match world.end_of(id, turn).await {
            Event::TurnFailed { code, .. } => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_call_that_died_with_its_process_is_told_to_the_books_and_no_other() {
    let mut world = World::new().await;
    world
        .model
        .on("hello", &[says(&["a", "b", "c"], Duration::from_secs(1))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer
        .read_until(|events| events.iter().any(|event| event.name == "message.delta"))
        .await;
    // The actor dies and its call is dropped, which settles it: nothing is lost.
    write_behind_the_actors_back(&world, id).await;
    world.model.wait_for(|seen| seen.calls == 2).await;
    let settled: Vec<_> = world.model.lost().iter().map(|call| call.is_settled).collect();
    assert_eq!(settled, [true]);

    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.crash().await;
    world.restart().await;
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
    let lost = world.model.lost();
    assert_eq!(lost.len(), 2, "{lost:?}");
    let call = &lost[1];
    assert_eq!((call.turn, call.attempt, call.step), (turn, 2, 1));
    let prompt = call.prompt.unwrap();
    assert!(prompt.tokens > 0 && !call.is_settled && call.began_at <= prompt.at);
    // All three calls belong to the turn: the two that died, and the one that answered.
    let records = world.log.records(id);
    let Some(Event::TurnCompleted { usage, .. }) = records.last().map(|record| &record.event) else {
        panic!("{records:?}")
    };
    let answered = records.iter().find_map(|record| match &record.event {
        Event::MessageCompleted { usage, .. } => Some(*usage),
        _ => None,
    });
    let answered = answered.unwrap();
    assert_eq!(usage.sum.prompt_tokens, 2 * prompt.tokens + answered.prompt_tokens);
    assert_eq!(
        usage.sum.completion_tokens,
        2 * LOST_COMPLETION + answered.completion_tokens
    );
    world.crash().await;
    world.restart().await;
    world.execute(id, rename("x")).await.unwrap();
    assert_eq!(world.model.lost().len(), 2, "a turn that ended is not resumed");
}
