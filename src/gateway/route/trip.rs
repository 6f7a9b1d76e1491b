//! The way of one request over the targets of its route: where to next, and when it is over.
//!
//! Invariant: a trip makes at most [`MAX_ATTEMPTS`] requests, never waits beyond its patience or its deadline, and never
//! leaves the targets and keys that it was given.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::ModelError;
use tokio::time::Instant;

use super::access::{Key, Keys};
use super::rule::{self, Rule};
use super::target::Target;
use crate::gateway::upstream::UNSUPPORTED;

/// Most requests that are sent to providers for one request of a caller, over all targets and keys.
pub const MAX_ATTEMPTS: u32 = 8;

/// A target, and the keys with which it may be asked.
pub type Keyed = (Arc<Target>, Keys);

/// A trip under way.
#[derive(Debug)]
pub struct Trip {
    stops: Vec<Stop>,
    attempts: u32,
    /// The same deployment is to be asked again.
    again: Option<(usize, usize)>,
    deadline: Instant,
    patience: Duration,
    failure: Option<ModelError>,
    only_keys_failed: bool,
}

/// A target on the way.
#[derive(Debug)]
struct Stop {
    target: Arc<Target>,
    keys: Keys,
    /// Requests sent with each key.
    sent: Vec<u32>,
    /// Keys that are not asked again by this trip.
    spent: Vec<bool>,
    was_repeated: bool,
    is_closed: bool,
}

/// Where a trip stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    stop: usize,
    key: usize,
}

/// What is to be done.
#[derive(Debug)]
pub enum Next {
    /// Ask there.
    Ask(Place),
    /// Wait so long and look again.
    Wait(Duration),
    /// The trip is over.
    Over,
}

impl Trip {
    /// Plans a trip over `targets`, in this order. It waits for a key's rest at most `patience`, and nothing begins after
    /// `deadline`.
    pub fn new(targets: Vec<Keyed>, patience: Duration, deadline: Instant) -> Self {
        let stop = |(target, keys): Keyed| Stop {
            target,
            sent: vec![0; keys.len()],
            spent: vec![false; keys.len()],
            keys,
            was_repeated: false,
            is_closed: false,
        };
        Self {
            stops: targets.into_iter().map(stop).collect(),
            attempts: 0,
            again: None,
            deadline,
            patience,
            failure: None,
            only_keys_failed: true,
        }
    }

    /// Says where to next. `admit` asks a target's breaker.
    pub fn next(&mut self, now: Instant, mut admit: impl FnMut(&Target) -> bool) -> Next {
        if self.attempts >= MAX_ATTEMPTS || now >= self.deadline {
            return Next::Over;
        }
        if let Some((stop, key)) = self.again.take() {
            return self.ask(stop, key);
        }
        // What is well, awake and not asked yet.
        let open: Vec<usize> = (0..self.stops.len()).filter(|&at| !self.stops[at].is_closed).collect();
        for &at in &open {
            let stop = &self.stops[at];
            let awake = |key: &Key| !key.is_dead(now) && key.rests(now).is_zero();
            if let Some(key) = stop.unasked(awake)
                && admit(&stop.target)
            {
                return self.ask(at, key);
            }
        }
        // Everything is ill, dead or at rest: the best one anyway, if this trip has not asked it itself.
        for wanted in [|key: &Key, now| key.rests(now).is_zero(), |_: &Key, _| true] {
            for &at in &open {
                if let Some(key) = self.stops[at].unasked(|key| wanted(key, now)) {
                    return self.ask(at, key);
                }
            }
        }
        // What this trip has asked and what wanted to be asked again.
        let resting = open.iter().flat_map(|&at| {
            let stop = &self.stops[at];
            let keys = stop.keys.iter().enumerate().filter(|&(key, _)| !stop.spent[key]);
            keys.map(move |(index, key)| (key.rests(now), at, index))
        });
        match resting.min() {
            None => Next::Over,
            Some((wait, stop, key)) if wait.is_zero() => self.ask(stop, key),
            Some((wait, ..)) if wait <= self.patience && now + wait < self.deadline => {
                self.patience -= wait;
                Next::Wait(wait)
            }
            Some((wait, ..)) => {
                if let Some(failure) = &mut self.failure {
                    failure.retry_after.get_or_insert(wait);
                }
                Next::Over
            }
        }
    }

    /// Notes that the request at `place` failed before any content; returns a pause that has to pass before the next one.
    pub fn failed(&mut self, place: Place, error: ModelError, now: Instant) -> Option<Duration> {
        let others = self
            .stops
            .iter()
            .enumerate()
            .any(|(at, stop)| at != place.stop && !stop.is_closed);
        let stop = &mut self.stops[place.stop];
        let key = &stop.keys[place.key];
        let mut pause = None;
        let once_more = match rule::after(&error) {
            Rule::RotateKey => {
                key.died(now);
                stop.spent[place.key] = true;
                false
            }
            Rule::Rest(wait) => {
                // Who names no time is asked more and more seldom.
                let doubled = error
                    .retry_after
                    .is_none()
                    .then(|| stop.sent[place.key].saturating_sub(1).min(6));
                key.rest(wait * 2_u32.pow(doubled.unwrap_or(0)), now);
                // An overloaded server that names a time gets it once; a rate limit, as long as the patience lasts.
                stop.spent[place.key] = error.class != FailureClass::Rate && stop.sent[place.key] > 1;
                false
            }
            Rule::AgainThenNext => true,
            Rule::NextOrAgain => !others,
            Rule::Next => {
                stop.is_closed = true;
                false
            }
            Rule::Larger => {
                stop.is_closed = true;
                let size = stop.target.context_tokens;
                let is_larger = |stop: &Stop| !stop.is_closed && stop.target.context_tokens > size;
                // The sizes are what the configuration says: where none is larger, one of the same size may still do.
                let least = if self.stops.iter().any(is_larger) {
                    size + 1
                } else {
                    size
                };
                for stop in &mut self.stops {
                    stop.is_closed |= stop.target.context_tokens < least;
                }
                false
            }
            Rule::Stop => {
                self.stops.iter_mut().for_each(|stop| stop.is_closed = true);
                false
            }
        };
        let stop = &mut self.stops[place.stop];
        if once_more && !stop.was_repeated {
            stop.was_repeated = true;
            self.again = Some((place.stop, place.key));
            pause = Some(rule::PAUSE);
        } else if once_more || matches!(rule::after(&error), Rule::NextOrAgain) {
            stop.is_closed = true;
        }
        self.remember(error);
        pause
    }

    /// Says where to ask beside the request at `place`: another target that is well, with a key that is awake.
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

    /// Has the rest of the trip avoid the target at `place`, if there is another one.
    pub fn leave(&mut self, place: Place) {
        let others = self
            .stops
            .iter()
            .enumerate()
            .any(|(at, stop)| at != place.stop && !stop.is_closed);
        if others {
            self.stops[place.stop].is_closed = true;
            self.again = None;
        }
    }

    /// Lists its targets.
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

    /// Returns how many requests were sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns when it has to be over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Brings the deadline forward.
    pub fn hurry(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }

    /// Returns how many targets may still be asked.
    pub fn targets_left(&self) -> usize {
        self.stops.iter().filter(|stop| !stop.is_closed).count()
    }

    /// Returns the failure that says most about why nobody answered; none when nobody was asked.
    pub fn failure(&mut self) -> Option<ModelError> {
        self.failure.take()
    }

    /// Tells whether there were failures, and all of them for want of a key that is accepted.
    pub fn only_keys_failed(&self) -> bool {
        self.failure.is_some() && self.only_keys_failed
    }

    fn ask(&mut self, stop: usize, key: usize) -> Next {
        self.attempts += 1;
        self.stops[stop].sent[key] += 1;
        Next::Ask(Place { stop, key })
    }

    /// A dead key says little, and what could not be asked least: they are told only if nothing else went wrong. A rate limit says when to come back.
    fn remember(&mut self, error: ModelError) {
        // What a protocol cannot say is not the request's fault where another target was asked.
        let is_unsaid = |error: &ModelError| {
            error
                .refusal
                .as_deref()
                .is_some_and(|refusal| refusal.status == UNSUPPORTED)
        };
        let is_key = error.class == FailureClass::Key;
        let says_little = is_key || is_unsaid(&error);
        let told = match &self.failure {
            Some(known) if says_little => is_unsaid(known),
            Some(known) => known.class != FailureClass::Rate || error.class == FailureClass::Rate,
            None => true,
        };
        self.only_keys_failed &= says_little;
        if told {
            self.failure = Some(error);
        }
    }
}

impl Stop {
    /// Finds a key that this trip has not used and that is `good`.
    fn unasked(&self, good: impl Fn(&Key) -> bool) -> Option<usize> {
        let unasked = |&index: &usize| self.sent[index] == 0 && !self.spent[index] && good(&self.keys[index]);
        (0..self.keys.len()).find(unasked)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use copilotd_actors::ports::Refusal;

    use super::*;
    use crate::gateway::route::{TargetName, TargetState};
    use crate::gateway::upstream::{PieceStream, Upstream, UpstreamCall, WholeAnswer};

    /// A deployment that nobody calls here.
    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl Upstream for Nobody {
        async fn stream(&self, _: &UpstreamCall) -> Result<PieceStream, ModelError> {
            unreachable!("a trip calls nobody")
        }

        async fn whole(&self, _: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
            unreachable!("a trip calls nobody")
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    /// Targets named by letters, with so many keys and so large a context each.
    fn trip(targets: &[(&str, usize, u64)], now: Instant) -> Trip {
        let target = |&(name, keys, context_tokens): &(&str, usize, u64)| {
            let target = Target {
                name: TargetName {
                    provider: name.to_owned(),
                    model: "m".to_owned(),
                },
                region: None,
                context_tokens,
                weight: None,
                tools: true,
                schema: true,
                prefill: false,
                state: Arc::new(TargetState::default()),
            };
            let keys: Vec<_> = (0..keys)
                .map(|n| Arc::new(Key::new(n.to_string(), Arc::new(Nobody))))
                .collect();
            (Arc::new(target), keys.into())
        };
        Trip::new(
            targets.iter().map(target).collect(),
            PATIENCE,
            now + Duration::from_secs(60),
        )
    }

    fn error(class: FailureClass, retry_after: Option<u64>) -> ModelError {
        ModelError {
            class,
            message: class.code().to_owned(),
            retry_after: retry_after.map(Duration::from_secs),
            refusal: None,
        }
    }

    /// Travels on with the same failure everywhere; returns the way, such as `a0 a1 wait b0`.
    fn way(trip: &mut Trip, class: FailureClass, retry_after: Option<u64>, mut now: Instant) -> String {
        let mut way = Vec::new();
        loop {
            match trip.next(now, |_| true) {
                Next::Ask(place) => {
                    way.push(format!("{}{}", trip.target(place).name.provider, place.key));
                    now += trip.failed(place, error(class, retry_after), now).unwrap_or_default();
                }
                Next::Wait(wait) => {
                    way.push("wait".to_owned());
                    now += wait;
                }
                Next::Over => return way.join(" "),
            }
        }
    }

    #[test]
    fn each_class_takes_its_way() {
        let two = [("a", 2, 10), ("b", 1, 20)];
        let one = [("a", 1, 10)];
        for (targets, class, retry_after, expected) in [
            (&two[..], FailureClass::Key, None, "a0 a1 b0"),
            (&two, FailureClass::Rate, Some(60), "a0 a1 b0"),
            (&one, FailureClass::Rate, Some(2), "a0 wait a0 wait a0"),
            (&one, FailureClass::Rate, Some(6), "a0"),
            (&two, FailureClass::Overload, None, "a0 a0 b0 b0"),
            (&one, FailureClass::Overload, None, "a0 a0"),
            (&one, FailureClass::Overload, Some(2), "a0 wait a0"),
            (&two, FailureClass::Overload, Some(60), "a0 a1 b0"),
            (&two, FailureClass::Network, None, "a0 a0 b0 b0"),
            (&two, FailureClass::Silence, None, "a0 b0"),
            (&one, FailureClass::Silence, None, "a0"),
            (&two, FailureClass::Cut, None, "a0 b0 b0"),
            (&one, FailureClass::Malformed, None, "a0 a0"),
            (&two, FailureClass::ContextLength, None, "a0 b0"),
            (&[("a", 1, 20), ("b", 1, 10)], FailureClass::ContextLength, None, "a0"),
            (
                &[("a", 1, 9), ("b", 1, 9), ("c", 1, 10)],
                FailureClass::ContextLength,
                None,
                "a0 c0",
            ),
            (&[("a", 1, 9), ("b", 1, 9)], FailureClass::ContextLength, None, "a0 b0"),
            (&one, FailureClass::Rate, None, "a0 wait a0 wait a0"),
            (&two, FailureClass::ContentPolicy, None, "a0"),
            (&two, FailureClass::Rejected, None, "a0"),
            (&[("a", 20, 1)], FailureClass::Key, None, "a0 a1 a2 a3 a4 a5 a6 a7"),
        ] {
            let now = Instant::now();
            let mut trip = trip(targets, now);
            assert_eq!(
                way(&mut trip, class, retry_after, now),
                expected,
                "{class:?} {retry_after:?}"
            );
            assert_eq!(trip.only_keys_failed(), class == FailureClass::Key);
            assert_eq!(trip.failure().unwrap().class, class);
        }
    }

    #[test]
    fn the_ill_the_dead_and_the_resting_come_last_but_come() {
        let now = Instant::now();
        let mut trip = trip(&[("a", 1, 1), ("b", 2, 1), ("c", 1, 1), ("d", 1, 1)], now);
        let key = |trip: &Trip, stop: usize, key: usize| Arc::clone(&trip.stops[stop].keys[key]);
        key(&trip, 1, 0).died(now);
        key(&trip, 2, 0).rest(Duration::from_secs(60), now);
        let mut way = Vec::new();
        while let Next::Ask(place) = trip.next(now, |target| target.name.provider != "a") {
            way.push(format!("{}{}", trip.target(place).name.provider, place.key));
            trip.failed(place, error(FailureClass::Silence, None), now);
            // Silence closes the target; its other key is not asked either.
            assert!(way.len() < 10);
        }
        assert_eq!(way, ["b1", "d0", "a0", "c0"]);
    }

    #[test]
    fn nothing_begins_after_the_deadline_and_a_rate_limit_says_most() {
        let now = Instant::now();
        let mut trip = trip(&[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)], now);
        for class in [FailureClass::Rate, FailureClass::Key] {
            let Next::Ask(place) = trip.next(now, |_| true) else {
                panic!("there are more")
            };
            trip.failed(place, error(class, Some(9)), now);
        }
        assert!(matches!(trip.next(now + Duration::from_secs(60), |_| true), Next::Over));
        assert!(!trip.only_keys_failed());
        let failure = trip.failure().unwrap();
        assert_eq!(
            (failure.class, failure.retry_after),
            (FailureClass::Rate, Some(Duration::from_secs(9)))
        );
    }

    #[test]
    fn what_could_not_be_asked_is_told_only_if_nothing_else_went_wrong() {
        let unsaid = || ModelError {
            refusal: Some(Box::new(Refusal {
                status: UNSUPPORTED,
                ..Refusal::default()
            })),
            ..error(FailureClass::Rejected, None)
        };
        let fails = |class| error(class, None);
        for (first, second, told, only_keys) in [
            (unsaid(), unsaid(), FailureClass::Rejected, true),
            (unsaid(), fails(FailureClass::Silence), FailureClass::Silence, false),
            (fails(FailureClass::Silence), unsaid(), FailureClass::Silence, false),
            (unsaid(), fails(FailureClass::Key), FailureClass::Key, true),
            (fails(FailureClass::Key), unsaid(), FailureClass::Key, true),
        ] {
            let now = Instant::now();
            let mut trip = trip(&[("a", 1, 1), ("b", 1, 1)], now);
            for error in [first, second] {
                let Next::Ask(place) = trip.next(now, |_| true) else {
                    panic!("there are more")
                };
                trip.failed(place, error, now);
            }
            assert!(matches!(trip.next(now, |_| true), Next::Over));
            assert_eq!(trip.only_keys_failed(), only_keys);
            assert_eq!(trip.failure().unwrap().class, told);
        }
    }

    proptest::proptest! {
        /// Whatever fails how, and whoever is ill: a trip ends, within its bounds, and says why.
        #[test]
        fn a_trip_always_ends_within_its_bounds(
            sizes in proptest::collection::vec((1_usize..4, 1_u64..4), 1..5),
            failures in proptest::collection::vec((0_usize..10, proptest::option::of(0_u64..20)), 20),
            ill in proptest::collection::vec(proptest::bool::ANY, 5),
        ) {
            use FailureClass as Class;
            const CLASSES: [FailureClass; 10] = [
                Class::Key, Class::Rate, Class::Overload, Class::ContextLength, Class::ContentPolicy, Class::Rejected,
                Class::Silence, Class::Cut, Class::Malformed, Class::Network,
            ];
            const NAMES: [&str; 5] = ["0", "1", "2", "3", "4"];
            let targets: Vec<_> = sizes.iter().enumerate().map(|(at, &(keys, size))| (NAMES[at], keys, size)).collect();
            let begun = Instant::now();
            let (mut now, mut asked, mut silent) = (begun, 0, Vec::new());
            let mut trip = trip(&targets, now);
            for _ in 0..100 {
                let is_well = |target: &Target| !ill[target.name.provider.parse::<usize>().unwrap()];
                match trip.next(now, is_well) {
                    Next::Ask(place) => {
                        let (class, retry_after) = failures[asked];
                        asked += 1;
                        proptest::prop_assert!(!silent.contains(&place.stop), "a silent target is asked again");
                        if CLASSES[class] == Class::Silence {
                            silent.push(place.stop);
                        }
                        now += trip.failed(place, error(CLASSES[class], retry_after), now).unwrap_or_default();
                    }
                    Next::Wait(wait) => now += wait,
                    Next::Over => break,
                }
            }
            proptest::prop_assert!(matches!(trip.next(now, |_| true), Next::Over), "it goes on for ever");
            proptest::prop_assert!((1..=MAX_ATTEMPTS as usize).contains(&asked));
            proptest::prop_assert!(now - begun <= PATIENCE + rule::PAUSE * MAX_ATTEMPTS);
            proptest::prop_assert!(trip.failure().is_some());
        }
    }
}
