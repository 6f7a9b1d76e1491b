//! Traits for what the actors need from the outside world. Adapters implement them; tests use `fakes`.

mod clock;
mod event_log;
mod ids;
mod model;
mod policies;
mod schema;
mod tools;
mod traces;

use std::sync::Arc;

pub use crate::domain::tool::rate::RateHint;
pub use clock::Clock;
pub use event_log::{
    Append, DISK_FULL, ErasureReceipt, EventLog, ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords,
};
pub use ids::Ids;
pub use model::{
    LostCall, LostPrompt, Model, ModelError, ModelEvent, ModelRequest, ModelStream, Refusal, RefusedBy, ToolOffer,
};
pub use policies::{Policies, ServingState};
pub use schema::{SchemaChecker, SchemaError, SchemaVerdict, accept};
pub use tools::{LookUp, SystemKey, Systems, ToolBox, ToolError, ToolErrorKind, ToolReply, ToolRequest};
pub use traces::Traces;

/// All ports of the actors, passed down once.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the port of its name")]
pub struct Ports {
    pub log: Arc<dyn EventLog>,
    pub model: Arc<dyn Model>,
    pub systems: Arc<dyn Systems>,
    pub policies: Arc<dyn Policies>,
    pub schemas: Arc<dyn SchemaChecker>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub traces: Arc<dyn Traces>,
}
