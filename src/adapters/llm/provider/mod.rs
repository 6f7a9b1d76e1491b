//! What the adapters of model providers share: connections, server-sent events, deadlines, error classes, and reading
//! an answer while it is being streamed. Nothing here knows a provider's own format of an answer; that is each
//! adapter's [`Decoder`].
//!
//! Nothing here repeats a request, except where HTTP/2 says that the server has not processed it, or where a server
//! rejected a parameter that was added here (`learned`): retries, fallbacks and limits are the gateway's.

mod answer;
mod body;
pub mod calls;
pub(crate) mod connection_pool;
pub(crate) mod deadlines;
mod decoder;
pub(crate) mod deployment;
mod endpoint;
mod errors;
mod estimate;
mod learned;
pub mod lenient;
pub(crate) mod memory;
mod reason;
mod sent_at;
mod sse;

pub use super::provider::connection_pool::{ConnectionPool, HostPool, NoClient, StreamPermit};
pub use super::provider::deadlines::{Deadlines, TimedOut};
pub use super::provider::deployment::{Accept, Endpoint, InvalidDeployment, MAX_DOCUMENT, SendError, secret_value};
pub use answer::Answer;
pub use copilotd_gateway::provider::Timeouts;
pub use decoder::{Decoder, End, Out, Progress};
pub use endpoint::endpoint;
pub use errors::Errors;
pub use estimate::Transcript;
pub use learned::{AddedParameters, RejectedParameters};
pub use reason::Reason;
pub use sent_at::sent_at;
pub use sse::{MAX_EVENT, SseError, SseReader};

pub use copilotd_gateway::request::prompt_tokens::prompt_tokens;
