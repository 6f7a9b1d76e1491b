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
use copilotd_actors::ports::ModelError;
use tokio::time::Instant;

use super::rule::{self, Rule};
use crate::access::{Key, Keys};
use crate::provider::UNSUPPORTED;
use crate::target::Target;

/// Most requests to providers for one request of a caller, over all targets and keys.
pub const MAX_ATTEMPTS: u32 = 8;
/// Most tries of one target after transient failures, while it is the only one that can answer.
const MAX_TRIES: u32 = 4;
/// The same while others can answer too.
const USUAL_TRIES: u32 = 2;

/// A target, and the keys with which it may be called.
pub type Keyed = (Arc<Target>, Keys);

/// The state of a failover plan.
#[derive(Debug)]
pub struct Trip {
    stops: Vec<Stop>,
    attempts: u32,
    /// The target and key to try again immediately.
    again: Option<(usize, usize)>,
    deadline: Instant,
    patience: Duration,
    /// How long to wait for the preferred target before another one is tried instead.
    hold: Duration,
    /// Number of providers that refused the request with an error that may concern the provider itself.
    doubts: u32,
    failure: Option<ModelError>,
    only_keys_failed: bool,
}

/// A target of the plan.
#[derive(Debug)]
struct Stop {
    target: Arc<Target>,
    keys: Keys,
    /// Requests sent with each key.
    sent: Vec<u32>,
    /// Keys that this plan does not use again.
    spent: Vec<bool>,
    /// Keys whose provider told this plan to wait, and that it may use afterwards.
    rested: Vec<bool>,
    /// The key with which the target may be tried again after others; its last failure was transient.
    later: Option<usize>,
    /// Whether the target had a transient failure in this plan.
    failed_in_passing: bool,
    is_closed: bool,
}

/// A target and key of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    stop: usize,
    key: usize,
}

/// The next step.
#[derive(Debug)]
pub enum Next {
    /// Send the request to this target.
    Ask(Place),
    /// Wait, then call `next` again.
    Wait(Duration),
    /// No candidate is left.
    Over,
}

impl Trip {
    /// Plans over `targets`, in this order. Waits at most `patience` for keys that are cooling down, and starts nothing
    /// after `deadline`.
    pub fn new(targets: Vec<Keyed>, patience: Duration, deadline: Instant) -> Self {
        let stop = |(target, keys): Keyed| Stop {
            target,
            sent: vec![0; keys.len()],
            spent: vec![false; keys.len()],
            rested: vec![false; keys.len()],
            keys,
            later: None,
            failed_in_passing: false,
            is_closed: false,
        };
        Self {
            stops: targets.into_iter().map(stop).collect(),
            attempts: 0,
            again: None,
            deadline,
            patience,
            hold: Duration::ZERO,
            doubts: 0,
            failure: None,
            only_keys_failed: true,
        }
    }

    /// Sets how long, in total, to wait for the preferred target's `Retry-After` before falling back to another one.
    #[must_use]
    pub fn holding(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Returns the next step. `admit` asks a target's circuit breaker.
    pub fn next(&mut self, now: Instant, mut admit: impl FnMut(&Target) -> bool) -> Next {
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return Next::Over;
        }
        if let Some((stop, key)) = self.again.take() {
            return self.ask(stop, key);
        }
        let open: Vec<usize> = (0..self.stops.len()).filter(|&at| !self.stops[at].is_closed).collect();
        if let Some(next) = self.held(&open, now) {
            return next;
        }
        // Healthy, not cooling down and not tried yet.
        let mut returning = None;
        for &at in &open {
            let stop = &self.stops[at];
            let awake = |key: &Key| !key.is_dead(now) && key.rests(now).is_zero();
            if let Some(key) = stop.unasked(awake) {
                if admit(&stop.target) {
                    return self.ask(at, key);
                }
                if !stop.is_unhealthy() {
                    returning.get_or_insert((at, key));
                }
            }
        }
        // A target that has just recovered gets a small share of the calls, but is still better than none.
        if let Some((stop, key)) = returning {
            return self.ask(stop, key);
        }
        for &at in &open {
            if let Some(key) = self.second_chance(at, now) {
                return self.ask(at, key);
            }
        }
        // Unhealthy targets, or those without a key known to be accepted, unless this plan has tried them itself.
        for &at in &open {
            if let Some(key) = self.stops[at].unasked(|key| key.rests(now).is_zero()) {
                return self.ask(at, key);
            }
        }
        for &at in &open {
            if let Some(key) = self.stops[at].unasked(|key| key.take_probe(now)) {
                return self.ask(at, key);
            }
        }
        self.rest(&open, now)
    }

    /// Waits for the preferred target, if a named `Retry-After` within the allowed time is all that blocks it.
    fn held(&mut self, open: &[usize], now: Instant) -> Option<Next> {
        let (&at, others) = open.split_first()?;
        let stop = &self.stops[at];
        if self.hold.is_zero() || others.is_empty() || stop.is_unhealthy() {
            return None;
        }
        let keys = stop.keys.iter().enumerate().filter(|&(key, _)| stop.may_rest(key));
        let (wait, key) = keys.map(|(index, key)| (key.rests(now), index)).min()?;
        if wait.is_zero() {
            // The wait is over and the key may be used again.
            return stop.rested[key].then(|| self.ask(at, key));
        }
        if !stop.keys[key].rest_is_named() || wait > self.hold || now + wait >= self.deadline {
            return None;
        }
        self.hold -= wait;
        Some(Next::Wait(wait))
    }

    /// Waits for a key that is cooling down, or gives up.
    fn rest(&mut self, open: &[usize], now: Instant) -> Next {
        let resting = open.iter().flat_map(|&at| {
            let stop = &self.stops[at];
            let keys = stop.keys.iter().enumerate().filter(|&(key, _)| stop.may_rest(key));
            keys.map(move |(index, key)| (key.rests(now), at, index))
        });
        match resting.min() {
            None => Next::Over,
            Some((wait, stop, key)) if wait.is_zero() => self.ask(stop, key),
            Some((wait, ..)) if wait <= self.patience && now + wait < self.deadline => {
                self.patience -= wait;
                Next::Wait(wait)
            }
            Some((wait, stop, key)) => {
                let stop = &self.stops[stop];
                match &mut self.failure {
                    Some(failure) => {
                        failure.retry_after.get_or_insert(wait);
                    }
                    // No target was called: what the provider said to an earlier call still holds.
                    None => self.failure = Some(stop.keys[key].remembered(&stop.target.name.to_string(), wait)),
                }
                self.only_keys_failed = false;
                Next::Over
            }
        }
    }

    /// Returns the key with which to retry a healthy target after a transient failure.
    fn second_chance(&self, at: usize, now: Instant) -> Option<usize> {
        let stop = &self.stops[at];
        let key = stop.later?;
        if stop.is_unhealthy() || stop.is_out(now) {
            return None;
        }
        let is_alone = self.stops.len() > 1
            && self
                .stops
                .iter()
                .enumerate()
                .all(|(other, stop)| other == at || stop.is_out(now));
        let most = if is_alone { MAX_TRIES } else { USUAL_TRIES };
        (stop.tries() < most).then_some(key)
    }

    /// Records that the request at `place` failed; returns a pause before the next one. `began`: content had
    /// arrived, so silence means that this answer broke, not that the target is unreachable.
    pub fn failed(&mut self, place: Place, error: ModelError, began: bool, now: Instant) -> Option<Duration> {
        let rule = rule::after(&error, began);
        let stop = &mut self.stops[place.stop];
        let key = &stop.keys[place.key];
        let mut pause = None;
        stop.later = None;
        stop.failed_in_passing |= matches!(rule, Rule::AgainThenNext | Rule::NextOrAgain);
        match rule {
            Rule::RotateKey => {
                key.died(now);
                stop.spent[place.key] = true;
            }
            Rule::Rest(wait) => {
                // Without a named time, or with almost none, waits double with each request.
                let is_named = error.retry_after.is_some_and(|wait| !wait.is_zero());
                let doubled = 2_u32.pow(stop.sent[place.key].saturating_sub(1).min(6));
                let wait = if is_named {
                    wait.max(rule::PAUSE * doubled)
                } else {
                    wait * doubled
                };
                key.rest(wait, now, error.class, is_named);
                stop.rested[place.key] = true;
                // An overloaded server that names a time gets one more try; a rate limit, as long as the patience
                // lasts.
                stop.spent[place.key] = error.class != FailureClass::Rate && stop.sent[place.key] > 1;
            }
            // A probe, or a try at a target known to be down, is not repeated.
            Rule::AgainThenNext | Rule::NextOrAgain if stop.is_unhealthy() => stop.is_closed = true,
            Rule::AgainThenNext if stop.tries() < USUAL_TRIES => {
                self.again = Some((place.stop, place.key));
                stop.later = Some(place.key);
                pause = Some(rule::PAUSE);
            }
            Rule::AgainThenNext => {
                stop.later = Some(place.key);
                pause = (stop.tries() > USUAL_TRIES).then_some(rule::PAUSE);
            }
            Rule::NextOrAgain => stop.later = Some(place.key),
            Rule::Next => stop.is_closed = true,
            Rule::NextProvider => self.doubted(place.stop),
            Rule::Larger => {
                stop.is_closed = true;
                let size = stop.target.context_tokens;
                let is_larger = |stop: &Stop| !stop.is_closed && stop.target.context_tokens > size;
                // Context sizes are only what the configuration says: if none is larger, one of the same size may do.
                let least = if self.stops.iter().any(is_larger) {
                    size + 1
                } else {
                    size
                };
                for stop in &mut self.stops {
                    stop.is_closed |= stop.target.context_tokens < least;
                }
            }
            Rule::Stop => self.stops.iter_mut().for_each(|stop| stop.is_closed = true),
        }
        self.remember(error);
        pause
    }

    /// A provider refused the request with an error that may concern itself: another provider is tried, once.
    fn doubted(&mut self, at: usize) {
        self.doubts += 1;
        if self.doubts > 1 {
            return self.stops.iter_mut().for_each(|stop| stop.is_closed = true);
        }
        self.stops[at].is_closed = true;
        let provider = self.stops[at].target.name.provider.clone();
        let is_other = |stop: &Stop| stop.target.name.provider != provider;
        // The same account would answer the same, but it is better than none.
        if self.stops.iter().any(|stop| !stop.is_closed && is_other(stop)) {
            for stop in &mut self.stops {
                stop.is_closed |= !is_other(stop);
            }
        }
    }

    /// Returns another healthy target, with a usable key, to call in parallel with the request at `place`.
    pub fn beside(&mut self, place: Place, now: Instant, mut admit: impl FnMut(&Target) -> bool) -> Option<Place> {
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return None;
        }
        let others = (0..self.stops.len()).filter(|&at| at != place.stop && !self.stops[at].is_closed);
        let (stop, key) = others.into_iter().find_map(|at| {
            let stop = &self.stops[at];
            let key = stop.unasked(|key| !key.is_dead(now) && key.rests(now).is_zero())?;
            admit(&stop.target).then_some((at, key))
        })?;
        match self.ask(stop, key) {
            Next::Ask(place) => Some(place),
            Next::Wait(_) | Next::Over => None,
        }
    }

    /// Returns where to request a document again in parallel with the request at `place`: at a target that can answer
    /// now, else at the same one.
    pub fn once_more(&mut self, place: Place, now: Instant, admit: impl FnMut(&Target) -> bool) -> Option<Place> {
        let again = self.again.take();
        if again.is_none()
            && let Some(other) = self.beside(place, now, admit)
        {
            return Some(other);
        }
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return None;
        }
        let awake = |key: &Key| !key.is_dead(now) && key.rests(now).is_zero();
        let rested = |at: usize| {
            let stop = &self.stops[at];
            let is_well = at != place.stop && !stop.is_closed && !stop.is_unhealthy();
            let rested = |&key: &usize| stop.may_rest(key) && awake(&stop.keys[key]);
            let key = is_well.then(|| (0..stop.keys.len()).find(rested)).flatten();
            Some((at, key.or_else(|| self.second_chance(at, now))?))
        };
        let same = &self.stops[place.stop];
        let is_able = !same.is_closed && awake(&same.keys[place.key]) && same.tries() < MAX_TRIES;
        let same = is_able.then_some((place.stop, place.key));
        let (stop, key) = again.or_else(|| (0..self.stops.len()).find_map(rested)).or(same)?;
        match self.ask(stop, key) {
            Next::Ask(place) => Some(place),
            Next::Wait(_) | Next::Over => None,
        }
    }

    /// Prefers other targets to the one at `place`; returns whether there are any that can answer.
    pub fn leave(&mut self, place: Place, now: Instant) -> bool {
        let others = self.others_able(place, now) > 0;
        if others {
            self.again = None;
        }
        others
    }

    /// Number of other targets that could answer now and were not tried yet.
    pub fn others_able(&self, place: Place, now: Instant) -> u32 {
        let able = |(at, stop): (usize, &Stop)| {
            let awake = |key: &Key| !key.is_dead(now) && key.rests(now).is_zero();
            at != place.stop && !stop.is_closed && !stop.is_unhealthy() && stop.unasked(awake).is_some()
        };
        let count = self.stops.iter().enumerate().filter(|&stop| able(stop)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Lists the targets.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.stops.iter().map(|stop| &stop.target)
    }

    /// Returns the target at `place`.
    pub fn target(&self, place: Place) -> &Arc<Target> {
        &self.stops[place.stop].target
    }

    /// Returns the key at `place`.
    pub fn key(&self, place: Place) -> &Arc<Key> {
        &self.stops[place.stop].keys[place.key]
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
    pub fn hurry(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }

    /// Number of targets that may still be tried.
    pub fn targets_left(&self) -> usize {
        self.stops.iter().filter(|stop| !stop.is_closed).count()
    }

    /// Returns the failure that best explains why nobody answered; `None` if no target was tried and none is cooling
    /// down. Its `retry_after` is the time after which *some* target may be called, not the one that happened to be
    /// named.
    pub fn failure(&mut self, now: Instant) -> Option<ModelError> {
        let mut failure = self.failure.take()?;
        let rests = |stop: &Stop| {
            let keys = stop.keys.iter().filter(|key| !key.is_dead(now));
            keys.map(|key| key.rests(now)).min()
        };
        let soonest = self.stops.iter().filter_map(rests).min();
        // A difference of a moment does not count: the time stays as the provider named it.
        let sooner = |named: &Duration| soonest.filter(|soonest| *soonest + rule::DEFAULT_REST < *named);
        if let Some((named, soonest)) = failure.retry_after.and_then(|named| Some((named, sooner(&named)?))) {
            failure.retry_after = match failure.class {
                FailureClass::Rate => Some(named.min(soonest.max(rule::DEFAULT_REST))),
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

    fn ask(&mut self, stop: usize, key: usize) -> Next {
        self.attempts += 1;
        self.stops[stop].sent[key] += 1;
        self.stops[stop].rested[key] = false;
        Next::Ask(Place { stop, key })
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
    Unsaid,
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
        FailureClass::Rejected if refusal.is_some_and(|refusal| refusal.status == UNSUPPORTED) => Rank::Unsaid,
        FailureClass::Rejected if rule::after(error, false) == Rule::NextProvider => Rank::Doubtful,
        _ => Rank::Failed,
    }
}

impl Stop {
    /// Returns a key that this plan has not used and that is `good`.
    fn unasked(&self, good: impl Fn(&Key) -> bool) -> Option<usize> {
        // A transient failure would repeat with another key: the target is retried with the same key, or not at all.
        if self.failed_in_passing {
            return None;
        }
        let unasked = |&index: &usize| self.sent[index] == 0 && !self.spent[index] && good(&self.keys[index]);
        (0..self.keys.len()).find(unasked)
    }

    /// Whether to wait for a key: it was not used, or may be used again after its wait.
    fn may_rest(&self, key: usize) -> bool {
        !self.spent[key] && (self.rested[key] || (self.sent[key] == 0 && !self.failed_in_passing))
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
    fn is_out(&self, now: Instant) -> bool {
        let is_out =
            |(index, key): (usize, &Arc<Key>)| self.spent[index] || key.is_dead(now) || !key.rests(now).is_zero();
        self.is_closed || self.is_unhealthy() || self.keys.iter().enumerate().all(is_out)
    }
}

#[cfg(test)]
mod tests;
