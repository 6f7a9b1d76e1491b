//! Embedding models that differ by tenant, refuse, deny or are replaced, on paused time.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::JobId;
use copilotd_actors::fakes::embedder::{FakeEmbedder, Script};
use copilotd_actors::ports::{Clock, EmbedError, EmbedRequest, Embedder, Purpose, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Estimate;
use copilotd_knowledge::document::{AttributeChanges, DocumentKey, Format, Reader, Stage};
use copilotd_knowledge::extract::{Extractor, Limits, NoPdf};
use copilotd_knowledge::fakes::index::MemoryIndex;
use copilotd_knowledge::index::{KnowledgeIndex, Quota, Submission};
use copilotd_knowledge::ingest::{Bounds, Engine, Ingestion, Msg, Parts};
use copilotd_knowledge::library::Content;
use copilotd_knowledge::retrieve::{Found, Question, Retriever};
use jiff::Timestamp;
use parking_lot::Mutex;
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

const QUOTA: Quota = Quota {
    documents: 1_000,
    bytes: 1 << 30,
    chunks: 10_000,
};

/// A request to embed, and the tenant for whom it was made.
type Asked = (Option<TenantScope>, EmbedRequest);

/// A provider's model: it serves tenants only, those that are not denied, and refuses texts with the word `forbidden`.
#[derive(Debug, Clone)]
struct Provider {
    model: FakeEmbedder,
    denied: Arc<Mutex<HashSet<TenantScope>>>,
    /// For whom each request was, denied ones included.
    asked: Arc<Mutex<Vec<Asked>>>,
    scope: Option<TenantScope>,
    /// Number of requests after which it hangs, as if the process were about to die.
    answers: Arc<Mutex<usize>>,
}

impl Provider {
    fn new(space: &str) -> Self {
        Self {
            model: FakeEmbedder::new(space),
            denied: Arc::default(),
            asked: Arc::default(),
            scope: None,
            answers: Arc::new(Mutex::new(usize::MAX)),
        }
    }

    fn engine(&self, space: &str) -> Engine {
        Engine {
            embedder: Arc::new(self.clone()),
            space: space.into(),
        }
    }

    /// Number of requests for a tenant's passages or questions.
    fn asked(&self, tenant: &str, purpose: Purpose) -> usize {
        let asked = self.asked.lock();
        let of = |(scope, request): &&(Option<TenantScope>, EmbedRequest)| {
            scope.as_ref().is_some_and(|scope| scope.tenant().as_str() == tenant) && request.purpose == purpose
        };
        asked.iter().filter(of).count()
    }
}

#[async_trait]
impl Embedder for Provider {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        self.asked.lock().push((self.scope.clone(), request.clone()));
        let scope = self.scope.as_ref();
        if scope.is_none_or(|scope| self.denied.lock().contains(scope)) {
            return Err(EmbedError::Denied("not this tenant".to_owned()));
        }
        if request.texts.iter().any(|text| text.contains("forbidden")) {
            return Err(EmbedError::TooLarge("a text is refused".to_owned()));
        }
        let left = self.answers.lock().checked_sub(1);
        match left {
            Some(left) => *self.answers.lock() = left,
            None => std::future::pending().await,
        }
        self.model.embed(request).await
    }

    fn of_tenant(&self, scope: &TenantScope) -> Option<Arc<dyn Embedder>> {
        let scope = Some(scope.clone());
        Some(Arc::new(Self { scope, ..self.clone() }))
    }
}

struct World {
    index: Arc<MemoryIndex>,
    jobs: u128,
}

impl World {
    fn new() -> Self {
        Self {
            index: Arc::new(MemoryIndex::new()),
            jobs: 0,
        }
    }

    async fn start(&self, engine: &Engine) -> ActorRef<Msg> {
        let parts = Parts {
            index: Arc::clone(&self.index) as _,
            extractor: Extractor::new(Arc::new(NoPdf), Limits::default()),
            tokens: Arc::new(Estimate),
            engine: Some(engine.clone()),
            quota: Arc::new(|_| QUOTA),
            clock: Arc::new(FixedClock),
            bounds: Bounds {
                batch: 2,
                ..Bounds::default()
            },
        };
        Actor::spawn(None, Ingestion(Arc::new(parts)), ()).await.unwrap().0
    }

    async fn store(&mut self, tenant: &str, id: &str, text: &str) {
        self.jobs += 1;
        let content = Content {
            format: Format::Markdown,
            bytes: text.into(),
        };
        let submission = Submission {
            key: key(id),
            format: content.format,
            content_hash: content.hash(),
            content: content.bytes,
            changes: AttributeChanges::default(),
            job: JobId::new(Uuid::from_u128(self.jobs)),
            at: FixedClock.now(),
        };
        self.index.submit(&scope(tenant), submission, &QUOTA).await.unwrap();
    }

    async fn is_searchable(&self, tenant: &str, id: &str) {
        self.until(async || {
            let document = self.index.document(&scope(tenant), &key(id)).await.unwrap().unwrap();
            document.stage == Stage::Searchable
        })
        .await;
    }

    /// Waits until something holds. Time is paused: this only lets the others run.
    async fn until(&self, holds: impl AsyncFn() -> bool) {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn missing(&self, tenant: &str, space: &str) -> u64 {
        let space = space.into();
        self.index
            .missing_vectors(Some(&scope(tenant)), &space, 99)
            .await
            .unwrap()
    }

    async fn spaces(&self) -> Vec<String> {
        let spaces = self.index.spaces().await.unwrap();
        spaces.iter().map(|space| space.to_string()).collect()
    }

    async fn find(&self, retriever: &Retriever, tenant: &str, text: &str) -> Found {
        let question = Question {
            collections: vec!["handbook".parse().unwrap()],
            reader: Reader::Caller {
                user: None,
                roles: BTreeSet::new(),
            },
            filter: Vec::new(),
            texts: vec![text.to_owned()],
            limit: 3,
        };
        let found = retriever.find(&scope(tenant), &question).await.unwrap();
        assert!(found.chunks[0].0.draft.text.contains(text), "{found:?}");
        found
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
async fn texts_are_embedded_for_their_tenant_only() {
    let mut world = World::new();
    let provider = Provider::new("p");
    for tenant in ["a", "b"] {
        world.store(tenant, "1", &handbook(&["refund", tenant])).await;
    }
    let engine = provider.engine("p");
    let ingestion = world.start(&engine).await;
    for tenant in ["a", "b"] {
        world.is_searchable(tenant, "1").await;
    }
    let retriever = Retriever::new(Arc::clone(&world.index) as _, Some(engine));
    assert!(world.find(&retriever, "a", "refund").await.is_semantic);
    let asked = provider.asked.lock().clone();
    for (scope, request) in &asked {
        let tenant = scope.as_ref().unwrap().tenant();
        let foreign = if tenant.as_str() == "a" {
            "The b rule"
        } else {
            "The a rule"
        };
        assert!(request.texts.iter().all(|text| !text.contains(foreign)), "{tenant}");
    }
    assert_eq!(
        (provider.asked("a", Purpose::Query), provider.asked("b", Purpose::Query)),
        (1, 0)
    );
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_denied_tenant_holds_up_nobody_and_keeps_what_the_model_before_made() {
    let mut world = World::new();
    let old = Provider::new("old");
    for tenant in ["a", "b"] {
        world.store(tenant, "1", &handbook(&["refund", "warranty"])).await;
    }
    let ingestion = world.start(&old.engine("old")).await;
    for tenant in ["a", "b"] {
        world.is_searchable(tenant, "1").await;
    }
    ingestion.stop_and_wait(None, None).await.unwrap();

    let new = Provider::new("new");
    new.denied.lock().insert(scope("a"));
    let ingestion = world.start(&new.engine("new")).await;
    world.until(async || world.missing("b", "new").await == 0).await;
    world.store("a", "2", &handbook(&["parking"])).await;
    ingestion.cast(Msg::Wake).unwrap();
    world.is_searchable("a", "2").await;
    assert!(world.missing("a", "new").await > 1);
    assert_eq!(world.spaces().await, ["new", "old"]);
    let retriever = Retriever::new(Arc::clone(&world.index) as _, Some(new.engine("new")));
    let retriever = retriever.replacing(old.engine("old"));
    let found = world.find(&retriever, "a", "warranty").await;
    assert!(found.is_semantic, "by the vectors of the model before");
    world.find(&retriever, "a", "parking").await;
    let questions = old.asked("b", Purpose::Query);
    assert!(world.find(&retriever, "b", "warranty").await.is_semantic);
    assert_eq!(
        old.asked("b", Purpose::Query),
        questions,
        "the new model is asked alone"
    );
    // It is asked again at growing intervals, at most once a minute.
    let asked = new.asked("a", Purpose::Passage);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let again = new.asked("a", Purpose::Passage) - asked;
    assert!((8..=24).contains(&again), "{again}");
    // Allowed at last: all is embedded, and the old vectors go.
    new.denied.lock().clear();
    world.until(async || world.spaces().await == ["new"]).await;
    assert_eq!(world.missing("a", "new").await, 0);
    assert!(world.find(&retriever, "a", "parking").await.is_semantic);
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_switch_back_midway_loses_nothing() {
    let mut world = World::new();
    let (old, new) = (Provider::new("old"), Provider::new("new"));
    let sections = ["refund", "warranty", "shipping", "parking"];
    world.store("a", "1", &handbook(&sections)).await;
    let ingestion = world.start(&old.engine("old")).await;
    world.is_searchable("a", "1").await;
    ingestion.stop_and_wait(None, None).await.unwrap();
    let all = world.missing("a", "new").await;

    // The new model embeds two chunks, then hangs; the process is killed.
    *new.answers.lock() = 1;
    let ingestion = world.start(&new.engine("new")).await;
    world.until(async || world.missing("a", "new").await < all).await;
    ingestion.kill_and_wait(None).await.unwrap();
    // A document that the new model alone has embedded.
    *new.answers.lock() = 1;
    world.store("a", "2", &handbook(&["canteen"])).await;
    let ingestion = world.start(&new.engine("new")).await;
    world.is_searchable("a", "2").await;
    ingestion.kill_and_wait(None).await.unwrap();

    let asked = old.asked("a", Purpose::Passage);
    let ingestion = world.start(&old.engine("old")).await;
    world.until(async || world.spaces().await == ["old"]).await;
    assert_eq!(world.missing("a", "old").await, 0);
    let again = old.asked("a", Purpose::Passage) - asked;
    assert!(
        again <= 1,
        "only what the new model alone had embedded is embedded again: {again}"
    );
    let retriever = Retriever::new(Arc::clone(&world.index) as _, Some(old.engine("old")));
    for section in sections.iter().chain(&["canteen"]) {
        assert!(world.find(&retriever, "a", section).await.is_semantic);
    }
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_model_refuses_is_found_by_words_and_holds_up_no_other() {
    let mut world = World::new();
    world
        .store("a", "1", &handbook(&["refund", "forbidden", "warranty", "shipping"]))
        .await;
    let provider = Provider::new("p");
    let ingestion = world.start(&provider.engine("p")).await;
    world.is_searchable("a", "1").await;
    let refused = {
        let chunks = world
            .index
            .chunks(&scope("a"), &key("1"), 0, 99)
            .await
            .unwrap()
            .unwrap();
        let texts = chunks.iter().map(|chunk| chunk.draft.context_text(None));
        texts.filter(|text| text.contains("forbidden")).count() as u64
    };
    world.until(async || world.missing("a", "p").await == refused).await;
    let asked = provider.asked("a", Purpose::Passage);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        provider.asked("a", Purpose::Passage),
        asked,
        "it is not asked again and again"
    );
    let retriever = Retriever::new(Arc::clone(&world.index) as _, Some(provider.engine("p")));
    assert!(world.find(&retriever, "a", "refund").await.is_semantic);
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_version_does_not_wait_for_a_model_that_has_failed() {
    let mut world = World::new();
    let provider = Provider::new("p");
    for _ in 0..200 {
        provider
            .model
            .script(Script::Fail(EmbedError::Failed("down".to_owned())));
    }
    let sections: Vec<String> = (0..40).map(|n| format!("section{n}")).collect();
    let sections: Vec<&str> = sections.iter().map(String::as_str).collect();
    world.store("a", "1", &handbook(&sections)).await;
    let ingestion = world.start(&provider.engine("p")).await;
    world.is_searchable("a", "1").await;
    // Five attempts of the first of twenty batches; the backfill may have begun.
    let asked = provider.asked("a", Purpose::Passage);
    assert!((5..=10).contains(&asked), "{asked}");
    world.until(async || world.missing("a", "p").await == 0).await;
    ingestion.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn vectors_of_another_space_are_refused() {
    let engine = Provider::new("p").engine("q");
    let embedded = engine
        .embed(&scope("a"), EmbedRequest::to_compare(vec!["a".to_owned()]))
        .await;
    assert!(matches!(embedded, Err(EmbedError::Failed(_))), "{embedded:?}");
}
