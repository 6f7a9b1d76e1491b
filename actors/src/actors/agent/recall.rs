//! Puts earlier messages that bear on the question back into a turn's prompt.
//!
//! Their texts passed the guardrails when they were said; since then rules may have changed, and a detector may have
//! learned. They are therefore inspected again, like retrieved text. One in which anything is found is left out whole:
//! a prompt can then be written again from the log.
//!
//! Invariant: nothing here fails a turn. Without earlier messages the turn runs, and its record says so.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use metrics::{counter, histogram};
use serde_json::Value;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Agent;
use super::knowledge::{Asked, time};
use super::prompt::count_entries;
use crate::compute;
use crate::domain::context::gathered::{Gathered, Passage, PassageKind};
use crate::domain::context::recalled::line;
use crate::domain::context::recent::{self, RecallPlan};
use crate::domain::context::tokens;
use crate::domain::context_record::{
    ContextItem, ContextRecord, Included, ItemKind, Omitted, RecallRecord, RecallStatus,
};
use crate::domain::event::GuardAction;
use crate::domain::guardrail::{self as guard, ContentKind, Finding, Stage, Verdict, judge};
use crate::ports::{Content, RecallError, RecallQuery, RecallReason, Recalled, RecalledMessage};

/// Time limit of a search. A turn waits for it before its first word.
const RECALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Priority of the best message among the optional parts of a prompt: below every chunk.
const PRIORITY: u8 = 96;

/// The earlier messages of one attempt of a turn.
#[derive(Debug, Default)]
pub(super) struct TurnRecall {
    /// The messages as the model reads them, oldest first.
    pub passages: Vec<Passage>,
    /// Messages that are left out, by the guardrails or because others bear more on the question.
    pub omitted: Vec<ContextItem<Omitted>>,
    /// What the guardrails did.
    pub guardrails: Vec<(Stage, String, GuardAction)>,
    /// How they were searched.
    pub record: Option<RecallRecord>,
}

impl Agent {
    /// Plans the search for a turn's earlier messages; none if its prompt leaves nothing out.
    pub(super) async fn plan_recall(&self, asked: &Asked<'_>) -> Option<RecallPlan> {
        self.shared.ports.recollection.as_ref()?;
        if !recent::may_recall(asked.memory, &asked.policy.memory) {
            return None;
        }
        let tenant = self.scope.tenant();
        count_entries(tenant, asked.memory).await.ok()?;
        let cost = Gathered::counted_bytes(asked.memory, asked.policy) * tokens::COST_PER_BYTE;
        let (memory, policy, needs_summary) = (asked.memory.clone(), Arc::clone(asked.policy), asked.needs_summary);
        let plan = move || recent::plan(memory, needs_summary, &policy);
        compute::run(Some(tenant), cost, plan).await.ok().flatten()
    }

    /// Finds the earlier messages that bear on a question.
    pub(super) async fn recall(&self, asked: &Asked<'_>, plan: Option<RecallPlan>, question: String) -> TurnRecall {
        let Some(plan) = plan else { return TurnRecall::default() };
        let span = tracing::info_span!("recall", gen_ai.conversation.id = %self.id);
        self.recall_planned(asked, plan, question).instrument(span).await
    }

    async fn recall_planned(&self, asked: &Asked<'_>, plan: RecallPlan, question: String) -> TurnRecall {
        let began = self.shared.ports.clock.elapsed();
        let query = RecallQuery {
            conversation: self.id,
            question,
            before: plan.before,
            upto_seq: plan.upto_seq,
            budget_tokens: plan.budget_tokens,
            limit: ContextRecord::MAX_RECALLED,
        };
        let (recall, outcome) = match self.search_messages(&query).await {
            Ok(recalled) => {
                let (status, outcome) = match recalled.is_complete {
                    true => (RecallStatus::Completed, "completed"),
                    false => (RecallStatus::Partial, "partial"),
                };
                let record = RecallRecord {
                    status,
                    is_semantic: recalled.is_semantic,
                    steps: recalled.steps.iter().map(|(step, took)| time(*step, *took)).collect(),
                };
                (self.prepared_messages(asked, recalled, record).await, outcome)
            }
            Err(error) => {
                tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "earlier messages could not be searched; running the turn without them");
                (unavailable(), "unavailable")
            }
        };
        counter!("copilotd_recalls_total", "outcome" => outcome).increment(1);
        let took = self.shared.ports.clock.elapsed().saturating_sub(began);
        histogram!("copilotd_recall_seconds").record(took.as_secs_f64());
        recall
    }

    /// Waits for the adapter, whatever it does: it may hang or panic.
    async fn search_messages(&self, query: &RecallQuery) -> Result<Recalled, RecallError> {
        let Some(recollection) = &self.shared.ports.recollection else {
            return Err(RecallError::Unavailable("this process searches no messages".to_owned()));
        };
        let search = AssertUnwindSafe(recollection.recall(&self.scope, query)).catch_unwind();
        let mut recalled = match timeout(RECALL_TIMEOUT, search).await {
            Ok(Ok(recalled)) => recalled?,
            Ok(Err(_)) => return Err(RecallError::Unavailable("the search panicked".to_owned())),
            Err(_) => return Err(RecallError::TimedOut(RECALL_TIMEOUT)),
        };
        recalled.messages.truncate(query.limit);
        Ok(recalled)
    }

    /// Lets the guardrails look at the messages and writes them as the model reads them.
    async fn prepared_messages(&self, asked: &Asked<'_>, recalled: Recalled, record: RecallRecord) -> TurnRecall {
        let tenant = self.scope.tenant();
        let Recalled { messages, omitted, .. } = recalled;
        let content = |message: &RecalledMessage| {
            let cost = message.text.len() * guard::COST_PER_BYTE;
            Content::new(ContentKind::RetrievedText, message.text.clone(), cost)
        };
        let contents: Vec<Content> = messages.iter().map(content).collect();
        let inspected = self
            .shared
            .guardrails
            .inspect(&self.scope, &asked.policy.rules, &contents)
            .await;
        let findings = inspected.unwrap_or_else(|error| {
            tracing::warn!(%tenant, conversation = %self.id, %error, "earlier messages could not be checked; withholding them");
            messages.iter().map(|_| vec![Finding::unreadable()]).collect()
        });
        let bytes = contents.iter().map(|content| content.cost).sum::<usize>();
        let prepare = move || prepare(messages, findings, omitted);
        let prepared = compute::run(Some(tenant), bytes * tokens::COST_PER_BYTE, prepare).await;
        match prepared {
            Ok(prepared) => TurnRecall {
                record: Some(record),
                ..prepared
            },
            Err(error) => {
                tracing::warn!(%tenant, conversation = %self.id, %error, "earlier messages could not be prepared; running the turn without them");
                unavailable()
            }
        }
    }
}

fn unavailable() -> TurnRecall {
    TurnRecall {
        record: Some(RecallRecord {
            status: RecallStatus::Unavailable,
            is_semantic: false,
            steps: Vec::new(),
        }),
        ..TurnRecall::default()
    }
}

/// Writes the messages in which nothing was found. `omitted` is how many had no place.
fn prepare(messages: Vec<RecalledMessage>, findings: Vec<Vec<Finding>>, omitted: u64) -> TurnRecall {
    let mut recall = TurnRecall::default();
    if omitted > 0 {
        let others = ContextItem::new(ItemKind::Message, 0, Omitted::Budget);
        recall.omitted.push(ContextItem {
            count: omitted,
            ..others
        });
    }
    let mut best_first: Vec<usize> = (0..messages.len()).collect();
    best_first.sort_by(|one, other| messages[*other].score.total_cmp(&messages[*one].score));
    let mut priorities = vec![0; messages.len()];
    for (rank, message) in best_first.into_iter().enumerate() {
        priorities[message] = PRIORITY.saturating_sub(u8::try_from(rank).unwrap_or(u8::MAX));
    }
    for ((message, findings), priority) in messages.into_iter().zip(findings).zip(priorities) {
        let id = message.seq.to_string();
        let verdict = judge(
            ContentKind::RetrievedText,
            Value::String(message.text.clone()),
            &findings,
        );
        let rules = match verdict {
            Verdict::Allowed(_) => Vec::new(),
            Verdict::Redacted { rules, .. } => rules,
            Verdict::Blocked { rule } => vec![rule],
        };
        if !rules.is_empty() {
            let block = |rule| (Stage::Retrieval, rule, GuardAction::Block);
            recall.guardrails.extend(rules.into_iter().map(block));
            recall.omitted.push(ContextItem {
                id: Some(id),
                score: Some(message.score),
                ..ContextItem::new(ItemKind::Message, 0, Omitted::Guardrail)
            });
            continue;
        }
        let text = line(message.speaker, message.at, &message.text);
        let passage = Passage::count(PassageKind::Recalled, id, text, priority, Some(message.score));
        recall.passages.push(Passage {
            reason: match message.reason {
                RecallReason::Relevant => Included::Fitted,
                RecallReason::Neighbour => Included::Neighbour,
            },
            ..passage
        });
    }
    let key = |(_, rule, action): &(Stage, String, GuardAction)| (rule.clone(), action.name());
    recall.guardrails.sort_by_cached_key(key);
    recall.guardrails.dedup();
    recall
}
