//! Messages, requests and answers of a conversation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{ActorRef, RpcReplyPort};
use tokio::time::Instant;

use crate::actors::compressor::CompressionOutcome;
use crate::actors::connector::Gate;
use crate::actors::conversations::Origin;
use crate::actors::shared::TurnLimit;
use crate::domain::conversation::command::{Command, ModelFailure, Step};
use crate::domain::conversation::decide::Rejection;
use crate::domain::conversation::effects::Effect;
use crate::domain::conversation::header::Header;
use crate::domain::conversation::quota::QuotaExceeded;
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::event::Record;
use crate::domain::ids::{CallId, ConversationId, Seq, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::tenancy::TenantScope;

/// Address of a conversation.
pub type ConversationRef = ActorRef<Msg>;

/// Messages of a conversation.
#[derive(Debug)]
pub enum Msg {
    /// Executes a command from outside.
    Execute {
        /// Who sends the command.
        principal: Principal,
        /// The command.
        command: Box<IncomingCommand>,
        /// Marked when work on it starts: a request lost before that has changed nothing.
        started: StartedFlag,
        /// Answered once the change is stored or refused.
        reply: RpcReplyPort<Reply>,
    },
    /// Asks for what is needed to screen a command that is too expensive to screen in this handler.
    Screening {
        /// Who sends the command.
        principal: Principal,
        /// The command.
        command: Arc<Command>,
        /// Answered at once.
        reply: RpcReplyPort<Result<Screening, Refusal>>,
    },
    /// Report of an agent or a connector.
    Report(Box<ScreenedCommand>),
    /// Returns how many turns are queued before this one; `None` if it is not open.
    Position {
        /// The turn.
        turn: TurnId,
        /// Answered at once.
        reply: RpcReplyPort<Option<usize>>,
    },
    /// The timer of an effect expired.
    Due(Effect),
    /// Nothing has happened since this generation.
    Idle(u64),
    /// The tenant's standing may have changed.
    StandingChanged,
    /// The task of a step panicked.
    AgentDied(Step),
    /// A step was not started because its tenant is not served.
    StepDeferred(Step),
    /// A step failed because its prompt is too long.
    StepTooLarge {
        /// The step.
        at: Step,
        /// Failure to record if the memory cannot be compressed.
        failure: Box<ModelFailure>,
    },
    /// A step has waited long enough for a summary.
    SummaryOverdue(Step),
    /// A connector has stopped sending a call because its tenant is left out.
    CallDeferred {
        /// The call.
        call: CallId,
        /// The call's gate; tells whether it was sent, and tells this call from a later one with the same id.
        gate: Arc<Gate>,
    },
    /// A compression has ended.
    CompressionEnded {
        /// Number of the compression.
        number: u64,
        /// Its outcome.
        outcome: CompressionOutcome,
    },
    /// An attempt to write a title has ended: the command that records it, if a model answered.
    TitleEnded(Option<Box<Command>>),
    /// Last sequence number found by a scan of the store. An actor that knows fewer records is out of date.
    Stored(Seq),
    /// The process hands over to another one: no new work starts, and running calls may finish until this time.
    HandOver(Instant),
    /// The time that running calls had to finish during the hand-over is over.
    HandOverDue,
}

impl Msg {
    /// Wraps a report.
    pub fn report(command: ScreenedCommand) -> Self {
        Self::Report(Box::new(command))
    }
}

/// Whether work on a request has started. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct StartedFlag(Arc<AtomicBool>);

impl StartedFlag {
    /// Marks the work as started.
    pub fn mark(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether work has started.
    pub fn is_marked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A command from outside.
#[derive(Debug, Clone)]
pub enum IncomingCommand {
    /// Screened in the conversation's handler: weighs at most [`INLINE_COST`](crate::compute::INLINE_COST).
    Light(Command),
    /// Screened before.
    ScreenedCommand(ScreenedCommand),
}

/// What a command is screened with.
#[derive(Debug, Clone)]
pub struct Screening {
    /// Policy of the copilot.
    pub policy: Arc<Policy>,
    /// Tool of the call that the command decides on.
    pub tool: Option<String>,
}

/// The sender of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// Whether this is an administrator of the tenant, who may act on other users' conversations.
    pub admin: bool,
}

/// Answer to [`Msg::Execute`].
pub type Reply = Result<Accepted, Refusal>;

/// Answer to a command that was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The conversation's current header.
    pub header: Header,
    /// The turn concerned.
    pub turn: Option<TurnId>,
    /// The records that were stored; empty for a copy of an earlier request.
    pub records: Vec<Record>,
    /// Number of turns queued before the turn.
    pub position: Option<usize>,
}

/// Reasons why a command was not executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The core rejected it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many turns are open: the limit that was reached, and its value.
    #[error("too many turns are open")]
    TurnLimit(TurnLimit, usize),
    /// The tenant or the user has reached a storage quota.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The tenant's settings have a fault: nothing is accepted for it until that is fixed.
    #[error("the tenant's settings have a fault")]
    LeftOut,
    /// This actor is being passivated: ask the directory again.
    #[error("the conversation's actor is being passivated")]
    Gone,
    /// The conversation's log cannot be read, and a retry does not help.
    #[error("the conversation's log is damaged")]
    Damaged,
    /// The process is handing over to another one, which will accept the request; nothing was stored.
    #[error("the process is handing over to another one; nothing was stored")]
    HandingOver,
    /// The store refuses writes; nothing was stored.
    #[error("the store refuses writes")]
    Refused {
        /// Whether the disk is full.
        disk_full: bool,
    },
    /// The request could not be checked, and certainly nothing was stored for it.
    #[error("the request could not be processed; nothing was stored")]
    NotStored,
    /// Whether it was stored is unknown; a retry with the same key is safe.
    #[error("the store is unavailable")]
    Unavailable,
}

/// Arguments of one instance.
#[derive(Debug, Clone)]
pub struct Args {
    /// Tenant scope.
    pub scope: TenantScope,
    /// Conversation id.
    pub id: ConversationId,
    /// Whether its log may have records.
    pub origin: Origin,
}
