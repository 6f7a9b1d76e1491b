//! Stops asking a model that does not answer, for a time that grows while it stays so: who waits for a vector waits for
//! nothing then, and can do without.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Failures in a row from which the model is not asked for a time.
const TOLERATED: u32 = 3;
/// First pause, doubled with each further failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The circuit of one model.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
}

impl Circuit {
    /// Whether the model may be asked.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().open_until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether the last answer was a good one.
    pub(super) fn is_ready(&self) -> bool {
        self.0.lock().failures == 0
    }

    /// Records a good answer.
    pub(super) fn succeed(&self) {
        *self.0.lock() = State::default();
    }

    /// Records a failure; returns the pause that it causes.
    pub(super) fn fail(&self) -> Option<Duration> {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        let over = state.failures.checked_sub(TOLERATED)?;
        let pause = PAUSE.saturating_mul(1 << over.min(8)).min(LONGEST_PAUSE);
        state.open_until = Some(Instant::now() + pause);
        Some(pause)
    }

    /// Records an answer that no further request would change; returns the pause that it causes.
    pub(super) fn fail_for_long(&self) -> Duration {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(TOLERATED);
        state.open_until = Some(Instant::now() + LONGEST_PAUSE);
        LONGEST_PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_by_itself_and_by_an_answer() {
        let circuit = Circuit::default();
        assert_eq!([circuit.fail(), circuit.fail()], [None, None]);
        assert!(circuit.is_closed() && !circuit.is_ready());
        circuit.succeed();
        assert!(circuit.is_ready());
        let pauses: Vec<_> = (0..9).map(|_| circuit.fail().map(|pause| pause.as_secs())).collect();
        let expected = [
            None,
            None,
            Some(5),
            Some(10),
            Some(20),
            Some(40),
            Some(60),
            Some(60),
            Some(60),
        ];
        assert_eq!(pauses, expected);
        assert!(!circuit.is_closed());
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(circuit.is_closed() && !circuit.is_ready());
        circuit.succeed();
        circuit.fail_for_long();
        assert!(!circuit.is_closed());
        circuit.succeed();
        assert!(circuit.is_closed());
    }
}
