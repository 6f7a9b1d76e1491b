//! Limits of one process. All accounts of a tenant stand behind one lock, so that a reservation over several is one step.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use jiff::Timestamp;

use super::account::{Account, Limits, Met};
use super::bucket::Wait;
use super::{Demand, Exceeded, Lease, LimitName, Limiter, Spent, Subject};
use crate::gateway::call::LimitState;
use crate::gateway::ledger::Spending;

/// Accounts of users and keys of one tenant. When there are more, those that stand as new are forgotten; if there are none,
/// newcomers share one.
const MAX_ACCOUNTS: usize = 100_000;

/// What a tenant, each of its users and each of its keys may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// The tenant as a whole.
    pub tenant: Limits,
    /// Each user.
    pub user: Limits,
    /// Each API key.
    pub key: Limits,
}

impl TenantLimits {
    fn of(&self, subject: &Subject) -> &Limits {
        match subject {
            Subject::Tenant => &self.tenant,
            Subject::User(_) => &self.user,
            Subject::Key(_) => &self.key,
        }
    }
}

/// The limiter.
pub struct LocalLimiter {
    clock: Arc<dyn Clock>,
    tenants: HashMap<TenantId, Books>,
}

struct Books {
    limits: TenantLimits,
    accounts: Mutex<HashMap<Subject, Account>>,
}

impl LocalLimiter {
    /// Limits the tenants that have limits; all others go free.
    pub fn new(tenants: impl IntoIterator<Item = (TenantId, TenantLimits)>, clock: Arc<dyn Clock>) -> Self {
        let books = |(tenant, limits)| {
            let accounts = Mutex::default();
            (tenant, Books { limits, accounts })
        };
        let limited = |(_, limits): &(TenantId, TenantLimits)| *limits != TenantLimits::default();
        Self {
            clock,
            tenants: tenants.into_iter().filter(limited).map(books).collect(),
        }
    }

    /// Notes money that was spent earlier in the day and the month, before this process began.
    pub fn spent(&self, spending: &Spending) {
        let now = self.clock.now();
        let Some(books) = self.tenants.get(&spending.tenant) else {
            return;
        };
        let user = spending.user.parse().ok().map(Subject::User);
        let key = spending.api_key.clone().map(Subject::Key);
        let subjects: Vec<Subject> = [Subject::Tenant].into_iter().chain(user).chain(key).collect();
        books.with(&subjects, now, |accounts| {
            for (_, account) in accounts {
                account.owed(spending.day, spending.month, now);
            }
        });
    }
}

impl Books {
    /// Runs `work` on the accounts of those subjects that have limits.
    fn with<T>(
        &self,
        subjects: &[Subject],
        now: Timestamp,
        work: impl FnOnce(&mut [(&'static str, &mut Account)]) -> T,
    ) -> T {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MAX_ACCOUNTS {
            accounts.retain(|_, account| !account.is_at_rest(now));
        }
        let mut wanted: Vec<Subject> = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let limits = self.limits.of(subject);
            if limits.is_empty() {
                continue;
            }
            let is_full = accounts.len() >= MAX_ACCOUNTS && !accounts.contains_key(subject);
            let subject = match subject {
                Subject::User(_) | Subject::Key(_) if is_full => Subject::Key(String::new()),
                known => known.clone(),
            };
            accounts
                .entry(subject.clone())
                .or_insert_with(|| Account::new(limits, now));
            wanted.push(subject);
        }
        let mut found: Vec<(&'static str, &mut Account)> = accounts
            .iter_mut()
            .filter(|(subject, _)| wanted.contains(subject))
            .map(|(subject, account)| (subject.word(), account))
            .collect();
        work(&mut found)
    }
}

fn exceeded(of: &'static str, met: Met, account: &mut Account, now: Timestamp) -> Exceeded {
    Exceeded {
        name: met.name,
        of,
        retry_after: match met.wait {
            Wait::For(wait) => Some(wait),
            Wait::Never => None,
        },
        state: account.standing(met.name, now).unwrap_or(LimitState {
            name: met.name.code().to_owned(),
            limit: 0,
            remaining: 0,
            reset: std::time::Duration::ZERO,
        }),
    }
}

/// Returns the tightest state of a rate over all accounts.
fn tightest(name: LimitName, accounts: &mut [(&'static str, &mut Account)], now: Timestamp) -> Option<LimitState> {
    let states = accounts
        .iter_mut()
        .filter_map(|(_, account)| account.standing(name, now));
    states.min_by_key(|state| state.remaining)
}

#[async_trait]
impl Limiter for LocalLimiter {
    async fn reserve(&self, tenant: &TenantId, subjects: Vec<Subject>, demand: Demand) -> Result<Lease, Exceeded> {
        let mut lease = Lease {
            tenant: tenant.clone(),
            subjects,
            demand,
            standings: Vec::new(),
        };
        let Some(books) = self.tenants.get(tenant) else {
            lease.subjects.clear();
            return Ok(lease);
        };
        let now = self.clock.now();
        lease.standings = books.with(&lease.subjects, now, |accounts| {
            for (of, account) in accounts.iter_mut() {
                account
                    .fits(&demand, now)
                    .map_err(|met| exceeded(of, met, account, now))?;
            }
            for (_, account) in accounts.iter_mut() {
                account.take(&demand, now);
            }
            let rates = [LimitName::Requests, LimitName::Tokens];
            Ok(rates
                .into_iter()
                .filter_map(|name| tightest(name, accounts, now))
                .collect())
        })?;
        Ok(lease)
    }

    fn settle(&self, lease: Lease, spent: Spent) {
        let now = self.clock.now();
        if let Some(books) = self.tenants.get(&lease.tenant) {
            books.with(&lease.subjects, now, |accounts| {
                for (_, account) in accounts {
                    account.settle(&lease.demand, &spent, now);
                }
            });
        }
    }

    async fn exhausted(&self, tenant: &TenantId, subjects: Vec<Subject>) -> Option<Exceeded> {
        let now = self.clock.now();
        self.tenants.get(tenant)?.with(&subjects, now, |accounts| {
            accounts.iter_mut().find_map(|(of, account)| {
                let name = account.exhausted(now)?;
                let reset = account.standing(name, now)?.reset;
                Some(exceeded(
                    of,
                    Met {
                        name,
                        wait: Wait::For(reset),
                    },
                    account,
                    now,
                ))
            })
        })
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tenants.keys()).finish()
    }
}
