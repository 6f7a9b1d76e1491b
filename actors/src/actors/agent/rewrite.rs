//! Has the small model rewrite a question that cannot be understood without the conversation.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::Agent;
use super::knowledge::{Asked, time};
use crate::domain::context::question::Question;
use crate::domain::context::tokens;
use crate::domain::context_record::{RetrievalRecord, RetrievalStep, RewriteCost};
use crate::domain::usage::Usage;
use crate::ports::{ModelEvent, ModelRequest};

/// Time limit of rewriting a question.
const REWRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum length of a rewritten question, in tokens.
const REWRITE_TOKENS: u64 = 256;
/// Maximum bytes of what the small model writes; it is stopped then.
const MAX_WRITTEN: usize = 4 * 1024;

impl Agent {
    /// Has the small model rewrite a question that needs the conversation; records time and cost.
    pub(super) async fn rewrite(
        &self,
        asked: &Asked<'_>,
        question: &Question,
        record: &mut RetrievalRecord,
    ) -> Option<String> {
        let policy = asked.policy;
        let clock = &self.shared.ports.clock;
        let began = clock.elapsed();
        let messages = question.rewriting();
        let sent: String = messages.iter().filter_map(|message| message.text()).collect();
        let request = ModelRequest {
            scope: self.scope.clone(),
            route: policy.small_route.clone(),
            conversation: self.id,
            turn: Some(asked.at.turn),
            user: self.user.clone(),
            api_key: asked.api_key.map(str::to_owned),
            copilot: policy.copilot.clone(),
            messages: Arc::new(messages),
            tools: Arc::default(),
            response_schema: None,
            max_tokens: Some(REWRITE_TOKENS),
        };
        let mut written = Written::default();
        let collected = AssertUnwindSafe(self.collect(request, &mut written)).catch_unwind();
        let is_complete = matches!(timeout(REWRITE_TIMEOUT, collected).await, Ok(Ok(true)));
        record
            .steps
            .push(time(RetrievalStep::Rewrite, clock.elapsed().saturating_sub(began)));
        if !written.is_called {
            return None;
        }
        // Providers report nothing for a call that is stopped.
        let estimated = || Usage {
            prompt_tokens: tokens::estimate(&sent),
            completion_tokens: tokens::estimate(&written.text),
            estimated: true,
            ..Usage::default()
        };
        record.rewrite = Some(RewriteCost {
            usage: written.usage.unwrap_or_else(estimated),
            model: written.model.clone().unwrap_or_else(|| policy.small_route.clone()),
        });
        Question::rewritten(&written.text).filter(|_| is_complete)
    }

    /// Reads the small model's answer. Returns whether it is complete.
    async fn collect(&self, request: ModelRequest, written: &mut Written) -> bool {
        written.is_called = true;
        let Ok(mut stream) = self.shared.ports.model.stream(request).await else {
            written.is_called = false;
            return false;
        };
        let mut is_finished = false;
        while let Some(event) = stream.next().await {
            match event {
                Ok(ModelEvent::Text(piece)) => written.text.push_str(&piece),
                Ok(ModelEvent::Model(name)) => written.model = Some(name),
                Ok(ModelEvent::Usage(usage)) => written.usage = Some(usage),
                Ok(ModelEvent::Finished(_)) => is_finished = true,
                Ok(ModelEvent::ToolCall { .. } | ModelEvent::Fallback { .. }) => {}
                Err(_) => return false,
            }
            if written.text.len() > MAX_WRITTEN {
                return false;
            }
        }
        is_finished
    }
}

/// What the small model wrote.
#[derive(Default)]
struct Written {
    /// Whether a provider may have taken the call.
    is_called: bool,
    text: String,
    model: Option<String>,
    usage: Option<Usage>,
}
