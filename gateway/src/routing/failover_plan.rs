//! The failover plan of one request: which target of its route to try next, and when to give up.
//!
//! The order, at each step:
//! 1. the same target again at once, if its failure was transient;
//! 2. healthy targets that are not cooling down and that this plan has not tried;
//! 3. healthy targets with a transient failure in this plan (a cut, a stall, a 500), again: twice at most, and up
//!    to [`MAX_TRIES`] times while no other target can answer;
//! 4. unhealthy targets, once each;
//! 5. a target that is cooling down: by one probe during that time, else afterwards, if the plan may wait that long.
//!
//! Invariant: a plan makes at most [`MAX_ATTEMPTS`] requests, never waits beyond its patience or deadline, never leaves
//! the targets and keys it was given, and tries a target whose breaker is open at most once.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{ModelError, RefusedBy};
use tokio::time::Instant;

use super::rule::{self, Rule};
use crate::access::{Key, Keys};
use crate::target::Target;

/// Most requests to providers for one request of a caller, over all targets and keys.
pub const MAX_ATTEMPTS: u32 = 8;
/// Most tries of one target after transient failures, while it is the only one that can answer.
const MAX_TRIES: u32 = 4;
/// The same while others can answer too.
const USUAL_TRIES: u32 = 2;

/// A target, and the keys with which it may be called.
pub type TargetWithKeys = (Arc<Target>, Keys);

/// The state of a failover plan.
#[derive(Debug)]
pub struct FailoverPlan {
    entries: Vec<PlanEntry>,
    attempts: u32,
    /// The target and key to try again immediately.
    again: Option<(usize, usize)>,
    deadline: Instant,
    patience: Duration,
    /// How long to wait for the preferred target before another one is tried instead.
    hold: Duration,
    /// Number of providers that refused the request with an error that may concern the provider itself.
    doubtful_refusals: u32,
    failure: Option<ModelError>,
    only_keys_failed: bool,
}

/// A target of the plan.
#[derive(Debug)]
struct PlanEntry {
    target: Arc<Target>,
    keys: Keys,
    /// Requests sent with each key.
    sent: Vec<u32>,
    /// Keys that this plan does not use again.
    excluded: Vec<bool>,
    /// Keys whose provider told this plan to wait, and that it may use afterwards.
    retryable: Vec<bool>,
    /// The key with which the target may be tried again after others; its last failure was transient.
    later: Option<usize>,
    /// Whether the target had a transient failure in this plan.
    failed_transiently: bool,
    is_closed: bool,
}

/// A target and key of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    entry: usize,
    key: usize,
}

/// The next step.
#[derive(Debug)]
pub enum Next {
    /// Send the request to this target.
    Try(Candidate),
    /// Wait, then call `next` again.
    Wait(Duration),
    /// No candidate is left.
    Exhausted,
}

impl FailoverPlan {
    /// Plans over `targets`, in this order. Waits at most `patience` for keys that are cooling down, and starts nothing
    /// after `deadline`.
    pub fn new(targets: Vec<TargetWithKeys>, patience: Duration, deadline: Instant) -> Self {
        let entry = |(target, keys): TargetWithKeys| PlanEntry {
            target,
            sent: vec![0; keys.len()],
            excluded: vec![false; keys.len()],
            retryable: vec![false; keys.len()],
            keys,
            later: None,
            failed_transiently: false,
            is_closed: false,
        };
        Self {
            entries: targets.into_iter().map(entry).collect(),
            attempts: 0,
            again: None,
            deadline,
            patience,
            hold: Duration::ZERO,
            doubtful_refusals: 0,
            failure: None,
            only_keys_failed: true,
        }
    }

    /// Sets how long, in total, to wait for the preferred target's `Retry-After` before falling back to another one.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Returns the next step. `admit` asks a target's circuit breaker.
    pub fn next(&mut self, now: Instant, mut admit: impl FnMut(&Target) -> bool) -> Next {
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return Next::Exhausted;
        }
        if let Some((entry, key)) = self.again.take() {
            return self.try_key(entry, key);
        }
        let open: Vec<usize> = (0..self.entries.len())
            .filter(|&at| !self.entries[at].is_closed)
            .collect();
        if let Some(next) = self.wait_for_preferred(&open, now) {
            return next;
        }
        // Healthy, not cooling down and not tried yet.
        let mut returning = None;
        for &at in &open {
            let entry = &self.entries[at];
            let awake = |key: &Key| !key.is_disabled(now) && key.remaining_cooldown(now).is_zero();
            if let Some(key) = entry.unused_key(awake) {
                if admit(&entry.target) {
                    return self.try_key(at, key);
                }
                if !entry.is_unhealthy() {
                    returning.get_or_insert((at, key));
                }
            }
        }
        // A target that has just recovered gets a small share of the calls, but is still better than none.
        if let Some((entry, key)) = returning {
            return self.try_key(entry, key);
        }
        for &at in &open {
            if let Some(key) = self.second_chance(at, now) {
                return self.try_key(at, key);
            }
        }
        // Unhealthy targets, or those without a key known to be accepted, unless this plan has tried them itself.
        for &at in &open {
            if let Some(key) = self.entries[at].unused_key(|key| key.remaining_cooldown(now).is_zero()) {
                return self.try_key(at, key);
            }
        }
        for &at in &open {
            if let Some(key) = self.entries[at].unused_key(|key| key.take_probe(now)) {
                return self.try_key(at, key);
            }
        }
        self.cool_down(&open, now)
    }

    /// Waits for the preferred target, if a named `Retry-After` within the allowed time is all that blocks it.
    fn wait_for_preferred(&mut self, open: &[usize], now: Instant) -> Option<Next> {
        let (&at, others) = open.split_first()?;
        let entry = &self.entries[at];
        if self.hold.is_zero() || others.is_empty() || entry.is_unhealthy() {
            return None;
        }
        let keys = entry
            .keys
            .iter()
            .enumerate()
            .filter(|&(key, _)| entry.may_wait_for(key));
        let (wait, key) = keys.map(|(index, key)| (key.remaining_cooldown(now), index)).min()?;
        if wait.is_zero() {
            // The wait is over and the key may be used again.
            return entry.retryable[key].then(|| self.try_key(at, key));
        }
        if !entry.keys[key].cooldown_is_named() || wait > self.hold || now + wait >= self.deadline {
            return None;
        }
        self.hold -= wait;
        Some(Next::Wait(wait))
    }

    /// Waits for a key that is cooling down, or gives up.
    fn cool_down(&mut self, open: &[usize], now: Instant) -> Next {
        let resting = open.iter().flat_map(|&at| {
            let entry = &self.entries[at];
            let keys = entry
                .keys
                .iter()
                .enumerate()
                .filter(|&(key, _)| entry.may_wait_for(key));
            keys.map(move |(index, key)| (key.remaining_cooldown(now), at, index))
        });
        match resting.min() {
            None => Next::Exhausted,
            Some((wait, entry, key)) if wait.is_zero() => self.try_key(entry, key),
            Some((wait, ..)) if wait <= self.patience && now + wait < self.deadline => {
                self.patience -= wait;
                Next::Wait(wait)
            }
            Some((wait, entry, key)) => {
                let entry = &self.entries[entry];
                match &mut self.failure {
                    Some(failure) => {
                        failure.retry_after.get_or_insert(wait);
                    }
                    // No target was called: what the provider said to an earlier call still holds.
                    None => {
                        self.failure = Some(entry.keys[key].cooling_down_error(&entry.target.name.to_string(), wait))
                    }
                }
                self.only_keys_failed = false;
                Next::Exhausted
            }
        }
    }

    /// Returns the key with which to retry a healthy target after a transient failure.
    fn second_chance(&self, at: usize, now: Instant) -> Option<usize> {
        let entry = &self.entries[at];
        let key = entry.later?;
        if entry.is_unhealthy() || entry.is_unavailable(now) {
            return None;
        }
        let is_alone = self.entries.len() > 1
            && self
                .entries
                .iter()
                .enumerate()
                .all(|(other, entry)| other == at || entry.is_unavailable(now));
        let most = if is_alone { MAX_TRIES } else { USUAL_TRIES };
        (entry.tries() < most).then_some(key)
    }

    /// Records that the request at `candidate` failed; returns a pause before the next one. `began`: content had
    /// arrived, so silence means that this answer broke, not that the target is unreachable.
    pub fn failed(&mut self, candidate: Candidate, error: ModelError, began: bool, now: Instant) -> Option<Duration> {
        let rule = rule::after(&error, began);
        let entry = &mut self.entries[candidate.entry];
        let key = &entry.keys[candidate.key];
        let mut pause = None;
        entry.later = None;
        entry.failed_transiently |= matches!(rule, Rule::RetryThenNext | Rule::NextThenRetry);
        match rule {
            Rule::NextKey => {
                key.disable(now);
                entry.excluded[candidate.key] = true;
            }
            Rule::Cooldown(wait) => {
                // Without a named time, or with almost none, waits double with each request.
                let is_named = error.retry_after.is_some_and(|wait| !wait.is_zero());
                let doubled = 2_u32.pow(entry.sent[candidate.key].saturating_sub(1).min(6));
                let wait = if is_named {
                    wait.max(rule::PAUSE * doubled)
                } else {
                    wait * doubled
                };
                key.cool_down(wait, now, error.class, is_named);
                entry.retryable[candidate.key] = true;
                // An overloaded server that names a time gets one more try; a rate limit, as long as the patience
                // lasts.
                entry.excluded[candidate.key] = error.class != FailureClass::Rate && entry.sent[candidate.key] > 1;
            }
            // A probe, or a try at a target known to be down, is not repeated.
            Rule::RetryThenNext | Rule::NextThenRetry if entry.is_unhealthy() => entry.is_closed = true,
            Rule::RetryThenNext if entry.tries() < USUAL_TRIES => {
                self.again = Some((candidate.entry, candidate.key));
                entry.later = Some(candidate.key);
                pause = Some(rule::PAUSE);
            }
            Rule::RetryThenNext => {
                entry.later = Some(candidate.key);
                pause = (entry.tries() > USUAL_TRIES).then_some(rule::PAUSE);
            }
            Rule::NextThenRetry => entry.later = Some(candidate.key),
            Rule::Next => entry.is_closed = true,
            Rule::NextProvider => self.refused_doubtfully(candidate.entry),
            Rule::LargerContext => {
                entry.is_closed = true;
                let size = entry.target.context_tokens;
                let is_larger = |entry: &PlanEntry| !entry.is_closed && entry.target.context_tokens > size;
                // Context sizes are only what the configuration says: if none is larger, one of the same size may do.
                let least = if self.entries.iter().any(is_larger) {
                    size + 1
                } else {
                    size
                };
                for entry in &mut self.entries {
                    entry.is_closed |= entry.target.context_tokens < least;
                }
            }
            Rule::GiveUp => self.entries.iter_mut().for_each(|entry| entry.is_closed = true),
        }
        self.remember(error);
        pause
    }

    /// A provider refused the request with an error that may concern itself: another provider is tried, once.
    fn refused_doubtfully(&mut self, at: usize) {
        self.doubtful_refusals += 1;
        if self.doubtful_refusals > 1 {
            return self.entries.iter_mut().for_each(|entry| entry.is_closed = true);
        }
        self.entries[at].is_closed = true;
        let provider = self.entries[at].target.name.provider.clone();
        let is_other = |entry: &PlanEntry| entry.target.name.provider != provider;
        // The same account would answer the same, but it is better than none.
        if self.entries.iter().any(|entry| !entry.is_closed && is_other(entry)) {
            for entry in &mut self.entries {
                entry.is_closed |= !is_other(entry);
            }
        }
    }

    /// Returns another healthy target, with a usable key, to call in parallel with the request at `candidate`.
    pub fn hedge_candidate(
        &mut self,
        candidate: Candidate,
        now: Instant,
        mut admit: impl FnMut(&Target) -> bool,
    ) -> Option<Candidate> {
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return None;
        }
        let others = (0..self.entries.len()).filter(|&at| at != candidate.entry && !self.entries[at].is_closed);
        let (entry, key) = others.into_iter().find_map(|at| {
            let entry = &self.entries[at];
            let key = entry.unused_key(|key| !key.is_disabled(now) && key.remaining_cooldown(now).is_zero())?;
            admit(&entry.target).then_some((at, key))
        })?;
        match self.try_key(entry, key) {
            Next::Try(candidate) => Some(candidate),
            Next::Wait(_) | Next::Exhausted => None,
        }
    }

    /// Returns where to request a document again in parallel with the request at `candidate`: at a target that can answer
    /// now, else at the same one.
    pub fn retry_candidate(
        &mut self,
        candidate: Candidate,
        now: Instant,
        admit: impl FnMut(&Target) -> bool,
    ) -> Option<Candidate> {
        let again = self.again.take();
        if again.is_none()
            && let Some(other) = self.hedge_candidate(candidate, now, admit)
        {
            return Some(other);
        }
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return None;
        }
        let awake = |key: &Key| !key.is_disabled(now) && key.remaining_cooldown(now).is_zero();
        let retryable = |at: usize| {
            let entry = &self.entries[at];
            let is_well = at != candidate.entry && !entry.is_closed && !entry.is_unhealthy();
            let retryable = |&key: &usize| entry.may_wait_for(key) && awake(&entry.keys[key]);
            let key = is_well.then(|| (0..entry.keys.len()).find(retryable)).flatten();
            Some((at, key.or_else(|| self.second_chance(at, now))?))
        };
        let same = &self.entries[candidate.entry];
        let is_able = !same.is_closed && awake(&same.keys[candidate.key]) && same.tries() < MAX_TRIES;
        let same = is_able.then_some((candidate.entry, candidate.key));
        let (entry, key) = again.or_else(|| (0..self.entries.len()).find_map(retryable)).or(same)?;
        match self.try_key(entry, key) {
            Next::Try(candidate) => Some(candidate),
            Next::Wait(_) | Next::Exhausted => None,
        }
    }

    /// Prefers other targets to the one at `candidate`; returns whether there are any that can answer.
    pub fn prefer_others(&mut self, candidate: Candidate, now: Instant) -> bool {
        let others = self.others_available(candidate, now) > 0;
        if others {
            self.again = None;
        }
        others
    }

    /// Number of other targets that could answer now and were not tried yet.
    pub fn others_available(&self, candidate: Candidate, now: Instant) -> u32 {
        let able = |(at, entry): (usize, &PlanEntry)| {
            let awake = |key: &Key| !key.is_disabled(now) && key.remaining_cooldown(now).is_zero();
            at != candidate.entry && !entry.is_closed && !entry.is_unhealthy() && entry.unused_key(awake).is_some()
        };
        let count = self.entries.iter().enumerate().filter(|&entry| able(entry)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Lists the targets.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.entries.iter().map(|entry| &entry.target)
    }

    /// Returns the target at `candidate`.
    pub fn target(&self, candidate: Candidate) -> &Arc<Target> {
        &self.entries[candidate.entry].target
    }

    /// Returns the key at `candidate`.
    pub fn key(&self, candidate: Candidate) -> &Arc<Key> {
        &self.entries[candidate.entry].keys[candidate.key]
    }

    /// Number of requests sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Time at which the plan must end.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Brings the deadline forward.
    pub fn limit_time(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }

    /// Number of targets that may still be tried.
    pub fn targets_left(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.is_closed).count()
    }

    /// Returns the failure that best explains why nobody answered; `None` if no target was tried and none is cooling
    /// down. Its `retry_after` is the time after which *some* target may be called, not the one that happened to be
    /// named.
    pub fn failure(&mut self, now: Instant) -> Option<ModelError> {
        let mut failure = self.failure.take()?;
        let remaining_cooldown = |entry: &PlanEntry| {
            let keys = entry.keys.iter().filter(|key| !key.is_disabled(now));
            keys.map(|key| key.remaining_cooldown(now)).min()
        };
        let soonest = self.entries.iter().filter_map(remaining_cooldown).min();
        // A difference of a moment does not count: the time stays as the provider named it.
        let sooner = |named: &Duration| soonest.filter(|soonest| *soonest + rule::DEFAULT_COOLDOWN < *named);
        if let Some((named, soonest)) = failure.retry_after.and_then(|named| Some((named, sooner(&named)?))) {
            failure.retry_after = match failure.class {
                FailureClass::Rate => Some(named.min(soonest.max(rule::DEFAULT_COOLDOWN))),
                _ if soonest.is_zero() => None,
                _ => Some(named.min(soonest)),
            };
        }
        Some(failure)
    }

    /// Whether there were failures, and all of them because no key was accepted.
    pub fn only_keys_failed(&self) -> bool {
        self.failure.is_some() && self.only_keys_failed
    }

    fn try_key(&mut self, entry: usize, key: usize) -> Next {
        self.attempts += 1;
        self.entries[entry].sent[key] += 1;
        self.entries[entry].retryable[key] = false;
        Next::Try(Candidate { entry, key })
    }

    /// Keeps the failure that says most. Of two with the same rank the later one wins, but for a refusal the preferred
    /// target's wording stays.
    fn remember(&mut self, error: ModelError) {
        let rank = rank(&error);
        self.only_keys_failed &= rank <= Rank::Key;
        let known = self.failure.as_ref().map(self::rank);
        if known.is_none_or(|known| rank > known || (rank == known && rank >= Rank::Failed)) {
            self.failure = Some(error);
        }
    }
}

/// How much a failure explains why nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The provider's protocol cannot express the request, which is no fault of the request if another target was
    /// tried.
    Unsupported,
    /// A rejected key is the operator's business.
    Key,
    /// A refusal that may concern the provider itself.
    Doubtful,
    /// Anything else.
    Failed,
    /// A rate limit, which says when to retry.
    Rate,
}

fn rank(error: &ModelError) -> Rank {
    let refusal = error.refusal.as_deref();
    match error.class {
        FailureClass::Key => Rank::Key,
        FailureClass::Rate => Rank::Rate,
        FailureClass::Rejected if refusal.is_some_and(|refusal| refusal.by == RefusedBy::Adapter) => Rank::Unsupported,
        FailureClass::Rejected if rule::after(error, false) == Rule::NextProvider => Rank::Doubtful,
        _ => Rank::Failed,
    }
}

impl PlanEntry {
    /// Returns a key that this plan has not used and that is `good`.
    fn unused_key(&self, good: impl Fn(&Key) -> bool) -> Option<usize> {
        // A transient failure would repeat with another key: the target is retried with the same key, or not at all.
        if self.failed_transiently {
            return None;
        }
        let unused_key = |&index: &usize| self.sent[index] == 0 && !self.excluded[index] && good(&self.keys[index]);
        (0..self.keys.len()).find(unused_key)
    }

    /// Whether to wait for a key: it was not used, or may be used again after its wait.
    fn may_wait_for(&self, key: usize) -> bool {
        !self.excluded[key] && (self.retryable[key] || (self.sent[key] == 0 && !self.failed_transiently))
    }

    /// Number of requests that this plan sent to the target.
    fn tries(&self) -> u32 {
        self.sent.iter().sum()
    }

    /// Whether the breaker is open, or half open for a probe.
    fn is_unhealthy(&self) -> bool {
        self.target.state.with(|health, _| health.is_open())
    }

    /// Whether the target cannot answer any request now.
    fn is_unavailable(&self, now: Instant) -> bool {
        let is_unavailable = |(index, key): (usize, &Arc<Key>)| {
            self.excluded[index] || key.is_disabled(now) || !key.remaining_cooldown(now).is_zero()
        };
        self.is_closed || self.is_unhealthy() || self.keys.iter().enumerate().all(is_unavailable)
    }
}

#[cfg(test)]
mod tests;
