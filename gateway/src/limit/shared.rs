//! Rules over all accounts of a caller, for accounts in this process and in a store shared between processes. Such a
//! store decides atomically whether a demand fits; why it does not, and the state of the limits, is computed here.

use std::time::Duration;

use copilotd_actors::domain::token_bucket::Wait;
use copilotd_actors::domain::usage::NanoUsd;
use jiff::Timestamp;

use super::account::{Account, Limits, ReachedLimit};
use super::{Demand, LimitExceeded, LimitName, Moment};
use crate::error::LimitState;

/// What was used of an account, as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountUsage {
    /// Missing from the request rate, in 60,000ths of a request.
    pub requests: i64,
    /// Missing from the token rate, in 60,000ths of a token.
    pub tokens: i64,
    /// Calls in flight.
    pub calls: u64,
    /// Money reserved for them.
    pub held: NanoUsd,
    /// Money spent today.
    pub day: NanoUsd,
    /// Money spent this month.
    pub month: NanoUsd,
}

/// Whose account, its limits, its usage.
type SharedAccount = (&'static str, Limits, AccountUsage);

/// Returns which limit `demand` exceeds, if any.
pub fn judge(accounts: &[SharedAccount], demand: &Demand, now: Timestamp) -> Result<(), LimitExceeded> {
    open(accounts, now, |accounts, now| fit(accounts, demand, now))
}

/// Returns the state of the tightest rate limits.
pub fn standings(accounts: &[SharedAccount], now: Timestamp) -> Vec<LimitState> {
    open(accounts, now, tightest)
}

/// Returns the first budget that is exhausted.
pub fn exhausted(accounts: &[SharedAccount], now: Timestamp) -> Option<LimitExceeded> {
    open(accounts, now, exhausted_of)
}

fn open<T>(
    shared: &[SharedAccount],
    now: Timestamp,
    work: impl FnOnce(&mut [(&'static str, &mut Account)], Moment) -> T,
) -> T {
    // The store has already brought the accounts up to date: no time passes here.
    let now = Moment {
        wall: now,
        elapsed: Duration::ZERO,
    };
    let mut accounts: Vec<(&'static str, Account)> = shared
        .iter()
        .map(|(of, limits, used)| (*of, Account::used(limits, used, now)))
        .collect();
    let mut accounts: Vec<_> = accounts.iter_mut().map(|(of, account)| (*of, account)).collect();
    work(&mut accounts, now)
}

/// Takes `demand` from all accounts or from none; returns the resulting state of the tightest rate limits.
pub(super) fn reserve(
    accounts: &mut [(&'static str, &mut Account)],
    demand: &Demand,
    now: Moment,
) -> Result<Vec<LimitState>, LimitExceeded> {
    fit(accounts, demand, now)?;
    for (_, account) in accounts.iter_mut() {
        account.take(demand, now);
    }
    Ok(tightest(accounts, now))
}

pub(super) fn exhausted_of(accounts: &mut [(&'static str, &mut Account)], now: Moment) -> Option<LimitExceeded> {
    accounts.iter_mut().find_map(|(of, account)| {
        let name = account.exhausted(now)?;
        let wait = Wait::For(account.standing(name, now)?.reset);
        Some(exceeded(of, ReachedLimit { name, wait }, account, now))
    })
}

fn fit(accounts: &mut [(&'static str, &mut Account)], demand: &Demand, now: Moment) -> Result<(), LimitExceeded> {
    for (of, account) in accounts.iter_mut() {
        account
            .fits(demand, now)
            .map_err(|met| exceeded(of, met, account, now))?;
    }
    Ok(())
}

fn exceeded(of: &'static str, met: ReachedLimit, account: &mut Account, now: Moment) -> LimitExceeded {
    LimitExceeded {
        name: met.name,
        of,
        retry_after: match met.wait {
            Wait::For(wait) => Some(wait),
            Wait::Never => None,
        },
        state: account.standing(met.name, now).unwrap_or(LimitState {
            name: met.name,
            limit: 0,
            remaining: 0,
            reset: Duration::ZERO,
        }),
    }
}

/// Returns the tightest state of each rate over all accounts.
fn tightest(accounts: &mut [(&'static str, &mut Account)], now: Moment) -> Vec<LimitState> {
    let mut of = |name| {
        let states = accounts
            .iter_mut()
            .filter_map(|(_, account)| account.standing(name, now));
        states.min_by_key(|state| state.remaining)
    };
    [of(LimitName::Requests), of(LimitName::Tokens)]
        .into_iter()
        .flatten()
        .collect()
}
