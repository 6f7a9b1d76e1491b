//! Time and randomness of the machine.

use copilotd_actors::ports::{Clock, Ids};
use jiff::Timestamp;
use uuid::Uuid;

/// Returns the time of the machine.
#[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        now()
    }
}

/// UUIDs of version 7: ordered by time, which keeps indexes compact.
#[derive(Debug, Clone, Copy)]
pub struct TimeOrderedIds;

impl Ids for TimeOrderedIds {
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}
