//! Ingestion with an index in memory, on paused time.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::fakes::embedder::{FakeEmbedder, Script};
use copilotd_actors::ports::{Clock, EmbedError, EmbedRequest, Embedder, Purpose, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Estimate;
use copilotd_knowledge::document::{AttributeChanges, DocumentKey, Format, Reader, Stage};
use copilotd_knowledge::extract::{ExtractError, Extractor, Limits, PdfPages, PdfText};
use copilotd_knowledge::fakes::index::MemoryIndex;
use copilotd_knowledge::index::{IngestStatus, KnowledgeIndex, Quota, Submitted};
use copilotd_knowledge::ingest::{Bounds, Engine, Ingestion, Msg, Parts};
use copilotd_knowledge::library::Content;
use copilotd_knowledge::retrieve::{Found, Question, Retriever};
use jiff::Timestamp;
use ractor::{Actor, ActorRef};
use uuid::Uuid;

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A reader that panics, as a library might.
#[derive(Debug)]
struct Panicking;

#[async_trait]
impl PdfText for Panicking {
    async fn pages(&self, _: &TenantId, _: &[u8], _: &Limits) -> Result<PdfPages, ExtractError> {
        panic!("on purpose");
    }
}

/// Embeds some requests and then hangs, as if the process were about to die.
#[derive(Debug)]
struct HangsAfter {
    embedder: FakeEmbedder,
    left: AtomicUsize,
}

#[async_trait]
impl Embedder for HangsAfter {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        if self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_err()
        {
            std::future::pending::<()>().await;
        }
        self.embedder.embed(request).await
    }
}

struct World {
    index: Arc<MemoryIndex>,
    embedder: FakeEmbedder,
    engine: Option<Engine>,
    quota: Quota,
    jobs: u128,
}

const QUOTA: Quota = Quota {
    documents: 1_000,
    bytes: 1 << 30,
    chunks: 10_000,
};

#[expect(clippy::disallowed_methods, reason = "tests open scopes")]
fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

fn key(id: &str) -> DocumentKey {
    DocumentKey {
        collection: "handbook".parse().unwrap(),
        external_id: id.parse().unwrap(),
    }
}

impl World {
    fn new() -> Self {
        let embedder = FakeEmbedder::new("fake");
        Self {
            index: Arc::new(MemoryIndex::new()),
            engine: Some(Engine {
                embedder: Arc::new(embedder.clone()),
                space: "fake".into(),
            }),
            embedder,
            quota: QUOTA,
            jobs: 0,
        }
    }

    async fn start(&self) -> ActorRef<Msg> {
        self.start_with(Arc::new(Panicking)).await
    }

    async fn start_with(&self, reader: Arc<dyn PdfText>) -> ActorRef<Msg> {
        let quota = self.quota;
        let parts = Parts {
            index: Arc::clone(&self.index) as _,
            extractor: Extractor::new(reader, Limits::default()),
            tokens: Arc::new(Estimate),
            engine: self.engine.clone(),
            quota: Arc::new(move |_| quota),
            clock: Arc::new(FixedClock),
            bounds: Bounds {
                batch: 2,
                ..Bounds::default()
            },
        };
        Actor::spawn(None, Ingestion(Arc::new(parts)), ()).await.unwrap().0
    }

    async fn store(&mut self, tenant: &str, id: &str, format: Format, text: &str) -> Submitted {
        self.jobs += 1;
        let content = Content {
            format,
            bytes: text.into(),
        };
        let submission = copilotd_knowledge::index::Submission {
            key: key(id),
            format,
            content_hash: content.hash(),
            content: content.bytes,
            changes: AttributeChanges::default(),
            job: JobId::new(Uuid::from_u128(self.jobs)),
            at: FixedClock.now(),
        };
        self.index.submit(&scope(tenant), submission, &QUOTA).await.unwrap()
    }

    /// Waits until a document's newest version is no longer pending.
    async fn settled(&self, tenant: &str, id: &str) -> Stage {
        loop {
            let document = self.index.document(&scope(tenant), &key(id)).await;
            if let Ok(Some(document)) = document
                && document.stage != Stage::Pending
            {
                return document.stage;
            }
            // Paused time: this only lets the others run.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn find(&self, tenant: &str, text: &str) -> (Vec<String>, bool) {
        let found = self.found(tenant, text).await;
        let texts = found.chunks.into_iter().map(|(chunk, _)| chunk.draft.text).collect();
        (texts, found.is_semantic)
    }

    async fn found(&self, tenant: &str, text: &str) -> Found {
        let retriever = Retriever::new(Arc::clone(&self.index) as _, self.engine.clone());
        let question = question(text);
        retriever.find(&scope(tenant), &question).await.unwrap()
    }
}

fn question(text: &str) -> Question {
    Question {
        collections: vec!["handbook".parse().unwrap()],
        reader: Reader::Caller {
            user: None,
            roles: BTreeSet::new(),
        },
        filter: Vec::new(),
        texts: vec![text.to_owned()],
        limit: 3,
    }
}

/// A text with `sections` sections that share no words, each longer than half a chunk.
fn handbook(sections: &[&str]) -> String {
    let section = |name: &&str| {
        format!(
            "# {name}\n\n{}\n\n",
            format!("The {name} rule applies to {name} only. ").repeat(30)
        )
    };
    sections.iter().map(section).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stored_document_is_found_and_an_update_embeds_what_changed() {
    let mut world = World::new();
    let ingestion = world.start().await;
    world
        .store(
            "a",
            "1",
            Format::Markdown,
            &handbook(&["refund", "warranty", "shipping"]),
        )
        .await;
    ingestion.cast(Msg::Wake).unwrap();
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    let (texts, is_semantic) = world.find("a", "refund").await;
    assert!(texts[0].contains("refund") && is_semantic);
    assert_eq!(
        world.find("b", "refund").await.0,
        Vec::<String>::new(),
        "another tenant"
    );
    let embedded = world.embedder.texts();

    assert!(matches!(
        world
            .store(
                "a",
                "1",
                Format::Markdown,
                &handbook(&["refund", "warranty", "shipping"])
            )
            .await,
        Submitted::Unchanged(_)
    ));
    world
        .store(
            "a",
            "1",
            Format::Markdown,
            &handbook(&["refund", "guarantee", "shipping"]),
        )
        .await;
    ingestion.cast(Msg::Wake).unwrap();
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    let again = world.embedder.texts() - embedded;
    assert!(
        (1..=2).contains(&again),
        "{again} chunks embedded for one changed section"
    );
    assert!(
        world
            .find("a", "warranty")
            .await
            .0
            .iter()
            .all(|text| !text.contains("warranty"))
    );
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_ingested_fails_with_a_reason_and_holds_up_nothing() {
    let mut world = World::new();
    world.quota = Quota { chunks: 3, ..QUOTA };
    let cases = [
        ("empty", Format::Text, " \n".to_owned(), "no_text"),
        ("panic", Format::Pdf, "%PDF-1.7".to_owned(), "internal"),
        (
            "many",
            Format::Markdown,
            handbook(&["one", "two", "three", "four"]),
            "quota_exceeded",
        ),
    ];
    for (id, format, text, _) in &cases {
        world.store("a", id, *format, text).await;
    }
    world.store("a", "last", Format::Text, "fine").await;
    let ingestion = world.start().await;
    assert_eq!(world.settled("a", "last").await, Stage::Searchable);
    for (id, _, _, code) in &cases {
        let document = world.index.document(&scope("a"), &key(id)).await.unwrap().unwrap();
        assert_eq!(document.stage, Stage::Failed, "{id}");
        assert_eq!(document.failure.unwrap().code, *code, "{id}");
        let job = world.index.job(&scope("a"), document.job).await.unwrap().unwrap();
        assert!(matches!(job.status, IngestStatus::Failed(_)), "{id}");
    }
    assert_eq!(
        world.find("a", "one").await.0,
        ["fine"],
        "nothing of a failed version is found"
    );
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_stored_chunks_are_not_made_again() {
    let mut world = World::new();
    let text = handbook(&["one", "two", "three", "four", "five", "six"]);
    world.store("a", "1", Format::Markdown, &text).await;
    let whole = world.engine.take().unwrap();
    world.engine = Some(Engine {
        embedder: Arc::new(HangsAfter {
            embedder: world.embedder.clone(),
            left: 2.into(),
        }),
        ..whole.clone()
    });
    let ingestion = world.start().await;
    let job = JobId::new(Uuid::from_u128(1));
    while world.index.job(&scope("a"), job).await.unwrap().unwrap().done < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ingestion.kill_and_wait(None).await.unwrap();
    world.engine = Some(whole);

    let ingestion = world.start().await;
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    let requests = world.embedder.requests();
    let mut texts: Vec<&String> = requests.iter().flat_map(|request| &request.texts).collect();
    let all = texts.len();
    texts.sort();
    texts.dedup();
    assert_eq!(all, texts.len(), "no stored chunk is embedded again");
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_model_words_are_searched_and_vectors_follow() {
    let mut world = World::new();
    let engine = world.engine.take();
    world
        .store("a", "1", Format::Markdown, &handbook(&["refund", "warranty"]))
        .await;
    let ingestion = world.start().await;
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    let (texts, is_semantic) = world.find("a", "refund").await;
    assert!(texts[0].contains("refund") && !is_semantic);
    let steps = async |world: &World| -> Vec<&'static str> {
        let found = world.found("a", "refund").await;
        found.steps.iter().map(|(step, _)| step.name()).collect()
    };
    assert_eq!(steps(&world).await, ["search", "read"], "nothing is embedded");
    ingestion.stop_and_wait(None, None).await.unwrap();

    world.engine = engine;
    let space = "fake".into();
    assert!(!world.index.unembedded(&space, &[], 1).await.unwrap().is_empty());
    let ingestion = world.start().await;
    while !world.index.unembedded(&space, &[], 1).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(world.find("a", "refund").await.1);
    assert_eq!(steps(&world).await, ["embed", "search", "read"]);
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_busy_or_failing_model_and_an_index_that_is_down_cost_time_only() {
    let mut world = World::new();
    world.embedder.script(Script::Fail(EmbedError::Busy));
    world.embedder.script(Script::Fail(EmbedError::Timeout));
    world
        .embedder
        .script(Script::Fail(EmbedError::Failed("once".to_owned())));
    world.store("a", "1", Format::Text, "refund").await;
    world.index.set_down(true);
    let ingestion = world.start().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.index.set_down(false);
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    assert!(world.index.unembedded(&"fake".into(), &[], 1).await.unwrap().is_empty());
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_works_leaves_the_words() {
    let mut world = World::new();
    for _ in 0..5 {
        world
            .embedder
            .script(Script::Fail(EmbedError::Failed("always".to_owned())));
    }
    world.store("a", "1", Format::Text, "refund").await;
    let ingestion = world.start().await;
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    assert_eq!(world.find("a", "refund").await.0, ["refund"]);
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tenants_take_turns() {
    let mut world = World::new();
    for number in 0..20 {
        world
            .store("many", &number.to_string(), Format::Text, &format!("text {number}"))
            .await;
    }
    world.store("few", "1", Format::Text, "refund").await;
    let ingestion = world.start().await;
    assert_eq!(world.settled("few", "1").await, Stage::Searchable);
    let requests = world.embedder.requests();
    let turn = requests
        .iter()
        .position(|request| request.texts.iter().any(|text| text.contains("refund")));
    assert!(turn.unwrap() < 3, "the other tenant's documents went first: {turn:?}");
    for number in 0..20 {
        assert_eq!(world.settled("many", &number.to_string()).await, Stage::Searchable);
    }
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_version_that_ends_every_process_fails_and_one_that_makes_progress_does_not() {
    let mut world = World::new();
    let text = handbook(&[
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
        "fourteen",
    ]);
    world.store("a", "1", Format::Markdown, &text).await;
    let whole = world.engine.take().unwrap();
    let hanging = |batches: usize| Engine {
        embedder: Arc::new(HangsAfter {
            embedder: world.embedder.clone(),
            left: batches.into(),
        }),
        ..whole.clone()
    };
    let (id, job) = (key("1").id(scope("a").tenant()), JobId::new(Uuid::from_u128(1)));
    let attempts = Bounds::default().attempts;
    // Each process stores one more batch before it dies: more of them than may make no progress.
    let mut done = 0;
    for _ in 0..attempts {
        world.engine = Some(hanging(1));
        let ingestion = world.start().await;
        while world.index.job(&scope("a"), job).await.unwrap().unwrap().done == done {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ingestion.kill_and_wait(None).await.unwrap();
        done = world.index.job(&scope("a"), job).await.unwrap().unwrap().done;
    }
    for attempt in 1..=attempts {
        assert_eq!(
            world
                .index
                .document(&scope("a"), &key("1"))
                .await
                .unwrap()
                .unwrap()
                .stage,
            Stage::Pending,
            "before attempt {attempt}"
        );
        world.engine = Some(hanging(0));
        let ingestion = world.start().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ingestion.kill_and_wait(None).await.unwrap();
    }
    world.engine = Some(whole);
    world.store("a", "2", Format::Text, "fine").await;
    let ingestion = world.start().await;
    assert_eq!(world.settled("a", "1").await, Stage::Failed);
    let failed = world.index.document(&scope("a"), &key("1")).await.unwrap().unwrap();
    assert_eq!((failed.id, failed.failure.unwrap().code.as_str()), (id, "internal"));
    assert_eq!(world.settled("a", "2").await, Stage::Searchable);
    ingestion.stop_and_wait(None, None).await.unwrap();
}

/// A reader that hangs, and says so: the process ends meanwhile.
#[derive(Debug, Default)]
struct Hangs(AtomicUsize);

#[async_trait]
impl PdfText for Hangs {
    async fn pages(&self, _: &TenantId, _: &[u8], _: &Limits) -> Result<PdfPages, ExtractError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_process_is_counted_once_against_what_ran_beside_its_cause() {
    let mut world = World::new();
    let attempts = Bounds::default().attempts;
    // The second one ends every process; the first one takes long to read, and would end as well.
    for tenant in ["slow", "deadly"] {
        world.store(tenant, "1", Format::Pdf, "%PDF-1.7").await;
    }
    let mut begun = Vec::new();
    for _ in 0..attempts {
        let reader = Arc::new(Hangs::default());
        let ingestion = world.start_with(Arc::clone(&reader) as _).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        begun.push(reader.0.load(Ordering::Relaxed));
        ingestion.kill_and_wait(None).await.unwrap();
    }
    // Both at once only as long as neither of them is suspected.
    assert_eq!(begun, [2, 1, 1, 1, 1]);
    let counted = world.index.pending(&[], 10).await.unwrap();
    let counted: Vec<u32> = counted.iter().map(|pending| pending.attempts).collect();
    assert_eq!(counted, [attempts, 1], "the one that ran alone is suspected alone");

    // What makes progress lets the others run; a panic is nobody else's.
    let mut world = World::new();
    let whole = world.engine.take().unwrap();
    world
        .store(
            "a",
            "1",
            Format::Markdown,
            &handbook(&["one", "two", "three", "four", "five"]),
        )
        .await;
    let engine = |batches: usize| Engine {
        embedder: Arc::new(HangsAfter {
            embedder: world.embedder.clone(),
            left: batches.into(),
        }),
        ..whole.clone()
    };
    let (none, one) = (engine(0), engine(1));
    world.engine = Some(none);
    let ingestion = world.start().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    ingestion.kill_and_wait(None).await.unwrap();
    world.engine = Some(one);
    world.store("b", "1", Format::Pdf, "%PDF-1.7").await;
    let reader = Arc::new(Hangs::default());
    let ingestion = world.start_with(Arc::clone(&reader) as _).await;
    while reader.0.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let suspected = world.index.pending(&[], 10).await.unwrap()[0].attempts;
    assert_eq!(suspected, 0, "its first chunks were stored before the other one began");
    ingestion.kill_and_wait(None).await.unwrap();
}

/// A reader that never has a process free.
#[derive(Debug)]
struct Full(AtomicUsize);

#[async_trait]
impl PdfText for Full {
    async fn pages(&self, _: &TenantId, _: &[u8], _: &Limits) -> Result<PdfPages, ExtractError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(ExtractError::Busy)
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_always_busy_is_not_asked_for_ever() {
    let mut world = World::new();
    let reader = Arc::new(Full(0.into()));
    world.store("a", "1", Format::Pdf, "%PDF-1.7").await;
    world.store("a", "2", Format::Text, "fine").await;
    let ingestion = world.start_with(Arc::clone(&reader) as _).await;
    assert_eq!(world.settled("a", "1").await, Stage::Failed);
    let failed = world.index.document(&scope("a"), &key("1")).await.unwrap().unwrap();
    assert_eq!(failed.failure.unwrap().code, "busy");
    assert_eq!(
        reader.0.load(Ordering::Relaxed),
        usize::try_from(Bounds::default().refusals).unwrap()
    );
    assert_eq!(world.settled("a", "2").await, Stage::Searchable);
    ingestion.stop_and_wait(None, None).await.unwrap();
}

/// The engine of a model, whose vectors have its name as their space.
fn engine(embedder: &FakeEmbedder, name: &str) -> Engine {
    Engine {
        embedder: Arc::new(embedder.clone()),
        space: name.into(),
    }
}

/// Numbers of questions that a model embedded.
fn questions(embedder: &FakeEmbedder) -> usize {
    let requests = embedder.requests();
    requests
        .iter()
        .filter(|request| request.purpose == Purpose::Query)
        .count()
}

#[tokio::test(start_paused = true)]
async fn while_a_model_is_replaced_both_generations_are_searched_and_a_kill_costs_nothing() {
    let mut world = World::new();
    let old = engine(&world.embedder, "fake");
    for tenant in ["a", "b"] {
        world
            .store(
                tenant,
                "1",
                Format::Markdown,
                &handbook(&["refund", "warranty", "shipping", "parking"]),
            )
            .await;
    }
    let ingestion = world.start().await;
    for tenant in ["a", "b"] {
        world.settled(tenant, "1").await;
    }
    ingestion.stop_and_wait(None, None).await.unwrap();
    let retriever = |world: &World| {
        let retriever = Retriever::new(Arc::clone(&world.index) as _, world.engine.clone());
        retriever.replacing(old.clone())
    };
    let ask = async |retriever: &Retriever, tenant: &str| {
        let found = retriever.find(&scope(tenant), &question("parking")).await.unwrap();
        assert!(found.is_semantic);
        found.chunks[0].0.draft.text.clone()
    };
    // The new model: it dies after one batch, in which both tenants have a share.
    let new = FakeEmbedder::new("new");
    let hanging = HangsAfter {
        embedder: new.clone(),
        left: 1.into(),
    };
    world.engine = Some(Engine {
        embedder: Arc::new(hanging),
        space: "new".into(),
    });
    let (space, before): (_, _) = ("new".into(), "fake".into());
    let missing = async |world: &World, tenant: &str| {
        world
            .index
            .missing_vectors(Some(&scope(tenant)), &space, 99)
            .await
            .unwrap()
    };
    let all = missing(&world, "a").await;
    let ingestion = world.start().await;
    while missing(&world, "a").await == all {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ingestion.kill_and_wait(None).await.unwrap();
    world.engine = Some(engine(&new, "new"));
    let both = retriever(&world);
    let asked = (questions(&world.embedder), questions(&new));
    assert!(ask(&both, "a").await.contains("parking"));
    assert_eq!(
        (questions(&world.embedder), questions(&new)),
        (asked.0 + 1, asked.1 + 1),
        "of each model its own vector"
    );
    // A document that is stored meanwhile is found too.
    world.store("a", "2", Format::Text, "The canteen opens at noon.").await;
    let ingestion = world.start().await;
    world.settled("a", "2").await;
    let kept = async |world: &World| world.index.missing_vectors(None, &before, 99).await.unwrap();
    while missing(&world, "a").await + missing(&world, "b").await > 0 || kept(&world).await < 2 * all {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = questions(&world.embedder);
    for tenant in ["a", "b"] {
        assert!(ask(&both, tenant).await.contains("parking"));
    }
    assert_eq!(questions(&world.embedder), asked, "the new model is asked alone");
    let requests = new.requests();
    let passages = requests.iter().filter(|request| request.purpose == Purpose::Passage);
    let count: usize = passages.map(|request| request.texts.len()).sum();
    assert_eq!(count as u64, 2 * all + 1, "each chunk was embedded once");
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_weights_of_the_model_before_words_and_what_is_new_are_searched() {
    let mut world = World::new();
    world
        .store("a", "1", Format::Markdown, &handbook(&["refund", "warranty"]))
        .await;
    let ingestion = world.start().await;
    world.settled("a", "1").await;
    ingestion.stop_and_wait(None, None).await.unwrap();
    let asked = questions(&world.embedder);
    world.engine = Some(engine(&FakeEmbedder::new("new"), "new"));
    let found = world.found("a", "refund").await;
    assert!(found.chunks[0].0.draft.text.contains("refund"));
    assert_eq!(questions(&world.embedder), asked);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_always_busy_holds_up_no_document_and_vectors_follow() {
    let mut world = World::new();
    for _ in 0..Bounds::default().refusals {
        world.embedder.script(Script::Fail(EmbedError::Busy));
    }
    world.store("a", "1", Format::Text, "refund").await;
    let ingestion = world.start().await;
    assert_eq!(world.settled("a", "1").await, Stage::Searchable);
    while !world.index.unembedded(&"fake".into(), &[], 1).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(world.find("a", "refund").await.1);
    ingestion.stop_and_wait(None, None).await.unwrap();
}
