//! Usage of all attempts of one request, for the caller: the ledger's numbers.
//!
//! Invariant: an attempt is on the bill, or pending, before the end of its answer is passed on.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::usage::Usage;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Longest wait for attempts whose tokens are being counted. After that a report lacks them; the ledger does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// The bill of one request.
#[derive(Debug, Default)]
pub(super) struct Bill {
    sum: Mutex<Usage>,
    pending: watch::Sender<usize>,
}

/// An attempt that ended and whose tokens are being counted.
#[derive(Debug)]
pub(super) struct Pending(Arc<Bill>);

impl Bill {
    /// Adds the usage of an attempt.
    pub(super) fn add(&self, usage: Usage) {
        *self.sum.lock() += usage;
    }

    /// Marks an attempt as being counted until the returned guard is dropped.
    pub(super) fn pending(self: &Arc<Self>) -> Pending {
        self.pending.send_modify(|pending| *pending += 1);
        Pending(Arc::clone(self))
    }

    /// Returns the usage of all ended attempts, once they are counted.
    pub(super) async fn total(&self) -> Usage {
        let mut pending = self.pending.subscribe();
        let counted = pending.wait_for(|pending| *pending == 0);
        // The sender belongs to this bill, so it cannot be gone.
        drop(tokio::time::timeout(PATIENCE, counted).await);
        *self.sum.lock()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.send_modify(|pending| *pending -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64) -> Usage {
        Usage {
            prompt_tokens,
            ..Usage::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bill_waits_for_what_is_being_counted_but_not_for_ever() {
        let bill = Arc::new(Bill::default());
        bill.add(usage(1));
        assert_eq!(bill.total().await, usage(1));
        let (first, second) = (bill.pending(), bill.pending());
        let counting = {
            let bill = Arc::clone(&bill);
            async move {
                bill.add(usage(2));
                drop(first);
            }
        };
        let (total, ()) = tokio::join!(bill.total(), counting);
        assert_eq!(total, usage(3), "the second one hangs");
        drop(second);
        assert_eq!(bill.total().await, usage(3));
    }
}
