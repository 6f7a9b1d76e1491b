//! What the adapters of model providers share: connections, server-sent events, deadlines, error classes, and reading
//! an answer while it is being streamed. Nothing here knows a provider's own format of an answer; that is each
//! adapter's [`Decoder`].
//!
//! Nothing here repeats a request, except where HTTP/2 says that the server has not processed it, or where a server
//! rejected a parameter that was added here (`learned`): retries, fallbacks and limits are the gateway's.

mod answer;
mod body;
pub mod calls;
mod clocks;
mod decoder;
mod door;
mod endpoint;
mod errors;
mod estimate;
mod hosts;
mod learned;
pub mod lenient;
mod reason;
mod retry_after;
mod room;
mod sse;

pub use answer::Answer;
pub use clocks::{Clocks, Silence};
pub use copilotd_gateway::provider::Timeouts;
pub use decoder::{Decoder, End, Out, Progress};
pub use door::{Accept, Door, InvalidDeployment, MAX_DOCUMENT, Refused, secret_value};
pub use endpoint::endpoint;
pub use errors::Errors;
pub use estimate::Transcript;
pub use hosts::{Host, Hosts, NoClient, Ticket};
pub use learned::{Added, Learned};
pub use reason::Reason;
pub use retry_after::{retry_after, sent_at};
pub use sse::{MAX_EVENT, SseReader, Unread};

pub use copilotd_gateway::request::prompt_tokens::prompt_tokens;
