//! Short calls to the small model while a turn gathers what it draws on. A failure costs the turn nothing but time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::Agent;
use super::knowledge::{Asked, time};
use crate::domain::context::prompt::PromptMessage;
use crate::domain::context::tokens;
use crate::domain::context_record::{RetrievalStep, RetrievalTime, SmallModelCost};
use crate::domain::usage::Usage;
use crate::ports::{ModelEvent, ModelRequest};

/// Maximum bytes of what the small model writes; it is stopped then.
const MAX_WRITTEN: usize = 4 * 1024;

/// What the small model is asked for.
pub(super) struct Errand {
    pub step: RetrievalStep,
    pub messages: Vec<PromptMessage>,
    /// Maximum length of its answer, in tokens.
    pub max_tokens: u64,
    pub time_limit: Duration,
}

/// What came of it.
pub(super) struct Done {
    /// The whole answer; none if there is none in time.
    pub text: Option<String>,
    pub took: RetrievalTime,
    /// None if no provider can have taken the call.
    pub cost: Option<SmallModelCost>,
}

impl Agent {
    /// Asks the small model.
    pub(super) async fn ask_small(&self, asked: &Asked<'_>, errand: Errand) -> Done {
        let policy = asked.policy;
        let clock = &self.shared.ports.clock;
        let began = clock.elapsed();
        let sent: String = errand.messages.iter().filter_map(|message| message.text()).collect();
        let request = ModelRequest {
            scope: self.scope.clone(),
            route: policy.small_route.clone(),
            conversation: self.id,
            turn: Some(asked.at.turn),
            user: self.user.clone(),
            api_key: asked.api_key.map(str::to_owned),
            copilot: policy.copilot.clone(),
            messages: Arc::new(errand.messages),
            tools: Arc::default(),
            response_schema: None,
            max_tokens: Some(errand.max_tokens),
        };
        let mut written = Written::default();
        let collected = AssertUnwindSafe(self.collect(request, &mut written)).catch_unwind();
        let is_complete = matches!(timeout(errand.time_limit, collected).await, Ok(Ok(true)));
        let took = time(errand.step, clock.elapsed().saturating_sub(began));
        if !written.is_called {
            let (text, cost) = (None, None);
            return Done { text, took, cost };
        }
        // Providers report nothing for a call that is stopped.
        let estimated = || Usage {
            prompt_tokens: tokens::estimate(&sent),
            completion_tokens: tokens::estimate(&written.text),
            estimated: true,
            ..Usage::default()
        };
        let cost = SmallModelCost {
            usage: written.usage.unwrap_or_else(estimated),
            model: written.model.clone().unwrap_or_else(|| policy.small_route.clone()),
        };
        Done {
            text: is_complete.then_some(written.text),
            took,
            cost: Some(cost),
        }
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
