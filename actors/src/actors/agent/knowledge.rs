//! Retrieves what a turn draws on: documents, and earlier messages (`recall`).
//!
//! Invariant: nothing here fails a turn. Without documents the turn runs, and its record says so.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use metrics::{counter, histogram};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Agent;
use super::facts::TurnFacts;
use super::recall::TurnRecall;
use crate::compute;
use crate::domain::citation::Source;
use crate::domain::citation::markers::MarkerCode;
use crate::domain::context::gathered::{Passage, PassageKind};
use crate::domain::context::memory::Memory;
use crate::domain::context::question::Question;
use crate::domain::context::rerank;
use crate::domain::context::tokens;
use crate::domain::context_record::{
    ContextItem, ContextRecord, ItemKind, Omitted, RecallRecord, RetrievalRecord, RetrievalStatus, RetrievalStep,
    RetrievalTime,
};
use crate::domain::conversation::command::Step;
use crate::domain::event::GuardAction;
use crate::domain::guardrail::pipeline::UNCHECKED_RULE;
use crate::domain::guardrail::{self as guard, ContentKind, Finding, Stage, Verdict, delimit, judge};
use crate::domain::ids::{ChunkId, CollectionName};
use crate::domain::policy::Policy;
use crate::ports::{Content, KnowledgeError, KnowledgeQuery, Retrieved, RetrievedChunk};

/// Maximum number of chunks of one turn. More passages help answers little and cost tokens in every step.
const LIMIT: usize = 8;
/// Number of chunks that the small model is given to choose from.
const RERANKED: usize = 24;
/// Time limit of a search. A turn waits for it before its first word.
const RETRIEVAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Priority of the best chunk among the optional parts of a prompt.
const PRIORITY: u8 = 128;

/// What one attempt of a turn knows from documents and earlier messages.
#[derive(Debug, Default)]
pub(super) struct TurnKnowledge {
    /// The facts about the user; then the chunks as the model reads them, best first and last; then messages, oldest first.
    pub passages: Vec<Passage>,
    /// What may be cited.
    pub sources: Vec<Source>,
    /// The collection of each source.
    collections: Vec<CollectionName>,
    /// Chunks, messages and facts that the guardrails withhold, and messages that had no place.
    withheld: Vec<ContextItem<Omitted>>,
    /// What the guardrails did.
    pub guardrails: Vec<(Stage, String, GuardAction)>,
    /// How it was retrieved; none if nothing was to be retrieved.
    pub record: Option<RetrievalRecord>,
    /// How earlier messages were searched; none if they were not.
    recall: Option<RecallRecord>,
    /// The code of the markers, if the model is asked to cite.
    pub code: Option<MarkerCode>,
}

/// What a turn asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub at: Step,
    pub memory: &'a Memory,
    /// See [`RunStep::needs_summary`](super::RunStep::needs_summary).
    pub needs_summary: bool,
    pub policy: &'a Arc<Policy>,
    pub roles: &'a [String],
    pub api_key: Option<&'a str>,
    /// When the turn was accepted.
    pub accepted_at: Timestamp,
    /// Whether the answer is JSON, which has no room for markers.
    pub is_json: bool,
}

impl TurnKnowledge {
    /// Adds what is known about the user.
    pub(super) fn add_facts(&mut self, facts: TurnFacts) {
        self.passages.splice(0..0, facts.passages);
        self.withheld.extend(facts.withheld);
    }

    /// Completes the record of a prompt with what was withheld, and how earlier messages were searched.
    pub(super) fn complete(&self, record: &mut ContextRecord) {
        self.withheld.iter().for_each(|item| record.omit(item.clone()));
        record.recall.clone_from(&self.recall);
    }

    /// Adds the earlier messages.
    fn add(&mut self, recall: TurnRecall) {
        self.passages.extend(recall.passages);
        self.withheld.extend(recall.omitted);
        self.guardrails.extend(recall.guardrails);
        self.recall = recall.record;
    }

    /// Returns the chunks for a model to order, best first.
    pub(super) fn passages_to_rank(&self) -> impl Iterator<Item = rerank::Passage<'_>> {
        self.sources.iter().map(|source| rerank::Passage {
            title: source.title.as_deref(),
            text: &source.shown,
        })
    }

    /// Puts the chunks, which are ranked, into another order.
    pub(super) fn reorder(&mut self, order: &[usize]) {
        fn picked<T: Clone>(items: &[T], order: &[usize]) -> Vec<T> {
            order.iter().filter_map(|place| items.get(*place).cloned()).collect()
        }
        self.passages = picked(&self.passages, order);
        self.sources = picked(&self.sources, order);
        self.collections = picked(&self.collections, order);
    }

    /// Keeps the best of the ranked chunks and puts them where a model reads best.
    fn place(&mut self) {
        self.passages.truncate(LIMIT);
        self.sources.truncate(LIMIT);
        self.collections.truncate(LIMIT);
        for (rank, passage) in self.passages.iter_mut().enumerate() {
            passage.priority = PRIORITY.saturating_sub(u8::try_from(rank).unwrap_or(u8::MAX));
        }
        self.passages = best_at_the_ends(std::mem::take(&mut self.passages));
    }

    /// Returns the retrieved chunks as clients see them.
    pub(super) fn listed(&self, record: &ContextRecord) -> Vec<Value> {
        let entry = |(source, collection): (&Source, &CollectionName)| {
            let mut entry = json!({
                "chunk_id": source.chunk,
                "document_id": source.document,
                "external_id": source.external_id,
                "collection": collection,
                "title": source.title,
                "score": source.score,
                "included": is_included(source.chunk, record),
            });
            if let Some(uri) = &source.uri {
                entry["uri"] = json!(uri);
            }
            if let Some(page) = source.page {
                entry["page"] = json!(page);
            }
            entry
        };
        self.sources.iter().zip(&self.collections).map(entry).collect()
    }
}

pub(super) fn is_included(chunk: ChunkId, record: &ContextRecord) -> bool {
    let id = chunk.to_string();
    let mut chunks = record.included.iter().filter(|item| item.kind == ItemKind::Chunk);
    chunks.any(|item| item.id.as_ref() == Some(&id))
}

impl Agent {
    /// Retrieves what a turn may draw on.
    pub(super) async fn retrieve(&self, asked: &Asked<'_>) -> TurnKnowledge {
        let Asked { policy, memory, .. } = *asked;
        let plan = Box::pin(self.plan_recall(asked)).await;
        let has_documents = !policy.knowledge.collections.is_empty();
        if !has_documents && plan.is_none() {
            return TurnKnowledge::default();
        }
        let began = self.shared.ports.clock.elapsed();
        let mut record = RetrievalRecord {
            status: RetrievalStatus::Completed,
            is_semantic: false,
            steps: Vec::new(),
            rewrite: None,
            rerank: None,
        };
        let question = Question::of(memory);
        let text = if !question.needs_conversation() {
            question.alone()
        } else if has_documents {
            let rewritten = self.rewrite(asked, &question, &mut record).await;
            rewritten.unwrap_or_else(|| question.with_previous())
        } else {
            // The messages that the question refers to are found by what they share with the turn before.
            question.with_previous()
        };
        if !has_documents {
            let mut knowledge = TurnKnowledge::default();
            knowledge.add(self.recall(asked, plan, text).await);
            return knowledge;
        }
        let documents = self.documents(asked, text.clone(), record, began);
        let (mut knowledge, recall) = tokio::join!(documents, self.recall(asked, plan, text));
        knowledge.add(recall);
        knowledge
    }

    /// Searches the documents. `began` is when the turn began to retrieve.
    async fn documents(
        &self,
        asked: &Asked<'_>,
        text: String,
        mut record: RetrievalRecord,
        began: Duration,
    ) -> TurnKnowledge {
        let policy = asked.policy;
        let query = KnowledgeQuery {
            collections: policy.knowledge.collections.clone(),
            user: Some(self.user.clone()).filter(|user| !user.is_key()),
            roles: asked.roles.iter().cloned().collect(),
            texts: vec![text],
            limit: if policy.knowledge.reranks { RERANKED } else { LIMIT },
        };
        let found = self.search(&query).await;
        let (retrieved, outcome) = match found {
            Ok(Retrieved {
                chunks,
                is_semantic,
                steps,
            }) => {
                record.is_semantic = is_semantic;
                record
                    .steps
                    .extend(steps.into_iter().map(|(step, took)| time(step, took)));
                let mut prepared = self.prepared(asked, chunks).await;
                self.rerank(asked, &query.texts[0], &mut prepared, &mut record).await;
                prepared.place();
                (prepared, "completed")
            }
            Err(error) => {
                tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "documents could not be searched; running the turn without them");
                record.status = RetrievalStatus::Unavailable;
                (TurnKnowledge::default(), "unavailable")
            }
        };
        counter!("copilotd_retrievals_total", "outcome" => outcome).increment(1);
        let took = self.shared.ports.clock.elapsed().saturating_sub(began);
        histogram!("copilotd_retrieval_seconds").record(took.as_secs_f64());
        TurnKnowledge {
            record: Some(record),
            ..retrieved
        }
    }

    async fn search(&self, query: &KnowledgeQuery) -> Result<Retrieved, KnowledgeError> {
        let Some(knowledge) = &self.shared.ports.knowledge else {
            return Err(KnowledgeError::Unavailable("this process has no knowledge".to_owned()));
        };
        let mut found = within(RETRIEVAL_TIMEOUT, knowledge.retrieve(&self.scope, query)).await?;
        found.chunks.truncate(query.limit);
        Ok(found)
    }

    /// Lets the guardrails look at the chunks and writes them as the model reads them.
    async fn prepared(&self, asked: &Asked<'_>, chunks: Vec<RetrievedChunk>) -> TurnKnowledge {
        let tenant = self.scope.tenant();
        let content = |chunk: &RetrievedChunk| {
            let value = readable(chunk);
            let cost = crate::domain::weight::of(&value) * guard::COST_PER_BYTE;
            Content::new(ContentKind::RetrievedText, value, cost)
        };
        let contents: Vec<Content> = chunks.iter().map(content).collect();
        let inspected = self
            .shared
            .guardrails
            .inspect(&self.scope, &asked.policy.rules, &contents)
            .await;
        let findings = inspected.unwrap_or_else(|error| {
            tracing::warn!(%tenant, conversation = %self.id, %error, "retrieved documents could not be checked; withholding them");
            chunks.iter().map(|_| vec![Finding::unreadable()]).collect()
        });
        let nonce = asked.memory.blocks.back().and_then(|block| block.nonce.clone());
        let cites = asked.policy.knowledge.cites() && !asked.is_json;
        let code = nonce.as_deref().filter(|_| cites).map(MarkerCode::of);
        let cost = contents.iter().map(|content| content.cost).sum::<usize>() * tokens::COST_PER_BYTE;
        let prepare = move || prepare(chunks, findings, nonce.as_deref(), code);
        compute::run(Some(tenant), cost, prepare).await.unwrap_or_else(|error| {
            tracing::warn!(%tenant, conversation = %self.id, %error, "retrieved documents could not be prepared; running the turn without them");
            TurnKnowledge::default()
        })
    }
}

/// Waits for an adapter, whatever it does: it may hang or panic.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, KnowledgeError>>,
) -> Result<T, KnowledgeError> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(KnowledgeError::Unavailable("the search panicked".to_owned())),
        Err(_) => Err(KnowledgeError::TimedOut(limit)),
    }
}

pub(super) fn time(step: RetrievalStep, took: Duration) -> RetrievalTime {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    RetrievalTime { step, ms }
}

/// Returns what of a chunk a model or a reader sees, for the guardrails.
fn readable(chunk: &RetrievedChunk) -> Value {
    json!([chunk.text, chunk.heading, chunk.title, chunk.uri, chunk.external_id])
}

/// Writes the chunks that the guardrails let pass.
fn prepare(
    chunks: Vec<RetrievedChunk>,
    findings: Vec<Vec<Finding>>,
    nonce: Option<&str>,
    code: Option<MarkerCode>,
) -> TurnKnowledge {
    let mut knowledge = TurnKnowledge::default();
    for (chunk, findings) in chunks.into_iter().zip(findings) {
        let verdict = judge(ContentKind::RetrievedText, readable(&chunk), &findings);
        let (shown, rules) = match verdict {
            Verdict::Allowed(shown) => (shown, Vec::new()),
            Verdict::Redacted { content, rules } => (content, rules),
            Verdict::Blocked { rule } => {
                withhold(&mut knowledge, &chunk, rule);
                continue;
            }
        };
        let text = |place: usize| shown.get(place).and_then(Value::as_str).map(str::to_owned);
        // An id with a replaced part would be another id.
        if text(4).as_deref() != Some(chunk.external_id.as_str()) {
            let rule = rules.into_iter().next().unwrap_or_else(|| UNCHECKED_RULE.to_owned());
            withhold(&mut knowledge, &chunk, rule);
            continue;
        }
        let redacted = rules
            .into_iter()
            .map(|rule| (Stage::Retrieval, rule, GuardAction::Redact));
        knowledge.guardrails.extend(redacted);
        let rank = knowledge.sources.len();
        let source = Source {
            number: u32::try_from(rank + 1).unwrap_or(u32::MAX),
            chunk: chunk.chunk,
            document: chunk.document,
            external_id: chunk.external_id,
            title: text(2),
            // An address with a replaced part leads nowhere.
            uri: text(3).filter(|uri| Some(uri) == chunk.uri.as_ref()),
            page: chunk.page,
            score: Some(chunk.score).filter(|score| score.is_finite()).unwrap_or_default(),
            shown: text(0).unwrap_or_default(),
            text: chunk.text,
        };
        let heading = text(1).unwrap_or_default();
        let excerpt = excerpt(&source, &chunk.collection, &heading, nonce, code.as_ref());
        let (kind, id) = (PassageKind::Chunk, source.chunk.to_string());
        let passage = Passage::count(kind, id, excerpt, PRIORITY, Some(source.score));
        knowledge.passages.push(passage);
        knowledge.sources.push(source);
        knowledge.collections.push(chunk.collection);
    }
    let key = |(_, rule, action): &(Stage, String, GuardAction)| (rule.clone(), action.name());
    knowledge.guardrails.sort_by_cached_key(key);
    knowledge.guardrails.dedup();
    knowledge.code = code;
    knowledge
}

fn withhold(knowledge: &mut TurnKnowledge, chunk: &RetrievedChunk, rule: String) {
    knowledge.guardrails.push((Stage::Retrieval, rule, GuardAction::Block));
    knowledge.withheld.push(ContextItem {
        id: Some(chunk.chunk.to_string()),
        score: Some(chunk.score),
        ..ContextItem::new(ItemKind::Chunk, 0, Omitted::Guardrail)
    });
}

/// Writes a chunk as the model reads it: delimited as data, tagged with its collection and its marker. The names of
/// collections have no character that means anything in a delimiter.
fn excerpt(
    source: &Source,
    collection: &CollectionName,
    heading: &str,
    nonce: Option<&str>,
    code: Option<&MarkerCode>,
) -> String {
    let marker = code.map(|code| format!(" cite=\"{}\"", code.marker(source.number)));
    let about = format!(" source=\"{collection}\"{}", marker.unwrap_or_default());
    let mut body = String::with_capacity(source.shown.len() + 128);
    let title = source.title.as_deref().unwrap_or_default();
    // The first heading of a document often is its title.
    let heading = Some(heading).filter(|heading| *heading != title).unwrap_or_default();
    for line in [title, heading] {
        if !line.is_empty() {
            body.push_str(line);
            body.push('\n');
        }
    }
    body.push_str(&source.shown);
    delimit("document_excerpt", nonce, &about, &body)
}

/// Orders what is ranked so that the best stand first and last: models overlook what is in the middle of a long prompt
/// (Liu et al., "Lost in the Middle", 2023).
fn best_at_the_ends<T>(ranked: Vec<T>) -> Vec<T> {
    let (mut first, mut last) = (Vec::with_capacity(ranked.len()), Vec::new());
    for (rank, item) in ranked.into_iter().enumerate() {
        if rank % 2 == 0 {
            first.push(item)
        } else {
            last.push(item)
        }
    }
    first.extend(last.into_iter().rev());
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::DocumentId;

    #[test]
    fn a_title_is_not_written_twice() {
        for (heading, expected) in [
            ("", "Refunds\nText."),
            ("Refunds", "Refunds\nText."),
            ("Refunds > Fees", "Refunds\nRefunds > Fees\nText."),
        ] {
            let source = Source {
                number: 1,
                chunk: ChunkId::new(uuid::Uuid::nil()),
                document: DocumentId::new(uuid::Uuid::nil()),
                external_id: "refunds".parse().unwrap(),
                title: Some("Refunds".to_owned()),
                uri: None,
                page: None,
                score: 0.5,
                text: "Text.".to_owned(),
                shown: "Text.".to_owned(),
            };
            let excerpt = excerpt(&source, &"handbook".parse().unwrap(), heading, Some("n"), None);
            let expected = format!("<document_excerpt-n source=\"handbook\">\n{expected}\n</document_excerpt-n>");
            assert_eq!(excerpt, expected);
        }
    }

    #[test]
    fn the_best_stand_first_and_last() {
        assert_eq!(best_at_the_ends(vec![1, 2, 3, 4, 5]), [1, 3, 5, 4, 2]);
        assert_eq!(best_at_the_ends(vec![1]), [1]);
        assert!(best_at_the_ends(Vec::<u8>::new()).is_empty());
    }
}
