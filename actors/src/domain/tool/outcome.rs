//! Decides what to do next with a tool call whose outcome is unknown. The same rule applies in normal operation and
//! after a crash.
//!
//! Invariant: no call takes effect twice, whatever crashes, delays or clock errors happen. A look-up that finds nothing
//! proves nothing about bytes that are still on their way, for any length of time, and two processes share no clock. So
//! a call that may have been sent is sent again only if it changes nothing, or if the vendor itself drops the second
//! copy by its idempotency key. Every other call is looked up a few times, because finding a trace of it is conclusive,
//! and then ends as `unknown`.
//!
//! A key is trusted on one assumption about the network and on no clock: bytes are never delivered later than half the
//! time for which the vendor remembers the key (an hour at Zendesk). What arrived before a look-up is found by it,
//! however long ago that was; what arrives later meets the key.

use std::time::Duration;

use jiff::SignedDuration;

use crate::domain::content::ToolStatus;
use crate::domain::policy::Repeat;

/// Pauses between look-ups that find nothing. A request that the vendor is still processing shows up within seconds or
/// not at all; waiting longer would prove nothing.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
    Duration::from_millis(2500),
];

/// Whether a call may have reached the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendState {
    /// The call was not sent, or whatever was sent has certainly changed nothing.
    Never,
    /// This process first sent it this long ago, by the monotonic clock.
    Here(Duration),
    /// An earlier process, or an earlier actor of the conversation, may have sent it this long ago, by the wall clocks
    /// of the two. That age may be wrong by any amount: it can forbid a repetition but never justify one.
    Earlier(SignedDuration),
}

/// The result of the latest look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookUpState {
    /// No look-up was made since the call was last sent.
    NotYet,
    /// The call took effect.
    Found,
    /// No trace of it, or only of a part, after this many look-ups.
    Missing(u32),
    /// The call cannot be looked up.
    Impossible,
}

/// The next action for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAction {
    /// Send it, for the first time or again.
    Send,
    /// Look it up after this pause.
    LookUp(Duration),
    /// End it with this status.
    End(ToolStatus),
}

/// Decides the next action for a call of this kind.
pub fn next(repeat: Repeat, sent: SendState, looked: LookUpState) -> NextAction {
    if sent == SendState::Never {
        return NextAction::Send;
    }
    match (repeat, looked) {
        (Repeat::Read, _) => NextAction::Send,
        (Repeat::Never, _) => NextAction::End(ToolStatus::Unknown),
        (_, LookUpState::Found) => NextAction::End(ToolStatus::Succeeded),
        (Repeat::Keyed(window), LookUpState::NotYet) if key_is_known_here(sent, window) => NextAction::Send,
        (_, LookUpState::NotYet) => NextAction::LookUp(Duration::ZERO),
        (_, LookUpState::Impossible) => NextAction::End(ToolStatus::Unknown),
        // If it had taken effect before, the look-up would have found it; what is still on its way meets the key.
        (Repeat::Keyed(window), LookUpState::Missing(_)) if key_may_be_known(sent, window) => NextAction::Send,
        (_, LookUpState::Missing(times)) => {
            let pause = usize::try_from(times)
                .ok()
                .and_then(|times| PAUSES.get(times.max(1) - 1));
            pause.map_or(NextAction::End(ToolStatus::Unknown), |pause| NextAction::LookUp(*pause))
        }
    }
}

/// Returns the status of a call that is given up without an answer. It is `Failed` only if it certainly changed
/// nothing.
pub fn status_if_given_up(repeat: Repeat, sent: SendState) -> ToolStatus {
    if repeat.changes_something() && sent != SendState::Never {
        ToolStatus::Unknown
    } else {
        ToolStatus::Failed
    }
}

/// Whether the vendor still knows the key of a call that this process sent. Allows for a copy sent now that is on its
/// way for half the window, and for an earlier process that sent the call shortly before a look-up that did not show it
/// yet.
fn key_is_known_here(sent: SendState, window: Duration) -> bool {
    matches!(sent, SendState::Here(age) if age < window / 4)
}

/// The same for a call of any process; a wall clock that went back or far ahead forbids it.
fn key_may_be_known(sent: SendState, window: Duration) -> bool {
    match sent {
        SendState::Never => true,
        SendState::Here(_) => key_is_known_here(sent, window),
        SendState::Earlier(age) => Duration::try_from(age).is_ok_and(|age| age < window / 2),
    }
}
