//! The port to a provider: one model behind one key, as the gateway calls it. Adapters implement it.

mod progress;
mod timeouts;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::{ConversationId, TenantId};
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent, Refusal, RefusedBy};
use futures::stream::BoxStream;

use crate::request::body::ChatBody;
use crate::request::embed::{EmbedAnswer, EmbedBody};
pub use progress::{CallProgress, ProgressSnapshot, ProviderWork};
pub use timeouts::Timeouts;

/// One model behind one key. It never retries by itself: what follows a failure is the gateway's decision.
#[async_trait]
pub trait Upstream: Send + Sync + fmt::Debug {
    /// Opens a streamed answer. A stream that ends without [`ModelEvent::Finished`] first yields a `FailureClass::Cut`
    /// error. Dropping it closes the connection.
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError>;

    /// Requests the answer as one document.
    async fn whole(&self, call: &UpstreamCall) -> Result<WholeAnswer, ModelError>;

    /// Embeds texts. The default implementation refuses.
    async fn embed(
        &self,
        body: &EmbedBody,
        timeouts: Timeouts,
        progress: &CallProgress,
    ) -> Result<EmbedAnswer, ModelError> {
        let _ = (body, timeouts);
        progress.refused();
        Err(ModelError {
            class: FailureClass::Rejected,
            message: "this provider does not support embeddings".to_owned(),
            retry_after: None,
            refusal: Some(Box::new(Refusal::new(RefusedBy::Adapter))),
        })
    }
}

/// One call of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamCall {
    /// The request body. The upstream inserts its own model name.
    pub body: Arc<ChatBody>,
    /// Timeouts of this call; the connect timeout is the upstream's own.
    pub timeouts: Timeouts,
    /// Whether [`Piece::chunk`] is wanted. If so, what the provider says to the caller (a refusal, an end by its
    /// content filter) is passed on and is not a failure.
    pub chunks: bool,
    /// For the provider's prompt cache and for traces.
    pub conversation: Option<ConversationId>,
    /// The tenant whose share of the compute pool is used.
    pub tenant: Option<TenantId>,
    /// Updated while the call runs, for whoever records its usage.
    pub progress: Arc<CallProgress>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// One chat.completion.chunk as JSON, without framing. `None` if chunks are not wanted, or if the piece has nothing
    /// that the caller asked for.
    pub chunk: Option<Bytes>,
    /// Its meaning as events; of the first choice only, if there are several.
    pub events: Vec<ModelEvent>,
    /// Whether it has content: text, reasoning or part of a tool call, of any choice. From the first such piece on, an
    /// answer belongs to its target.
    pub content: bool,
    /// Bytes of content, of all choices.
    pub written: u64,
}

/// A streamed answer.
pub type PieceStream = BoxStream<'static, Result<Piece, ModelError>>;

/// An answer that arrived as one document.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeAnswer {
    /// A chat.completion as JSON.
    pub body: Bytes,
    /// Model name as reported by the provider.
    pub model: String,
    /// Usage including cost; counted by us if the provider reports none.
    pub usage: Usage,
    /// Finish reason of the first choice.
    pub finish: Finish,
}
