//! The prompt as every provider understands it.

use serde_json::Value;

use super::ids::CallId;

/// One message of a prompt. Adapters turn it into their provider's words.
///
/// Invariant of a list made by the projector: at most one `System`, first; then `User` and `Assistant` in turn, where an
/// `Assistant` with calls is followed by exactly one `Tool` per call, in the order of the calls, before anything else;
/// no text is empty.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the roles of chat protocols")]
pub enum PromptMessage {
    System { text: String },
    User { text: String },
    Assistant { text: String, calls: Vec<PromptCall> },
    Tool { call: CallId, content: String },
}

/// A call that the model made earlier.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptCall {
    /// Our id of the call.
    pub id: CallId,
    /// Name of the tool.
    pub name: String,
    /// Arguments; always a JSON object here.
    pub arguments: Value,
}
