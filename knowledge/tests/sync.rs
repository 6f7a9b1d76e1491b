//! Sources with a scripted feed and an index in memory, on paused time.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::ports::{Clock, Ids};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::Estimate;
use copilotd_knowledge::document::{Access, AttributeChanges, Document, DocumentKey, Format};
use copilotd_knowledge::extract::{Extractor, Limits, NoPdf};
use copilotd_knowledge::fakes::index::MemoryIndex;
use copilotd_knowledge::index::{KnowledgeIndex, Quota, Submission};
use copilotd_knowledge::ingest::{self, Ingestion, Parts};
use copilotd_knowledge::library::{Content, Library};
use copilotd_knowledge::retrieve::Retriever;
use copilotd_knowledge::sync::{
    Activity, Bounds, Documents, Feed, FeedError, Item, Msg, Page, SOURCE, SourceBook, SourceDocument, SourceStatus,
    Sources, Spec, Stream,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use ractor::{Actor, ActorRef};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

#[derive(Debug, Default)]
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

impl Ids for Fixed {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(self.0.fetch_add(1, Ordering::Relaxed).into())
    }

    fn nonce(&self) -> String {
        self.uuid().to_string()
    }
}

/// What the other system does at a call of `changes`.
enum Say {
    /// Items, each an id, a text and the roles that may read it (none for everybody); then the next position.
    Page(Vec<(u64, String, Option<&'static str>)>, &'static str),
    Fail(FeedError),
    Panic,
    /// Nothing more.
    End,
}

/// A system that says what it is told to, and then that nothing has changed.
struct Scripted {
    streams: Vec<Stream>,
    says: Mutex<VecDeque<Say>>,
    /// Positions that were asked for, and when.
    asked: Mutex<Vec<(Option<String>, Instant)>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

impl Scripted {
    fn new(says: impl IntoIterator<Item = Say>) -> Arc<Self> {
        Self::at(&[("articles", "help", "acme")], says)
    }

    /// With streams: their names, collections and accounts.
    fn at(streams: &[(&'static str, &str, &str)], says: impl IntoIterator<Item = Say>) -> Arc<Self> {
        let stream = |(name, collection, account): &(&'static str, &str, &str)| Stream {
            name,
            account: (*account).to_owned(),
            collection: collection.parse().unwrap(),
            roles: None,
            settings: format!("{collection} {account}"),
            deletes_silently: false,
            lists_whole_items: false,
        };
        Arc::new(Self {
            streams: streams.iter().map(stream).collect(),
            says: Mutex::new(says.into_iter().collect()),
            asked: Mutex::default(),
        })
    }

    fn positions(&self) -> Vec<Option<String>> {
        self.asked.lock().iter().map(|(position, _)| position.clone()).collect()
    }
}

#[async_trait]
impl Feed for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn streams(&self) -> &[Stream] {
        &self.streams
    }

    async fn changes(&self, _: &TenantId, _: &Stream, after: Option<&str>) -> Result<Page, FeedError> {
        self.asked.lock().push((after.map(str::to_owned), Instant::now()));
        let said = self.says.lock().pop_front();
        match said {
            None | Some(Say::End) => Ok(Page {
                items: Vec::new(),
                unreadable: Vec::new(),
                next: None,
                is_last: true,
            }),
            Some(Say::Fail(error)) => Err(error),
            Some(Say::Panic) => panic!("on purpose"),
            Some(Say::Page(items, next)) => {
                let item = |(id, text, roles)| Item {
                    id: format!("article-{id}"),
                    data: json!({ "text": text, "roles": roles }),
                };
                Ok(Page {
                    items: items.into_iter().map(item).collect(),
                    unreadable: Vec::new(),
                    next: Some(next.to_owned()),
                    is_last: false,
                })
            }
        }
    }

    async fn list(&self, _: &TenantId, _: &Stream, _: Option<&str>) -> Result<Page, FeedError> {
        Err(FeedError::Refused("not asked for".to_owned()))
    }

    async fn item(&self, _: &TenantId, _: &Stream, _: &str) -> Result<Option<Item>, FeedError> {
        Ok(None)
    }

    async fn documents(&self, _: &TenantId, _: &Stream, item: &Item) -> Result<Documents, FeedError> {
        let text = item.data["text"].as_str().unwrap();
        let roles = item.data["roles"]
            .as_str()
            .map(|role| BTreeSet::from([role.to_owned()]));
        let document = SourceDocument {
            external_id: item.id.parse().unwrap(),
            content: Content {
                format: Format::Text,
                bytes: text.into(),
            },
            title: Some("T".repeat(1_000)),
            uri: Some("javascript:alert(1)".to_owned()),
            metadata: BTreeMap::from([("long".to_owned(), Value::from("x".repeat(1_000)))]),
            roles,
        };
        Ok(Documents {
            documents: if text.is_empty() { Vec::new() } else { vec![document] },
            left_out: None,
        })
    }
}

struct World {
    index: Arc<MemoryIndex>,
    book: SourceBook,
    supervisor: ActorRef<Msg>,
}

#[expect(clippy::disallowed_methods, reason = "tests open scopes")]
fn scope() -> TenantScope {
    TenantScope::from_verified("acme".parse().unwrap())
}

impl World {
    async fn start(quota: Quota) -> Self {
        let index = Arc::new(MemoryIndex::new());
        let parts = Parts {
            index: Arc::clone(&index) as _,
            extractor: Extractor::new(Arc::new(NoPdf), Limits::default()),
            tokens: Arc::new(Estimate),
            engine: None,
            quota: Arc::new(move |_| quota),
            clock: Arc::new(Fixed::default()),
            bounds: ingest::Bounds::default(),
        };
        let (ingestion, _) = Actor::spawn(None, Ingestion(Arc::new(parts)), ()).await.unwrap();
        let library = Library {
            index: Arc::clone(&index) as _,
            retriever: Arc::new(Retriever::new(Arc::clone(&index) as _, None)),
            ingestion,
            quota: Arc::new(move |_| quota),
            models: None,
            clock: Arc::new(Fixed::default()),
            ids: Arc::new(Fixed::default()),
            max_bytes: 100,
        };
        let book = SourceBook::default();
        let sources = Sources {
            library: Arc::new(library),
            book: book.clone(),
            bounds: Bounds {
                waiting: 2,
                ..Bounds::default()
            },
        };
        let (supervisor, _) = Actor::spawn(None, sources, ()).await.unwrap();
        Self {
            index,
            book,
            supervisor,
        }
    }

    fn run(&self, feed: &Arc<Scripted>) {
        self.run_as(feed, 0);
    }

    /// Applies a configuration with this number.
    fn run_as(&self, feed: &Arc<Scripted>, number: u8) {
        let spec = Spec {
            scope: scope(),
            name: "help".to_owned(),
            interval: Duration::from_secs(300),
            feed: Arc::clone(feed) as _,
            fingerprint: [number; 32],
        };
        self.supervisor.cast(Msg::Apply(vec![spec])).unwrap();
    }

    /// Waits until a run has ended in this way.
    async fn until(&self, activity: Activity) -> SourceStatus {
        loop {
            // Paused time: this only lets the others run.
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Some((_, status)) = self.book.of(scope().tenant()).pop()
                && status.activity == activity
                && (status.last_run_at.is_some() || activity == Activity::Failed)
            {
                return status;
            }
        }
    }

    async fn documents(&self) -> Vec<Document> {
        self.documents_in("help").await
    }

    async fn documents_in(&self, collection: &str) -> Vec<Document> {
        let collection = collection.parse().unwrap();
        self.index.documents(&scope(), &collection, None, 1_000).await.unwrap()
    }

    async fn ids_in(&self, collection: &str) -> Vec<String> {
        let documents = self.documents_in(collection).await.into_iter();
        documents.map(|document| document.key.external_id.to_string()).collect()
    }

    /// Stores a document in the collection `help`, as the source does if it is named.
    async fn submit(&self, id: &str, source: Option<&str>) {
        let metadata = source.map(|name| BTreeMap::from([(SOURCE.to_owned(), Value::from(name))]));
        let submission = Submission {
            key: DocumentKey {
                collection: "help".parse().unwrap(),
                external_id: id.parse().unwrap(),
            },
            format: Format::Text,
            content: b"Some text.".to_vec(),
            content_hash: [0; 32],
            changes: AttributeChanges {
                metadata,
                ..AttributeChanges::default()
            },
            job: JobId::new(Uuid::from_u128(u128::MAX)),
            at: Fixed::default().now(),
        };
        self.index.submit(&scope(), submission, &AMPLE).await.unwrap();
    }

    /// Waits until the feed has been asked for all that it says.
    async fn until_said(&self, feed: &Scripted) -> SourceStatus {
        loop {
            let status = self.until(Activity::UpToDate).await;
            if feed.says.lock().is_empty() {
                return status;
            }
        }
    }
}

const AMPLE: Quota = Quota {
    documents: 1_000,
    bytes: 1 << 30,
    chunks: 10_000,
};

fn items(ids: impl IntoIterator<Item = u64>) -> Vec<(u64, String, Option<&'static str>)> {
    ids.into_iter().map(|id| (id, format!("Text {id}."), None)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_busy_system_is_asked_again_when_it_wants_to_be() {
    let world = World::start(AMPLE).await;
    let feed = Scripted::new([
        Say::Fail(FeedError::Busy(Some(Duration::from_secs(90)))),
        // Longer than anybody asks for in good faith.
        Say::Fail(FeedError::Busy(Some(Duration::from_secs(90_000)))),
        Say::Fail(FeedError::Failed("the connection broke".to_owned())),
        Say::Page(items([1]), "a"),
    ]);
    world.run(&feed);
    let status = world.until(Activity::UpToDate).await;
    assert_eq!((status.documents, status.last_error), (1, None));
    let asked = feed.asked.lock();
    let waits = asked.windows(2).map(|two| (two[1].1 - two[0].1).as_secs());
    let waits: Vec<u64> = waits.collect();
    assert_eq!(waits, [90, 300, 8, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_position_is_stored_after_its_page_and_used_after_an_end() {
    let world = World::start(AMPLE).await;
    // More documents than may wait: their ingestion is waited for.
    let feed = Scripted::new([
        Say::Page(items(1..=5), "a"),
        Say::Page(items([6]), "b"),
        Say::Fail(FeedError::Refused("forbidden".to_owned())),
    ]);
    world.run(&feed);
    let status = world.until(Activity::Failed).await;
    assert_eq!(status.last_error.as_deref(), Some("articles: forbidden"));
    assert_eq!(status.documents, 6);
    let stored = world.index.source_position(&scope(), "help/articles").await.unwrap();
    assert!(stored.unwrap().contains("\"after\":\"b\""));
    world.until(Activity::UpToDate).await;
    let at = |text: &str| Some(text.to_owned());
    assert_eq!(feed.positions(), [None, at("a"), at("b"), at("b")]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_dies_is_started_again() {
    let world = World::start(AMPLE).await;
    let feed = Scripted::new([
        Say::Page(items([1]), "a"),
        Say::Panic,
        Say::Panic,
        Say::Page(items([2]), "b"),
    ]);
    world.run(&feed);
    let status = world.until(Activity::UpToDate).await;
    assert_eq!(status.documents, 2, "counted again");
    let asked = feed.asked.lock();
    let waits: Vec<u64> = asked.windows(2).map(|two| (two[1].1 - two[0].1).as_secs()).collect();
    assert_eq!(waits, [0, 5, 10, 0]);
}

#[tokio::test(start_paused = true)]
async fn readers_change_even_if_the_content_cannot_be_stored() {
    let quota = Quota { bytes: 20, ..AMPLE };
    let world = World::start(quota).await;
    let text = |text: &str, role| vec![(1, text.to_owned(), role)];
    let feed = Scripted::new([
        Say::Page(text("Short.", None), "a"),
        // More than the quota, and then more than any document may have.
        Say::Page(text("Now restricted, and long.", Some("agents")), "b"),
    ]);
    world.run(&feed);
    let status = world.until(Activity::UpToDate).await;
    assert_eq!((status.documents, status.skipped), (1, 1));
    let restricted = |role: &str| Access::Listed {
        users: BTreeSet::new(),
        roles: BTreeSet::from([role.to_owned()]),
    };
    let document = world.documents().await.remove(0);
    assert_eq!(
        (document.version, document.attributes.access),
        (1, restricted("agents"))
    );
    feed.says
        .lock()
        .push_back(Say::Page(text(&"x".repeat(200), Some("leads")), "c"));
    tokio::time::sleep(Duration::from_secs(301)).await;
    world.until(Activity::UpToDate).await;
    let document = world.documents().await.remove(0);
    assert_eq!(
        (document.version, document.attributes.access.clone()),
        (1, restricted("leads"))
    );
    // The bounds of the API hold here too.
    let attributes = document.attributes;
    assert_eq!(attributes.title.unwrap().len(), 512);
    assert_eq!(attributes.uri, None);
    assert_eq!(attributes.metadata["long"].as_str().unwrap().len(), 512);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_documents_any_more_leaves() {
    let world = World::start(AMPLE).await;
    let gone = vec![(1, String::new(), None)];
    let feed = Scripted::new([Say::Page(items([1, 10]), "a"), Say::Page(gone, "b")]);
    world.run(&feed);
    assert_eq!(world.until(Activity::UpToDate).await.documents, 1);
    let left = world.documents().await;
    assert_eq!(left[0].key.external_id.as_str(), "article-10");
    assert_eq!(left.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn documents_leave_the_collection_or_account_that_they_were_read_into_and_from() {
    let world = World::start(AMPLE).await;
    let steps = [
        (
            ("articles", "help", "acme"),
            items([1, 2]),
            vec!["article-1", "article-2", "article-9"],
            vec![],
        ),
        // What somebody else stored stays.
        (
            ("articles", "faq", "acme"),
            items([1, 2]),
            vec!["article-9"],
            vec!["article-1", "article-2"],
        ),
        (
            ("articles", "faq", "globex"),
            items([2, 3]),
            vec!["article-9"],
            vec!["article-2", "article-3"],
        ),
        (
            ("articles", "help", "globex"),
            items([3]),
            vec!["article-3", "article-9"],
            vec![],
        ),
    ];
    world.submit("article-9", None).await;
    for (number, (stream, page, help, faq)) in (0..).zip(steps) {
        let feed = Scripted::at(&[stream], [Say::Page(page, "a"), Say::End]);
        world.run_as(&feed, number);
        let status = world.until_said(&feed).await;
        assert_eq!(
            (world.ids_in("help").await, world.ids_in("faq").await),
            (owned(&help), owned(&faq)),
            "{stream:?}"
        );
        let own = help.len() + faq.len() - 1;
        assert_eq!(usize::try_from(status.documents), Ok(own), "{stream:?}");
        assert_eq!(feed.positions()[0], None, "everything is read again");
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn streams_may_swap_their_collections() {
    let world = World::start(AMPLE).await;
    for (number, collections) in (0..).zip([["help", "tickets"], ["tickets", "help"], ["help", "tickets"]]) {
        let streams = [
            ("articles", collections[0], "acme"),
            ("tickets", collections[1], "acme"),
        ];
        let says = [
            Say::Page(items([1]), "a"),
            Say::End,
            Say::Page(items([2]), "b"),
            Say::End,
        ];
        let feed = Scripted::at(&streams, says);
        world.run_as(&feed, number);
        world.until_said(&feed).await;
        assert_eq!(world.ids_in(collections[0]).await, ["article-1"]);
        assert_eq!(world.ids_in(collections[1]).await, ["article-2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_when_the_collection_changed_leaves_the_old_one_too() {
    let world = World::start(AMPLE).await;
    let feed = Scripted::new([Say::Page(items([1]), "a"), Say::End]);
    world.run_as(&feed, 0);
    world.until_said(&feed).await;
    let busy = Say::Fail(FeedError::Busy(Some(Duration::from_secs(60))));
    let feed = Scripted::at(
        &[("articles", "faq", "acme")],
        [busy, Say::Page(items([1]), "a"), Say::End],
    );
    world.run_as(&feed, 1);
    while feed.positions().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        world.ids_in("help").await,
        Vec::<String>::new(),
        "before anything was read"
    );
    // The index had taken it from the run before.
    world.submit("article-2", Some("help")).await;
    world.until_said(&feed).await;
    assert_eq!(world.ids_in("help").await, Vec::<String>::new());
    assert_eq!(world.ids_in("faq").await, ["article-1"]);
}
