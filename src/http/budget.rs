//! Budgets for shared resources: bytes in memory, connections, requests in flight. Each caller is limited, so are all
//! callers of one tenant together, and all clients without a credential together.
//!
//! Invariant: reservations never exceed the limit of their caller, tenant or process, and dropping a [`Reservation`]
//! releases all of it, however the request ended.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::credentials::{Caller, CredentialKind};

/// The party a reservation is charged to. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    kind: Kind,
    group: Arc<str>,
    name: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Key,
    Address,
}

impl Holder {
    /// An API key, or the user of a token or ticket: a user with a new token every minute is still one caller.
    pub fn caller(caller: &Caller) -> Self {
        let tenant = caller.scope.tenant();
        let (kind, name) = match caller.kind {
            CredentialKind::ApiKey => (Kind::Key, format!("key/{tenant}/{}", caller.credential.as_str())),
            CredentialKind::UserToken | CredentialKind::Ticket => {
                (Kind::User, format!("user/{tenant}/{}", caller.user))
            }
        };
        Self {
            kind,
            group: group(tenant).into(),
            name: name.into(),
        }
    }

    /// A user, for tests.
    #[cfg(test)]
    pub fn user_of(tenant: &str, user: &str) -> Self {
        Self {
            kind: Kind::User,
            group: tenant.into(),
            name: format!("{tenant}/{user}").into(),
        }
    }

    /// A client address, for requests without a verified credential.
    pub fn address(network: IpAddr) -> Self {
        Self {
            kind: Kind::Address,
            group: "addresses".into(),
            name: format!("address/{network}").into(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// How much each party may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The whole process.
    pub process: usize,
    /// All callers of one tenant.
    pub tenant: usize,
    /// One API key: usually a whole backend.
    pub key: usize,
    /// One user.
    pub user: usize,
    /// All clients without a valid credential.
    pub addresses: usize,
    /// One address without a valid credential.
    pub address: usize,
}

impl Limits {
    /// The standard shares of a number of bytes.
    pub fn bytes(process: usize) -> Self {
        Self {
            process,
            tenant: process / 2,
            key: process / 2,
            user: process / 8,
            addresses: process / 8,
            address: process / 64,
        }
    }
}

/// Which limit a reservation would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The caller's own.
    Caller,
    /// The tenant's or the process's.
    Shared,
}

/// The budget of one resource.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    /// Amount per semaphore permit: a semaphore hands out at most 2^32 permits at a time.
    unit: usize,
    process: Arc<Semaphore>,
    shares: DashMap<Arc<str>, Weak<Semaphore>>,
}

impl Budget {
    /// Creates a budget that is counted in single units.
    pub fn of_units(limits: Limits) -> Arc<Self> {
        Self::new(limits, 1)
    }

    /// Creates a budget of bytes, counted in KiB.
    pub fn of_bytes(limits: Limits) -> Arc<Self> {
        Self::new(limits, 1024)
    }

    fn new(limits: Limits, unit: usize) -> Arc<Self> {
        Arc::new(Self {
            limits,
            unit,
            process: Arc::new(Semaphore::new(permits(limits.process, unit))),
            shares: DashMap::new(),
        })
    }

    /// Returns the amount reserved now.
    pub fn in_use(&self) -> usize {
        permits(self.limits.process, self.unit).saturating_sub(self.process.available_permits()) * self.unit
    }

    /// Whether any caller of a tenant holds a reservation.
    pub fn is_held_by(&self, tenant: &TenantId) -> bool {
        let share = self.shares.get(group(tenant).as_str());
        share.is_some_and(|share| share.strong_count() > 0)
    }

    /// Returns the limit of the process.
    pub fn limit(&self) -> usize {
        self.limits.process
    }

    /// Reserves without waiting. An amount larger than the holder's share reserves the whole share, so it fits if the
    /// holder holds nothing else.
    pub fn try_reserve(self: &Arc<Self>, holder: &Holder, amount: usize) -> Result<Reservation, Exhausted> {
        let units = self.units(holder, amount);
        let mut reservation = self.empty(holder);
        for (semaphore, exhausted) in self.semaphores(holder) {
            let permit = semaphore.try_acquire_many_owned(units).map_err(|_full| exhausted)?;
            reservation.permits.push(permit);
        }
        Ok(reservation)
    }

    /// Reserves, waiting up to `wait` if it does not fit at once.
    pub async fn reserve(
        self: &Arc<Self>,
        holder: &Holder,
        amount: usize,
        wait: Duration,
    ) -> Result<Reservation, Exhausted> {
        if let Ok(reservation) = self.try_reserve(holder, amount) {
            return Ok(reservation);
        }
        let deadline = Instant::now() + wait;
        let units = self.units(holder, amount);
        let mut reservation = self.empty(holder);
        for (semaphore, exhausted) in self.semaphores(holder) {
            match timeout_at(deadline, semaphore.acquire_many_owned(units)).await {
                Ok(Ok(permit)) => reservation.permits.push(permit),
                // The semaphores are never closed: this is the timeout.
                _ => return Err(exhausted),
            }
        }
        Ok(reservation)
    }

    fn empty(self: &Arc<Self>, holder: &Holder) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            holder: holder.clone(),
            permits: Vec::with_capacity(3),
        }
    }

    /// The narrowest first, so that a caller waiting for its own share blocks nobody else.
    fn semaphores(&self, holder: &Holder) -> [(Arc<Semaphore>, Exhausted); 3] {
        [
            (self.share(&holder.name, self.caller_limit(holder)), Exhausted::Caller),
            (self.share(&holder.group, self.group_limit(holder)), Exhausted::Shared),
            (Arc::clone(&self.process), Exhausted::Shared),
        ]
    }

    /// Returns the limit of one holder.
    pub fn caller_limit(&self, holder: &Holder) -> usize {
        match holder.kind {
            Kind::User => self.limits.user,
            Kind::Key => self.limits.key,
            Kind::Address => self.limits.address,
        }
    }

    fn group_limit(&self, holder: &Holder) -> usize {
        match holder.kind {
            Kind::User | Kind::Key => self.limits.tenant,
            Kind::Address => self.limits.addresses,
        }
    }

    fn units(&self, holder: &Holder, amount: usize) -> u32 {
        let most = self
            .caller_limit(holder)
            .min(self.group_limit(holder))
            .min(self.limits.process);
        let units = amount.div_ceil(self.unit).clamp(1, permits(most, self.unit));
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Returns the semaphore of a caller or group; it lives as long as a reservation holds it.
    fn share(&self, name: &Arc<str>, limit: usize) -> Arc<Semaphore> {
        let mut entry = self.shares.entry(Arc::clone(name)).or_default();
        if let Some(share) = entry.upgrade() {
            return share;
        }
        let share = Arc::new(Semaphore::new(permits(limit, self.unit)));
        *entry = Arc::downgrade(&share);
        share
    }

    fn forget(&self, name: &Arc<str>) {
        self.shares.remove_if(name, |_, share| share.strong_count() == 0);
    }
}

/// The name of a tenant's share.
fn group(tenant: &TenantId) -> String {
    format!("tenant/{tenant}")
}

fn permits(limit: usize, unit: usize) -> usize {
    (limit / unit).clamp(1, u32::MAX as usize >> 3)
}

/// A reserved amount of a budget, released on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    holder: Holder,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Reservation {
    /// Returns the reserved amount.
    pub fn amount(&self) -> usize {
        self.permits.first().map_or(0, OwnedSemaphorePermit::num_permits) * self.budget.unit
    }

    /// Releases what is beyond `amount`.
    pub fn shrink_to(&mut self, amount: usize) {
        let keep = amount.div_ceil(self.budget.unit);
        for permit in &mut self.permits {
            drop(permit.split(permit.num_permits().saturating_sub(keep)));
        }
    }

    /// Absorbs another reservation of the same holder and budget.
    pub fn merge(&mut self, mut other: Self) {
        let others = std::mem::take(&mut other.permits);
        for (mine, theirs) in self.permits.iter_mut().zip(others) {
            mine.merge(theirs);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.permits.clear();
        self.budget.forget(&self.holder.name);
        self.budget.forget(&self.holder.group);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        process: 100,
        tenant: 50,
        key: 40,
        user: 20,
        addresses: 10,
        address: 5,
    };

    fn user(tenant: &str, user: &str) -> Holder {
        Holder::user_of(tenant, user)
    }

    #[test]
    fn each_limit_holds_and_says_which_it_was() {
        let budget = Budget::of_units(LIMITS);
        let ada = user("acme", "ada");
        let first = budget.try_reserve(&ada, 15).unwrap();
        assert_eq!(budget.try_reserve(&ada, 6).unwrap_err(), Exhausted::Caller);
        let bob = budget.try_reserve(&user("acme", "bob"), 20).unwrap();
        let eve = budget.try_reserve(&user("acme", "eve"), 15).unwrap();
        assert_eq!(
            budget.try_reserve(&user("acme", "mia"), 1).unwrap_err(),
            Exhausted::Shared
        );
        // Other tenants are not affected.
        let other = budget.try_reserve(&user("globex", "ada"), 20).unwrap();
        assert_eq!(budget.in_use(), 70);
        drop((first, bob, eve, other));
        assert_eq!((budget.in_use(), budget.shares.len()), (0, 0));
    }

    #[test]
    fn an_oversized_reservation_gets_the_whole_share() {
        let budget = Budget::of_units(LIMITS);
        let address = Holder::address(IpAddr::from([127, 0, 0, 1]));
        let all = budget.try_reserve(&address, 1_000).unwrap();
        assert_eq!((all.amount(), budget.in_use()), (5, 5));
        assert_eq!(budget.try_reserve(&address, 1).unwrap_err(), Exhausted::Caller);
    }

    #[test]
    fn a_reservation_shrinks_and_merges() {
        let budget = Budget::of_bytes(Limits::bytes(1024 * 1024));
        let ada = user("acme", "ada");
        let mut held = budget.try_reserve(&ada, 100 * 1024).unwrap();
        held.shrink_to(1025);
        assert_eq!((held.amount(), budget.in_use()), (2048, 2048));
        held.merge(budget.try_reserve(&ada, 10 * 1024).unwrap());
        assert_eq!((held.amount(), budget.in_use()), (12 * 1024, 12 * 1024));
        drop(held);
        assert_eq!((budget.in_use(), budget.shares.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn reserving_waits_up_to_its_timeout() {
        let budget = Budget::of_units(LIMITS);
        let ada = user("acme", "ada");
        let held = budget.try_reserve(&ada, 20).unwrap();
        let wait = Duration::from_secs(1);
        assert_eq!(budget.reserve(&ada, 1, wait).await.unwrap_err(), Exhausted::Caller);
        let (waited, ()) = tokio::join!(budget.reserve(&ada, 20, wait), async { drop(held) });
        assert_eq!(waited.unwrap().amount(), 20);
        assert_eq!((budget.in_use(), budget.shares.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn no_reservation_leaks_and_no_limit_is_exceeded(
            steps in proptest::collection::vec((0..3_usize, 0..4_usize, 0..30_usize, any::<bool>()), 1..200)
        ) {
            let budget = Budget::of_units(LIMITS);
            let mut held: Vec<(usize, usize, Reservation)> = Vec::new();
            for (tenant, name, amount, back) in steps {
                if back && !held.is_empty() {
                    held.swap_remove(amount % held.len());
                } else if let Ok(got) = budget.try_reserve(&user(&tenant.to_string(), &name.to_string()), amount) {
                    held.push((tenant, name, got));
                }
                let sum = |of: &dyn Fn(&(usize, usize, Reservation)) -> bool| -> usize {
                    held.iter().filter(|one| of(one)).map(|one| one.2.amount()).sum()
                };
                prop_assert_eq!(budget.in_use(), sum(&|_| true));
                prop_assert!(budget.in_use() <= LIMITS.process);
                prop_assert!(sum(&|one| one.0 == tenant) <= LIMITS.tenant);
                prop_assert!(sum(&|one| one.0 == tenant && one.1 == name) <= LIMITS.user);
            }
            held.clear();
            prop_assert_eq!((budget.in_use(), budget.shares.len()), (0, 0));
        }
    }
}
