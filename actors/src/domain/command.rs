//! What can be asked of a conversation. Ids, times and randomness are put in before; nothing here is made up inside.

use jiff::Timestamp;
use serde_json::Value;

use super::content::{Citation, Finish, Input, Metadata, ToolStatus};
use super::event::{Channel, CompressionMethod, GuardAction, GuardStage, Idempotency};
use super::ids::{CallId, CopilotName, Seq, TenantId, TurnId, UserId};
use super::policy::Policy;
use super::schema::AcceptedSchema;
use super::usage::Usage;

/// What `decide` may look at besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The present time.
    pub now: Timestamp,
    /// The copilot's configuration.
    pub policy: &'a Policy,
    /// Whether one more turn of this user may wait for a person.
    pub may_await_approval: bool,
}

/// What a turn does to one that is busy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenBusy {
    /// Waits behind it.
    #[default]
    Enqueue,
    /// Is refused.
    Reject,
    /// Cancels it and runs next.
    Interrupt,
}

/// Who decides on an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The call may run, with these arguments if they were edited.
    Approve {
        /// Arguments in place of the model's.
        arguments: Option<Value>,
    },
    /// The call must not run.
    Reject,
}

/// A change that somebody asks for, or a report of work that was done.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "fields are named like those of the events they lead to")]
pub enum Command {
    Create {
        tenant: TenantId,
        user: UserId,
        copilot: CopilotName,
        channel: Channel,
        title: Option<String>,
        metadata: Metadata,
        idempotency: Option<Idempotency>,
    },
    Update {
        title: Option<String>,
        metadata: Option<Metadata>,
    },
    Erase {
        by: String,
        halt: Halt,
    },
    Submit {
        turn: TurnId,
        input: Input,
        metadata: Metadata,
        response_schema: Option<AcceptedSchema>,
        when_busy: WhenBusy,
        idempotency: Option<Idempotency>,
        trace: Option<String>,
        api_key: Option<String>,
        /// Random, and known to nobody outside; see [`Event::TurnQueued`](super::event::Event::TurnQueued).
        nonce: Option<String>,
        /// State of the busy turn's work, sealed before an interrupt.
        halt: Halt,
    },
    Cancel {
        turn: TurnId,
        halt: Halt,
    },
    /// The tenant is suspended: ends all open turns.
    Suspend {
        halt: Halt,
    },
    Decide {
        turn: TurnId,
        call: CallId,
        decision: Decision,
        reason: Option<String>,
        by: String,
    },
    GiveFeedback {
        turn: TurnId,
        rating: i8,
        comment: Option<String>,
        by: String,
        /// Feedback on this turn that the asker saw in the log.
        earlier: u32,
    },

    /// Takes up open turns after the process, the actor or the agent died.
    Recover,
    /// The running turn's tenant is left out: writes down what of it has not begun.
    Pause {
        unsent: Vec<CallId>,
        asked: bool,
    },
    /// The process hands its conversations over: writes down what of the running turn has not begun.
    HandOver {
        unsent: Vec<CallId>,
        asked: bool,
    },
    /// Takes up a turn that was paused in this process, which knows what of it is under way still.
    Resume {
        under_way: Vec<CallId>,
    },
    ContextAssembled {
        at: Step,
        prompt_tokens: u64,
        summary_upto_seq: Option<Seq>,
    },
    /// Another target answers than the one that failed before.
    FellBack {
        at: Step,
        from: String,
        to: String,
        reason: String,
    },
    ModelReplied {
        at: Step,
        reply: ModelReply,
    },
    ModelFailed {
        at: Step,
        failure: ModelFailure,
    },
    /// A rule stopped the answer.
    OutputBlocked {
        at: Step,
        rule: String,
        model: String,
        usage: Usage,
    },
    ToolReplied {
        turn: TurnId,
        call: CallId,
        status: ToolStatus,
        result: Option<Value>,
        error: Option<String>,
    },
    ApprovalExpired {
        turn: TurnId,
        call: CallId,
    },
    TurnExpired {
        turn: TurnId,
        attempt: u32,
        halt: Halt,
    },
    Compressed {
        upto_seq: Seq,
        tokens_before: u64,
        tokens_after: u64,
        summary: String,
        method: CompressionMethod,
        model: String,
        usage: Usage,
    },
}

impl Command {
    /// How far the running turn's work had come, for a command that stops it.
    pub fn halt(&self) -> Option<&Halt> {
        match self {
            Self::Cancel { halt, .. }
            | Self::Submit { halt, .. }
            | Self::Erase { halt, .. }
            | Self::Suspend { halt }
            | Self::TurnExpired { halt, .. } => Some(halt),
            _ => None,
        }
    }

    /// The same, to be filled in.
    pub fn halt_mut(&mut self) -> Option<&mut Halt> {
        match self {
            Self::Cancel { halt, .. }
            | Self::Submit { halt, .. }
            | Self::Erase { halt, .. }
            | Self::Suspend { halt }
            | Self::TurnExpired { halt, .. } => Some(halt),
            _ => None,
        }
    }
}

/// Names one model step; reports that name another than the present one are stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Step {
    /// The turn.
    pub turn: TurnId,
    /// Its attempt.
    pub attempt: u32,
    /// Number of the step, from 1.
    pub step: u32,
}

/// How far the running turn's work had come when it was stopped: made before the command, so that nothing moves
/// between what readers saw, what left the house and what is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Halt {
    /// The open message, if one was being written.
    pub sealed: Option<Sealed>,
    /// Calls that had not left the house and now never will.
    pub unsent: Vec<CallId>,
}

/// The released text of an open message after it was sealed: what readers saw, and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The step that was writing.
    pub at: Step,
    /// What was released.
    pub text: String,
    /// What had been used by then, counted by us.
    pub usage: Usage,
}

/// What a model step produced.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReply {
    /// The whole text, as released.
    pub text: String,
    /// Name and arguments of each call it asks for.
    pub calls: Vec<(String, Value)>,
    /// Passages it rests on.
    pub citations: Vec<Citation>,
    /// What checking the text against the turn's schema came to; it is checked before this is reported.
    pub output: OutputCheck,
    /// Why it ended.
    pub finish: Finish,
    /// Model that answered.
    pub model: String,
    /// What it used.
    pub usage: Usage,
    /// Milliseconds from the turn's acceptance to the first released text.
    pub first_token_ms: Option<u64>,
    /// Rules that touched the text.
    pub guardrails: Vec<(GuardStage, String, GuardAction)>,
}

/// What checking an answer against the turn's `response_schema` came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum OutputCheck {
    /// There was nothing to check: the turn has no schema, or the step asks for calls.
    #[default]
    NotDue,
    /// It is this JSON, which satisfies the schema.
    Valid(Value),
    /// It does not satisfy the schema; in one line, for the model.
    Invalid(String),
    /// The check reached its bounds of time or memory.
    TooExpensive,
    /// The check could not be run.
    Unavailable,
}

/// Why a model step produced nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFailure {
    /// What kind of failure.
    pub class: FailureClass,
    /// What was tried and what came back, fit for the tenant's eyes.
    pub message: String,
    /// Model that was asked.
    pub model: String,
    /// What it used nevertheless.
    pub usage: Usage,
    /// When the provider wants to be asked again.
    pub retry_after: Option<std::time::Duration>,
}

/// Kinds of failed model calls. Each has its own rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The key is dead: 401, 402, 403.
    Key,
    /// Too many requests: 429.
    Rate,
    /// A limit of our own: of the tenant, the user or the key.
    Limit,
    /// A budget of our own is used up.
    Budget,
    /// The provider is overloaded or broken: 5xx.
    Overload,
    /// The prompt does not fit.
    ContextLength,
    /// The provider's content policy.
    ContentPolicy,
    /// The provider refused the request for another reason: 4xx.
    Rejected,
    /// One of the four clocks ran out.
    Silence,
    /// The stream ended without `finish_reason`.
    Cut,
    /// What came was not the protocol.
    Malformed,
    /// No connection, or it broke.
    Network,
}

impl FailureClass {
    /// Stable name for logs, metrics and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Rate => "rate",
            Self::Limit => "limit",
            Self::Budget => "budget",
            Self::Overload => "overload",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::Rejected => "rejected",
            Self::Silence => "silence",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::Network => "network",
        }
    }
}
