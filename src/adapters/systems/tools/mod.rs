//! Tools: what a model may call, as files in `schemas/tools/`, and the code behind each of them.
//!
//! A new tool is one schema file, one Rust file that implements `Tool`, and one line in its system's `TOOLS`. The
//! schema file validates the arguments and is what the model reads; there is no second description.
//!
//! Nothing here knows any system: the kinds are registered in `systems::kinds`.

mod definition;
pub mod http;
pub(crate) mod member;
pub(crate) mod probe;
pub mod rate;
pub(crate) mod run;
pub mod text;
pub(crate) mod toolset;

use std::borrow::Cow;

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, RateHint, ToolError, ToolErrorKind, ToolRequest};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One tool of an external system; `S` is what that system gives to each call.
#[async_trait]
pub(crate) trait Tool<S: Sync>: Send + Sync {
    /// The name, which is also the name of its schema file.
    fn name(&self) -> &'static str;

    /// Its file in `schemas/tools/`.
    fn definition(&self) -> &'static str;

    /// Runs the tool. The result is at most [`text::RESULT_BYTES`] long.
    async fn call(&self, session: &S, request: &ToolRequest) -> Result<Value, ToolError>;

    /// Looks up whether an earlier call with the same id took effect. `Refused` means that this cannot be determined.
    async fn look_up(&self, _session: &S, request: &ToolRequest) -> Result<LookUp, ToolError> {
        Err(refused(format!(
            "an earlier call of {} cannot be looked up",
            request.tool
        )))
    }
}

/// Why a system's configuration is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{system}: {reason}")]
pub struct InvalidConfig {
    pub system: Cow<'static, str>,
    /// The reason; without secrets.
    pub reason: String,
}

/// A failure without rate limit figures; the runner adds them.
pub(crate) fn failed(kind: ToolErrorKind, message: impl Into<String>) -> ToolError {
    ToolError {
        kind,
        message: message.into(),
        retry_after: None,
        rate: RateHint::default(),
        answered: false,
    }
}

/// The vendor sent an unusable answer: it is reachable, but whether a change took effect is unknown.
pub(crate) fn unreadable(vendor: &str, what: &str) -> ToolError {
    ToolError {
        answered: true,
        ..failed(ToolErrorKind::OutcomeUnknown, format!("{vendor} sent {what}"))
    }
}

/// A refusal: nothing was changed, and the same request would be refused again.
pub(crate) fn refused(message: impl Into<String>) -> ToolError {
    failed(ToolErrorKind::Refused, message)
}

/// Reads the arguments, which the core has already checked against the tool's schema.
pub(crate) fn arguments<A: DeserializeOwned>(request: &ToolRequest) -> Result<A, ToolError> {
    A::deserialize(&request.arguments).map_err(|error| refused(format!("unusable arguments: {error}")))
}
