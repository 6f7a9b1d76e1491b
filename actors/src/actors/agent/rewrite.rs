//! Has the small model rewrite a question that cannot be understood without the conversation.

use std::time::Duration;

use super::Agent;
use super::knowledge::Asked;
use super::small::Errand;
use crate::domain::context::question::Question;
use crate::domain::context_record::{RetrievalRecord, RetrievalStep};

/// Time limit of rewriting a question.
const REWRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum length of a rewritten question, in tokens.
const REWRITE_TOKENS: u64 = 256;

impl Agent {
    /// Has the small model rewrite a question that needs the conversation; records time and cost.
    pub(super) async fn rewrite(
        &self,
        asked: &Asked<'_>,
        question: &Question,
        record: &mut RetrievalRecord,
    ) -> Option<String> {
        let errand = Errand {
            step: RetrievalStep::Rewrite,
            messages: question.rewriting(),
            max_tokens: REWRITE_TOKENS,
            time_limit: REWRITE_TIMEOUT,
        };
        let done = self.ask_small(asked, errand).await;
        record.steps.push(done.took);
        record.rewrite = done.cost;
        Question::rewritten(&done.text?)
    }
}
