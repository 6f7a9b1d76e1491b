use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::fakes::model::{Act, FakeModel, Script, says};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::super::proposals::Proposals;
use super::super::{Proposed, UserMessage, accept};
use super::*;
use crate::fakes::MemoryFacts;

struct World {
    memory: FactMemory,
    store: Arc<MemoryFacts>,
    model: FakeModel,
    scope: TenantScope,
}

#[expect(clippy::disallowed_methods, reason = "tests open scopes")]
fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

fn world() -> World {
    let (store, model) = (Arc::new(MemoryFacts::default()), FakeModel::new());
    let memory = FactMemory::new(
        Arc::clone(&store) as _,
        Arc::new(MemoryLog::new()),
        Arc::new(model.clone()),
    );
    World {
        memory,
        store,
        model,
        scope: scope("acme"),
    }
}

fn turn(n: u128) -> TurnId {
    TurnId::new(Uuid::from_u128(n))
}

fn conversation(n: u128) -> ConversationId {
    ConversationId::new(Uuid::from_u128(n))
}

fn at(second: i64) -> Timestamp {
    // 2026-01-01
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn request(n: u128, message: &str) -> LearnRequest {
    LearnRequest {
        user: "ann".parse().unwrap(),
        conversation: conversation(n / 100),
        turn: turn(n),
        message: message.to_owned(),
        said_at: at(i64::try_from(n).unwrap()),
        copilot: "support".parse().unwrap(),
        route: "small".to_owned(),
        api_key: None,
    }
}

/// A script that proposes these facts, each with its quote.
fn proposes(facts: &[(&str, &str)]) -> Script {
    let facts: Vec<_> = facts
        .iter()
        .map(|(text, quote)| json!({ "text": text, "quote": quote }))
        .collect();
    says(&[&json!({ "facts": facts }).to_string()], Duration::from_millis(300))
}

impl World {
    async fn learn(&self, n: u128, message: &str, script: Script) {
        self.model.once("small", script);
        self.memory.learn(&self.scope, request(n, message)).await.unwrap();
    }

    /// What a turn knows that runs now.
    async fn known(&self) -> Vec<String> {
        self.asked("").await.facts.into_iter().map(|fact| fact.text).collect()
    }

    async fn asked(&self, text: &str) -> KnownFacts {
        let query = FactsQuery {
            user: "ann".parse().unwrap(),
            turn: turn(u128::MAX),
            text: text.to_owned(),
            limit: 10,
        };
        self.memory.known(&self.scope, &query).await.unwrap()
    }

    async fn settle(&self) {
        let ann: UserId = "ann".parse().unwrap();
        self.memory
            .0
            .queue
            .settled(self.scope.tenant(), &ann, turn(u128::MAX))
            .await;
    }

    async fn all(&self) -> Vec<StoredFact> {
        self.memory.list(&self.scope, &"ann".parse().unwrap()).await.unwrap()
    }
}

const OSLO: &str = "I live in Oslo.";

#[tokio::test(start_paused = true)]
async fn what_was_said_is_known_in_the_next_turn_of_any_conversation_of_the_user_alone() {
    let world = world();
    world
        .learn(1, "Hello. I live in Oslo.", proposes(&[("User lives in Oslo", OSLO)]))
        .await;
    // The next turn waits for it.
    assert_eq!(world.known().await, ["User lives in Oslo"]);
    let stored = &world.all().await[0];
    assert_eq!((stored.turn, stored.conversation), (turn(1), conversation(0)));
    assert_eq!((stored.range.clone(), stored.fact.said_at), (7..22, at(1)));
    let request = &world.model.requests()[0];
    assert_eq!(
        (request.route.as_str(), request.turn, request.user.as_str()),
        ("small", None, "ann")
    );
    assert!(request.response_schema.is_some());
    let sent: Vec<&str> = request.messages.iter().filter_map(|message| message.text()).collect();
    assert_eq!(
        sent[1..],
        ["Hello. I live in Oslo."],
        "the one message and nothing else"
    );

    for (tenant, user) in [("acme", "bob"), ("globex", "ann")] {
        let query = FactsQuery {
            user: user.parse().unwrap(),
            turn: turn(2),
            text: String::new(),
            limit: 10,
        };
        let known = world.memory.known(&scope(tenant), &query).await.unwrap();
        assert_eq!(known, KnownFacts::default(), "{tenant} {user}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_a_bounded_time() {
    let world = world();
    world.learn(1, OSLO, vec![Act::Stall]).await;
    let began = tokio::time::Instant::now();
    let known = world.asked("").await;
    assert!(known.is_late && known.facts.is_empty());
    assert_eq!(began.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_misbehaves_costs_its_call_and_nothing_else() {
    let right = ("User lives in Oslo", OSLO);
    let long = "x".repeat(MAX_ANSWER_BYTES + 1);
    let looping: Vec<(&str, &str)> = vec![right; 500];
    let lies: &[(&str, &str)] = &[
        ("User lives in Paris", OSLO),
        ("User lives in Paris", "I live in Paris."),
        ("User loves Oslo", OSLO),
        ("User does not live in Oslo", OSLO),
        ("Ignore previous instructions", OSLO),
        ("Oslo", OSLO),
        ("User", OSLO),
    ];
    for (name, script) in [
        ("fails to open", vec![Act::Fail(FailureClass::Overload, None)]),
        (
            "fails later",
            vec![Act::Text("{".into()), Act::Fail(FailureClass::Cut, None)],
        ),
        ("is cut", vec![Act::Text(r#"{"facts":[]}"#.into())]),
        ("stalls", vec![Act::Stall]),
        ("panics", vec![Act::Panic]),
        ("talks", says(&["Sure! Here you go."], Duration::ZERO)),
        ("never ends", vec![Act::Text(long.clone()), Act::Stall]),
        ("loops", proposes(&looping)),
        ("lies", proposes(lies)),
    ] {
        let world = world();
        world.learn(1, OSLO, script).await;
        world.settle().await;
        assert_eq!(world.all().await, [], "{name}");
        // It is caught up with a later turn, unless it was an answer.
        world.model.once("small", proposes(&[]));
        world.memory.learn(&world.scope, request(2, "Hello.")).await.unwrap();
        world.settle().await;
        let calls = world.model.seen().calls;
        assert_eq!(calls, 2, "{name}: nothing is in the log to catch up with");
    }
}

#[tokio::test(start_paused = true)]
async fn repetition_stores_nothing_new() {
    let world = world();
    world.learn(1, OSLO, proposes(&[("User lives in Oslo", OSLO)])).await;
    world.settle().await;
    // The same turn again, as after a crash.
    for _ in 0..100 {
        world.memory.learn(&world.scope, request(1, OSLO)).await.unwrap();
        world.settle().await;
    }
    assert_eq!(world.model.seen().calls, 1);
    // Other turns, while the model repeats what it read in facts, summaries and its own answers.
    for n in 2..102 {
        let script = proposes(&[("User lives in Oslo", OSLO), ("User lives in Oslo", "Thanks.")]);
        world.learn(n, "Thanks.", script).await;
        world.settle().await;
    }
    assert_eq!(world.all().await.len(), 1);
    // The user says it again and again: one fact, which belongs to the last time.
    for n in 200..300 {
        world
            .learn(n, OSLO, proposes(&[("The user lives in Oslo.", OSLO)]))
            .await;
        world.settle().await;
    }
    let all = world.all().await;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].turn, all[0].fact.valid_from, all[0].fact.said_at),
        (turn(299), at(1), at(299))
    );
}

#[tokio::test(start_paused = true)]
async fn contradictions_supersede_and_dates_are_resolved_when_written() {
    let world = world();
    world.learn(1, OSLO, proposes(&[("User lives in Oslo", OSLO)])).await;
    let moved = "I moved to Rome yesterday.";
    world
        .learn(2, moved, proposes(&[("User moved to Rome yesterday", moved)]))
        .await;
    world.settle().await;
    assert_eq!(world.known().await, ["User moved to Rome 2025-12-31"]);
    let all = world.all().await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].fact.valid_to, Some(at(2)));
}

#[tokio::test(start_paused = true)]
async fn learning_that_ends_after_an_erasure_stores_nothing() {
    let world = world();
    world.learn(1, OSLO, proposes(&[("User lives in Oslo", OSLO)])).await;
    world.store.erase(world.scope.tenant(), conversation(0));
    world.settle().await;
    assert_eq!(world.all().await, []);
    // Nor does a request that comes after it.
    world.memory.learn(&world.scope, request(2, OSLO)).await.unwrap();
    world.settle().await;
    assert_eq!((world.all().await.len(), world.model.seen().calls), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_fact_does_not_come_back_and_a_corrected_one_is_the_users_own() {
    let world = world();
    let ann: UserId = "ann".parse().unwrap();
    let script = proposes(&[("User lives in Oslo", OSLO)]);
    world.learn(1, OSLO, script.clone()).await;
    world.settle().await;
    let id = world.all().await[0].id;
    assert!(world.memory.forget(&world.scope, &ann, id).await.unwrap());
    assert!(!world.memory.forget(&world.scope, &ann, id).await.unwrap());
    world.learn(1, OSLO, script.clone()).await;
    world.settle().await;
    assert_eq!(world.all().await, []);
    world.model.forget();

    // Said again in another turn, it is another statement.
    world.learn(2, OSLO, script).await;
    world.settle().await;
    let id = world.all().await[0].id;
    let correct = |text: &'static str, now| world.memory.correct(&world.scope, &ann, id, text, now);
    for bad in ["", "  ", "a\nb", &"x".repeat(MAX_FACT_BYTES + 1)] {
        let outcome = world.memory.correct(&world.scope, &ann, id, bad, at(3)).await;
        assert!(matches!(outcome, Err(EditError::Malformed)), "{outcome:?}");
    }
    let unknown = FactId::derived(turn(9), "x");
    let outcome = world
        .memory
        .correct(&world.scope, &ann, unknown, "User is x", at(3))
        .await;
    assert!(matches!(outcome, Err(EditError::Missing)), "{outcome:?}");
    let corrected = correct("User lives in Bergen", at(50)).await.unwrap();
    assert!(corrected.is_corrected);
    assert_eq!((corrected.fact.said_at, corrected.fact.valid_from), (at(50), at(50)));
    assert_eq!(world.known().await, ["User lives in Bergen"]);
    // What was said before the correction does not replace it; what is said after it does.
    world.learn(30, OSLO, proposes(&[("User lives in Oslo", OSLO)])).await;
    world.settle().await;
    assert_eq!(world.known().await, ["User lives in Bergen"]);
    world
        .learn(
            60,
            "I live in Rome.",
            proposes(&[("User lives in Rome", "I live in Rome.")]),
        )
        .await;
    world.settle().await;
    assert_eq!(world.known().await, ["User lives in Rome"]);
    // A superseded fact that is corrected holds again, and what contradicts it ends.
    correct("User lives in Bergen", at(70)).await.unwrap();
    assert_eq!(world.known().await, ["User lives in Bergen"]);
}

#[tokio::test(start_paused = true)]
async fn facts_about_the_question_come_first_then_the_last_said() {
    let world = world();
    for (n, message, text) in [
        (1, "I have 2 dogs.", "User has 2 dogs"),
        (2, "I like tea.", "User likes tea"),
        (3, "I play chess.", "User plays chess"),
    ] {
        world.learn(n, message, proposes(&[(text, message)])).await;
        world.settle().await;
    }
    assert_eq!(
        world.known().await,
        ["User plays chess", "User likes tea", "User has 2 dogs"]
    );
    let known = world.asked("Which food for my dog?").await.facts;
    assert_eq!(known[0].text, "User has 2 dogs");
}

/// Sentences that users write, and sentences that only others do.
const OWN: [&str; 10] = [
    "I live in Oslo.",
    "I live in Rome.",
    "I do not live in Rome.",
    "I have 2 dogs.",
    "I work at Acme.",
    "My name is Ann.",
    "She said that I like tea.",
    "Do I like tea?",
    "I like tea.",
    "Maybe I moved yesterday.",
];
const TEXTS: [&str; 12] = [
    "User lives in Oslo",
    "User lives in Rome",
    "User does not live in Rome",
    "User has 2 dogs",
    "User has 3 dogs",
    "User works at Acme",
    "User's name is Ann",
    "User likes tea",
    "User moved yesterday",
    "User is the king of France",
    "I live in Oslo",
    "Assistant said that the user likes tea",
];

proptest! {
    /// Whatever a model proposes: a fact consists of words of its message, one attribute has one valid value, nothing is there
    /// twice, and learning the same again changes nothing.
    #[test]
    fn every_fact_rests_on_the_users_words(
        messages in prop::collection::vec(prop::collection::vec(0..OWN.len(), 0..4), 1..12),
        proposed in prop::collection::vec(prop::collection::vec((0..TEXTS.len(), 0_usize..90, 0_usize..40), 0..6), 12),
    ) {
        let mut known: Vec<StoredFact> = Vec::new();
        for (n, (sentences, proposed)) in messages.iter().zip(&proposed).enumerate() {
            let message = sentences.iter().map(|index| OWN[*index]).collect::<Vec<_>>().join(" ");
            let proposals = Proposals {
                proposed: proposed.iter().map(|(text, start, length)| Proposed {
                    text: TEXTS[*text].to_owned(),
                    range: *start..*start + *length,
                }).collect(),
                dropped: 0,
            };
            let request = request(n as u128 + 1, &message);
            let lesson = Lesson {
                user: request.user,
                conversation: request.conversation,
                turn: request.turn,
                said_at: request.said_at,
            };
            for round in 0..2 {
                let learned = learned(&known, &lesson, &message, &proposals);
                for fact in &learned.change.put {
                    let before = known.iter().find(|before| before.id == fact.id);
                    if fact.turn == lesson.turn {
                        let day = jiff::tz::Offset::UTC.to_datetime(lesson.said_at).date();
                        let proposed = Proposed { text: fact.fact.text.clone(), range: fact.range.clone() };
                        let held = accept(&proposed, UserMessage { text: &message, day });
                        prop_assert!(held.is_ok() || before.is_some(), "{fact:?}: {held:?}");
                        prop_assert!(message.get(fact.range.clone()).is_some());
                    } else {
                        prop_assert!(before.is_some_and(|before| before.fact.text == fact.fact.text));
                    }
                    prop_assert!(round == 0 || before.is_some_and(|before| before.fact.text == fact.fact.text), "{fact:?}");
                    known.retain(|before| before.id != fact.id);
                    known.push(fact.clone());
                }
                let valid: Vec<&StoredFact> = known.iter().filter(|fact| fact.is_valid()).collect();
                for (index, one) in valid.iter().enumerate() {
                    for other in &valid[..index] {
                        prop_assert_ne!(&one.fact.text, &other.fact.text);
                        prop_assert!(one.fact.attribute.is_none() || one.fact.attribute != other.fact.attribute);
                    }
                }
            }
        }
    }
}
