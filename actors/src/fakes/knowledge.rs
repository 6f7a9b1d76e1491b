//! Documents in memory, and the contract of the port.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::context_record::RetrievalStep;
use crate::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, TenantId, UserId};
use crate::ports::{Knowledge, KnowledgeError, KnowledgeQuery, Retrieved, RetrievedChunk};
use crate::tenancy::TenantScope;

/// Documents of one chunk each, found by the number of words that they share with the query. Clones share everything.
#[derive(Debug, Clone)]
pub struct FakeKnowledge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    documents: Mutex<HashMap<TenantId, Vec<FakeDocument>>>,
    scripts: Mutex<VecDeque<Script>>,
    queries: Mutex<Vec<KnowledgeQuery>>,
    cited: Mutex<BTreeSet<(TenantId, ChunkId)>>,
    begun: watch::Sender<usize>,
}

/// A document of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeDocument {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id in the tenant's system.
    pub external_id: ExternalId,
    /// Its title.
    pub title: String,
    /// Its text.
    pub text: String,
    /// Who may read it; everybody if there is no list.
    pub access: Option<FakeAccess>,
}

/// Who may read a document: one of the users, or whoever has one of the roles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeAccess {
    /// Users.
    pub users: BTreeSet<UserId>,
    /// Roles.
    pub roles: BTreeSet<String>,
}

/// What one call does instead of its work.
#[derive(Debug, Clone)]
pub enum Script {
    /// It fails.
    Fail(KnowledgeError),
    /// It never ends by itself.
    Hang,
    /// It panics.
    Panic,
}

impl Default for FakeKnowledge {
    fn default() -> Self {
        Self(Arc::new(Inner {
            documents: Mutex::default(),
            scripts: Mutex::default(),
            queries: Mutex::default(),
            cited: Mutex::default(),
            begun: watch::Sender::new(0),
        }))
    }
}

impl FakeDocument {
    /// Returns the id of its document.
    pub fn document(&self, tenant: &TenantId) -> DocumentId {
        DocumentId::derived(tenant, &self.collection, &self.external_id)
    }

    /// Returns the id of its chunk.
    pub fn chunk(&self, tenant: &TenantId) -> ChunkId {
        ChunkId::derived(self.document(tenant), "", &self.text, 0)
    }

    fn may_be_read_by(&self, query: &KnowledgeQuery) -> bool {
        let (Some(access), Some(user)) = (&self.access, &query.user) else {
            return self.access.is_none();
        };
        access.users.contains(user) || !access.roles.is_disjoint(&query.roles)
    }

    /// Returns the number of words that it shares with one of the texts, the most similar one.
    fn shared_words(&self, texts: &[String]) -> usize {
        let own = words(&format!("{} {}", self.title, self.text));
        let shared = texts.iter().map(|text| words(text).intersection(&own).count());
        shared.max().unwrap_or(0)
    }
}

fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

impl FakeKnowledge {
    /// Stores a document, in place of one with the same key. Returns the id of its chunk.
    pub fn put(&self, tenant: &TenantId, document: FakeDocument) -> ChunkId {
        let chunk = document.chunk(tenant);
        let mut documents = self.0.documents.lock();
        let stored = documents.entry(tenant.clone()).or_default();
        stored.retain(|known| known.document(tenant) != document.document(tenant));
        stored.push(document);
        chunk
    }

    /// Uses `script` for the next call that has none yet.
    pub fn script(&self, script: Script) {
        self.0.scripts.lock().push_back(script);
    }

    /// Returns all queries, in order.
    pub fn queries(&self) -> Vec<KnowledgeQuery> {
        self.0.queries.lock().clone()
    }

    /// Returns the cited chunks of a tenant.
    pub fn cited(&self, tenant: &TenantId) -> BTreeSet<ChunkId> {
        let cited = self.0.cited.lock();
        let of_tenant = cited.iter().filter(|(owner, _)| owner == tenant);
        of_tenant.map(|(_, chunk)| *chunk).collect()
    }

    /// Waits until `count` calls were started.
    pub async fn wait_for(&self, count: usize) {
        // The sender lives in `self`.
        let _ = self.0.begun.subscribe().wait_for(|begun| *begun >= count).await;
    }

    async fn begin(&self) -> Result<(), KnowledgeError> {
        self.0.begun.send_modify(|begun| *begun += 1);
        let script = self.0.scripts.lock().pop_front();
        match script {
            Some(Script::Fail(error)) => Err(error),
            Some(Script::Hang) => std::future::pending().await,
            Some(Script::Panic) => panic!("the test wants the knowledge to panic"),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Knowledge for FakeKnowledge {
    async fn retrieve(&self, scope: &TenantScope, query: &KnowledgeQuery) -> Result<Retrieved, KnowledgeError> {
        self.0.queries.lock().push(query.clone());
        self.begin().await?;
        let documents = self.0.documents.lock();
        let documents = documents.get(scope.tenant()).map_or(&[][..], Vec::as_slice);
        let readable = documents
            .iter()
            .filter(|document| query.collections.contains(&document.collection) && document.may_be_read_by(query));
        let mut found: Vec<(usize, &FakeDocument)> = readable
            .map(|document| (document.shared_words(&query.texts), document))
            .filter(|(shared, _)| *shared > 0)
            .collect();
        found.sort_by_key(|(shared, document)| (std::cmp::Reverse(*shared), document.chunk(scope.tenant())));
        found.truncate(query.limit);
        let chunk = |(shared, document): (usize, &FakeDocument)| RetrievedChunk {
            chunk: document.chunk(scope.tenant()),
            document: document.document(scope.tenant()),
            external_id: document.external_id.clone(),
            collection: document.collection.clone(),
            title: Some(document.title.clone()),
            uri: None,
            heading: String::new(),
            text: document.text.clone(),
            page: None,
            score: f64::from(u32::try_from(shared).unwrap_or(u32::MAX)),
        };
        Ok(Retrieved {
            chunks: found.into_iter().map(chunk).collect(),
            is_semantic: false,
            steps: vec![(RetrievalStep::Search, Duration::from_millis(1))],
        })
    }

    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), KnowledgeError> {
        self.begin().await?;
        let documents = self.0.documents.lock();
        let documents = documents.get(scope.tenant()).map_or(&[][..], Vec::as_slice);
        let known: BTreeSet<ChunkId> = documents
            .iter()
            .map(|document| document.chunk(scope.tenant()))
            .collect();
        let cited = chunks.iter().filter(|chunk| known.contains(chunk));
        self.0
            .cited
            .lock()
            .extend(cited.map(|chunk| (scope.tenant().clone(), *chunk)));
        Ok(())
    }
}

/// Returns the documents that [`contract`] expects to be stored for its tenant, and to be searchable. Each is short
/// enough to be one chunk.
///
/// # Panics
/// Never: the names are valid.
pub fn contract_documents() -> Vec<FakeDocument> {
    let name = |name: &str| name.parse::<CollectionName>().expect("the name of a collection");
    let document = |collection: &str, external_id: &str, text: &str, access: Option<FakeAccess>| FakeDocument {
        collection: name(collection),
        external_id: external_id.parse().expect("an external id"),
        title: external_id.to_owned(),
        text: text.to_owned(),
        access,
    };
    let for_role = FakeAccess {
        roles: BTreeSet::from(["finance".to_owned()]),
        ..FakeAccess::default()
    };
    let for_user = FakeAccess {
        users: BTreeSet::from(["ada".parse().expect("a user")]),
        ..FakeAccess::default()
    };
    vec![
        document(
            "handbook",
            "vacation",
            "Employees of the harbour office have thirty days of vacation a year.",
            None,
        ),
        document(
            "handbook",
            "parking",
            "Visitors of the harbour office may use the parking deck until nine.",
            None,
        ),
        document(
            "handbook",
            "budget",
            "The harbour office has a vacation budget of nine million crowns.",
            Some(for_role),
        ),
        document(
            "handbook",
            "letter",
            "A vacation letter of the harbour office that Ada alone may read.",
            Some(for_user),
        ),
        document(
            "secrets",
            "vault",
            "The vacation vault of the harbour office opens at dawn.",
            None,
        ),
    ]
}

/// Checks that an implementation keeps the port's contract. [`contract_documents`] are stored for the tenant of `scope`,
/// and nothing else; `other` is a tenant without documents.
///
/// # Panics
/// If it does not.
pub async fn contract(knowledge: &dyn Knowledge, scope: &TenantScope, other: &TenantScope) {
    let name = |name: &str| name.parse::<CollectionName>().expect("the name of a collection");
    let query = |user: Option<&str>, roles: &[&str]| KnowledgeQuery {
        collections: vec![name("handbook")],
        user: user.map(|user| user.parse().expect("a user")),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        texts: vec!["How many days of vacation has the harbour office?".to_owned()],
        limit: 10,
    };
    let retrieve = async |scope: &TenantScope, query: &KnowledgeQuery| {
        let retrieved = knowledge.retrieve(scope, query).await;
        retrieved.expect("the documents can be searched")
    };
    let ids = |retrieved: &Retrieved| -> BTreeSet<String> {
        let chunks = retrieved.chunks.iter();
        chunks.map(|chunk| chunk.external_id.as_str().to_owned()).collect()
    };
    let set = |ids: &[&str]| -> BTreeSet<String> { ids.iter().map(|id| (*id).to_owned()).collect() };

    // Best first, each once, with what was stored.
    let bob = query(Some("bob"), &[]);
    let found = retrieve(scope, &bob).await;
    assert_eq!(ids(&found), set(&["vacation", "parking"]));
    assert_eq!(found.chunks.len(), 2, "each chunk once");
    assert_eq!(found.chunks[0].external_id.as_str(), "vacation");
    assert!(
        found.chunks.is_sorted_by(|one, next| one.score >= next.score),
        "{found:?}"
    );
    let stored = contract_documents();
    for chunk in &found.chunks {
        assert!(chunk.score.is_finite());
        let of_id = |document: &&FakeDocument| document.external_id == chunk.external_id;
        let document = stored.iter().find(of_id).expect("a stored document");
        assert_eq!(document.text, chunk.text, "exactly the bytes of the document");
        assert_eq!(document.document(scope.tenant()), chunk.document);
        assert_eq!(
            (&document.collection, Some(&document.title)),
            (&chunk.collection, chunk.title.as_ref())
        );
    }
    let again = retrieve(scope, &bob).await;
    assert_eq!(again.chunks, found.chunks, "the same query, the same answer");

    // Access is part of the search: what may not be read takes no place.
    let all = ["vacation", "parking", "budget"];
    assert_eq!(
        ids(&retrieve(scope, &query(Some("bob"), &["finance"])).await),
        set(&all)
    );
    let all = ["vacation", "parking", "letter"];
    assert_eq!(ids(&retrieve(scope, &query(Some("ada"), &["sales"])).await), set(&all));
    let nobody = query(None, &["finance"]);
    assert_eq!(ids(&retrieve(scope, &nobody).await), set(&["vacation", "parking"]));
    let two = KnowledgeQuery {
        limit: 2,
        ..bob.clone()
    };
    assert_eq!(retrieve(scope, &two).await.chunks, found.chunks);
    let one = KnowledgeQuery {
        limit: 1,
        ..bob.clone()
    };
    assert_eq!(retrieve(scope, &one).await.chunks, found.chunks[..1]);

    // Only the named collections, and only those of the tenant.
    let nothing = KnowledgeQuery {
        collections: Vec::new(),
        ..bob.clone()
    };
    assert!(retrieve(scope, &nothing).await.chunks.is_empty());
    let secrets = KnowledgeQuery {
        collections: vec![name("secrets"), name("unknown")],
        ..bob.clone()
    };
    assert_eq!(ids(&retrieve(scope, &secrets).await), set(&["vault"]));
    assert!(retrieve(other, &bob).await.chunks.is_empty());

    // Without a word there is nothing to find.
    for texts in [Vec::new(), vec![String::new()], vec![" ?! \n".to_owned()]] {
        let blank = KnowledgeQuery { texts, ..bob.clone() };
        assert!(retrieve(scope, &blank).await.chunks.is_empty());
    }

    // Several wordings: what any of them finds counts.
    let wordings = KnowledgeQuery {
        texts: vec!["vacation days".to_owned(), "parking deck visitors".to_owned()],
        ..bob.clone()
    };
    assert_eq!(ids(&retrieve(scope, &wordings).await), set(&["vacation", "parking"]));

    // A citation can be repeated; what is gone or belongs to another tenant is skipped.
    let chunks: Vec<ChunkId> = found.chunks.iter().map(|chunk| chunk.chunk).collect();
    for _ in 0..2 {
        assert_eq!(knowledge.cite(scope, &chunks).await, Ok(()));
    }
    assert_eq!(knowledge.cite(scope, &[]).await, Ok(()));
    assert_eq!(knowledge.cite(other, &chunks).await, Ok(()));
    assert_eq!(knowledge.cite(scope, &[ChunkId::new(uuid::Uuid::nil())]).await, Ok(()));

    // A dropped search leaves nothing behind.
    {
        let mut dropped = std::pin::pin!(knowledge.retrieve(scope, &bob));
        let _ = futures::poll!(&mut dropped);
    }
    assert_eq!(retrieve(scope, &bob).await.chunks, found.chunks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        #[expect(clippy::disallowed_methods, reason = "tests open scopes")]
        let scope = |tenant: &str| TenantScope::from_verified(tenant.parse().unwrap());
        let (acme, globex) = (scope("acme"), scope("globex"));
        let knowledge = FakeKnowledge::default();
        for document in contract_documents() {
            knowledge.put(acme.tenant(), document);
        }
        contract(&knowledge, &acme, &globex).await;
        let cited = knowledge.cited(acme.tenant());
        assert_eq!((cited.len(), knowledge.cited(globex.tenant()).len()), (2, 0));
    }
}
