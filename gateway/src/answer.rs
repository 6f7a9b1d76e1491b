//! What a caller gets back.

use std::fmt;

use bytes::Bytes;
use copilotd_actors::domain::usage::NanoUsd;
use futures::stream::BoxStream;

use crate::error::{GatewayError, LimitState};
use crate::provider::Piece;
use crate::request::call::CacheOutcome;

/// The gateway's reply to a chat request.
#[derive(Debug)]
pub struct Reply {
    /// Target that answered, as `provider/model`.
    pub model: String,
    /// Number of requests sent to providers.
    pub attempts: u32,
    /// Outcome of the cache lookup.
    pub cache: CacheOutcome,
    /// Cost, where it is already known: not for streams.
    pub cost: Option<NanoUsd>,
    /// State of the tightest rate limits, if any apply.
    pub limits: Vec<LimitState>,
    /// The answer.
    pub answer: Answer,
}

/// An answer in the requested form.
pub enum Answer {
    /// A chat.completion.
    Whole(Bytes),
    /// Pieces, until one has `ModelEvent::Finished`; an error is the last item.
    Stream(AnswerStream),
}

/// A streamed answer. Dropping it closes the upstream connection at once.
pub type AnswerStream = BoxStream<'static, Result<Piece, GatewayError>>;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Content is never logged.
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Stream(_) => "Stream",
        })
    }
}
