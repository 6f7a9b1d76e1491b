//! External systems and their tools.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::ids::{CallId, TenantId};
use crate::domain::policy::ToolDefinition;
use crate::domain::tool::rate::RateHint;
use crate::tenancy::TenantScope;

/// One tool call, validated and allowed.
#[derive(Debug, Clone)]
pub struct ToolRequest {
    /// The tenant that pays and whose credentials are used.
    pub scope: TenantScope,
    /// The name of the tool.
    pub tool: String,
    /// The id of the call, also used as the vendor's idempotency key.
    pub call: CallId,
    /// The arguments, which satisfy the tool's schema.
    pub arguments: Value,
    /// The time limit for the whole call.
    pub timeout: Duration,
}

/// The answer of an external system.
#[derive(Debug, Clone, Default)]
pub struct ToolReply {
    /// The result of the call.
    pub result: Value,
    /// What the vendor reported about its rate limits.
    pub rate: RateHint,
}

/// A failed tool call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What is known about the call's effect.
    pub kind: ToolErrorKind,
    /// What was tried and what came back; may be shown to the model and the user.
    pub message: String,
    /// How long the vendor asks to wait before a retry.
    pub retry_after: Option<Duration>,
    /// What the vendor reported about its rate limits.
    pub rate: RateHint,
    /// Whether the vendor answered like a healthy system, even if the answer cannot be read. The circuit breaker does
    /// not count such a failure.
    pub answered: bool,
}

/// What is known about the effect of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolErrorKind {
    /// The vendor rejected the call permanently: nothing was changed.
    Refused,
    /// The vendor is rate limiting (429): nothing was changed, retry later.
    RateLimited,
    /// The vendor was never reached (no connection): nothing was changed, retry.
    Unreachable,
    /// The vendor failed (5xx), timed out or cut off its answer: the call may have taken effect.
    OutcomeUnknown,
}

/// What the look-up of an earlier call found.
#[derive(Debug, Clone)]
pub enum LookUp {
    /// The call took effect; this is its result.
    Found(Value),
    /// Nothing was found. That proves nothing: the call may still be on its way.
    NotFound,
    /// Only part of the effect was found; the text says which part and may be shown to the model and the user.
    PartlyFound(String),
}

/// One external system of one tenant. Its connector applies rate limits, a circuit breaker and retries around it.
#[async_trait]
pub trait ToolBox: Send + Sync {
    /// Returns the kind of the system: a name of the product, while a tenant chooses the system's own name.
    fn kind(&self) -> &'static str;

    /// Runs the call.
    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError>;

    /// Looks up whether an earlier call with the same id took effect.
    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError>;
}

/// Finds the external systems of tenants.
pub trait Systems: Send + Sync {
    /// Returns the tenant's system with this name, if it is configured.
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>>;
}

/// Definitions of tools, by name.
pub type ToolDefinitions = BTreeMap<String, Arc<ToolDefinition>>;

/// Lists the tools of tenants' external systems.
pub trait ToolCatalog: Send + Sync {
    /// Returns the definitions of all tools that the tenant's systems have. Does no I/O: a system whose tools have to
    /// be discovered reports those that it discovered last.
    fn catalog(&self, scope: &TenantScope) -> ToolDefinitions;
}

/// A tenant and the name of one of its external systems.
pub type SystemKey = (TenantId, String);
