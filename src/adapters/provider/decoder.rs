//! What an adapter has to know about its provider's stream.

use std::collections::VecDeque;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use copilotd_gateway::provider::Piece;

use super::estimate::Transcript;

/// Pieces that were read and not yet taken.
pub type Out = VecDeque<Result<Piece, ModelError>>;

/// What an event meant for the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    None,
    /// Content: text, reasoning or a piece of a call.
    Content,
    /// The provider gave its reason to finish.
    Finished,
    /// Nothing more will come.
    Done,
}

/// How an answer came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The provider said that nothing more will come.
    Done,
    /// Nothing more came.
    Body,
}

/// The memory of one answer's reading.
pub trait Decoder: Send + 'static {
    /// Reads one event, its name (empty if it has none) and its data, and puts what it means into `out`, and what was said into
    /// `transcript`. A document that came in place of a stream is one event.
    fn decode(
        &mut self,
        name: &str,
        data: &[u8],
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError>;

    /// Tells whether content has come: from then on the provider bills.
    fn content_seen(&self) -> bool;

    /// Tells whether the provider gave its reason to finish.
    fn is_finished(&self) -> bool;

    /// Tells how the answer ended, and none when it was cut. What was kept back until a good end goes into `out`.
    fn finish(&mut self, end: End, out: &mut Out, transcript: &mut Transcript) -> Option<Result<Finish, ModelError>>;

    /// Returns what the provider says that it used.
    fn usage(&self) -> Option<Usage>;

    /// Makes the chunk that reports `usage`, if the caller wants one and none came.
    fn usage_chunk(&mut self, usage: &Usage) -> Option<Bytes>;
}
