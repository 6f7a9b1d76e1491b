//! Limits how often a slow first token is hedged with a second request.

use parking_lot::Mutex;

/// What each request adds to the budget: one hedge in twenty requests.
const SHARE: f64 = 0.05;
/// Most hedges that can be saved up.
const MOST: f64 = 10.0;

/// The hedge budget of one route. A hedge that loses costs money for nothing, so hedges are bounded.
#[derive(Debug, Default)]
pub struct HedgeBudget(Mutex<f64>);

impl HedgeBudget {
    /// Adds a request's share to the budget.
    pub fn earn(&self) {
        let mut saved = self.0.lock();
        *saved = (*saved + SHARE).min(MOST);
    }

    /// Takes a hedge from the budget, if one is left.
    pub fn take(&self) -> bool {
        let mut saved = self.0.lock();
        // Twenty times 0.05 is slightly less than one in floating point.
        let is_enough = *saved > 1.0 - SHARE / 2.0;
        if is_enough {
            *saved = (*saved - 1.0).max(0.0);
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_twenty_may_be_hedged_and_a_few_are_saved_up() {
        let budget = HedgeBudget::default();
        let hedged = |requests: u32| {
            let one = |_: &u32| {
                budget.earn();
                budget.take()
            };
            (0..requests).filter(one).count()
        };
        assert_eq!(hedged(19), 0);
        assert_eq!(hedged(1), 1);
        assert_eq!(hedged(200), 10);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
    }
}
