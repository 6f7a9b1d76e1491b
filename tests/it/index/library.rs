//! Documents for the tests, and a worker that ingests them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, JobId, UserId};
use copilotd_actors::ports::{Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::ChunkDraft;
use copilotd_knowledge::document::{Access, AttributeChanges, Attributes, Document, DocumentKey, Format, Reader};
use copilotd_knowledge::index::{
    Candidates, ChunkPlace, Hit, KnowledgeIndex, NewChunk, Published, Quota, Search, Submission, Submitted,
};
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

pub const AMPLE: Quota = Quota {
    documents: 1_000,
    bytes: 10_000_000,
    chunks: 100_000,
};

/// A moment, in seconds since the tests' own beginning.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub fn collection(name: &str) -> CollectionName {
    name.parse().unwrap()
}

pub fn key(external_id: &str) -> DocumentKey {
    DocumentKey {
        collection: collection("handbook"),
        external_id: external_id.parse().unwrap(),
    }
}

pub fn job(n: u128) -> JobId {
    JobId::new(Uuid::from_u128(n))
}

pub fn space(name: &str) -> Space {
    Arc::from(name)
}

/// Numbers that depend on each word of a text: a model that knows no meaning but is deterministic.
pub fn embed(space: &Space, text: &str) -> Vector {
    let mut numbers = vec![0.01_f32; 12];
    for word in text.split_whitespace() {
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{space}{word}").as_bytes());
        for (number, byte) in numbers.iter_mut().zip(hash.as_bytes()) {
            *number += f32::from(*byte) - 127.5;
        }
    }
    Vector::unit(space, numbers).unwrap()
}

/// Words with their counts: what the index gets as terms.
pub fn terms(text: &str) -> Vec<(String, u32)> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// Cuts a text at empty lines; a line that begins with `#` is the heading of what follows it.
pub fn cut(text: &str) -> Vec<ChunkDraft> {
    let mut drafts = Vec::new();
    let (mut offset, mut heading) = (0, String::new());
    for part in text.split("\n\n") {
        match part.strip_prefix("# ") {
            Some(title) => heading = title.to_owned(),
            None => drafts.push(ChunkDraft {
                text: part.to_owned(),
                heading: heading.clone(),
                page: (drafts.len() % 2 == 1).then_some(7),
                start: offset,
                end: offset + part.len() as u64,
            }),
        }
        offset += part.len() as u64 + 2;
    }
    drafts
}

/// Gives drafts their ids, terms and places.
pub fn chunks(document: DocumentId, text: &str) -> Vec<(NewChunk, ChunkPlace)> {
    let mut repetitions: HashMap<(String, String), u32> = HashMap::new();
    let described = cut(text).into_iter().map(|draft| {
        let repetition = repetitions
            .entry((draft.heading.clone(), draft.text.clone()))
            .or_default();
        let id = ChunkId::derived(document, &draft.heading, &draft.text, *repetition);
        *repetition += 1;
        let place = ChunkPlace {
            page: draft.page,
            start: draft.start,
            end: draft.end,
        };
        let terms = terms(&draft.context_text(None));
        (NewChunk { id, draft, terms }, place)
    });
    described.collect()
}

/// Returns the changes after which a document has exactly these attributes.
pub fn changes_to(attributes: Attributes) -> AttributeChanges {
    let (users, roles) = match attributes.access {
        Access::Everyone => (None, None),
        Access::Listed { users, roles } => (Some(users), Some(roles)),
    };
    AttributeChanges {
        title: Some(attributes.title),
        uri: Some(attributes.uri),
        metadata: Some(attributes.metadata),
        users: Some(users),
        roles: Some(roles),
    }
}

pub fn submission(key: &DocumentKey, text: &str, attributes: Attributes, second: i64) -> Submission {
    let mut content_hash = [0; 32];
    content_hash[..16].copy_from_slice(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_bytes());
    Submission {
        key: key.clone(),
        format: Format::Markdown,
        content: text.as_bytes().to_vec(),
        content_hash,
        changes: changes_to(attributes),
        job: job(1_000 + u128::try_from(second).unwrap()),
        at: at(second),
    }
}

pub fn listed(users: &[&str], roles: &[&str]) -> Access {
    Access::Listed {
        users: users.iter().map(|user| user.parse().unwrap()).collect(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

pub fn readable_by(access: Access) -> Attributes {
    Attributes {
        access,
        ..Attributes::default()
    }
}

pub fn caller(user: Option<&str>, roles: &[&str]) -> Reader {
    Reader::Caller {
        user: user.map(|user| user.parse::<UserId>().unwrap()),
        roles: roles.iter().map(|role| (*role).to_owned()).collect::<BTreeSet<_>>(),
    }
}

/// One tenant's view of an index.
#[derive(Clone)]
pub struct Library {
    pub index: Arc<dyn KnowledgeIndex>,
    pub scope: TenantScope,
    pub space: Space,
}

impl Library {
    pub fn new(index: &Arc<dyn KnowledgeIndex>, tenant: &str) -> Self {
        Self {
            index: Arc::clone(index),
            scope: crate::support::talk::scope(tenant),
            space: space("model-a"),
        }
    }

    pub async fn submit(&self, key: &DocumentKey, text: &str, attributes: Attributes, second: i64) -> Submitted {
        let submission = submission(key, text, attributes, second);
        self.index.submit(&self.scope, submission, &AMPLE).await.unwrap()
    }

    pub async fn document(&self, key: &DocumentKey) -> Option<Document> {
        self.index.document(&self.scope, key).await.unwrap()
    }

    /// Stages chunks of the newest version, with vectors of the library's space.
    pub async fn stage(&self, key: &DocumentKey, text: &str) -> bool {
        let document = self.document(key).await.unwrap();
        let chunks: Vec<NewChunk> = chunks(document.id, text).into_iter().map(|(chunk, _)| chunk).collect();
        let vectors = chunks
            .iter()
            .map(|chunk| embed(&self.space, &chunk.draft.context_text(None)))
            .collect();
        let stage = self
            .index
            .stage(&self.scope, document.id, document.version, chunks, vectors);
        stage.await.unwrap()
    }

    /// Publishes the newest version.
    pub async fn publish(&self, key: &DocumentKey, text: &str, second: i64) -> Published {
        let document = self.document(key).await.unwrap();
        let places = chunks(document.id, text)
            .into_iter()
            .map(|(chunk, place)| (chunk.id, place));
        let publish = self.index.publish(
            &self.scope,
            document.id,
            document.version,
            places.collect::<Vec<_>>().into(),
            &AMPLE,
            at(second),
        );
        publish.await.unwrap()
    }

    /// Stores a document and makes it searchable. Returns it.
    pub async fn put(&self, key: &DocumentKey, text: &str, attributes: Attributes, second: i64) -> Document {
        let submitted = self.submit(key, text, attributes, second).await;
        assert!(matches!(submitted, Submitted::Accepted(_)), "{submitted:?}");
        assert!(self.stage(key, text).await);
        assert_eq!(self.publish(key, text, second).await, Published::Done);
        self.document(key).await.unwrap()
    }

    /// Searches the collection `handbook` for words, as a reader.
    pub async fn search(&self, words: &str, reader: &Reader, limit: usize) -> Candidates {
        self.search_with(words, reader, &[], limit).await
    }

    pub async fn search_with(
        &self,
        words: &str,
        reader: &Reader,
        filter: &[(&str, Value)],
        limit: usize,
    ) -> Candidates {
        let search = Search {
            collections: vec![collection("handbook")],
            reader: reader.clone(),
            filter: filter
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            terms: terms(words).into_iter().map(|(term, _)| term).collect(),
            vector: Some(embed(&self.space, words)),
            limit,
        };
        self.index.search(&self.scope, &search).await.unwrap()
    }

    /// Returns the texts of what both searches find, each in order.
    pub async fn texts(&self, words: &str, reader: &Reader) -> (Vec<String>, Vec<String>) {
        let found = self.search(words, reader, 50).await;
        (
            self.texts_of(&found.lexical).await,
            self.texts_of(&found.semantic).await,
        )
    }

    pub async fn texts_of(&self, hits: &[Hit]) -> Vec<String> {
        let ids: Vec<ChunkId> = hits.iter().map(|hit| hit.chunk).collect();
        let read = self.index.read(&self.scope, &Reader::Administrator, &ids);
        read.await.unwrap().into_iter().map(|chunk| chunk.draft.text).collect()
    }
}
