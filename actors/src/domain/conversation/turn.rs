//! A turn that has not ended, folded from its records.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::Step;
use super::outage::Outage;
use crate::domain::content::{Finish, Input, ToolStatus};
use crate::domain::context_record::RetrievalRecord;
use crate::domain::event::{Event, GuardAction, LOST_CALL, Record, RetryMode, WaitReason};
use crate::domain::ids::{CallId, Seq, TurnId};
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::tool::client::Claim;
use crate::domain::usage::TotalUsage;

/// An open turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The id of the turn.
    pub id: TurnId,
    /// Sequence number of its first record.
    pub queued_seq: Seq,
    /// When the turn was accepted.
    pub queued_at: Timestamp,
    /// The prompt.
    pub input: Arc<Input>,
    /// The schema that the answer has to satisfy.
    pub response_schema: Option<Arc<Value>>,
    /// The tools of the user's page that the model may call.
    #[serde(default)]
    pub client_tools: Arc<Vec<ToolOffer>>,
    /// The trace of the request that submitted the turn.
    pub trace: Option<String>,
    /// The API key that submitted the turn; its model calls count against this key's limits.
    pub api_key: Option<String>,
    /// The user's roles when the turn was submitted; they decide which documents it may read.
    #[serde(default)]
    pub roles: Arc<[String]>,
    /// The current attempt; 0 while the turn is queued.
    pub attempt: u32,
    /// Number of attempts that began with a wait: they do not count against the limit.
    pub waits: u32,
    /// Number of attempts that ended with a hand-over: they do not count either.
    pub hand_overs: u32,
    /// Whether the current attempt is already among one of these two. No attempt counts as both.
    pub is_excused: bool,
    /// IDs of the passages whose text the log has for the current attempt.
    #[serde(default)]
    pub passages: Arc<BTreeSet<String>>,
    /// The current model step, from 1.
    pub step: u32,
    /// What the turn is doing.
    pub phase: Phase,
    /// The start of its time limit: the last start, decision or end of a wait.
    pub clock_from: Timestamp,
    /// When the current model step was started, at the latest.
    pub asked_from: Timestamp,
    /// The end of the visible wait before the current step; may be in the past.
    pub waiting_until: Option<Timestamp>,
    /// What had not been started when the turn's tenant was left out or its process handed over, as far as that is
    /// recorded; none while the turn is worked on.
    pub pause: Option<Pause>,
    /// Why the turn waits: set until the model is called again.
    pub waiting: Option<WaitReason>,
    /// The provider's failures since a model last answered.
    pub outage: Outage,
    /// Number of invalid arguments or answers that the model was asked to repair.
    pub repairs: u32,
    /// The usage so far.
    pub usage: TotalUsage,
    /// Milliseconds from acceptance to the first text that a reader saw.
    pub first_token_ms: Option<u64>,
}

/// The progress of a turn when its tenant was left out because of a fault in its settings, or when its process handed
/// over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Calls that are recorded as called and have certainly not been sent.
    pub unsent: Vec<CallId>,
    /// Whether the model may have been called for the current step.
    pub asked: bool,
    /// Whether its process handed it over: what was running then was stopped cleanly and does not count as an attempt.
    pub handed_over: bool,
}

/// What an open turn is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Queued behind other turns.
    Queued,
    /// A model step is due or running.
    Thinking,
    /// The calls of the last step are due, running or waiting for approval. They are never all done: then the phase is
    /// `Thinking`.
    Acting(Vec<Call>),
}

/// A tool call of the current step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The id of the call.
    pub id: CallId,
    /// The name of the tool.
    pub name: String,
    /// The arguments; final once the call runs. Shared, because every decision is made on a copy of the state.
    pub arguments: Arc<Value>,
    /// The stage of the call.
    pub stage: Stage,
    /// When it was first recorded as called; the vendor's window for its key starts then.
    pub called_at: Option<Timestamp>,
}

/// The stage of a tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// The model asked for the call. Occurs only within one append.
    Proposed,
    /// Waits for approval until this time.
    AwaitingApproval(Timestamp),
    /// Recorded as called: may be on its way.
    Running {
        /// How often the call was resumed after a crash.
        retry: u32,
        /// How the call is resumed.
        mode: RetryMode,
        /// Until when the process that recorded this waits for the outcome.
        settles_at: Timestamp,
    },
    /// Waits until this time for a page to claim it.
    Offered(Timestamp),
    /// A page runs it, or may have run it.
    Claimed {
        /// The page's claim.
        claim: Claim,
        /// Until when its answer is waited for.
        until: Timestamp,
    },
    /// Has its one result.
    Done(ToolStatus),
}

impl Call {
    /// Returns whether the call is recorded as called, by a connector, and has no result.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Returns whether the call waits for a page.
    pub fn awaits_page(&self) -> bool {
        matches!(self.stage, Stage::Offered(_) | Stage::Claimed { .. })
    }
}

impl Turn {
    /// Creates a turn from its first record; none if the record is a different one.
    pub fn open(record: &Record) -> Option<Self> {
        let (
            Some(id),
            Event::TurnQueued {
                input,
                response_schema,
                client_tools,
                trace,
                api_key,
                roles,
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
            client_tools: Arc::new(client_tools.clone()),
            trace: trace.clone(),
            api_key: api_key.clone(),
            roles: roles.as_slice().into(),
            attempt: 0,
            waits: 0,
            hand_overs: 0,
            is_excused: false,
            passages: Arc::default(),
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

    /// Returns the current model step.
    pub fn present(&self) -> Step {
        Step {
            turn: self.id,
            attempt: self.attempt,
            step: self.step,
        }
    }

    /// Returns the calls of the current step; empty in all other phases.
    pub fn calls(&self) -> &[Call] {
        match &self.phase {
            Phase::Acting(calls) => calls,
            Phase::Queued | Phase::Thinking => &[],
        }
    }

    /// Returns whether the turn only waits for approvals and for pages that run client tools: nothing of it runs here.
    pub fn is_parked(&self) -> bool {
        let calls = self.calls();
        !calls.is_empty() && !calls.iter().any(|call| matches!(call.stage, Stage::Running { .. }))
    }

    /// Returns whether one of its calls waits for approval or for a page.
    pub fn awaits_user(&self) -> bool {
        let waits = |call: &Call| matches!(call.stage, Stage::AwaitingApproval(_)) || call.awaits_page();
        self.calls().iter().any(waits)
    }

    /// Returns whether a call that is recorded as called has certainly not been sent, by this process or an earlier
    /// one.
    pub fn never_sent(&self, call: &Call) -> bool {
        let unsent = self.pause.as_ref().is_some_and(|pause| pause.unsent.contains(&call.id));
        unsent && matches!(call.stage, Stage::Running { retry: 0, .. })
    }

    /// Applies one later record of this turn.
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
                self.passages = Arc::default();
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
            // `waiting_until` stays: it identifies the running effect.
            Event::ContextAssembled { retrieval, sent, .. } => {
                let passages = sent.iter().flat_map(|sent| &sent.passages);
                for passage in passages.filter(|passage| passage.text.is_some()) {
                    Arc::make_mut(&mut self.passages).insert(passage.id.clone());
                }
                self.waiting = None;
                self.asked_from = record.at;
                for cost in retrieval.iter().flat_map(RetrievalRecord::costs) {
                    self.usage.add(&cost.model, cost.usage);
                }
            }
            Event::TurnPaused { unsent, asked } => {
                self.pause = Some(Pause {
                    unsent: unsent.clone(),
                    asked: *asked,
                    // Nothing has been started since.
                    handed_over: self.is_handed_over(),
                });
            }
            Event::TurnHandedOver { unsent, asked } => {
                // The next start ends this attempt. A turn that is resumed without a start continues it.
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
            // A wait requested by the provider outlives the pause.
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
                    let proposed = |call: &crate::domain::content::ToolCall| Call {
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
                // A call that died with its process says nothing about its provider.
                if class != LOST_CALL {
                    self.outage.failed(class, self.asked_from, record.at);
                }
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
            // However it was decided, even by expiry: the time that a person took does not count as the turn's.
            Event::ApprovalDecided { .. } => self.clock_from = record.at,
            Event::ClientToolRequested {
                call_id, expires_at, ..
            } => self.stage(*call_id, Stage::Offered(*expires_at)),
            Event::ToolCalled {
                call_id,
                arguments,
                settles_at,
                claim,
                ..
            } => {
                if let Some(call) = self.call_mut(*call_id) {
                    call.arguments = Arc::new(arguments.clone());
                    call.called_at = Some(record.at);
                }
                let stage = match claim {
                    Some(claim) => Stage::Claimed {
                        claim: claim.clone(),
                        until: *settles_at,
                    },
                    None => Stage::Running {
                        retry: 0,
                        mode: RetryMode::Repeat,
                        settles_at: *settles_at,
                    },
                };
                self.stage(*call_id, stage);
            }
            Event::ToolRetried {
                call_id,
                retry,
                mode,
                settles_at,
            } => {
                // Sent for the first time after all: the vendor's window starts here.
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
                // Like a person's, the time that a page took does not count as the turn's.
                if self
                    .calls()
                    .iter()
                    .any(|call| call.id == *call_id && call.awaits_page())
                {
                    self.clock_from = record.at;
                }
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

    /// Returns the attempts that count against the limit: those that were lost in a crash or a stop.
    pub fn counted_attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.waits).saturating_sub(self.hand_overs)
    }

    /// Returns whether its process handed it over and it has not been resumed since.
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
