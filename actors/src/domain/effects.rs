//! What is to be done outside, read off the state: in life and after a crash alike.

use std::time::Duration;

use jiff::Timestamp;

use super::command::Step;
use super::conversation::Conversation;
use super::event::RetryMode;
use super::ids::{CallId, TurnId};
use super::policy::Policy;
use super::turn::{Phase, Stage, Turn};

/// Something that has to happen outside the core. Equal effects are the same effect: none is started twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// A model step is due.
    CallModel {
        /// Which one.
        at: Step,
        /// Not before then.
        not_before: Option<Timestamp>,
    },
    /// A tool call is due.
    CallTool {
        /// Its turn.
        turn: TurnId,
        /// The call.
        call: CallId,
        /// How often it was taken up again.
        retry: u32,
        /// How it is done.
        mode: RetryMode,
        /// Until then this process waits for its outcome.
        settles_at: Timestamp,
    },
    /// A person's time to decide runs out.
    ExpireApproval {
        /// Its turn.
        turn: TurnId,
        /// The call.
        call: CallId,
        /// When.
        at: Timestamp,
    },
    /// A turn's time runs out.
    ExpireTurn {
        /// The turn.
        turn: TurnId,
        /// Its attempt.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
}

/// Lists what is due or under way. What stands here and is not running has to be started; what runs and does not stand
/// here any more has to be stopped.
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
                    Stage::Proposed | Stage::Done(_) => {}
                }
            }
        }
    }
    effects.extend(expiry(turn, policy.limits.time));
    effects
}

/// A turn's clock stands still while only people can move it on.
fn expiry(turn: &Turn, time: Duration) -> Option<Effect> {
    (!turn.only_awaits_approval()).then(|| Effect::ExpireTurn {
        turn: turn.id,
        attempt: turn.attempt,
        at: turn.clock_from.saturating_add(time).unwrap_or(Timestamp::MAX),
    })
}
