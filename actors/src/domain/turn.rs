//! A turn that has not ended, folded from its records.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::Step;
use super::content::{Finish, Input, ToolStatus};
use super::event::{Event, GuardAction, Record, RetryMode, WaitReason};
use super::ids::{CallId, Seq, TurnId};
use super::outage::Outage;
use super::usage::TotalUsage;

/// An open turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Its id.
    pub id: TurnId,
    /// Number of its first record.
    pub queued_seq: Seq,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// The prompt.
    pub input: Arc<Input>,
    /// Schema that the answer has to satisfy.
    pub response_schema: Option<Arc<Value>>,
    /// Trace of the request that brought it.
    pub trace: Option<String>,
    /// The API key that submitted it, whose limits its model calls count against.
    pub api_key: Option<String>,
    /// Attempt under way; 0 while it is queued.
    pub attempt: u32,
    /// Attempts that began with a wait: they do not count against the limit.
    pub waits: u32,
    /// Attempts that ended with the process handing over: nor do these.
    pub hand_overs: u32,
    /// Whether the attempt under way is among those two. None counts as both.
    pub is_excused: bool,
    /// Model step under way, from 1.
    pub step: u32,
    /// What it is doing.
    pub phase: Phase,
    /// From when its time is counted: the last start, decision or end of a wait.
    pub clock_from: Timestamp,
    /// When the present model step was begun, at the latest.
    pub asked_from: Timestamp,
    /// End of the visible wait before the present step; may be past.
    pub waiting_until: Option<Timestamp>,
    /// What had not begun when the turn's tenant was left out, or when its process handed over, as far as that is written down;
    /// none while it is worked on.
    pub pause: Option<Pause>,
    /// Why it waits: set until the model is asked again.
    pub waiting: Option<WaitReason>,
    /// What it has been through with its provider since a model last answered.
    pub outage: Outage,
    /// Invalid arguments or answers that the model was asked to repair.
    pub repairs: u32,
    /// Used so far.
    pub usage: TotalUsage,
    /// Milliseconds from acceptance to the first text a reader saw.
    pub first_token_ms: Option<u64>,
}

/// How far a turn had come when its tenant was left out for a fault of its settings, or when its process handed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Calls that are written down as called and have certainly not been sent.
    pub unsent: Vec<CallId>,
    /// Whether the present model step may have been asked.
    pub asked: bool,
    /// Whether its process handed it over: what was under way then was lost in an orderly way, and counts for nothing.
    pub handed_over: bool,
}

/// What an open turn is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for the turns before it.
    Queued,
    /// A model step is due or under way.
    Thinking,
    /// The calls of the last step are due, under way or waiting for a person. Never all done: that is `Thinking`.
    Acting(Vec<Call>),
}

/// A tool call of the present step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// Name of the tool.
    pub name: String,
    /// Its arguments; final once it runs. Shared, since every decision is made on a copy of the state.
    pub arguments: Arc<Value>,
    /// How far it is.
    pub stage: Stage,
    /// When it was first written down as called; a vendor's window for its key counts from then.
    pub called_at: Option<Timestamp>,
}

/// How far a tool call is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// The model asked for it. Only inside one append.
    Proposed,
    /// Waits for a person until then.
    AwaitingApproval(Timestamp),
    /// Written down as called: may be on its way.
    Running {
        /// How often it was taken up again after a crash.
        retry: u32,
        /// How it is done.
        mode: RetryMode,
        /// Until then the process that wrote this waits for its outcome.
        settles_at: Timestamp,
    },
    /// Has exactly one result.
    Done(ToolStatus),
}

impl Call {
    /// Whether it is written down as called and has no result.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }
}

impl Turn {
    /// Opens a turn with its first record; none if the record is another.
    pub fn open(record: &Record) -> Option<Self> {
        let (
            Some(id),
            Event::TurnQueued {
                input,
                response_schema,
                trace,
                api_key,
                ..
            },
        ) = (record.turn, &record.event)
        else {
            return None;
        };
        Some(Self {
            id,
            queued_seq: record.seq,
            queued_at: record.at,
            input: Arc::new(input.clone()),
            response_schema: response_schema.clone().map(Arc::new),
            trace: trace.clone(),
            api_key: api_key.clone(),
            attempt: 0,
            waits: 0,
            hand_overs: 0,
            is_excused: false,
            step: 1,
            phase: Phase::Queued,
            clock_from: record.at,
            asked_from: record.at,
            waiting_until: None,
            pause: None,
            waiting: None,
            outage: Outage::default(),
            repairs: 0,
            usage: TotalUsage::default(),
            first_token_ms: None,
        })
    }

    /// Names the present model step.
    pub fn present(&self) -> Step {
        Step {
            turn: self.id,
            attempt: self.attempt,
            step: self.step,
        }
    }

    /// Returns the calls of the present step; empty while the model is thinking.
    pub fn calls(&self) -> &[Call] {
        match &self.phase {
            Phase::Acting(calls) => calls,
            Phase::Queued | Phase::Thinking => &[],
        }
    }

    /// Whether only people can move it on.
    pub fn only_awaits_approval(&self) -> bool {
        let calls = self.calls();
        !calls.is_empty() && !calls.iter().any(|call| matches!(call.stage, Stage::Running { .. }))
    }

    /// Whether one of its calls waits for a person.
    pub fn awaits_approval(&self) -> bool {
        let waits = |call: &Call| matches!(call.stage, Stage::AwaitingApproval(_));
        self.calls().iter().any(waits)
    }

    /// Whether a call that is written down as called has certainly not been sent, in this life or an earlier one.
    pub fn never_sent(&self, call: &Call) -> bool {
        let unsent = self.pause.as_ref().is_some_and(|pause| pause.unsent.contains(&call.id));
        unsent && matches!(call.stage, Stage::Running { retry: 0, .. })
    }

    /// Adds one later record of this turn.
    pub fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::TurnStarted { attempt, .. } => {
                self.attempt = *attempt;
                self.clock_from = record.at;
                self.asked_from = record.at;
                self.waiting_until = None;
                self.pause = None;
                self.waiting = None;
                self.is_excused = false;
                if self.phase == Phase::Queued {
                    self.phase = Phase::Thinking;
                }
            }
            Event::TurnWaiting { reason, until } => {
                self.waits += 1;
                self.is_excused = true;
                self.waiting_until = Some(*until);
                self.waiting = Some(*reason);
                self.clock_from = *until;
                self.asked_from = *until;
                self.outage.waits(record.at, *until);
            }
            // `waiting_until` stays: it names the effect that is under way.
            Event::ContextAssembled { .. } => {
                self.waiting = None;
                self.asked_from = record.at;
            }
            Event::TurnPaused { unsent, asked } => {
                self.pause = Some(Pause {
                    unsent: unsent.clone(),
                    asked: *asked,
                    // Nothing was begun since.
                    handed_over: self.is_handed_over(),
                });
            }
            Event::TurnHandedOver { unsent, asked } => {
                // The next start ends this attempt. One that is taken up without a start goes on.
                if *asked && self.phase == Phase::Thinking && !self.is_excused {
                    self.hand_overs += 1;
                    self.is_excused = true;
                }
                self.pause = Some(Pause {
                    unsent: unsent.clone(),
                    asked: *asked,
                    handed_over: true,
                });
            }
            // A wait that the provider asked for outlives the pause.
            Event::TurnResumed {} => {
                self.clock_from = self.clock_from.max(record.at);
                self.pause = None;
            }
            Event::MessageCompleted {
                tool_calls,
                finish,
                model,
                usage,
                first_token_ms,
                ..
            } => {
                self.answered();
                self.usage.add(model, *usage);
                self.first_token_ms = self.first_token_ms.or(*first_token_ms);
                if *finish != Finish::Cancelled && !tool_calls.is_empty() {
                    let proposed = |call: &super::content::ToolCall| Call {
                        id: call.id,
                        name: call.name.clone(),
                        arguments: Arc::new(call.arguments.clone()),
                        stage: Stage::Proposed,
                        called_at: None,
                    };
                    self.phase = Phase::Acting(tool_calls.iter().map(proposed).collect());
                }
            }
            Event::OutputRejected { model, usage, .. } => {
                self.answered();
                self.asked_from = record.at;
                self.usage.add(model, *usage);
                self.step += 1;
            }
            Event::ModelFailed {
                class, model, usage, ..
            } => {
                self.usage.add(model, *usage);
                self.outage.failed(class, self.asked_from, record.at);
            }
            Event::GuardrailTriggered {
                action: GuardAction::Repair,
                ..
            } => self.repairs += 1,
            Event::ApprovalRequested {
                call_id, expires_at, ..
            } => {
                self.stage(*call_id, Stage::AwaitingApproval(*expires_at));
            }
            // However it was decided, and if by nobody: the time that a person took is not the turn's.
            Event::ApprovalDecided { .. } => self.clock_from = record.at,
            Event::ToolCalled {
                call_id,
                arguments,
                settles_at,
                ..
            } => {
                if let Some(call) = self.call_mut(*call_id) {
                    call.arguments = Arc::new(arguments.clone());
                    call.called_at = Some(record.at);
                }
                self.stage(
                    *call_id,
                    Stage::Running {
                        retry: 0,
                        mode: RetryMode::Repeat,
                        settles_at: *settles_at,
                    },
                );
            }
            Event::ToolRetried {
                call_id,
                retry,
                mode,
                settles_at,
            } => {
                // The first time that it is sent after all: a vendor's window counts from here.
                if let Some(call) = self.call_mut(*call_id).filter(|_| *retry == 0) {
                    call.called_at = Some(record.at);
                }
                self.stage(
                    *call_id,
                    Stage::Running {
                        retry: *retry,
                        mode: *mode,
                        settles_at: *settles_at,
                    },
                );
            }
            Event::ToolFinished { call_id, status, .. } => {
                self.stage(*call_id, Stage::Done(*status));
                if self.calls().iter().all(|call| matches!(call.stage, Stage::Done(_))) {
                    self.phase = Phase::Thinking;
                    self.asked_from = record.at;
                    self.step += 1;
                }
            }
            _ => {}
        }
    }

    /// Attempts that count against the limit: those that a crash or a stop cost.
    pub fn counted_attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.waits).saturating_sub(self.hand_overs)
    }

    /// Whether its process handed it over, and nobody has taken it up since.
    pub fn is_handed_over(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.handed_over)
    }

    fn answered(&mut self) {
        self.waiting_until = None;
        self.pause = None;
        self.waiting = None;
        self.outage = Outage::default();
    }

    fn call_mut(&mut self, id: CallId) -> Option<&mut Call> {
        match &mut self.phase {
            Phase::Acting(calls) => calls.iter_mut().find(|call| call.id == id),
            Phase::Queued | Phase::Thinking => None,
        }
    }

    fn stage(&mut self, id: CallId, stage: Stage) {
        if let Some(call) = self.call_mut(id) {
            call.stage = stage;
        }
    }
}
