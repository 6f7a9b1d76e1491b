//! Turns that know facts about their user, and messages that facts are learned from.

use std::sync::Arc;

use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::replay::{self, FactTexts};
use copilotd_actors::domain::context_record::{ItemKind, Omitted};
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::guardrail::{ContentKind, OnMatch};
use copilotd_actors::domain::ids::{ConversationId, FactId, TurnId, UserId};
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::fakes::detector::FakeDetector;
use copilotd_actors::fakes::facts::FactsScript;
use copilotd_actors::ports::{FactsQuery, KnownFact};

use crate::support::{World, copilot, submission};

const NONCE: &str = "00112233445566778899aabbccddeeff";

fn remembering(policy: Policy) -> Policy {
    let memory = MemoryPolicy {
        facts: true,
        ..policy.memory.clone()
    };
    Policy { memory, ..policy }
}

async fn submit(world: &World, id: ConversationId, text: &str) -> TurnId {
    let turn = world.turn_id();
    let mut command = submission(turn, text);
    if let Command::Submit { nonce, .. } = &mut command {
        *nonce = Some(NONCE.to_owned());
    }
    world.execute(id, command).await.unwrap();
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    turn
}

fn read_last(world: &World) -> Vec<String> {
    let requests = world.model.requests();
    let last = requests.last().unwrap();
    let texts = last.messages.iter().filter_map(PromptMessage::text);
    texts.map(str::to_owned).collect()
}

fn ada() -> UserId {
    "ada".parse().unwrap()
}

fn fact(world: &World, text: &str) -> FactId {
    let turn = world.turn_id();
    let id = FactId::derived(turn, text);
    let said_at = world.shared().ports.clock.now();
    let text = text.to_owned();
    world
        .facts
        .put(world.scope.tenant(), &ada(), KnownFact { id, text, said_at });
    id
}

#[tokio::test(start_paused = true)]
async fn what_was_said_is_known_in_another_conversation_as_data() {
    let world = World::with(remembering(copilot())).await;
    let first = world.create().await;
    let turn = submit(&world, first, "remember: I live in Oslo").await;
    let second = world.create().await;
    submit(&world, second, "Where do I live?").await;
    let read = read_last(&world);
    let delimited = format!("<user_fact-{NONCE} said=\"2026-01-01\">\nI live in Oslo\n</user_fact-{NONCE}>");
    assert_eq!(read[1..], [delimited.as_str(), "Where do I live?"]);
    assert!(read[0].contains("<user_fact-CODE>"), "{}", read[0]);
    let Event::ContextAssembled { context, .. } = world.named(second, "context.assembled").await.event else {
        unreachable!("named selected this event")
    };
    let facts = context
        .unwrap()
        .included
        .into_iter()
        .filter(|item| item.kind == ItemKind::Fact);
    let ids: Vec<String> = facts.filter_map(|item| item.id).collect();
    assert_eq!(ids, [FactId::derived(turn, "I live in Oslo").to_string()]);
    // The log has no copy of the fact beside the message that said it: erasing that one erases it.
    let records = world.log.records(second);
    assert!(!serde_json::to_string(&records).unwrap().contains("I live in Oslo"));
    let last = records.iter().rev().find_map(|record| record.turn).unwrap();
    let known = FactTexts::from([(
        ids[0].clone(),
        (world.shared().ports.clock.now(), "I live in Oslo".to_owned()),
    )]);
    for (facts, is_exact) in [(known, Some(true)), (FactTexts::new(), None)] {
        let prompts = replay::prompts(last, &records, &[], facts);
        assert_eq!(prompts[0].sent.as_ref().map(|sent| sent.is_exact), is_exact);
    }
    // Only what the user wrote was handed over, once a turn, although the model answered.
    let requests = world.facts.requests();
    let messages: Vec<&str> = requests.iter().map(|request| request.message.as_str()).collect();
    assert_eq!(messages, ["remember: I live in Oslo", "Where do I live?"]);
    assert!(
        requests
            .iter()
            .all(|request| request.user == ada() && request.route == "small")
    );
    assert_eq!((requests[0].turn, requests[0].conversation), (turn, first));
}

#[tokio::test(start_paused = true)]
async fn a_copilot_without_the_setting_neither_reads_nor_learns() {
    let world = World::with(copilot()).await;
    fact(&world, "User lives in Oslo");
    let id = world.create().await;
    submit(&world, id, "remember: I live in Rome").await;
    assert_eq!(world.facts.requests(), []);
    assert!(
        read_last(&world)
            .iter()
            .all(|text| !text.contains("user_fact") && !text.contains("Oslo"))
    );
}

#[tokio::test(start_paused = true)]
async fn no_failure_fails_a_turn() {
    for script in [FactsScript::Fail, FactsScript::Hang, FactsScript::Panic] {
        let world = World::with(remembering(copilot())).await;
        fact(&world, "User lives in Oslo");
        world.facts.script(script);
        world.facts.script(script);
        let id = world.create().await;
        submit(&world, id, "Hello.").await;
        assert!(
            read_last(&world).iter().all(|text| !text.contains("Oslo")),
            "{script:?}"
        );
        // The next turn is well again.
        submit(&world, id, "Hello again.").await;
        assert!(read_last(&world).iter().any(|text| text.contains("Oslo")), "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fact_that_a_guardrail_objects_to_is_withheld() {
    for action in [OnMatch::Block, OnMatch::Redact] {
        let mut world = World::with(remembering(copilot())).await;
        let detector = FakeDetector::new("Oslo", action, [ContentKind::RetrievedText]);
        world.detectors = vec![Arc::new(detector)];
        world.crash().await;
        world.restart().await;
        let withheld = fact(&world, "User lives in Oslo");
        fact(&world, "User likes tea");
        let id = world.create().await;
        submit(&world, id, "Hello.").await;
        let read = read_last(&world).join("\n");
        assert!(
            read.contains("User likes tea") && !read.contains("User lives"),
            "{read}"
        );
        let Event::ContextAssembled { context, .. } = world.named(id, "context.assembled").await.event else {
            unreachable!("named selected this event")
        };
        let omitted = context
            .unwrap()
            .omitted
            .into_iter()
            .map(|item| (item.id.unwrap(), item.reason));
        assert_eq!(
            omitted.collect::<Vec<_>>(),
            [(withheld.to_string(), Omitted::Guardrail)]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn facts_are_bounded_in_tokens_and_the_best_stay() {
    let mut policy = remembering(copilot());
    policy.memory.fact_tokens = 200;
    let world = World::with(policy).await;
    for n in 0..60 {
        fact(&world, &format!("User owns boat number {n}"));
    }
    let id = world.create().await;
    submit(&world, id, "Hello.").await;
    let read = read_last(&world).join("\n");
    assert!(read.contains("boat number 59\n"), "{read}");
    assert!(!read.contains("boat number 1\n"), "{read}");
    let Event::ContextAssembled { context, .. } = world.named(id, "context.assembled").await.event else {
        unreachable!("named selected this event")
    };
    let context = context.unwrap();
    let of_facts = |item: &&_| {
        matches!(
            item,
            copilotd_actors::domain::context_record::ContextItem {
                kind: ItemKind::Fact,
                ..
            }
        )
    };
    let included: u64 = context.included.iter().filter(of_facts).map(|item| item.tokens).sum();
    assert!(included > 100 && included <= 200, "{included}");
    let omitted: u64 = context
        .omitted
        .iter()
        .filter(|item| item.kind == ItemKind::Fact && item.reason == Omitted::Budget)
        .map(|item| item.count)
        .sum();
    assert!(omitted > 40, "{omitted}");
}

#[tokio::test(start_paused = true)]
async fn a_resumed_turn_hands_its_message_over_again() {
    let mut world = World::with(remembering(copilot())).await;
    world
        .model
        .on("remember", &[vec![copilotd_actors::fakes::model::Act::Stall]]);
    let id = world.create().await;
    let turn = world.submit(id, "remember: I live in Oslo").await;
    world.model.wait_for(|seen| seen.calls == 1).await;
    world.crash().await;
    world.model.forget();
    world.restart().await;
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    let turns: Vec<TurnId> = world.facts.requests().iter().map(|request| request.turn).collect();
    assert_eq!(turns, [turn, turn]);
    let query = FactsQuery {
        user: ada(),
        turn,
        text: String::new(),
        limit: 9,
    };
    let known = world
        .shared()
        .ports
        .facts
        .as_ref()
        .unwrap()
        .known(&world.scope, &query)
        .await
        .unwrap();
    assert_eq!(known.facts.len(), 1);
}
