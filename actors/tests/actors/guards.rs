//! Guardrails and validated answers, as readers see them.

use std::time::Duration;

use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::{Event, FailureCode};
use copilotd_actors::domain::guardrail::OnMatch;
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::fakes::model::says;
use serde_json::json;

use crate::support::{Client, World, copilot, submission};

#[tokio::test(start_paused = true)]
async fn a_forbidden_word_split_over_pieces_never_reaches_a_reader() {
    let world = World::with(copilot().with_output_rule("secret", OnMatch::Redact)).await;
    let pieces = ["the se", "cr", "et is ", "secrét, not sec", "RET"];
    world.model.on("hello", &[says(&pieces, Duration::from_millis(20))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, ["the [redacted] is secrét, not [redacted]"]);
    assert!(client.names().contains(&"guardrail.triggered"));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_answer_is_reset_and_the_turn_fails() {
    let world = World::with(copilot().with_output_rule("secret", OnMatch::Block)).await;
    world.model.on(
        "hello",
        &[says(&["well, the se", "cret", " is"], Duration::from_millis(20))],
    );
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, [""; 0]);
    let shown = viewer
        .events
        .iter()
        .any(|event| event.data["text"].as_str().is_some_and(|text| text.contains("se")));
    assert!(!shown);
    let end = world.end_of(id, turn).await;
    assert!(
        matches!(
            end,
            Event::TurnFailed {
                code: FailureCode::GuardrailBlocked,
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(world.model.seen().dropped, 1, "the provider was stopped");
}

#[tokio::test(start_paused = true)]
async fn with_a_schema_no_delta_is_sent_before_the_answer_validates() {
    let world = World::new().await;
    world
        .model
        .once("hello", says(&["not ", "json"], Duration::from_millis(20)));
    world
        .model
        .on("JSON Schema", &[says(&["{\"a\"", ": 1}"], Duration::from_millis(20))]);
    let id = world.create().await;
    let turn = world.turn_id();
    let mut command = submission(turn, "hello");
    if let Command::Submit { response_schema, .. } = &mut command {
        *response_schema = Some(AcceptedSchema::unchecked(
            json!({ "type": "object", "required": ["a"] }),
        ));
    }
    world.execute(id, command).await.unwrap();
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let mut client = Client::default();
    client.take(&viewer.events);
    client.has_all(&world.log.records(id), Some(turn));
    assert_eq!(client.texts, ["{\"a\": 1}"]);
    let deltas: Vec<&str> = viewer
        .events
        .iter()
        .filter(|e| e.name == "message.delta")
        .map(|e| e.data["text"].as_str().unwrap())
        .collect();
    assert_eq!(deltas, ["{\"a\": 1}"], "one delta, with the validated answer");
}
