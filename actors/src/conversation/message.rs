//! What a conversation is asked, told and answers.

use std::sync::Arc;

use ractor::{ActorRef, RpcReplyPort};
use tokio::time::Instant;

use crate::compressor::Outcome;
use crate::connector::Gate;
use crate::domain::command::{Command, Step};
use crate::domain::decide::Rejection;
use crate::domain::effects::Effect;
use crate::domain::event::Record;
use crate::domain::header::Header;
use crate::domain::ids::{CallId, ConversationId, Seq, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::domain::quota::QuotaExceeded;
use crate::domain::screen::Screened;
use crate::shared::Full;
use crate::tenancy::TenantScope;

/// Address of a conversation.
pub type ConversationRef = ActorRef<Msg>;

/// What a conversation is asked and told.
#[derive(Debug)]
pub enum Msg {
    /// Somebody outside wants a change.
    Ask {
        /// Who asks.
        asker: Asker,
        /// What for.
        command: Box<Asked>,
        /// Answered once it is stored or refused.
        reply: RpcReplyPort<Reply>,
    },
    /// Somebody outside is going to screen a command that costs too much to be screened here.
    Screening {
        /// Who asks.
        asker: Asker,
        /// The command.
        command: Arc<Command>,
        /// Answered at once.
        reply: RpcReplyPort<Result<Screening, Refusal>>,
    },
    /// An agent or a connector reports work.
    Report(Box<Screened>),
    /// How many turns stand before this one; none if it is not open.
    Position {
        /// The turn.
        turn: TurnId,
        /// Answered at once.
        reply: RpcReplyPort<Option<usize>>,
    },
    /// A timer of an effect went off.
    Due(Effect),
    /// Nothing has happened for a while since this generation.
    Idle(u64),
    /// Whether work is done for the tenant may have changed.
    StandingChanged,
    /// A model step was not asked, because its tenant is left out.
    StepHeld(Step),
    /// A connector sends nothing more for a call, because its tenant is left out.
    CallHeld {
        /// The call.
        call: CallId,
        /// Its gate, which tells whether it was sent before, and this call from a later one of the same id.
        gate: Arc<Gate>,
    },
    /// The compression under way came to this.
    CompressionEnded(Outcome),
    /// The store has records up to this one, as a look through it found. A copy that knows fewer is out of date.
    Stored(Seq),
    /// The process hands over to another one: nothing is begun any more, and calls that are under way get until then to end.
    HandOver(Instant),
    /// The time of calls that were under way at the hand-over is up.
    HandOverDue,
}

impl Msg {
    /// Wraps a report.
    pub fn report(command: Screened) -> Self {
        Self::Report(Box::new(command))
    }
}

/// A change that somebody outside asks for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// One that is screened in the conversation's handler: it weighs at most [`INLINE_COST`](crate::compute::INLINE_COST).
    Light(Command),
    /// One that was screened before.
    Screened(Screened),
}

/// What a command is screened with.
#[derive(Debug, Clone)]
pub struct Screening {
    /// The copilot's policy.
    pub policy: Arc<Policy>,
    /// The tool of the call that the command decides on.
    pub tool: Option<String>,
}

/// Who asks for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The user.
    pub user: UserId,
    /// Whether an administrator of the tenant asks, who may act on other users' conversations.
    pub admin: bool,
}

/// Answer to [`Msg::Ask`].
pub type Reply = Result<Accepted, Refusal>;

/// The change is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The conversation as it is now.
    pub header: Header,
    /// The turn it is about.
    pub turn: Option<TurnId>,
    /// What was stored for it; empty for a copy of an earlier request.
    pub records: Vec<Record>,
    /// Turns that stand before it.
    pub position: Option<usize>,
}

/// The change is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The core refuses it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many turns are open: which bound is reached, and how many it allows.
    #[error("too many turns are open")]
    Full(Full, usize),
    /// The tenant or the user keeps as much as it may.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The tenant's settings have a fault: nothing is taken for it until they are fixed.
    #[error("the tenant's settings have a fault")]
    LeftOut,
    /// This copy is being let go: ask the directory again.
    #[error("the conversation is being let go")]
    Gone,
    /// The conversation's own log cannot be read, which no retry mends.
    #[error("the conversation's log is damaged")]
    Damaged,
    /// The process hands over to another one, which takes it: nothing was stored.
    #[error("the process hands over to another one")]
    HandingOver,
    /// The store refuses it: nothing was stored.
    #[error("the store refuses writes")]
    Refused {
        /// Whether there is no space left.
        disk_full: bool,
    },
    /// The store cannot take it now. Nothing is known to be stored; asking again with the same key is safe.
    #[error("the store is unavailable")]
    Unavailable,
}

/// What differs per instance.
#[derive(Debug, Clone)]
pub struct Args {
    /// Its tenant.
    pub scope: TenantScope,
    /// Its id.
    pub id: ConversationId,
}
