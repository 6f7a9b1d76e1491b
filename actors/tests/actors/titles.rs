//! Titles by the small model: off the user's path, at most two attempts, never over a client's own.

use std::time::Duration;

use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet, Rules};
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::fakes::model::{Act, says};
use copilotd_actors::ports::EventLog as _;

use crate::support::{World, copilot};

fn titling() -> Policy {
    Policy {
        titles: true,
        ..copilot()
    }
}

async fn say(world: &World, id: ConversationId) {
    let turn = world.submit(id, "My printer is on fire").await;
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
}

fn titles(records: &[Record]) -> Vec<Option<&str>> {
    records
        .iter()
        .filter_map(|record| match &record.event {
            Event::ConversationTitled { title, .. } => Some(title.as_deref()),
            _ => None,
        })
        .collect()
}

async fn title_of(world: &World, id: ConversationId) -> Option<String> {
    let header = world.log.header(&world.scope, id).await.unwrap();
    header.unwrap().title
}

fn asked_for_titles(world: &World) -> usize {
    let requests = world.model.requests();
    requests.iter().filter(|request| request.route == "small").count()
}

fn rename(title: &str) -> Command {
    Command::Update {
        title: Some(title.to_owned()),
        metadata: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_completed_turn_gives_a_title_off_its_path() {
    let world = World::with(titling()).await;
    world
        .model
        .on("small", &[says(&["\"Printer ", "on fire\"\n"], Duration::from_secs(5))]);
    let id = world.create().await;
    let begun = tokio::time::Instant::now();
    say(&world, id).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "the turn did not wait");
    world.named(id, "conversation.titled").await;
    assert_eq!(title_of(&world, id).await.as_deref(), Some("Printer on fire"));
    let requests = world.model.requests();
    let asked = requests.iter().find(|request| request.route == "small").unwrap();
    assert_eq!((asked.turn, asked.tools.len(), asked.max_tokens), (None, 0, Some(64)));
    say(&world, id).await;
    world.settle().await;
    assert_eq!(asked_for_titles(&world), 1);
    // The call's cost is the conversation's.
    let header = world.log.header(&world.scope, id).await.unwrap().unwrap();
    let turns: u64 = world
        .log
        .records(id)
        .iter()
        .map(|record| match &record.event {
            Event::TurnCompleted { usage, .. } => usage.sum.total_tokens(),
            Event::ConversationTitled { usage, .. } => usage.total_tokens(),
            _ => 0,
        })
        .sum();
    assert_eq!(header.usage.sum.total_tokens(), turns);
}

#[tokio::test(start_paused = true)]
async fn there_are_two_attempts_and_a_failure_changes_nothing_else() {
    for script in [
        vec![Act::Text("cut".into())],
        says(&["***\n\n"], Duration::ZERO),
        says(&["word ".repeat(2_000).as_str()], Duration::ZERO),
        says(&["A FORBIDDEN title"], Duration::ZERO),
    ] {
        let output = RuleSet::new([Rule {
            name: "forbidden".into(),
            literal: "forbidden".into(),
            action: OnMatch::Redact,
            confusables: false,
        }]);
        let rules = Rules {
            output,
            ..Rules::default()
        };
        let mut world = World::with(Policy { rules, ..titling() }).await;
        world.model.on("small", std::slice::from_ref(&script));
        let id = world.create().await;
        for attempts in [1, 2, 2] {
            say(&world, id).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(titles(&world.log.records(id)), vec![None; attempts], "{script:?}");
        }
        // Also in another process.
        world.crash().await;
        world.restart().await;
        say(&world, id).await;
        world.settle().await;
        assert_eq!(asked_for_titles(&world), 2, "{script:?}");
        assert_eq!(title_of(&world, id).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_no_model_answered_is_not_counted() {
    for act in [Act::Fail(FailureClass::Overload, None), Act::Stall, Act::Panic] {
        let world = World::with(titling()).await;
        world.model.on("small", &[vec![act.clone()]]);
        let id = world.create().await;
        for _ in 0..3 {
            say(&world, id).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(titles(&world.log.records(id)), Vec::<Option<&str>>::new(), "{act:?}");
        world.model.on("small", &[says(&["Printer on fire"], Duration::ZERO)]);
        say(&world, id).await;
        world.named(id, "conversation.titled").await;
        assert_eq!(titles(&world.log.records(id)), [Some("Printer on fire")], "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_title_is_written_for_a_tenant_that_was_suspended_meanwhile() {
    let world = World::with(titling()).await;
    world
        .model
        .on("small", &[says(&["Printer on fire"], Duration::from_secs(5))]);
    let id = world.create().await;
    say(&world, id).await;
    world.model.wait_for(|seen| seen.calls == 2).await;
    let tenant = world.scope.tenant();
    world.policies.suspend(tenant, true);
    world.directory().notify_standing_changed(|known| known == tenant);
    world.settle().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!world.names(id).contains(&"conversation.titled"));
}

#[tokio::test(start_paused = true)]
async fn a_title_that_a_client_set_stays_whoever_comes_first() {
    // Before the first turn.
    let world = World::with(titling()).await;
    let id = world.create().await;
    world.execute(id, rename("Mine")).await.unwrap();
    say(&world, id).await;
    world.settle().await;
    assert_eq!(
        (asked_for_titles(&world), title_of(&world, id).await.as_deref()),
        (0, Some("Mine"))
    );
    // While it is written, and after.
    world
        .model
        .on("small", &[says(&["Printer on fire"], Duration::from_secs(5))]);
    let id = world.create().await;
    say(&world, id).await;
    world.execute(id, rename("Mine")).await.unwrap();
    world.named(id, "conversation.titled").await;
    assert_eq!(titles(&world.log.records(id)), [None]);
    assert_eq!(title_of(&world, id).await.as_deref(), Some("Mine"));
    let id = world.create().await;
    say(&world, id).await;
    world.named(id, "conversation.titled").await;
    world.execute(id, rename("Mine")).await.unwrap();
    assert_eq!(title_of(&world, id).await.as_deref(), Some("Mine"));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_died_with_its_process_is_made_again_after_the_next_turn() {
    let mut world = World::with(titling()).await;
    world.model.once("small", vec![Act::Stall]);
    let id = world.create().await;
    say(&world, id).await;
    world.model.wait_for(|seen| seen.calls == 2).await;
    world.crash().await;
    world.model.on("small", &[says(&["Printer on fire"], Duration::ZERO)]);
    world.restart().await;
    say(&world, id).await;
    world.named(id, "conversation.titled").await;
    assert_eq!(titles(&world.log.records(id)), [Some("Printer on fire")]);
}

#[tokio::test(start_paused = true)]
async fn a_copilot_without_the_setting_and_an_erased_conversation_get_none() {
    let world = World::with(copilot()).await;
    let id = world.create().await;
    say(&world, id).await;
    world.settle().await;
    assert_eq!(asked_for_titles(&world), 0);

    let world = World::with(titling()).await;
    world
        .model
        .on("small", &[says(&["Printer on fire"], Duration::from_secs(5))]);
    let id = world.create().await;
    say(&world, id).await;
    let erase = Command::Erase {
        by: "ada".to_owned(),
        stop: Default::default(),
    };
    world.execute(id, erase).await.unwrap();
    world.settle().await;
    assert!(!world.names(id).contains(&"conversation.titled"));
}
