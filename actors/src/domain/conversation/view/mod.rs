//! What clients see of the state: API.md's objects, folded from records.

mod conversation;
mod event;
mod message;
mod turn;

pub use conversation::{ConversationStatus, ConversationView};
pub use event::{PublicEvent, public_event};
pub use message::{MessageView, Role, message};
pub use turn::{
    FeedbackView, GuardrailView, OutputView, RetrievalView, ToolCallStatus, ToolCallView, TurnError, TurnStatus,
    TurnSummary, TurnView, UsageView, WaitingView,
};

use crate::domain::usage::NanoUsd;

/// Converts nano-dollars to dollars, for JSON only.
pub fn usd(cost: NanoUsd) -> f64 {
    // Exact up to 2^53 nano-dollars, nine million dollars.
    cost as f64 / 1e9
}
