//! Traits for what the actors need from the outside world. Adapters implement them; tests use `fakes`.

mod audit_store;
mod clock;
mod detector;
mod embedder;
mod event_log;
mod facts;
mod file_store;
mod ids;
mod job;
mod job_store;
mod knowledge;
mod model;
mod policies;
mod recollection;
mod revocation_store;
mod schema;
mod tenant_store;
mod tools;
mod traces;

use std::sync::Arc;

pub use crate::domain::tool::rate::RateHint;
pub use audit_store::{AuditStore, Digest, Head, StoredEntry};
pub use clock::Clock;
pub use detector::{Content, Detector, DetectorError};
pub use embedder::{EmbedError, EmbedRequest, Embedder, MAX_TEXT_BYTES, MAX_TEXTS, Purpose, Space, Urgency, Vector};
pub use event_log::{
    Append, DISK_FULL, ErasureReceipt, EventLog, ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords,
};
pub use facts::{Facts, FactsError, FactsQuery, KnownFact, KnownFacts, LearnRequest, WithdrawnTurn};
pub use file_store::{FileStore, FileUpload, Finished, PIECE_BYTES, StoredFile, UploadStep, content};
pub use ids::Ids;
pub use job::{Job, JobState, JobStatus, Progress, Receipt, Work};
pub use job_store::{JobStore, Piece, PieceOutcome, TenantData, TenantEraser};
pub use knowledge::{Knowledge, KnowledgeError, KnowledgeQuery, Retrieved, RetrievedChunk};
pub use model::{LostCall, LostPrompt, Model, ModelError, ModelEvent, ModelRequest, ModelStream, Refusal, RefusedBy};
pub use policies::{Policies, ServingState};
pub use recollection::{RecallError, RecallQuery, RecallReason, Recalled, RecalledMessage, Recollection};
pub use revocation_store::RevocationStore;
pub use schema::{ClientToolsError, SchemaChecker, SchemaError, SchemaVerdict, accept, accept_client_tools};
pub use tenant_store::TenantStore;
pub use tools::{
    LookUp, SystemKey, Systems, ToolBox, ToolCatalog, ToolDefinitions, ToolError, ToolErrorKind, ToolReply, ToolRequest,
};
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
    pub detectors: Vec<Arc<dyn Detector>>,
    /// None in a process without knowledge: copilots that name collections run without them.
    pub knowledge: Option<Arc<dyn Knowledge>>,
    /// None in a process that searches no earlier messages: prompts have a window and a summary.
    pub recollection: Option<Arc<dyn Recollection>>,
    /// None in a process that remembers nothing about users: copilots with `memory.facts` run without.
    pub facts: Option<Arc<dyn Facts>>,
    /// None in a process without attachments: prompts mention files and have none.
    pub files: Option<Arc<dyn FileStore>>,
}
