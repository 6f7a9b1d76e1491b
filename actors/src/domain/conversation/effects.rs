//! The work that the state asks for outside the core: the same in normal operation and after a crash.

use std::time::Duration;

use jiff::Timestamp;

use super::Conversation;
use super::command::Step;
use super::turn::{Phase, Stage, Turn};
use crate::domain::event::RetryMode;
use crate::domain::ids::{CallId, TurnId};
use crate::domain::policy::Policy;

/// Work to be done outside the core. Equal effects are the same effect and are started only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Run a model step.
    CallModel {
        /// The step to run.
        at: Step,
        /// The earliest time to start.
        not_before: Option<Timestamp>,
    },
    /// Run a tool call.
    CallTool {
        /// The turn of the call.
        turn: TurnId,
        /// The call to run.
        call: CallId,
        /// How often the call was resumed.
        retry: u32,
        /// How the call is resumed.
        mode: RetryMode,
        /// Until when this process waits for the outcome.
        settles_at: Timestamp,
    },
    /// Expire an approval that nobody decided.
    ExpireApproval {
        /// The turn of the call.
        turn: TurnId,
        /// The call that waits for approval.
        call: CallId,
        /// When the approval expires.
        at: Timestamp,
    },
    /// End a call that no page has claimed, or whose page has not answered.
    ExpireClientTool {
        /// The turn of the call.
        turn: TurnId,
        /// The call that waits for a page.
        call: CallId,
        /// Until when it waits.
        at: Timestamp,
    },
    /// Expire a turn that takes too long.
    ExpireTurn {
        /// The turn to expire.
        turn: TurnId,
        /// The turn's attempt.
        attempt: u32,
        /// When the turn expires.
        at: Timestamp,
    },
}

/// Lists the effects that are due or running. An effect that is listed and not running has to be started; one that runs
/// and is no longer listed has to be stopped.
pub fn open_effects(conversation: &Conversation, policy: &Policy) -> Vec<Effect> {
    let Some(turn) = conversation.active() else {
        return Vec::new();
    };
    let mut effects = Vec::new();
    match &turn.phase {
        Phase::Queued => {}
        Phase::Thinking => effects.push(Effect::CallModel {
            at: turn.present(),
            not_before: turn.waiting_until,
        }),
        Phase::Acting(calls) => {
            for call in calls {
                match call.stage {
                    Stage::Running {
                        retry,
                        mode,
                        settles_at,
                    } => {
                        effects.push(Effect::CallTool {
                            turn: turn.id,
                            call: call.id,
                            retry,
                            mode,
                            settles_at,
                        });
                    }
                    Stage::AwaitingApproval(at) => effects.push(Effect::ExpireApproval {
                        turn: turn.id,
                        call: call.id,
                        at,
                    }),
                    Stage::Offered(at) | Stage::Claimed { until: at, .. } => effects.push(Effect::ExpireClientTool {
                        turn: turn.id,
                        call: call.id,
                        at,
                    }),
                    Stage::Proposed | Stage::Done(_) => {}
                }
            }
        }
    }
    effects.extend(expiry(turn, policy.limits.time));
    effects
}

/// Returns the expiry of a turn. A turn's time does not run while it only waits for people and their pages.
fn expiry(turn: &Turn, time: Duration) -> Option<Effect> {
    (!turn.is_parked()).then(|| Effect::ExpireTurn {
        turn: turn.id,
        attempt: turn.attempt,
        at: turn.clock_from.saturating_add(time).unwrap_or(Timestamp::MAX),
    })
}
