//! Turns the markers of an answer into citations.

use std::ops::Range;
use std::time::Duration;

use super::Agent;
use super::knowledge::{TurnKnowledge, is_included, within};
use crate::compute;
use crate::domain::citation::{self, Mark, Source};
use crate::domain::content::Citation;
use crate::domain::context::tokens;
use crate::domain::context_record::ContextRecord;
use crate::domain::conversation::command::ModelReply;
use crate::domain::event::GuardAction;
use crate::domain::guardrail::Stage;
use crate::domain::ids::ChunkId;
use crate::domain::policy::Policy;

/// The rule in whose name sentences without a citation are replaced.
const RULE: &str = "citations_required";
/// Time limit of marking chunks as cited.
const CITE_TIMEOUT: Duration = Duration::from_secs(2);

impl Agent {
    /// Turns the markers of an answer into citations, and marks what is cited so that it stays readable. If the copilot
    /// requires citations, sentences without one are named or replaced, also if there was nothing to cite.
    pub(super) async fn cite(
        &self,
        reply: &mut ModelReply,
        marks: Vec<Mark>,
        knowledge: &TurnKnowledge,
        record: &ContextRecord,
        policy: &Policy,
    ) {
        let is_required = policy.knowledge.requires_citations();
        if knowledge.code.is_none() && !is_required {
            return;
        }
        let sources = knowledge
            .sources
            .iter()
            .filter(|source| is_included(source.chunk, record));
        let sources: Vec<Source> = sources.cloned().collect();
        let replacement = policy.knowledge.replacement().cloned();
        let bytes = reply.text.len() + sources.iter().map(|source| source.shown.len()).sum::<usize>();
        let (text, tenant) = (reply.text.clone(), self.scope.tenant());
        let find = move || {
            let citations = citation::cite(&text, &marks, &sources);
            let unsupported = if is_required {
                citation::unsupported(&text, &citations)
            } else {
                Vec::new()
            };
            Checked::new(text, citations, unsupported, replacement.as_deref())
        };
        let Ok(checked) = compute::run(Some(tenant), bytes * tokens::COST_PER_BYTE, find).await else {
            tracing::warn!(%tenant, conversation = %self.id, "citations of an answer could not be checked; leaving them out");
            if let Some(replacement) = policy.knowledge.replacement() {
                reply.text = replacement.to_string();
                reply.guardrails.push(replaced());
            }
            return;
        };
        let Checked {
            text,
            citations,
            unsupported,
            is_replaced,
        } = checked;
        reply.text = text;
        if is_replaced {
            reply.guardrails.push(replaced());
        }
        let mut chunks: Vec<ChunkId> = citations
            .iter()
            .filter_map(|cited| cited.chunk_id.parse().ok())
            .collect();
        chunks.sort_unstable();
        chunks.dedup();
        if let Some(port) = self.shared.ports.knowledge.as_ref().filter(|_| !chunks.is_empty()) {
            let cited = within(CITE_TIMEOUT, port.cite(&self.scope, &chunks)).await;
            if let Err(error) = cited {
                tracing::warn!(%tenant, conversation = %self.id, %error, "cited chunks could not be marked; they may become unreadable when their documents change");
            }
        }
        reply.citations = citations;
        reply.unsupported = unsupported
            .iter()
            .map(|range| (range.start as u64, range.end as u64))
            .collect();
    }
}

/// An answer with its citations checked.
struct Checked {
    text: String,
    citations: Vec<Citation>,
    /// Sentences that no citation supports and that are still there.
    unsupported: Vec<Range<usize>>,
    is_replaced: bool,
}

impl Checked {
    fn new(text: String, citations: Vec<Citation>, unsupported: Vec<Range<usize>>, replacement: Option<&str>) -> Self {
        match replacement.filter(|_| !unsupported.is_empty()) {
            Some(replacement) => {
                let (text, citations) = citation::replace(&text, citations, &unsupported, replacement);
                Self {
                    text,
                    citations,
                    unsupported: Vec::new(),
                    is_replaced: true,
                }
            }
            None => Self {
                text,
                citations,
                unsupported,
                is_replaced: false,
            },
        }
    }
}

/// Returns what is recorded when sentences were replaced.
fn replaced() -> (Stage, String, GuardAction) {
    (Stage::Output, RULE.to_owned(), GuardAction::Redact)
}
