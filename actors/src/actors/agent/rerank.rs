//! Has the small model order what was found, if the copilot wants that.
//!
//! A model reads question and passage together, which rankings by words and vectors do not. It also takes a second and costs
//! tokens, so this is off by default.

use std::time::Duration;

use super::Agent;
use super::knowledge::{Asked, TurnKnowledge};
use super::small::Errand;
use crate::domain::context::rerank;
use crate::domain::context_record::{RetrievalRecord, RetrievalStep};

/// Time limit. Without an answer, the order of the search stays.
const RERANK_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of an order, in tokens: numbers of two digits, with something between them.
const RERANK_TOKENS: u64 = 128;

impl Agent {
    /// Orders what was found for a question; records time and cost.
    pub(super) async fn rerank(
        &self,
        asked: &Asked<'_>,
        question: &str,
        found: &mut TurnKnowledge,
        record: &mut RetrievalRecord,
    ) {
        if !asked.policy.knowledge.reranks || found.sources.len() < 2 {
            return;
        }
        let passages: Vec<rerank::Passage<'_>> = found.passages_to_rank().collect();
        let nonce = asked.memory.blocks.back().and_then(|block| block.nonce.as_deref());
        let errand = Errand {
            step: RetrievalStep::Rerank,
            messages: rerank::request(question, &passages, nonce),
            max_tokens: RERANK_TOKENS,
            time_limit: RERANK_TIMEOUT,
        };
        let done = self.ask_small(asked, errand).await;
        record.steps.push(done.took);
        record.rerank = done.cost;
        let order = done.text.and_then(|text| rerank::order(&text, found.sources.len()));
        if let Some(order) = order {
            found.reorder(&order);
        }
    }
}
