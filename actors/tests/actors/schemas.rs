//! Answers that must satisfy a schema: checks run outside the conversation, and end whatever happens to them.

use std::time::Duration;

use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::{Event, FailureCode};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::fakes::model::says;
use copilotd_actors::fakes::schema::Script;
use copilotd_actors::ports::{SchemaError, accept};
use serde_json::json;

use crate::support::{World, submission};

/// Submits a turn whose answer, `{"n": 1}`, must be checked.
async fn checked_turn(world: &World, id: ConversationId) -> TurnId {
    world
        .model
        .on("hello", &[says(&["{\"n\": 1}"], Duration::from_millis(5))]);
    let turn = world.turn_id();
    let mut command = submission(turn, "hello");
    if let Command::Submit { response_schema, .. } = &mut command {
        *response_schema = Some(AcceptedSchema::unchecked(json!({ "required": ["n"] })));
    }
    world.execute(id, command).await.unwrap();
    turn
}

fn failure(event: &Event) -> Option<FailureCode> {
    match event {
        Event::TurnFailed { code, .. } => Some(*code),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_reaches_its_bounds_ends_the_turn_and_is_not_repeated() {
    for (error, code) in [
        (SchemaError::TooExpensive, FailureCode::SchemaFailed),
        (SchemaError::Unavailable("no process".into()), FailureCode::Internal),
    ] {
        let world = World::new().await;
        world.schemas.script(Script::Fail(error));
        let id = world.create().await;
        let turn = checked_turn(&world, id).await;
        let next = world.submit(id, "something else").await;
        assert_eq!(failure(&world.end_of(id, turn).await), Some(code));
        assert!(matches!(world.end_of(id, next).await, Event::TurnCompleted { .. }));
        assert_eq!(world.schemas.begun(), 1);
        let shown = world
            .names(id)
            .into_iter()
            .filter(|name| *name == "message.completed")
            .count();
        assert_eq!(shown, 1, "an answer that was not checked never becomes a message");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_answers_while_an_answer_of_it_is_checked() {
    let world = World::new().await;
    world.schemas.script(Script::Hang);
    let id = world.create().await;
    let turn = checked_turn(&world, id).await;
    world.schemas.wait_for(1).await;
    let next = world.submit(id, "something else").await;
    world.cancel(id, turn).await.unwrap();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCancelled { .. }));
    assert!(matches!(world.end_of(id, next).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn recovery_claims_an_attempt_before_a_check_is_done_again_and_gives_up_after_three() {
    let mut world = World::new().await;
    (0..3).for_each(|_| world.schemas.script(Script::Hang));
    let id = world.create().await;
    let turn = checked_turn(&world, id).await;
    for attempt in 1..=3 {
        world.schemas.wait_for(attempt).await;
        let claims = |event: &Event| matches!(event, Event::TurnStarted { attempt: claimed, .. } if *claimed as usize == attempt);
        let log = world.log.records(id);
        assert!(
            log.iter().any(|record| claims(&record.event)),
            "attempt {attempt} is recorded"
        );
        world.crash().await;
        world.restart().await;
    }
    let end = world.end_of(id, turn).await;
    assert_eq!(failure(&end), Some(FailureCode::AttemptsExhausted));
    world.settle().await;
    assert_eq!(world.schemas.begun(), 3, "the check is not repeated");
}

#[tokio::test(start_paused = true)]
async fn a_schema_is_measured_before_it_is_compiled() {
    let world = World::new().await;
    let (checker, scope) = (&world.schemas, &world.scope);
    checker.refuse(SchemaError::TooExpensive);
    let over = accept(checker, scope, json!({ "$ref": "#" })).await.unwrap_err();
    assert!(matches!(over, SchemaError::Unusable(_)), "{over:?}");
    let costly = accept(checker, scope, json!({})).await.unwrap_err();
    assert_eq!(costly, SchemaError::TooExpensive, "measured before it is compiled");
    let wrong = accept(
        checker,
        scope,
        json!({ "properties": { "a": { "type": "no-such-type" } } }),
    )
    .await;
    let Err(SchemaError::Unusable(violation)) = wrong else {
        panic!("{wrong:?}");
    };
    assert_eq!(violation.pointer, "/properties/a/type");
    accept(checker, scope, json!({ "type": "object" })).await.unwrap();
}
