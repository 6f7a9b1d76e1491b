//! What is done next with a tool call whose outcome is open. One rule decides in normal operation and after a crash.
//!
//! Invariant: no call takes effect twice, whatever crashes, delays and clocks do. A look-up that finds nothing proves nothing
//! about bytes that are still on their way, for any length of time; and two processes have no clock in common. So a call that may
//! have left is sent again only if it changes nothing, or if the vendor itself drops the second copy by its key. Every other call
//! is looked for a few times, because a trace of it is conclusive at once, and then ends `unknown`.
//!
//! A key is trusted on one assumption about the network, and on no clock: nothing delivers bytes later than half the time for
//! which the vendor remembers the key (an hour at Zendesk). What arrived before a look-up is found by it, however long ago that
//! was; what arrives later meets the key.

use std::time::Duration;

use jiff::SignedDuration;

use super::content::ToolStatus;
use super::policy::Repeat;

/// Pauses between look-ups that find nothing. A request that a vendor is still working on shows up within seconds or not at all;
/// waiting longer would prove nothing.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
    Duration::from_millis(2500),
];

/// Whether a call may have reached its vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It has not left, or whatever left has certainly changed nothing.
    Never,
    /// This process sent it first so long ago, by the clock that never goes back.
    Here(Duration),
    /// An earlier process or an earlier life of the conversation may have sent it, so long ago by the calendars of the two. That
    /// age may be wrong by any amount: it can forbid a repetition, but never justify one.
    Earlier(SignedDuration),
}

/// What the latest look-up said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nobody has looked since the call was last sent.
    NotYet,
    /// The call took effect.
    Found,
    /// There is no trace of it, or only of a part, after so many look-ups.
    Missing(u32),
    /// It cannot be looked up.
    Impossible,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send it, for the first time or again.
    Send,
    /// Look for its effect after this pause.
    LookUp(Duration),
    /// It ends with this status.
    End(ToolStatus),
}

/// Decides what is done next with a call of this kind.
pub fn next(repeat: Repeat, sent: Sent, looked: Looked) -> Next {
    if sent == Sent::Never {
        return Next::Send;
    }
    match (repeat, looked) {
        (Repeat::Read, _) => Next::Send,
        (Repeat::Never, _) => Next::End(ToolStatus::Unknown),
        (_, Looked::Found) => Next::End(ToolStatus::Succeeded),
        (Repeat::Keyed(window), Looked::NotYet) if is_known_here(sent, window) => Next::Send,
        (_, Looked::NotYet) => Next::LookUp(Duration::ZERO),
        (_, Looked::Impossible) => Next::End(ToolStatus::Unknown),
        // What it did before is not there to be found, and what is still on its way meets the key.
        (Repeat::Keyed(window), Looked::Missing(_)) if may_be_known(sent, window) => Next::Send,
        (_, Looked::Missing(times)) => {
            let pause = usize::try_from(times)
                .ok()
                .and_then(|times| PAUSES.get(times.max(1) - 1));
            pause.map_or(Next::End(ToolStatus::Unknown), |pause| Next::LookUp(*pause))
        }
    }
}

/// What a call ends as that is given up without an answer: only what certainly changed nothing has failed.
pub fn given_up(repeat: Repeat, sent: Sent) -> ToolStatus {
    if repeat.changes_something() && sent != Sent::Never {
        ToolStatus::Unknown
    } else {
        ToolStatus::Failed
    }
}

/// Whether the vendor still knows the key of a call that this process sent, also when what is sent now is on its way for half the
/// window, and when an earlier process had sent the call shortly before the look-up that did not show it yet.
fn is_known_here(sent: Sent, window: Duration) -> bool {
    matches!(sent, Sent::Here(age) if age < window / 4)
}

/// The same, of any process; a calendar that went back or far ahead forbids it.
fn may_be_known(sent: Sent, window: Duration) -> bool {
    match sent {
        Sent::Never => true,
        Sent::Here(_) => is_known_here(sent, window),
        Sent::Earlier(age) => Duration::try_from(age).is_ok_and(|age| age < window / 2),
    }
}
