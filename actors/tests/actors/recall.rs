//! Turns that draw on earlier messages of their conversation.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::replay::{self, FactTexts};
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::context_record::{ContextRecord, ItemKind, Omitted, RecallStatus};
use copilotd_actors::domain::conversation::command::{Command, StoppedWork};
use copilotd_actors::domain::event::{Event, GuardAction};
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet, Rules, Stage};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::fakes::model::{Act, says};
use copilotd_actors::fakes::recollection::{FakeRecollection, Script};
use copilotd_actors::ports::{EventLog, RecallError};

use crate::support::{World, copilot, submission};

const NONCE: &str = "00112233445566778899aabbccddeeff";
const SECRET: &str = "The code of the harbour gate is 4711.";
const QUESTION: &str = "What is the code of the harbour gate?";

/// Long turns are compressed soon.
fn forgetful() -> Policy {
    let memory = MemoryPolicy {
        trigger_tokens: 200,
        keep_tokens: 60,
        summary_tokens: 50,
        ..copilot().memory
    };
    Policy { memory, ..copilot() }
}

fn budgeted(budget_tokens: u64) -> Policy {
    Policy {
        memory: copilot().memory.with_budget(budget_tokens),
        ..copilot()
    }
}

async fn world(policy: Policy) -> (World, FakeRecollection) {
    let mut world = World::with(policy).await;
    let log: Arc<dyn EventLog> = Arc::clone(&world.probe) as _;
    let recollection = FakeRecollection::new(log);
    world.recollection = Some(recollection.clone());
    world.crash().await;
    world.restart().await;
    world
        .model
        .on("small", &[says(&["They talked."], Duration::from_millis(1))]);
    (world, recollection)
}

async fn ask(world: &World, id: ConversationId, text: &str) -> TurnId {
    let turn = world.turn_id();
    let mut command = submission(turn, text);
    if let Command::Submit { nonce, .. } = &mut command {
        *nonce = Some(NONCE.to_owned());
    }
    world.execute(id, command).await.unwrap();
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    world.settle().await;
    turn
}

/// A conversation in which the secret was said, and then so much else that it was compressed away.
async fn told(world: &World) -> ConversationId {
    let id = world.create().await;
    ask(world, id, SECRET).await;
    for _ in 0..4 {
        ask(world, id, &"chatter ".repeat(90)).await;
    }
    id
}

fn last_messages(world: &World) -> Vec<PromptMessage> {
    let requests = world.model.requests();
    let last = requests.iter().rev().find(|request| request.route == "main").unwrap();
    last.messages.to_vec()
}

/// Returns the texts that the model read in its last call.
fn read_last(world: &World) -> String {
    let messages = last_messages(world);
    let texts: Vec<&str> = messages.iter().filter_map(PromptMessage::text).collect();
    texts.join("\n---\n")
}

fn record_of(world: &World, id: ConversationId, turn: TurnId) -> ContextRecord {
    let records = world.log.records(id);
    let mut of_turn = records.iter().rev().filter(|record| record.turn == Some(turn));
    let found = of_turn.find_map(|record| match &record.event {
        Event::ContextAssembled { context, .. } => context.clone(),
        _ => None,
    });
    found.unwrap()
}

/// Checks that an auditor sees the very prompts of a turn.
fn replays(world: &World, id: ConversationId, turn: TurnId) {
    let records = world.log.records(id);
    let of_turn: Vec<_> = records
        .iter()
        .filter(|record| record.turn == Some(turn))
        .cloned()
        .collect();
    let needed = replay::needed(&of_turn);
    let (between, others): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|record| (needed.from..=needed.upto).contains(&record.seq));
    let earlier: Vec<_> = others
        .into_iter()
        .filter(|record| needed.earlier.contains(&record.seq))
        .collect();
    let prompts = replay::prompts(turn, &between, &earlier, FactTexts::new());
    let last = prompts
        .last()
        .and_then(|prompt| prompt.sent.as_ref())
        .expect("a prompt");
    assert_eq!(last.messages, last_messages(world));
    assert!(last.is_exact);
}

#[tokio::test(start_paused = true)]
async fn what_was_compressed_away_is_found_again() {
    let (world, recollection) = world(forgetful()).await;
    let id = told(&world).await;
    assert_eq!(
        recollection.queries().len(),
        recollection.queries().iter().filter(|query| query.before > 0).count()
    );
    let turn = ask(&world, id, QUESTION).await;
    let read = read_last(&world);
    assert!(read.contains("conversation_summary"), "{read}");
    let fenced =
        format!("Earlier messages of this conversation:\n<earlier_messages-{NONCE}>\nuser: [2026-01-01] {SECRET}\n");
    assert!(read.contains(&fenced), "{read}");
    // Before the question, which comes last.
    assert!(read.ends_with(&format!("\n---\n{QUESTION}")), "{read}");
    let record = record_of(&world, id, turn);
    assert_eq!(
        record.recall.as_ref().map(|recall| recall.status),
        Some(RecallStatus::Completed)
    );
    let recalled: Vec<_> = record.included.iter().filter(|item| item.id.is_some()).collect();
    assert!(
        !recalled.is_empty()
            && recalled
                .iter()
                .all(|item| item.kind == ItemKind::Message && item.score.is_some())
    );
    replays(&world, id, turn);
    // Its id is the record with the message.
    let seq: u64 = recalled[0].id.as_ref().unwrap().parse().unwrap();
    let said = world
        .log
        .records(id)
        .into_iter()
        .find(|record| record.seq == seq)
        .unwrap();
    assert!(matches!(&said.event, Event::TurnQueued { input, .. } if input.text() == SECRET));
    // The ended turns are made ready once there is something older than the window.
    assert!(!recollection.prepared().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_short_conversation_is_not_searched() {
    for policy in [forgetful(), budgeted(4_000)] {
        let (world, recollection) = world(policy).await;
        let id = world.create().await;
        ask(&world, id, SECRET).await;
        let turn = ask(&world, id, QUESTION).await;
        assert!(recollection.queries().is_empty() && recollection.prepared().is_empty());
        assert_eq!(record_of(&world, id, turn).recall, None);
        assert!(read_last(&world).contains(SECRET));
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_that_fails_hangs_or_panics_fails_no_turn() {
    for script in [
        Script::Fail(RecallError::Unavailable("down".to_owned())),
        Script::Hang,
        Script::Panic,
    ] {
        let (world, recollection) = world(forgetful()).await;
        let id = told(&world).await;
        recollection.script(script.clone());
        let turn = ask(&world, id, QUESTION).await;
        let record = record_of(&world, id, turn);
        assert_eq!(
            record.recall.map(|recall| recall.status),
            Some(RecallStatus::Unavailable),
            "{script:?}"
        );
        assert!(!read_last(&world).contains(SECRET));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_came_later_withholds_what_was_said() {
    let rule = |action| Rule {
        name: "no_codes".into(),
        literal: "4711".into(),
        action,
        confusables: false,
    };
    for action in [OnMatch::Block, OnMatch::Redact] {
        let (mut world, _) = world(forgetful()).await;
        let id = told(&world).await;
        world.crash().await;
        let rules = Rules {
            input: RuleSet::default(),
            output: RuleSet::new([rule(action)]),
        };
        world.policies = Arc::new(copilotd_actors::fakes::policy::FixedPolicies::of(Policy {
            rules,
            ..forgetful()
        }));
        world.restart().await;
        let turn = ask(&world, id, QUESTION).await;
        assert!(!read_last(&world).contains("4711"), "{action:?}");
        let record = record_of(&world, id, turn);
        let withheld = record.omitted.iter().filter(|item| item.reason == Omitted::Guardrail);
        assert_eq!(
            withheld.map(|item| (item.kind, item.id.is_some())).collect::<Vec<_>>(),
            [(ItemKind::Message, true)]
        );
        let records = world.log.records(id);
        let triggered = records.iter().any(|record| {
            matches!(&record.event, Event::GuardrailTriggered { stage: Stage::Retrieval, rule, action: GuardAction::Block, .. } if rule == "no_codes")
        });
        assert!(triggered, "{action:?}");
    }
}

/// Returns the tokens of a prompt without instructions and question.
fn conversation_tokens(messages: &[PromptMessage]) -> u64 {
    let between = &messages[1..messages.len() - 1];
    let text = |message: &PromptMessage| match message {
        PromptMessage::System { text } | PromptMessage::User { text } | PromptMessage::Assistant { text, .. } => {
            tokens::count(text) + tokens::PER_MESSAGE
        }
        PromptMessage::Files { .. } => panic!("nothing is attached"),
        PromptMessage::Tool { content, .. } => tokens::count(content) + tokens::PER_MESSAGE,
    };
    between.iter().map(text).sum()
}

#[tokio::test(start_paused = true)]
async fn a_budget_bounds_the_conversation_and_older_messages_compete_for_it() {
    const BUDGET: u64 = 600;
    let (world, recollection) = world(budgeted(BUDGET)).await;
    let id = world.create().await;
    ask(&world, id, SECRET).await;
    for n in 0..30 {
        ask(&world, id, &format!("number {n} {}", "chatter ".repeat(40))).await;
        let used = conversation_tokens(&last_messages(&world));
        assert!(used <= BUDGET, "{n}: {used}");
    }
    let turn = ask(&world, id, QUESTION).await;
    let messages = last_messages(&world);
    assert!(conversation_tokens(&messages) <= BUDGET);
    let read = read_last(&world);
    assert!(read.contains(SECRET), "{read}");
    replays(&world, id, turn);
    // The previous turn stays as a message; older ones that were not compressed are recorded as left out.
    assert!(
        messages
            .iter()
            .any(|message| matches!(message, PromptMessage::User { text } if text.starts_with("number 29 "))),
        "{read}"
    );
    let record = record_of(&world, id, turn);
    let left_out = record
        .omitted
        .iter()
        .any(|item| item.kind == ItemKind::Message && item.reason == Omitted::Budget);
    assert!(left_out, "{record:?}");
    let last = recollection.queries().pop().unwrap();
    assert!(last.before < last.upto_seq && last.budget_tokens < BUDGET);
    // An attempt that is repeated has the same prompt.
    assert_eq!(last.question, QUESTION);
}

#[tokio::test(start_paused = true)]
async fn a_compression_that_always_fails_leaves_the_search() {
    let (world, _) = world(budgeted(600)).await;
    world
        .model
        .on("small", &[vec![Act::Fail(FailureClass::Rejected, None)]]);
    let id = world.create().await;
    ask(&world, id, SECRET).await;
    for n in 0..12 {
        ask(&world, id, &format!("number {n} {}", "chatter ".repeat(60))).await;
        assert!(conversation_tokens(&last_messages(&world)) <= 600);
    }
    ask(&world, id, QUESTION).await;
    assert!(read_last(&world).contains(SECRET));
}

#[tokio::test(start_paused = true)]
async fn conversations_do_not_mix_and_erasing_one_erases_what_is_kept_of_it() {
    let (world, recollection) = world(forgetful()).await;
    let (told_id, other) = (told(&world).await, world.create().await);
    for _ in 0..4 {
        ask(&world, other, &"chatter ".repeat(90)).await;
    }
    ask(&world, other, QUESTION).await;
    assert!(!read_last(&world).contains("4711"));
    world
        .execute(
            told_id,
            Command::Erase {
                by: "ada".into(),
                stop: StoppedWork::default(),
            },
        )
        .await
        .unwrap();
    let erased = async {
        while recollection.erased().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), erased).await.unwrap();
    assert_eq!(
        recollection.erased().into_iter().collect::<Vec<_>>(),
        [(world.scope.tenant().clone(), told_id)]
    );
}
