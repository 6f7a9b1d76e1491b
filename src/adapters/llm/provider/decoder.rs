//! What an adapter has to implement for its provider's stream.

use std::collections::VecDeque;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use copilotd_gateway::provider::Piece;

use super::estimate::Transcript;

/// Pieces that were read and not yet taken.
pub type Out = VecDeque<Result<Piece, ModelError>>;

/// What an event meant for the deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    None,
    /// Content: text, reasoning or a piece of a call.
    Content,
    /// The provider gave its finish reason.
    Finished,
    /// Nothing more will come.
    Done,
}

/// How an answer came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The provider said that nothing more will come.
    Done,
    /// The body ended.
    Body,
}

/// The state of reading one answer.
pub trait Decoder: Send + 'static {
    /// Reads one event, its name (empty if it has none) and its data, and appends its meaning to `out` and its text to
    /// `transcript`. A document that came in place of a stream is one event.
    fn decode(
        &mut self,
        name: &str,
        data: &[u8],
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError>;

    /// Returns whether content has come: from then on the provider bills.
    fn content_seen(&self) -> bool;

    /// Returns whether the provider gave its finish reason.
    fn is_finished(&self) -> bool;

    /// Returns how the answer ended; `None` if it was cut off. What was held back until a good end is appended to
    /// `out`.
    fn finish(&mut self, end: End, out: &mut Out, transcript: &mut Transcript) -> Option<Result<Finish, ModelError>>;

    /// Returns the usage that the provider reported.
    fn usage(&self) -> Option<Usage>;

    /// Returns the chunk that reports `usage`, if the caller wants one and none came.
    fn usage_chunk(&mut self, usage: &Usage) -> Option<Bytes>;
}
