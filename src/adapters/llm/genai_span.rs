//! One trace span per model call, following OpenTelemetry's semantic conventions for generative AI.
//!
//! It never contains a prompt or an answer.

use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::Piece;
use opentelemetry::propagation::Injector;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The peer of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `openai`, or the provider's name in the registry of the conventions.
    pub provider: &'static str,
    /// The requested model.
    pub model: String,
    /// The server's host name.
    pub address: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Chat,
    Embeddings,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
        }
    }
}

/// The span of one call. Dropped before the end, it records that the call was cancelled.
#[derive(Debug)]
pub struct CallSpan {
    span: Span,
    started: Instant,
    content_seen: bool,
    ended: bool,
}

impl CallSpan {
    /// Opens the span under the current one.
    pub fn start(
        peer: &Peer,
        operation: Operation,
        conversation: Option<ConversationId>,
        max_tokens: Option<u64>,
        stream: bool,
    ) -> Self {
        let span = tracing::info_span!(
            "chat",
            otel.name = %format_args!("{} {}", operation.name(), peer.model),
            otel.kind = "client",
            otel.status_code = field::Empty,
            gen_ai.operation.name = operation.name(),
            gen_ai.provider.name = peer.provider,
            gen_ai.request.model = %peer.model,
            gen_ai.request.stream = stream,
            gen_ai.request.max_tokens = max_tokens,
            gen_ai.conversation.id = conversation.map(tracing::field::display),
            gen_ai.response.model = field::Empty,
            gen_ai.response.time_to_first_chunk = field::Empty,
            gen_ai.usage.input_tokens = field::Empty,
            gen_ai.usage.cache_read.input_tokens = field::Empty,
            gen_ai.usage.output_tokens = field::Empty,
            server.address = %peer.address,
            server.port = peer.port,
            error.r#type = field::Empty,
        );
        Self {
            span,
            started: Instant::now(),
            content_seen: false,
            ended: false,
        }
    }

    /// Returns the span, to run the call inside it.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Adds the trace context to `headers`, as the process's propagator writes it (W3C `traceparent`).
    pub fn inject(&self, headers: &mut HeaderMap) {
        let context = self.span.context();
        opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&context, &mut Headers(headers));
        });
    }

    /// Records an item that the call yielded.
    pub fn observe(&mut self, item: &Result<Piece, ModelError>) {
        match item {
            Ok(piece) => piece.events.iter().for_each(|event| self.event(event)),
            Err(error) => self.fail(error.class.code()),
        }
    }

    /// Records one event of a piece.
    pub fn event(&mut self, event: &ModelEvent) {
        match event {
            ModelEvent::Model(model) => {
                self.span.record("gen_ai.response.model", model.as_str());
            }
            ModelEvent::Text(_) | ModelEvent::ToolCall { .. } => {
                if !std::mem::replace(&mut self.content_seen, true) {
                    let seconds = self.started.elapsed().as_secs_f64();
                    self.span.record("gen_ai.response.time_to_first_chunk", seconds);
                }
            }
            ModelEvent::Usage(usage) => {
                self.span.record("gen_ai.usage.input_tokens", usage.prompt_tokens);
                self.span
                    .record("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
                self.span.record("gen_ai.usage.output_tokens", usage.completion_tokens);
            }
            ModelEvent::Finished(_) => self.ended = true,
            ModelEvent::Fallback { .. } => {}
        }
    }

    /// Records why the call failed.
    pub fn fail(&mut self, code: &'static str) {
        if !std::mem::replace(&mut self.ended, true) {
            self.span.record("error.type", code);
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if !self.ended {
            // The caller left; that is not the provider's fault, so the status stays unset.
            self.span.record("error.type", "cancelled");
        }
        // An exported span ends when it was last exited, and a stream is read outside of its span.
        self.span.in_scope(|| {});
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(key.as_bytes()), HeaderValue::from_str(&value)) {
            self.0.insert(name, value);
        }
    }
}
