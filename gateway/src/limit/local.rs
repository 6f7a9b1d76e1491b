//! Limits kept in this process. All accounts of a tenant are behind one lock, so that a reservation over several is
//! atomic.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use copilotd_actors::tenancy::TenantScope;
use parking_lot::{Mutex, RwLock};

use super::account::{Account, Limits};
use super::shared::{exhausted_of, reserve};
use super::{ActualUsage, Demand, Lease, LimitRefusal, Limiter, Moment};
use crate::spending::{self, Spending, Subject};

/// Most accounts of users and keys per tenant. Above it unused ones are dropped; if there are none, new subjects share
/// one account.
const MAX_ACCOUNTS: usize = 100_000;
/// Shortest interval between two such sweeps.
const SWEEP: Duration = Duration::from_secs(1);
/// With fewer accounts no sweep is needed.
const FEW_ACCOUNTS: usize = 1_000;
/// How often unused accounts are dropped below the maximum: users come and go.
const CLEAN: Duration = Duration::from_secs(60);

/// Limits of a tenant, of each of its users and of each of its keys.
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
    /// Returns the limits of `subject`.
    pub fn of(&self, subject: &Subject) -> &Limits {
        match subject {
            Subject::Tenant => &self.tenant,
            Subject::User(_) => &self.user,
            Subject::Key(_) => &self.key,
        }
    }
}

/// A limiter that counts in this process only.
pub struct LocalLimiter {
    clock: Arc<dyn Clock>,
    tenants: RwLock<HashMap<TenantId, Arc<TenantAccounts>>>,
}

struct TenantAccounts {
    limits: TenantLimits,
    accounts: Arc<Mutex<Accounts>>,
}

#[derive(Default)]
struct Accounts {
    all: HashMap<Subject, Account>,
    /// When unused accounts were last dropped.
    swept: Option<Duration>,
}

impl Accounts {
    /// Drops unused accounts: once a minute if there are more than a few, more often if there are too many. Not with
    /// each call, since it visits all of them.
    fn sweep(&mut self, now: Moment) {
        let pause = match self.all.len() {
            MAX_ACCOUNTS.. => SWEEP,
            FEW_ACCOUNTS.. => CLEAN,
            _ => return,
        };
        let is_due = |swept: Duration| now.elapsed.saturating_sub(swept) >= pause;
        if self.swept.is_none_or(is_due) {
            self.swept = Some(now.elapsed);
            self.all.retain(|_, account| !account.is_unused(now));
        }
    }

    /// Returns the accounts of the given subjects, without scanning all.
    fn found<const N: usize>(&mut self, wanted: [&Subject; N]) -> Vec<(&'static str, &mut Account)> {
        let found = self.all.get_disjoint_mut(wanted).into_iter().zip(wanted);
        found
            .filter_map(|(account, subject)| Some((subject.word(), account?)))
            .collect()
    }
}

impl LocalLimiter {
    /// Limits the given tenants; all others are unlimited.
    pub fn new(tenants: impl IntoIterator<Item = (TenantId, TenantLimits)>, clock: Arc<dyn Clock>) -> Self {
        let limiter = Self {
            clock,
            tenants: RwLock::default(),
        };
        limiter.replace(tenants.into_iter().collect());
        limiter
    }

    fn tenant_accounts(&self, tenant: &TenantId) -> Option<Arc<TenantAccounts>> {
        let tenants = self.tenants.read();
        tenants.get(tenant).cloned()
    }
}

impl TenantAccounts {
    fn relimit(&self, now: Moment) {
        let mut accounts = self.accounts.lock();
        accounts.all.retain(|subject, account| {
            let limits = self.limits.of(subject);
            account.relimit(limits, now);
            !limits.is_empty()
        });
    }

    /// Runs `work` on the accounts of those subjects that have limits.
    fn with<T>(
        &self,
        subjects: &[Subject],
        now: Moment,
        work: impl FnOnce(&mut [(&'static str, &mut Account)]) -> T,
    ) -> T {
        let mut accounts = self.accounts.lock();
        accounts.sweep(now);
        let mut wanted: Vec<Subject> = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let limits = self.limits.of(subject);
            if limits.is_empty() {
                continue;
            }
            let is_full = accounts.all.len() >= MAX_ACCOUNTS && !accounts.all.contains_key(subject);
            let subject = match subject {
                Subject::User(_) | Subject::Key(_) if is_full => Subject::Key(String::new()),
                known => known.clone(),
            };
            if wanted.contains(&subject) {
                continue;
            }
            if !accounts.all.contains_key(&subject) {
                accounts.all.insert(subject.clone(), Account::new(limits, now));
            }
            wanted.push(subject);
        }
        // In the order given: if several limits are reached, the first one is reported.
        match wanted.as_slice() {
            [] => work(&mut []),
            [one] => work(&mut accounts.found([one])),
            [one, two] => work(&mut accounts.found([one, two])),
            [one, two, three] => work(&mut accounts.found([one, two, three])),
            more => {
                let of_all = accounts.all.iter_mut();
                let mut found: Vec<_> = of_all.filter(|(subject, _)| more.contains(subject)).collect();
                found.sort_by_key(|(subject, _)| more.iter().position(|one| one == *subject));
                let found = found.into_iter().map(|(subject, account)| (subject.word(), account));
                work(&mut found.collect::<Vec<_>>())
            }
        }
    }
}

#[async_trait]
impl Limiter for LocalLimiter {
    async fn reserve(
        &self,
        scope: &TenantScope,
        subjects: Vec<Subject>,
        demand: Demand,
    ) -> Result<Lease, LimitRefusal> {
        let mut lease = Lease {
            id: None,
            scope: scope.clone(),
            subjects,
            demand,
            standings: Vec::new(),
        };
        let Some(tenant_accounts) = self.tenant_accounts(scope.tenant()) else {
            lease.subjects.clear();
            return Ok(lease);
        };
        let now = Moment::of(&*self.clock);
        lease.standings = tenant_accounts.with(&lease.subjects, now, |accounts| reserve(accounts, &demand, now))?;
        Ok(lease)
    }

    fn settle(&self, lease: Lease, spent: ActualUsage) {
        let now = Moment::of(&*self.clock);
        if let Some(tenant_accounts) = self.tenant_accounts(lease.scope.tenant()) {
            tenant_accounts.with(&lease.subjects, now, |accounts| {
                for (_, account) in accounts {
                    account.settle(&lease.demand, &spent, now);
                }
            });
        }
    }

    async fn exhausted(&self, scope: &TenantScope, subjects: Vec<Subject>) -> Option<LimitRefusal> {
        let now = Moment::of(&*self.clock);
        let found = self
            .tenant_accounts(scope.tenant())?
            .with(&subjects, now, |accounts| exhausted_of(accounts, now));
        found.map(LimitRefusal::LimitExceeded)
    }

    fn spent(&self, spendings: &[Spending]) {
        let now = Moment::of(&*self.clock);
        let mut of: HashMap<&TenantId, Vec<&Spending>> = HashMap::new();
        for spending in spendings {
            of.entry(&spending.tenant).or_default().push(spending);
        }
        for (tenant, spendings) in of {
            let Some(tenant_accounts) = self.tenant_accounts(tenant) else {
                continue;
            };
            for (subject, (day, month)) in spending::owed(spendings) {
                tenant_accounts.with(&[subject], now, |accounts| {
                    for (_, account) in accounts {
                        account.owed(day, month, now);
                    }
                });
            }
        }
    }

    fn replace(&self, tenants: HashMap<TenantId, TenantLimits>) {
        let now = Moment::of(&*self.clock);
        let mut known = self.tenants.write();
        let limited = tenants
            .into_iter()
            .filter(|(_, limits)| *limits != TenantLimits::default());
        *known = limited
            .map(|(tenant, limits)| {
                let accounts = match known.get(&tenant) {
                    Some(tenant_accounts) => Arc::clone(&tenant_accounts.accounts),
                    None => Arc::default(),
                };
                let tenant_accounts = TenantAccounts { limits, accounts };
                tenant_accounts.relimit(now);
                (tenant, Arc::new(tenant_accounts))
            })
            .collect();
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants = self.tenants.read();
        f.debug_set().entries(tenants.keys()).finish()
    }
}
