use copilotd_actors::fakes::embedder::{FakeEmbedder, Script};
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::fakes::recollection::{Scribe, contract};
use copilotd_actors::ports::{EmbedError, Embedder};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::*;
use crate::fakes::MemoryTurnVectors;

#[expect(clippy::disallowed_methods, reason = "tests open scopes")]
fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

fn conversation(n: u128) -> ConversationId {
    ConversationId::new(Uuid::from_u128(n))
}

/// What survives a crash, and the model.
#[derive(Default)]
struct World {
    log: MemoryLog,
    vectors: MemoryTurnVectors,
    embedder: FakeEmbedder,
}

impl World {
    fn start(&self) -> Recollector {
        self.start_with(Arc::new(self.embedder.clone()), Bounds::default())
    }

    fn start_with(&self, embedder: Arc<dyn Embedder>, bounds: Bounds) -> Recollector {
        let space = "fake".into();
        Recollector::start(Parts {
            log: Arc::new(self.log.clone()),
            engine: Some(Engine { embedder, space }),
            vectors: Some(Arc::new(self.vectors.clone())),
            bounds,
        })
    }

    fn start_without_model(&self, bounds: Bounds) -> Recollector {
        Recollector::start(Parts {
            log: Arc::new(self.log.clone()),
            engine: None,
            vectors: Some(Arc::new(self.vectors.clone())),
            bounds,
        })
    }

    async fn scribe(&self) -> Scribe {
        Scribe::begin(Arc::new(self.log.clone()), &scope("acme"), conversation(1)).await
    }

    /// Returns how many passages were embedded.
    fn passages(&self) -> usize {
        let requests = self.embedder.requests().into_iter();
        let passages = requests.filter(|request| request.purpose == Purpose::Passage);
        passages.map(|request| request.texts.len()).sum()
    }
}

fn query(question: &str, before: Seq) -> RecallQuery {
    RecallQuery {
        conversation: conversation(1),
        question: question.to_owned(),
        before,
        upto_seq: before,
        budget_tokens: 60,
        limit: 10,
    }
}

async fn recall(recollector: &Recollector, question: &str, before: Seq) -> Recalled {
    let recalled = recollector.recall(&scope("acme"), &query(question, before)).await;
    recalled.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_contract_holds_with_and_without_a_model() {
    for has_model in [true, false] {
        let world = World::default();
        let recollector = if has_model {
            world.start()
        } else {
            world.start_without_model(Bounds::default())
        };
        contract(
            &recollector,
            Arc::new(world.log.clone()),
            &scope("acme"),
            &scope("globex"),
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_is_read_again_is_the_same_and_embeds_nothing_again() {
    let world = World::default();
    let mut scribe = world.scribe().await;
    let grown = world.start();
    let mut end = 0;
    for n in 0..40 {
        let topic = ["tulips", "invoices", "trains", "harbours"][n % 4];
        let texts = (
            format!("What about {topic} number {n}?"),
            format!("The {topic} of {n} are fine."),
        );
        [_, _, end] = scribe.exchange(&texts.0, &texts.1).await;
        grown.prepare(&scope("acme"), conversation(1), end);
        grown.settle().await;
    }
    let answers = async |recollector: &Recollector| {
        let mut answers = Vec::new();
        for question in ["tulips number 8", "trains", "harbours of 39", "something else"] {
            let found = recall(recollector, question, end).await;
            assert!(found.is_complete && found.is_semantic, "{question}");
            answers.push((found.messages, found.omitted));
        }
        answers
    };
    let expected = answers(&grown).await;
    assert!(expected.iter().any(|(messages, _)| messages.len() > 1));
    // Two texts of each of 80 messages, each once.
    assert_eq!(
        (
            world.passages(),
            world.vectors.stored(scope("acme").tenant(), conversation(1)).len()
        ),
        (160, 80)
    );
    drop(grown);
    let again = world.start();
    assert_eq!(answers(&again).await, expected);
    again.settle().await;
    assert_eq!(world.passages(), 160);
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_a_long_conversation_reads_little_and_says_so() {
    const EXCHANGES: usize = 5_000;
    let bounds = Bounds {
        pages: 4,
        page: 100,
        ..Bounds::default()
    };
    let world = World::default();
    let mut scribe = world.scribe().await;
    let mut end = 0;
    for n in 0..EXCHANGES {
        [_, _, end] = scribe
            .exchange(&format!("note {n} about w{n}"), &format!("kept {n}"))
            .await;
    }
    let recollector = world.start_without_model(bounds);
    let reads = world.log.reads();
    let early = recall(&recollector, "what about w7?", end).await;
    assert!(!early.is_complete);
    assert_eq!(world.log.reads() - reads, bounds.pages as u64);
    assert!(early.messages.iter().any(|message| message.text == "note 7 about w7"));
    recollector.settle().await;
    let reads = world.log.reads();
    let found = recall(&recollector, "what about w4321?", end).await;
    assert!(found.is_complete);
    assert!(
        found
            .messages
            .iter()
            .any(|message| message.text == "note 4321 about w4321")
    );
    assert_eq!(world.log.reads(), reads, "nothing is read twice");
    // Each further turn reads what is new.
    let [_, _, end] = scribe.exchange("the newest", "indeed").await;
    assert!(recall(&recollector, "newest", end).await.is_complete);
    assert_eq!(world.log.reads() - reads, 1);
}

#[tokio::test(start_paused = true)]
async fn the_newest_message_is_embedded_within_the_turn() {
    let world = World::default();
    let mut scribe = world.scribe().await;
    let recollector = world.start();
    let [_, _, end] = scribe.exchange("The gate is blue", "I see").await;
    let found = recall(&recollector, "blue gate", end).await;
    assert!(found.is_semantic);
    let urgencies: Vec<Urgency> = world
        .embedder
        .requests()
        .iter()
        .map(|request| request.urgency)
        .collect();
    assert_eq!(urgencies, [Urgency::Foreground; 2]);
    // A model that fails costs the vectors, not the turn.
    world.embedder.script(Script::Fail(EmbedError::Busy));
    world.embedder.script(Script::Hang);
    let [_, _, end] = scribe.exchange("The gate was red", "Oh").await;
    let found = recall(&recollector, "red gate", end).await;
    assert!(!found.is_semantic);
    assert!(found.messages.iter().any(|message| message.text == "The gate was red"));
}

/// An embedder that waits for permits.
#[derive(Debug)]
struct Gated(FakeEmbedder, Arc<Semaphore>);

#[async_trait]
impl Embedder for Gated {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        let vectors = self.0.embed(request).await;
        self.1.acquire().await.unwrap().forget();
        vectors
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stored_of_an_erased_conversation_whatever_was_under_way() {
    for is_embedding in [true, false] {
        let world = World::default();
        let mut scribe = world.scribe().await;
        let [_, _, end] = scribe.exchange("A secret", "Noted").await;
        let gate = Arc::new(Semaphore::new(0));
        let recollector = world.start_with(
            Arc::new(Gated(world.embedder.clone(), Arc::clone(&gate))),
            Bounds::default(),
        );
        recollector.prepare(&scope("acme"), conversation(1), end);
        if is_embedding {
            // The vectors are made before the erasure, and would be stored after it.
            world.embedder.wait_for(1).await;
        } else {
            gate.add_permits(1);
            recollector.settle().await;
        }
        let erased = recollector.erase(&scope("acme"), conversation(1)).await;
        assert_eq!(erased, Ok(if is_embedding { 0 } else { 2 }));
        gate.add_permits(10);
        recollector.prepare(&scope("acme"), conversation(1), end);
        recollector.settle().await;
        assert_eq!(
            world.vectors.stored(scope("acme").tenant(), conversation(1)),
            [] as [Seq; 0]
        );
        assert_eq!(recollector.erase(&scope("acme"), conversation(1)).await, Ok(0));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stored_of_a_tenant_that_was_deleted_meanwhile() {
    let world = World::default();
    let [_, _, end] = world.scribe().await.exchange("A secret", "Noted").await;
    let gate = Arc::new(Semaphore::new(0));
    let emptied = World {
        vectors: world.vectors.clone(),
        embedder: world.embedder.clone(),
        ..World::default()
    };
    let gated = || Arc::new(Gated(world.embedder.clone(), Arc::clone(&gate)));
    let recollector = world.start_with(gated(), Bounds::default());
    recollector.prepare(&scope("acme"), conversation(1), end);
    world.embedder.wait_for(1).await;
    drop(recollector);
    // The same with a log that has lost the conversation.
    let recollector = emptied.start_with(gated(), Bounds::default());
    let key = (scope("acme").tenant().clone(), conversation(1));
    let records = world.log.records(conversation(1));
    let shared = recollector.inner.cache.get(&key);
    shared.lock().apply(records, HashMap::new(), end);
    recollector.prepare(&scope("acme"), conversation(1), end);
    gate.add_permits(10);
    recollector.settle().await;
    assert_eq!(
        world.vectors.stored(scope("acme").tenant(), conversation(1)),
        [] as [Seq; 0]
    );
    assert_eq!(recollector.erase_tenant(&scope("acme")).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded() {
    let bounds = Bounds {
        waiting: 2,
        ..Bounds::default()
    };
    let world = World::default();
    let recollector = world.start_without_model(bounds);
    // Nothing runs before this task waits.
    for n in [1, 2, 3, 2] {
        recollector.prepare(&scope("acme"), conversation(n), 5);
    }
    assert!(!recollector.inner.waiting.is_idle());
    recollector.settle().await;
    let known = |n| {
        recollector
            .inner
            .cache
            .get(&(scope("acme").tenant().clone(), conversation(n)))
    };
    assert_eq!([1, 2, 3].map(|n| known(n).lock().upto_seq()), [5, 5, 0]);
}

#[tokio::test(start_paused = true)]
async fn long_messages_are_found_by_their_neighbours_and_never_recalled() {
    let world = World::default();
    let mut scribe = world.scribe().await;
    let paste = "tulip ".repeat(10_000);
    let [asked, _, end] = scribe.exchange("Look at this list", &paste).await;
    let recollector = world.start_without_model(Bounds::default());
    let wide = RecallQuery {
        budget_tokens: 1_000_000,
        ..query("tulip", end)
    };
    let found = recollector.recall(&scope("acme"), &wide).await.unwrap();
    assert_eq!(
        found.messages.iter().map(|message| message.seq).collect::<Vec<_>>(),
        [asked]
    );
    assert!(found.omitted > 0);
}
