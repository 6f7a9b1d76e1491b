//! Commands to a conversation. Ids, times and randomness come with the command; none are generated inside the core.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::domain::content::{Citation, Finish, Input, Metadata, ToolStatus};
use crate::domain::context_record::{ContextRecord, RetrievalRecord};
use crate::domain::event::{Channel, CompressionMethod, GuardAction, Idempotency};
use crate::domain::failure::FailureClass;
use crate::domain::guardrail;
use crate::domain::ids::{CallId, CopilotName, Seq, TenantId, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::domain::schema::AcceptedSchema;
use crate::domain::sent_prompt::SentPrompt;
use crate::domain::tool::client::{Claim, ClientTools};
use crate::domain::usage::{LostUsage, Usage};

/// What `decide` may read besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The current time.
    pub now: Timestamp,
    /// The copilot's configuration.
    pub policy: &'a Policy,
    /// Whether one more turn of this user may wait for an approval or a page.
    pub may_await_approval: bool,
}

/// How a new turn treats a turn that is already open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenBusy {
    /// The new turn is queued behind it.
    #[default]
    Enqueue,
    /// The new turn is rejected.
    Reject,
    /// The open turn is cancelled and the new one runs next.
    Interrupt,
}

/// A person's decision on an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The call may run, with these arguments if they were edited.
    Approve {
        /// Edited arguments that replace the model's.
        arguments: Option<Value>,
    },
    /// The call must not run.
    Reject,
}

/// A change that someone requests, or a report of work that was done.
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
        stop: StoppedWork,
    },
    /// Erases the conversation if nothing was written after `since` and no turn is open.
    EraseIdle {
        by: String,
        since: Timestamp,
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
        /// The user's roles; see [`bounded_roles`](crate::domain::access::roles::bounded_roles).
        roles: Vec<String>,
        /// Random and secret; see [`Event::TurnQueued`](crate::domain::event::Event::TurnQueued).
        nonce: Option<String>,
        /// The ended turn that this one replaces.
        replaces: Option<TurnId>,
        /// The tools of the user's page that the model may call.
        client_tools: ClientTools,
        /// Progress of the open turn, sealed before an interrupt.
        stop: StoppedWork,
    },
    Cancel {
        turn: TurnId,
        stop: StoppedWork,
    },
    /// The tenant was suspended: ends all open turns.
    Suspend {
        stop: StoppedWork,
    },
    Decide {
        turn: TurnId,
        call: CallId,
        decision: Decision,
        reason: Option<String>,
        by: String,
    },
    /// A page is about to run a client tool.
    ClaimClientTool {
        turn: TurnId,
        call: CallId,
        claim: Claim,
    },
    /// The page that claimed a call reports what came of it: a result or an error.
    AnswerClientTool {
        turn: TurnId,
        call: CallId,
        /// The token of its claim.
        token: String,
        result: Option<Value>,
        error: Option<String>,
        /// Whether the page reports an error. Guardrails may turn a result into one, but not a success into a failure.
        failed: bool,
        answer_hash: String,
    },
    GiveFeedback {
        turn: TurnId,
        rating: i8,
        comment: Option<String>,
        by: String,
        /// How much feedback on this turn the caller saw in the log.
        earlier: u32,
    },

    /// Resumes open turns after the process, the actor or the agent died.
    Recover {
        /// Usage of the model calls that were running then.
        lost: Vec<LostUsage>,
    },
    /// The running turn's tenant is left out: records which of its work has not been started.
    Pause {
        unsent: Vec<CallId>,
        asked: bool,
    },
    /// The process hands its conversations over: records which of the running turn's work has not been started.
    HandOver {
        unsent: Vec<CallId>,
        asked: bool,
    },
    /// Resumes a turn that was paused in this process, which knows which of its calls are still running.
    Resume {
        under_way: Vec<CallId>,
    },
    ContextAssembled {
        at: Step,
        prompt_tokens: u64,
        summary_upto_seq: Option<Seq>,
        /// The retrieved chunks, as clients see them.
        retrieved: Vec<Value>,
        retrieval: Option<RetrievalRecord>,
        /// What the guardrails did to retrieved chunks.
        guardrails: Vec<(guardrail::Stage, String, GuardAction)>,
        context: ContextRecord,
        /// What is kept of the prompt, whole.
        sent: SentPrompt,
    },
    /// Another target answers in place of one that failed.
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
    /// A guardrail rule blocked the answer.
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
    /// A client tool was not claimed, or not answered, in time.
    ClientToolExpired {
        turn: TurnId,
        call: CallId,
    },
    TurnExpired {
        turn: TurnId,
        attempt: u32,
        stop: StoppedWork,
    },
    /// The small model was asked for a title; none if it wrote none that can be used.
    Titled {
        title: Option<String>,
        model: String,
        usage: Usage,
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
    /// Recovery when no model call was running.
    pub const RECOVER: Self = Self::Recover { lost: Vec::new() };

    /// Returns the running turn's progress, for a command that stops it.
    pub fn stop(&self) -> Option<&StoppedWork> {
        match self {
            Self::Cancel { stop, .. }
            | Self::Submit { stop, .. }
            | Self::Erase { stop, .. }
            | Self::Suspend { stop }
            | Self::TurnExpired { stop, .. } => Some(stop),
            _ => None,
        }
    }

    /// Like [`Self::stop`], to be filled in.
    pub fn stop_mut(&mut self) -> Option<&mut StoppedWork> {
        match self {
            Self::Cancel { stop, .. }
            | Self::Submit { stop, .. }
            | Self::Erase { stop, .. }
            | Self::Suspend { stop }
            | Self::TurnExpired { stop, .. } => Some(stop),
            _ => None,
        }
    }
}

/// Identifies one model step; a report for any step but the current one is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Step {
    /// The turn of the step.
    pub turn: TurnId,
    /// The attempt of the turn.
    pub attempt: u32,
    /// The number of the step, from 1.
    pub step: u32,
}

/// The running turn's progress when it was stopped. Taken before the command runs, so that what readers saw, what was
/// sent and what is recorded agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoppedWork {
    /// The open message, if one was being written.
    pub sealed: Option<SealedMessage>,
    /// Calls that had not been sent and now never will be.
    pub unsent: Vec<CallId>,
}

/// The released text of an open message after it was sealed: exactly what readers saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedMessage {
    /// The step that was writing the message.
    pub at: Step,
    /// The released text.
    pub text: String,
    /// The usage up to then, counted by us.
    pub usage: Usage,
}

/// The result of a model step.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReply {
    /// The whole text, as released.
    pub text: String,
    /// Name and arguments of each tool call.
    pub calls: Vec<(String, Value)>,
    /// The cited passages.
    pub citations: Vec<Citation>,
    /// The sentences that no citation supports, if the copilot demands citations.
    pub unsupported: Vec<(u64, u64)>,
    /// The result of checking the text against the turn's schema; the check runs before this is reported.
    pub output: OutputCheck,
    /// Why the step ended.
    pub finish: Finish,
    /// The model that answered.
    pub model: String,
    /// The usage of the step.
    pub usage: Usage,
    /// Milliseconds from the turn's acceptance to the first released text.
    pub first_token_ms: Option<u64>,
    /// Guardrail rules that were triggered by the text.
    pub guardrails: Vec<(guardrail::Stage, String, GuardAction)>,
    /// For each call of a client tool, by its index: whether its arguments satisfy the tool's schema; the check runs
    /// before this is reported.
    pub client_calls: BTreeMap<usize, ArgumentsCheck>,
}

/// The result of checking the arguments of a client tool's call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgumentsCheck {
    /// They satisfy the schema.
    Valid,
    /// They do not, or that could not be found out; one line for the model says why.
    Invalid(String),
}

/// The result of checking an answer against the turn's `response_schema`.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum OutputCheck {
    /// Nothing to check: the turn has no schema, or the step asks for tool calls.
    #[default]
    NotNeeded,
    /// The answer as JSON, which satisfies the schema.
    Valid(Value),
    /// The answer does not satisfy the schema; one line for the model says why.
    Invalid(String),
    /// The check reached its time or memory limit.
    TooExpensive,
    /// The check could not be run.
    Unavailable,
}

/// A failed model step.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFailure {
    /// The class of the failure.
    pub class: FailureClass,
    /// What was tried and what came back; may be shown to the tenant.
    pub message: String,
    /// The model that was called.
    pub model: String,
    /// The usage despite the failure.
    pub usage: Usage,
    /// How long the provider asks to wait before a retry.
    pub retry_after: Option<std::time::Duration>,
}
