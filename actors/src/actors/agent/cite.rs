//! Turns the markers of an answer into citations.

use std::time::Duration;

use super::Agent;
use super::knowledge::{TurnKnowledge, is_included, within};
use crate::compute;
use crate::domain::citation::{self, Mark, Source};
use crate::domain::context::tokens;
use crate::domain::context_record::ContextRecord;
use crate::domain::conversation::command::ModelReply;
use crate::domain::ids::ChunkId;
use crate::domain::policy::{CitationPolicy, Policy};

/// Time limit of marking chunks as cited.
const CITE_TIMEOUT: Duration = Duration::from_secs(2);

impl Agent {
    /// Turns the markers of an answer into citations, and marks what is cited so that it stays readable.
    pub(super) async fn cite(
        &self,
        reply: &mut ModelReply,
        marks: Vec<Mark>,
        knowledge: &TurnKnowledge,
        record: &ContextRecord,
        policy: &Policy,
    ) {
        if knowledge.code.is_none() {
            return;
        }
        let sources = knowledge
            .sources
            .iter()
            .filter(|source| is_included(source.chunk, record));
        let sources: Vec<Source> = sources.cloned().collect();
        let is_required = policy.knowledge.citations == CitationPolicy::Required;
        let bytes = reply.text.len() + sources.iter().map(|source| source.shown.len()).sum::<usize>();
        let (text, tenant) = (reply.text.clone(), self.scope.tenant());
        let find = move || {
            let citations = citation::cite(&text, &marks, &sources);
            let unsupported = if is_required {
                citation::unsupported(&text, &citations)
            } else {
                Vec::new()
            };
            (citations, unsupported)
        };
        let Ok((citations, unsupported)) = compute::run(Some(tenant), bytes * tokens::COST_PER_BYTE, find).await else {
            tracing::warn!(%tenant, conversation = %self.id, "citations of an answer could not be checked; leaving them out");
            return;
        };
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
