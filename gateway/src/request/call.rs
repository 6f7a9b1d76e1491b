//! One call of the gateway: who asks for what, and what comes back.

use std::fmt;

use bytes::Bytes;
use copilotd_actors::domain::ids::{ConversationId, CopilotName, TurnId, UserId};
use copilotd_actors::domain::usage::NanoUsd;
use copilotd_actors::tenancy::TenantScope;
use futures::stream::BoxStream;

use super::body::ChatBody;
use super::role::Role;
use crate::error::{GatewayError, LimitState};
use crate::provider::Piece;

/// Who asks, and what for: whom limits, cache and accounting go by.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The verified tenant.
    pub scope: TenantScope,
    /// The user behind the call.
    pub user: UserId,
    /// What the credential stands for, where there is one.
    pub role: Option<Role>,
    /// Name of the API key that was used, if one was.
    pub api_key: Option<String>,
    /// The copilot, if it is one's.
    pub copilot: Option<CopilotName>,
    /// The conversation, if it is one's.
    pub conversation: Option<ConversationId>,
    /// The turn, if it is one's.
    pub turn: Option<TurnId>,
    /// What for.
    pub purpose: Purpose,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A step of a turn.
    Turn,
    /// A summary of a conversation.
    Summary,
    /// A call of the OpenAI-compatible endpoint.
    Endpoint,
    /// An embedding.
    Embedding,
    /// A sampled second opinion on the cache.
    Audit,
    /// An embedding by which the cache finds what is near, or compares answers.
    Lookup,
}

impl Purpose {
    /// Stable name for logs, metrics and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Summary => "summary",
            Self::Endpoint => "endpoint",
            Self::Embedding => "embedding",
            Self::Audit => "audit",
            Self::Lookup => "lookup",
        }
    }
}

/// Whether pieces are passed on as they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// As they come; a stream that dies ends with an error.
    #[default]
    Live,
    /// A stream begins only when its answer is whole; what failed before stays invisible.
    Buffered,
}

/// What the caller wishes of the semantic cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheWish {
    /// May be answered from it.
    #[default]
    Use,
    /// May be answered from it by a question that is at least so near, in thousandths. Raises the route's bar, never
    /// lowers it.
    AtLeast(u16),
    /// Is neither answered from it nor kept in it.
    Bypass,
}

/// What the semantic cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheOutcome {
    /// It answered.
    Hit,
    /// It was asked and had nothing.
    Miss,
    /// It was not asked.
    #[default]
    Bypass,
}

impl CacheOutcome {
    /// Stable name for headers and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// A chat request on its way through the gateway.
#[derive(Debug, Clone)]
pub struct GatewayCall {
    /// Who asks.
    pub caller: Caller,
    /// Name of a route, or `provider/model`.
    pub route: String,
    /// What is asked.
    pub body: ChatBody,
    /// Overrides the route's mode.
    pub mode: Option<Mode>,
    /// What is wished of the cache.
    pub cache: CacheWish,
    /// The version of what the answer rests on beside the tenant's own, as the caller names it: it parts the cache.
    pub knowledge: Option<String>,
}

/// What the gateway answered.
#[derive(Debug)]
pub struct Reply {
    /// `provider/model` that answered.
    pub model: String,
    /// Requests that were sent to providers for it.
    pub attempts: u32,
    /// What the cache did.
    pub cache: CacheOutcome,
    /// What it cost, where that is known already: not on streams.
    pub cost: Option<NanoUsd>,
    /// Where the tightest rates stand, if any are limited.
    pub limits: Vec<LimitState>,
    /// The answer.
    pub answer: Answer,
}

/// An answer in the form that was asked for.
pub enum Answer {
    /// A chat.completion.
    Whole(Bytes),
    /// Pieces, until one has `ModelEvent::Finished`, or an error, which is the last item.
    Stream(AnswerStream),
}

/// A streamed answer. Dropping it closes the upstream connection at once.
pub type AnswerStream = BoxStream<'static, Result<Piece, GatewayError>>;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was said stands in no log.
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Stream(_) => "Stream",
        })
    }
}
