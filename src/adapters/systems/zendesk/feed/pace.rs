//! Spreads requests evenly over a minute, so that a long sync leaves the account's limits to others.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// When the last request to an account was sent, or will be, for each kind of requests that the vendor limits alone.
#[derive(Debug, Default)]
pub(super) struct Turns {
    exports: Mutex<Option<Instant>>,
    requests: Mutex<Option<Instant>>,
}

/// Accounts that sources read. The vendor's limits are those of an account, so all its sources take turns, whichever
/// tenants they belong to.
#[derive(Debug, Default)]
pub(in super::super) struct Accounts(Mutex<HashMap<String, Weak<Turns>>>);

impl Accounts {
    /// Returns the turns of the account at this address. Forgets accounts that no source reads any more.
    pub(super) fn turns(&self, base: &str) -> Arc<Turns> {
        let mut accounts = self.0.lock();
        accounts.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = accounts.get(base).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::default();
        accounts.insert(base.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

/// One request per interval after the last one of the account. What was not used is not made up for.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    turns: Arc<Turns>,
    kind: fn(&Turns) -> &Mutex<Option<Instant>>,
}

impl Pace {
    /// Creates the pace of incremental exports.
    pub(super) fn of_exports(per_minute: u32, turns: &Arc<Turns>) -> Self {
        Self::new(per_minute, turns, |turns| &turns.exports)
    }

    /// Creates the pace of all other requests.
    pub(super) fn of_requests(per_minute: u32, turns: &Arc<Turns>) -> Self {
        Self::new(per_minute, turns, |turns| &turns.requests)
    }

    fn new(per_minute: u32, turns: &Arc<Turns>, kind: fn(&Turns) -> &Mutex<Option<Instant>>) -> Self {
        Self {
            interval: Duration::from_secs(60) / per_minute.max(1),
            turns: Arc::clone(turns),
            kind,
        }
    }

    /// Waits for the next turn. A cancelled wait uses its turn up. Each source waits its own interval: one that was
    /// configured to be slow does not slow down the others of its account.
    pub(super) async fn turn(&self) {
        let at = {
            let (mut last, now) = ((self.kind)(&self.turns).lock(), Instant::now());
            let at = last.map_or(now, |last| now.max(last + self.interval));
            *last = Some(at);
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(per_minute: &[u32]) -> Vec<Pace> {
        let accounts = Accounts::default();
        let turns: Vec<_> = per_minute.iter().map(|_| accounts.turns("https://acme")).collect();
        let paces = per_minute.iter().zip(&turns);
        paces.map(|(rate, turns)| Pace::of_exports(*rate, turns)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_an_interval_apart() {
        let pace = paces(&[10]).remove(0);
        let start = Instant::now();
        let mut at = Vec::new();
        for pause in [0, 0, 0, 20, 0] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            pace.turn().await;
            at.push(start.elapsed().as_secs());
        }
        assert_eq!(at, [0, 6, 12, 32, 38]);
    }

    #[tokio::test(start_paused = true)]
    async fn sources_of_an_account_share_its_turns() {
        let mut paces = paces(&[10, 30]);
        let (slow, fast) = (paces.remove(0), paces.remove(0));
        let start = Instant::now();
        let mut at = Vec::new();
        for pace in [&slow, &fast, &fast, &slow, &slow, &fast] {
            pace.turn().await;
            at.push(start.elapsed().as_secs());
        }
        assert_eq!(at, [0, 2, 4, 10, 16, 18]);
    }

    #[test]
    fn accounts_are_apart_and_forgotten_with_their_last_source() {
        let accounts = Accounts::default();
        let (one, again, other) = (accounts.turns("a"), accounts.turns("a"), accounts.turns("b"));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        drop((one, again));
        let _third = accounts.turns("c");
        assert_eq!(accounts.0.lock().len(), 2, "b and c");
    }
}
