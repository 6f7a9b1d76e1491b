//! Turns a command into records or a rejection. The state is not changed here: only `apply` does that, once the records
//! are stored.

mod approval;
mod client_tool;
mod draft;
mod lifecycle;
mod model;
mod recover;
mod replace;
pub(crate) mod stop;
mod submit;
mod tools;

pub use tools::SETTLE_MARGIN;

use super::Conversation;
use super::command::{Command, Env, Step};
use super::screen::ScreenedCommand;
use crate::domain::access::roles::bounded_roles;
use crate::domain::event::{Event, Record};
use crate::domain::ids::TurnId;
use crate::domain::policy::Policy;
use crate::domain::schema::{AcceptedSchema, Violation};
use crate::domain::tool::client::ClientToolsFault;
use draft::Draft;

/// The result of a command. Without records, nothing changes (a copy of an earlier request, or a stale report).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The records to append, all or none.
    pub records: Vec<Record>,
    /// The turn that the command concerns, if any.
    pub turn: Option<TurnId>,
}

/// Why a command is rejected. A rejection changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such conversation, or no such open turn in it.
    #[error("conversation or turn not found")]
    NotFound,
    /// The turn has ended.
    #[error("the turn has already ended")]
    TurnEnded,
    /// Another turn is running or queued.
    #[error("another turn is running or queued")]
    TurnRunning,
    /// Too many turns are queued.
    #[error("{waiting} turns are already queued")]
    QueueFull {
        /// Number of queued turns.
        waiting: usize,
    },
    /// The turn cannot be replaced.
    #[error("the turn cannot be replaced: {why}")]
    NotReplaceable {
        /// Why not.
        why: &'static str,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was already used with a different request body")]
    KeyReused,
    /// The call is not waiting for a decision.
    #[error("the call is not waiting for an approval decision")]
    NotWaiting,
    /// The client tool's call is not waiting for a claim, or not for an answer under this claim.
    #[error("the call is not waiting for this: it was claimed by another page, was answered, or has expired")]
    NotClaimable,
    /// Something is larger than allowed.
    #[error("{what} must be at most {max} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
    },
    /// The feedback on a turn was changed too often.
    #[error("feedback on this turn was already given {max} times, the maximum; the last one counts")]
    FeedbackFull {
        /// The maximum number of times.
        max: u32,
    },
    /// The request is well formed but violates a rule.
    #[error("the request is invalid")]
    Invalid(
        /// Where and how.
        Vec<Violation>,
    ),
}

impl From<ClientToolsFault> for Rejection {
    fn from(fault: ClientToolsFault) -> Self {
        match fault {
            ClientToolsFault::TooLarge { what, max } => Self::TooLarge { what, max },
            ClientToolsFault::Invalid(violations) => Self::Invalid(violations),
        }
    }
}

impl Conversation {
    /// Checks the content of `command`; see [`Command::screen`].
    pub fn screen(&self, policy: &Policy, command: Command) -> ScreenedCommand {
        let tool = self.tool_of(&command);
        command.screen(policy, tool.as_deref())
    }

    /// Returns the tool of the call that a command decides on.
    pub fn tool_of(&self, command: &Command) -> Option<String> {
        let Command::Decide { turn, call, .. } = command else {
            return None;
        };
        let calls = self.live()?.turn(*turn)?.calls();
        calls
            .iter()
            .find(|known| known.id == *call)
            .map(|call| call.name.clone())
    }

    /// Decides the records that follow from a command.
    pub fn decide(&self, env: Env<'_>, command: ScreenedCommand) -> Result<Decision, Rejection> {
        let (command, verdict) = command.into_parts();
        if let Command::Create {
            tenant,
            user,
            copilot,
            channel,
            title,
            metadata,
            idempotency,
        } = command
        {
            return lifecycle::create(
                self,
                env,
                idempotency.clone(),
                Event::ConversationCreated {
                    tenant,
                    user,
                    copilot,
                    channel,
                    title,
                    metadata,
                    idempotency,
                },
                verdict,
            );
        }
        let book = self.live().ok_or(Rejection::NotFound)?;
        let mut draft = Draft::new(book, self.seq, env);
        let turn = match command {
            Command::Create { .. } => None,
            Command::Update { title, metadata } => lifecycle::update(&mut draft, title, metadata, verdict)?,
            Command::Erase { by, stop } => lifecycle::erase(&mut draft, by, &stop),
            Command::EraseIdle { by, since } => lifecycle::erase_idle(&mut draft, by, since)?,
            Command::GiveFeedback {
                turn,
                rating,
                comment,
                by,
                earlier,
            } => lifecycle::give_feedback(&mut draft, turn, earlier, Event::FeedbackGiven { rating, comment, by })?,
            Command::Submit {
                turn,
                input,
                metadata,
                response_schema,
                when_busy,
                idempotency,
                trace,
                api_key,
                roles,
                nonce,
                replaces,
                client_tools,
                stop,
            } => {
                if let Some(existing) = submit::find_copy(self, env, turn, idempotency.as_ref())? {
                    return Ok(Decision {
                        records: Vec::new(),
                        turn: Some(existing),
                    });
                }
                if let Some(replaced) = replaces {
                    replace::replace(&mut draft, &self.memory, replaced, turn)?;
                }
                let queued = Event::TurnQueued {
                    input,
                    metadata,
                    response_schema: response_schema.map(AcceptedSchema::into_source),
                    idempotency,
                    trace,
                    api_key,
                    roles: bounded_roles(roles),
                    nonce,
                    next: false,
                    replaces,
                    client_tools: client_tools.into_offers(),
                };
                submit::submit(&mut draft, turn, queued, when_busy, &stop, verdict)?
            }
            Command::Cancel { turn, stop } => super::decide::stop::cancel(&mut draft, turn, &stop)?,
            Command::Suspend { stop } => lifecycle::suspend(&mut draft, &stop),
            Command::TurnExpired { turn, attempt, stop } => {
                super::decide::stop::expire(&mut draft, turn, attempt, &stop)
            }
            Command::Decide {
                turn,
                call,
                decision,
                reason,
                by,
            } => approval::decide(&mut draft, turn, call, decision, reason, by, verdict)?,
            Command::ApprovalExpired { turn, call } => approval::expire(&mut draft, turn, call),
            Command::ClaimClientTool { turn, call, claim } => client_tool::claim(&mut draft, turn, call, claim)?,
            Command::AnswerClientTool {
                turn,
                call,
                token,
                result,
                error,
                failed,
                answer_hash,
            } => {
                let answer = client_tool::Answer {
                    token,
                    result,
                    error,
                    failed,
                    hash: answer_hash,
                };
                client_tool::answered(&mut draft, turn, call, answer, &verdict)?
            }
            Command::ClientToolExpired { turn, call } => client_tool::expire(&mut draft, turn, call),
            Command::Recover { lost } => recover::recover(&mut draft, lost),
            Command::Pause { unsent, asked } => recover::pause(&mut draft, unsent, asked),
            Command::HandOver { unsent, asked } => recover::hand_over(&mut draft, unsent, asked),
            Command::Resume { under_way } => recover::resume(&mut draft, &under_way),
            Command::ContextAssembled {
                at,
                prompt_tokens,
                summary_upto_seq,
                retrieved,
                retrieval,
                guardrails,
                context,
                sent,
            } => {
                let Step { attempt, step, .. } = at;
                let assembled = Event::ContextAssembled {
                    prompt_tokens,
                    summary_upto_seq,
                    retrieved,
                    attempt,
                    step,
                    retrieval,
                    context: Some(context),
                    sent: Some(model::unless_known(&draft, at, sent)),
                };
                model::context_assembled(&mut draft, at, assembled, guardrails)
            }
            Command::FellBack { at, from, to, reason } => model::fell_back(&mut draft, at, from, to, reason),
            Command::ModelReplied { at, reply } => model::replied(&mut draft, at, reply, verdict.calls),
            Command::ModelFailed { at, failure } => model::failed(&mut draft, at, failure, verdict.forbidden_by),
            Command::OutputBlocked { at, rule, model, usage } => model::blocked(&mut draft, at, rule, model, usage),
            Command::ToolReplied {
                turn,
                call,
                status,
                result,
                error,
            } => tools::replied(&mut draft, turn, call, status, (result, error), &verdict),
            Command::Titled { title, model, usage } => lifecycle::titled(&mut draft, title, model, usage),
            Command::Compressed {
                upto_seq,
                tokens_before,
                tokens_after,
                summary,
                method,
                model,
                usage,
            } => {
                let known = self.memory.pending.as_ref().or(self.memory.summary.as_ref());
                let stale = known.is_some_and(|summary| summary.upto_seq >= upto_seq);
                // Only whole turns that have ended leave the window: any other number would split one.
                if !stale && self.memory.blocks.iter().any(|block| block.end_seq == Some(upto_seq)) {
                    draft.push_plain(Event::MemoryCompressed {
                        upto_seq,
                        tokens_before,
                        tokens_after,
                        summary,
                        method,
                        model,
                        usage,
                    });
                }
                None
            }
        };
        Ok(Decision {
            records: draft.records,
            turn,
        })
    }
}
