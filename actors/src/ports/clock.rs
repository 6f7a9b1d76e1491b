//! The time.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// The current time from two clocks: wall clock and monotonic. Tests use paused clocks and can let the two diverge.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the wall-clock time, which an administrator or NTP may set forward or back. Used for the times of
    /// records, the expiry of credentials and the days of budgets.
    fn now(&self) -> Timestamp;

    /// Returns the monotonic time since an arbitrary moment before the first call; it never goes back and is never
    /// corrected. Used to measure durations: rates, circuit breakers, pauses.
    fn elapsed(&self) -> Duration;
}
