//! Limits of one process. All accounts of a tenant stand behind one lock, so that a reservation over several is one step.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::NanoUsd;
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
    tenants: RwLock<HashMap<TenantId, Arc<Books>>>,
}

struct Books {
    limits: TenantLimits,
    accounts: Arc<Mutex<HashMap<Subject, Account>>>,
}

impl LocalLimiter {
    /// Limits the tenants that have limits; all others go free.
    pub fn new(tenants: impl IntoIterator<Item = (TenantId, TenantLimits)>, clock: Arc<dyn Clock>) -> Self {
        let limiter = Self {
            clock,
            tenants: RwLock::default(),
        };
        limiter.replace(tenants.into_iter().collect());
        limiter
    }

    /// Notes money that was spent in the day and the month by the ledger: before this process began, or before a limit was set.
    pub fn spent(&self, spendings: &[Spending]) {
        let now = self.clock.now();
        let mut owed: HashMap<(&TenantId, Subject), (NanoUsd, NanoUsd)> = HashMap::new();
        for spending in spendings {
            let user = spending.user.parse().ok().map(Subject::User);
            let key = spending.api_key.clone().map(Subject::Key);
            for subject in [Subject::Tenant].into_iter().chain(user).chain(key) {
                let (day, month) = owed.entry((&spending.tenant, subject)).or_default();
                *day = day.saturating_add(spending.day);
                *month = month.saturating_add(spending.month);
            }
        }
        for ((tenant, subject), (day, month)) in owed {
            if let Some(books) = self.books(tenant) {
                books.with(&[subject], now, |accounts| {
                    for (_, account) in accounts {
                        account.owed(day, month, now);
                    }
                });
            }
        }
    }

    fn books(&self, tenant: &TenantId) -> Option<Arc<Books>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).cloned()
    }
}

impl Books {
    fn relimit(&self, now: Timestamp) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|subject, account| {
            let limits = self.limits.of(subject);
            account.relimit(limits, now);
            !limits.is_empty()
        });
    }

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
        let Some(books) = self.books(tenant) else {
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
        if let Some(books) = self.books(&lease.tenant) {
            books.with(&lease.subjects, now, |accounts| {
                for (_, account) in accounts {
                    account.settle(&lease.demand, &spent, now);
                }
            });
        }
    }

    async fn exhausted(&self, tenant: &TenantId, subjects: Vec<Subject>) -> Option<Exceeded> {
        let now = self.clock.now();
        self.books(tenant)?.with(&subjects, now, |accounts| {
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

    fn replace(&self, tenants: HashMap<TenantId, TenantLimits>) {
        let now = self.clock.now();
        let mut known = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let limited = tenants
            .into_iter()
            .filter(|(_, limits)| *limits != TenantLimits::default());
        *known = limited
            .map(|(tenant, limits)| {
                let accounts = match known.get(&tenant) {
                    Some(books) => Arc::clone(&books.accounts),
                    None => Arc::default(),
                };
                let books = Books { limits, accounts };
                books.relimit(now);
                (tenant, Arc::new(books))
            })
            .collect();
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(tenants.keys()).finish()
    }
}
