//! One deployment of a model behind one key, as the gateway calls it. Adapters implement it.

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
use copilotd_actors::ports::{ModelError, ModelEvent, Refusal};
use futures::stream::BoxStream;

use crate::request::body::ChatBody;
use crate::request::embed::{EmbedAnswer, EmbedBody};
pub use progress::{CallProgress, Seen, Work};
pub use timeouts::Timeouts;

/// Status of a refusal that is the adapter's own: the request is in order, but this provider's protocol cannot say it.
/// Another target may.
pub const UNSUPPORTED: u16 = 501;

/// One deployment of a model behind one key. It never asks again by itself: what follows a failure is the gateway's.
#[async_trait]
pub trait Upstream: Send + Sync + fmt::Debug {
    /// Opens a streamed answer. A stream that ends without [`ModelEvent::Finished`] yields a `FailureClass::Cut` error
    /// first. Dropping it closes the connection.
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError>;

    /// Asks for the answer as one document.
    async fn whole(&self, call: &UpstreamCall) -> Result<WholeAnswer, ModelError>;

    /// Embeds texts. Deployments that cannot refuse.
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
            message: "this provider makes no embeddings".to_owned(),
            retry_after: None,
            refusal: Some(Box::new(Refusal {
                status: UNSUPPORTED,
                ..Refusal::default()
            })),
        })
    }
}

/// One call of one deployment.
#[derive(Debug, Clone)]
pub struct UpstreamCall {
    /// What is asked. The deployment puts its own model's name in.
    pub body: Arc<ChatBody>,
    /// The clocks of this call; the connection's is the deployment's own.
    pub timeouts: Timeouts,
    /// Whether [`Piece::chunk`] is wanted. If so, what the provider says to the caller (a refusal, an end by its content
    /// filter) is passed on and is no failure.
    pub chunks: bool,
    /// For the provider's prompt cache and for traces.
    pub conversation: Option<ConversationId>,
    /// Whose call it is: what it takes to compute is taken from this tenant's share.
    pub tenant: Option<TenantId>,
    /// Told while the call runs, for whoever books it.
    pub progress: Arc<CallProgress>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// One chat.completion.chunk as JSON, without framing. None when none was asked for, or when the piece has nothing
    /// that the caller asked for.
    pub chunk: Option<Bytes>,
    /// What it means; of the first choice only, if there are several.
    pub events: Vec<ModelEvent>,
    /// Whether it holds content: text, reasoning or a piece of a call, of any choice. From the first such piece on an
    /// answer belongs to its target.
    pub content: bool,
    /// Bytes of content in it, of all choices.
    pub written: u64,
}

/// A streamed answer.
pub type PieceStream = BoxStream<'static, Result<Piece, ModelError>>;

/// An answer that came as one document.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeAnswer {
    /// A chat.completion as JSON.
    pub body: Bytes,
    /// The model, as the provider names it.
    pub model: String,
    /// What was used, cost included; counted by us when the provider does not say.
    pub usage: Usage,
    /// Why the first choice ended.
    pub finish: Finish,
}
