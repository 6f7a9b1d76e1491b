//! Logs prompts and answers, only for tenants that enable it (`log_content = true`) and only at debug level.
//!
//! This is the only place that logs content. It wraps the models: tool results are part of the next prompt, so nothing
//! else needs to be logged. Traces never contain content: they record nothing below info level.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::LostUsage;
use copilotd_actors::ports::{LogError, LostCall, Model, ModelError, ModelEvent, ModelRequest, ModelStream};
use futures::StreamExt as _;

/// Maximum bytes of content per log line.
const MAX_BYTES: usize = 64 * 1024;

/// Log target, for filters such as `info,copilotd::content=debug`.
const TARGET: &str = "copilotd::content";

/// The tenants that enable content logging; may change while the process runs.
pub type ContentTenants = ArcSwap<HashSet<TenantId>>;

/// A model that logs content for some tenants.
pub struct ContentLogger {
    models: Arc<dyn Model>,
    tenants: Arc<ContentTenants>,
}

impl ContentLogger {
    /// Wraps `models`.
    pub fn around(models: Arc<dyn Model>, tenants: Arc<ContentTenants>) -> Arc<dyn Model> {
        Arc::new(Self { models, tenants })
    }
}

impl fmt::Debug for ContentLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContentLogger").field(&self.tenants.load()).finish()
    }
}

#[async_trait]
impl Model for ContentLogger {
    async fn lost(&self, call: LostCall) -> Result<Vec<LostUsage>, LogError> {
        self.models.lost(call).await
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let wanted = self.tenants.load().contains(request.scope.tenant());
        if !wanted || !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            return self.models.stream(request).await;
        }
        let (tenant, conversation) = (request.scope.tenant().clone(), request.conversation);
        for message in request.messages.iter() {
            let (role, text) = role_and_text(message);
            tracing::debug!(target: TARGET, %tenant, %conversation, role, text = cut(&text), "prompt message sent to model");
        }
        let stream = self.models.stream(request).await?;
        let mut answer = Answer {
            span: tracing::Span::current(),
            tenant,
            text: String::new(),
        };
        let logged = stream.inspect(move |event| answer.take(event));
        Ok(logged.boxed())
    }
}

/// Collects an answer and logs it when its stream ends or is dropped.
struct Answer {
    span: tracing::Span,
    tenant: TenantId,
    text: String,
}

impl Answer {
    fn take(&mut self, event: &Result<ModelEvent, ModelError>) {
        let piece = match event {
            Ok(ModelEvent::Text(piece)) => piece,
            Ok(ModelEvent::ToolCall { name, arguments, .. }) => {
                if let Some(name) = name {
                    self.text.push_str(&format!(" [call {name}] "));
                }
                arguments
            }
            _ => return,
        };
        if self.text.len() <= MAX_BYTES {
            self.text.push_str(piece);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.span.in_scope(|| {
            let text = cut(&self.text);
            tracing::debug!(
                target: TARGET, tenant = %self.tenant, role = "assistant", text,
                "answer received from model"
            );
        });
    }
}

fn role_and_text(message: &PromptMessage) -> (&'static str, String) {
    match message {
        PromptMessage::System { text } => ("system", text.clone()),
        PromptMessage::User { text } => ("user", text.clone()),
        PromptMessage::Files { files } => {
            let mentions: Vec<String> = files.iter().map(|file| file.info.mention()).collect();
            ("user", mentions.join("\n"))
        }
        PromptMessage::Assistant { text, calls } => {
            let calls = calls
                .iter()
                .map(|call| format!(" [call {}] {}", call.name, call.arguments));
            ("assistant", std::iter::once(text.clone()).chain(calls).collect())
        }
        PromptMessage::Tool { content, .. } => ("tool", content.clone()),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_BYTES)]
}
