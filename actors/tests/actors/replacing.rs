//! A turn that replaces the last one: what is withdrawn with it.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::fakes::facts::FactsScript;
use copilotd_actors::fakes::model::says;
use copilotd_actors::ports::{Facts as _, FactsQuery};

use crate::support::{World, copilot, submission};

fn remembering() -> Policy {
    let memory = MemoryPolicy {
        facts: true,
        ..copilot().memory
    };
    Policy { memory, ..copilot() }
}

fn replacing(world: &World, text: &str, replaced: TurnId) -> (TurnId, Command) {
    let turn = world.turn_id();
    let mut command = submission(turn, text);
    if let Command::Submit { replaces, .. } = &mut command {
        *replaces = Some(replaced);
    }
    (turn, command)
}

async fn said(world: &World, id: ConversationId, text: &str) -> TurnId {
    let turn = world.submit(id, text).await;
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    turn
}

async fn known(world: &World) -> Vec<String> {
    let query = FactsQuery {
        user: "ada".parse().unwrap(),
        turn: world.turn_id(),
        text: String::new(),
        limit: 9,
    };
    let known = world.facts.known(&world.scope, &query).await.unwrap();
    known.facts.into_iter().map(|fact| fact.text).collect()
}

#[tokio::test(start_paused = true)]
async fn facts_of_a_replaced_turn_are_withdrawn_before_it_is_replaced() {
    let mut world = World::with(remembering()).await;
    let id = world.create().await;
    said(&world, id, "remember: I live in Oslo").await;
    let wrong = said(&world, id, "remember: I live in Rome").await;
    for script in [FactsScript::Fail, FactsScript::Hang, FactsScript::Panic] {
        world.facts.script(script);
        let (_, command) = replacing(&world, "remember: I live in Bergen", wrong);
        let refused = world.execute(id, command).await;
        assert_eq!(refused.unwrap_err(), Refusal::NotStored);
        assert!(!world.names(id).contains(&"turn.replaced"));
    }
    let (right, command) = replacing(&world, "remember: I live in Bergen", wrong);
    world.execute(id, command).await.unwrap();
    assert!(!known(&world).await.contains(&"I live in Rome".to_owned()));
    world.end_of(id, right).await;
    assert_eq!(known(&world).await, ["I live in Bergen", "I live in Oslo"]);
    // After a crash it is the same conversation.
    world.crash().await;
    world.restart().await;
    said(&world, id, "Where do I live?").await;
    let requests = world.model.requests();
    let last = requests.last().unwrap();
    let texts: Vec<&str> = last.messages.iter().filter_map(|message| message.text()).collect();
    assert!(texts.iter().all(|text| !text.contains("Rome")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("Bergen")), "{texts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_summary_under_way_does_not_bring_a_replaced_turn_back() {
    let memory = MemoryPolicy {
        trigger_tokens: 100,
        keep_tokens: 0,
        summary_tokens: 90,
        ..copilot().memory
    };
    let world = World::with(Policy { memory, ..copilot() }).await;
    world
        .model
        .on("small", &[says(&["They spoke of Rome."], Duration::from_secs(30))]);
    let id = world.create().await;
    let wrong = said(&world, id, &"Rome ".repeat(200)).await;
    let (turn, command) = replacing(&world, "Oslo", wrong);
    world.execute(id, command).await.unwrap();
    world.end_of(id, turn).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!world.names(id).contains(&"memory.compressed"), "{:?}", world.names(id));
    said(&world, id, "And now?").await;
    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.route == "main").unwrap();
    let texts: Vec<&str> = last.messages.iter().filter_map(|message| message.text()).collect();
    assert!(texts.iter().all(|text| !text.contains("Rome")), "{texts:?}");
}
