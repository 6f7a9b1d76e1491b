//! Asks the small model for the title of a conversation that has none. Runs beside the conversation, after a turn; a failure
//! here changes nothing but the number of attempts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use metrics::counter;
use serde_json::Value;
use tokio::time::timeout;

use super::shared::Shared;
use crate::crash;
use crate::domain::context::prompt::PromptMessage;
use crate::domain::context::title;
use crate::domain::conversation::command::Command;
use crate::domain::guardrail::{self as guard, ContentKind, Verdict, judge};
use crate::domain::ids::{ConversationId, UserId};
use crate::domain::policy::Policy;
use crate::domain::usage::Usage;
use crate::ports::{Content, ModelEvent, ModelRequest};
use crate::tenancy::TenantScope;

/// Time limit of the whole.
const LIMIT: Duration = Duration::from_secs(30);
/// Maximum bytes of what the model writes; it is stopped then.
const MAX_WRITTEN: usize = 4 * 1024;

/// Input of one attempt.
#[expect(missing_docs, reason = "the types of the fields describe them")]
pub struct Work {
    pub shared: Arc<Shared>,
    pub scope: TenantScope,
    pub conversation: ConversationId,
    pub user: UserId,
    pub api_key: Option<String>,
    pub messages: Vec<PromptMessage>,
    pub policy: Arc<Policy>,
}

/// What the model wrote.
#[derive(Default)]
struct Written {
    text: String,
    is_finished: bool,
    model: String,
    usage: Usage,
}

/// Makes one attempt; the command records it. None if no model answered: that says nothing of the conversation. Never fails,
/// never panics, always ends.
pub async fn title(work: Work) -> Option<Command> {
    let mut written = Written {
        model: work.policy.small_route.clone(),
        ..Written::default()
    };
    crash::point("effect.before:title_request");
    let attempt = AssertUnwindSafe(attempt(&work, &mut written)).catch_unwind();
    let title = timeout(LIMIT, attempt).await.unwrap_or(Ok(None)).unwrap_or(None);
    crash::point("effect.after:title_request");
    let outcome = if title.is_some() { "written" } else { "failed" };
    counter!("copilotd_titles_total", "outcome" => outcome).increment(1);
    let has_answered = !written.text.is_empty() || written.usage != Usage::default();
    if title.is_none() {
        let next = match has_answered {
            true => "a title is asked for at most twice",
            false => "the next turn's end tries again",
        };
        tracing::warn!(tenant = %work.scope.tenant(), conversation = %work.conversation, model = written.model, has_answered, "no title could be written for the conversation; {next}");
    }
    (title.is_some() || has_answered).then_some(Command::Titled {
        title,
        model: written.model,
        usage: written.usage,
    })
}

async fn attempt(work: &Work, written: &mut Written) -> Option<String> {
    collect(work, written).await?;
    let title = title::title_of(&written.text)?;
    // Readers see it like an answer: no rule may be triggered.
    let cost = title.len() * guard::COST_PER_BYTE;
    let content = [Content::new(ContentKind::Answer, title.clone(), cost)];
    let rules = &work.policy.rules;
    let inspected = work.shared.guardrails.inspect(&work.scope, rules, &content).await;
    let findings = inspected.ok()?.into_iter().next()?;
    let verdict = judge(ContentKind::Answer, Value::from(title.clone()), &findings);
    matches!(verdict, Verdict::Allowed(_)).then_some(title)
}

async fn collect(work: &Work, written: &mut Written) -> Option<()> {
    let request = ModelRequest {
        scope: work.scope.clone(),
        route: work.policy.small_route.clone(),
        conversation: work.conversation,
        // As for a summary: the call is the tenant's, and no step of a turn.
        turn: None,
        user: work.user.clone(),
        api_key: work.api_key.clone(),
        copilot: work.policy.copilot.clone(),
        messages: Arc::new(work.messages.clone()),
        tools: Arc::default(),
        response_schema: None,
        max_tokens: Some(title::MAX_TOKENS),
    };
    let mut stream = work.shared.ports.model.stream(request).await.ok()?;
    while let Some(event) = stream.next().await {
        match event.ok()? {
            ModelEvent::Text(piece) => written.text.push_str(&piece),
            ModelEvent::Model(name) => written.model = name,
            ModelEvent::Usage(used) => written.usage += used,
            ModelEvent::Finished(_) => written.is_finished = true,
            ModelEvent::ToolCall { .. } | ModelEvent::Fallback { .. } => {}
        }
        if written.text.len() > MAX_WRITTEN {
            return None;
        }
    }
    written.is_finished.then_some(())
}
