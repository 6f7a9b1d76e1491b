//! The failover plan by itself, without any upstream.

use async_trait::async_trait;
use copilotd_actors::ports::Refusal;

use super::*;
use crate::provider::{PieceStream, Upstream, UpstreamCall, WholeAnswer};
use crate::target::{TargetName, TargetState};

/// An upstream that is never called here.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Upstream for Nobody {
    async fn stream(&self, _: &UpstreamCall) -> Result<PieceStream, ModelError> {
        unreachable!("a failover plan calls no upstream")
    }

    async fn whole(&self, _: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        unreachable!("a failover plan calls no upstream")
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Targets named by letters, each with a number of keys and a context size.
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
            reasoning: false,
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

/// Follows the plan with the same failure everywhere; returns the steps, such as `a0 a1 wait b0`.
fn way(trip: &mut Trip, class: FailureClass, retry_after: Option<u64>, mut now: Instant) -> String {
    let mut way = Vec::new();
    loop {
        match trip.next(now, |_| true) {
            Next::Ask(place) => {
                way.push(format!("{}{}", trip.target(place).name.provider, place.key));
                now += trip
                    .failed(place, error(class, retry_after), false, now)
                    .unwrap_or_default();
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
        (&one, FailureClass::Rate, Some(0), "a0 wait a0 wait a0"),
        (&one, FailureClass::Rate, Some(6), "a0"),
        (&two, FailureClass::Overload, None, "a0 a0 b0 b0"),
        (&one, FailureClass::Overload, None, "a0 a0"),
        (&one, FailureClass::Overload, Some(2), "a0 wait a0"),
        (&two, FailureClass::Overload, Some(60), "a0 a1 b0"),
        (&two, FailureClass::Network, None, "a0 a0 b0 b0"),
        (&two, FailureClass::TimedOut, None, "a0 b0"),
        (&one, FailureClass::TimedOut, None, "a0"),
        (&two, FailureClass::Cut, None, "a0 b0 a0 b0"),
        (&two, FailureClass::Malformed, None, "a0 b0 a0 b0"),
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
        (&two, FailureClass::Rejected, None, "a0 b0"),
        (
            &[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)],
            FailureClass::Rejected,
            None,
            "a0 b0",
        ),
        (&one, FailureClass::Rejected, None, "a0"),
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
        assert_eq!(trip.failure(now).unwrap().class, class);
    }
}

#[test]
fn the_ill_and_the_dead_come_last_and_the_resting_not_at_all() {
    let now = Instant::now();
    let mut trip = trip(&[("a", 1, 1), ("b", 2, 1), ("c", 1, 1), ("d", 1, 1)], now);
    let key = |trip: &Trip, stop: usize, key: usize| Arc::clone(&trip.stops[stop].keys[key]);
    key(&trip, 1, 0).died(now);
    key(&trip, 2, 0).rest(Duration::from_secs(60), now, FailureClass::Rate, true);
    let mut way = Vec::new();
    while let Next::Ask(place) = trip.next(now, |target| target.name.provider != "a") {
        way.push(format!("{}{}", trip.target(place).name.provider, place.key));
        trip.failed(place, error(FailureClass::TimedOut, None), false, now);
        // TimedOut closes the target; its other key is not used either.
        assert!(way.len() < 10);
    }
    assert_eq!(way, ["b1", "d0", "a0"]);
}

#[test]
fn nothing_begins_after_the_deadline_and_a_rate_limit_says_most() {
    let now = Instant::now();
    let mut trip = trip(&[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)], now);
    for class in [FailureClass::Rate, FailureClass::Key] {
        let Next::Ask(place) = trip.next(now, |_| true) else {
            panic!("there are more")
        };
        trip.failed(place, error(class, Some(9)), false, now);
    }
    assert!(matches!(trip.next(now + Duration::from_secs(60), |_| true), Next::Over));
    assert!(!trip.only_keys_failed());
    let failure = trip.failure(now).unwrap();
    // A third target was not tried, and may be at once.
    assert_eq!(
        (failure.class, failure.retry_after),
        (FailureClass::Rate, Some(rule::DEFAULT_REST))
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
        (unsaid(), fails(FailureClass::TimedOut), FailureClass::TimedOut, false),
        (fails(FailureClass::TimedOut), unsaid(), FailureClass::TimedOut, false),
        (unsaid(), fails(FailureClass::Key), FailureClass::Key, true),
        (fails(FailureClass::Key), unsaid(), FailureClass::Key, true),
    ] {
        let now = Instant::now();
        let mut trip = trip(&[("a", 1, 1), ("b", 1, 1)], now);
        for error in [first, second] {
            let Next::Ask(place) = trip.next(now, |_| true) else {
                panic!("there are more")
            };
            trip.failed(place, error, false, now);
        }
        assert!(matches!(trip.next(now, |_| true), Next::Over));
        assert_eq!(trip.only_keys_failed(), only_keys);
        assert_eq!(trip.failure(now).unwrap().class, told);
    }
}

/// Makes a target unhealthy, as five failed calls do.
fn open_breaker(trip: &Trip, stop: usize) {
    trip.stops[stop].target.state.with(|health, now| {
        for _ in 0..copilotd_actors::domain::tool::breaker::THRESHOLD {
            health.failed(now, 1.0);
        }
    });
}

/// Follows the plan with `fails` answering for each candidate; returns the steps.
fn travel(trip: &mut Trip, mut now: Instant, mut fails: impl FnMut(&str) -> Option<(ModelError, bool)>) -> String {
    let mut way = Vec::new();
    loop {
        let admit = |target: &Target| target.state.with(|health, now| health.admit(now, 0.0));
        match trip.next(now, admit) {
            Next::Ask(place) => {
                let name = trip.target(place).name.provider.clone();
                way.push(format!("{name}{}", place.key));
                let Some((error, began)) = fails(&name) else { break };
                if rule::is_ill(error.class) {
                    trip.target(place).state.with(|health, now| health.failed(now, 1.0));
                }
                now += trip.failed(place, error, began, now).unwrap_or_default();
            }
            Next::Wait(wait) => {
                way.push(format!("{}ms", wait.as_millis()));
                now += wait;
            }
            Next::Over => {
                way.push("over".to_owned());
                break;
            }
        }
    }
    way.join(" ")
}

#[test]
fn a_healthy_target_that_died_once_is_asked_again_while_the_others_are_ill() {
    let cut = || Some((error(FailureClass::Cut, None), true));
    let stall = || Some((error(FailureClass::TimedOut, None), true));
    let broken = || Some((error(FailureClass::Overload, None), false));
    let silent = || Some((error(FailureClass::TimedOut, None), false));
    for (what, deaths, expected) in [
        ("cut once", vec![cut()], "c0 c0"),
        ("stalled once", vec![stall()], "c0 c0"),
        ("500 once", vec![broken()], "c0 c0"),
        ("cut, stalled and cut", vec![cut(), stall(), cut()], "c0 c0 c0 c0"),
        ("500 three times", vec![broken(), broken(), broken()], "c0 c0 c0 c0"),
        // Four in vain, then the unhealthy targets, once each.
        (
            "cut always",
            vec![cut(), cut(), cut(), cut(), cut()],
            "c0 c0 c0 c0 a0 b0 over",
        ),
        // Unreachable: not tried again, and the unhealthy ones are the last resort.
        ("silent", vec![silent()], "c0 a0 b0 over"),
    ] {
        let now = Instant::now();
        let mut trip = trip(&[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)], now);
        open_breaker(&trip, 0);
        trip.stops[1].keys[0].rest(Duration::from_secs(3), now, FailureClass::Rate, false);
        open_breaker(&trip, 1);
        let mut deaths = deaths.into_iter();
        let way = travel(&mut trip, now, |name| match name {
            "c" => deaths.next().flatten(),
            _ => Some((error(FailureClass::Overload, None), false)),
        });
        let expected = expected.replace("a0 b0 over", "a0 3000ms b0 over");
        assert_eq!(way, expected, "{what}");
    }
}

#[test]
fn two_targets_that_die_in_passing_are_each_asked_twice() {
    let now = Instant::now();
    let mut both = trip(&[("a", 1, 1), ("b", 1, 1)], now);
    let way = travel(&mut both, now, |_| Some((error(FailureClass::Cut, None), true)));
    assert_eq!(way, "a0 b0 a0 b0 over");
}

#[test]
fn once_breakers_are_open_each_target_is_asked_at_most_once() {
    for class in [
        FailureClass::Overload,
        FailureClass::Network,
        FailureClass::Cut,
        FailureClass::Malformed,
    ] {
        for count in 1..4 {
            let now = Instant::now();
            let targets = [("a", 1, 1), ("b", 1, 1), ("c", 1, 1)];
            let mut ill = trip(&targets[..count], now);
            (0..count).for_each(|stop| open_breaker(&ill, stop));
            let way = travel(&mut ill, now, |_| Some((error(class, None), false)));
            let expected = ["a0 over", "a0 b0 over", "a0 b0 c0 over"][count - 1];
            assert_eq!(way, expected, "{class:?}");
        }
    }
}

#[test]
fn a_probe_is_one_request() {
    let now = Instant::now();
    let mut one = trip(&[("a", 1, 1), ("b", 1, 1)], now);
    open_breaker(&one, 0);
    // The pause is over: this call is the probe.
    let half_open = |target: &Target| {
        target
            .state
            .with(|health, now| health.admit(now + Duration::from_secs(8), 0.0))
    };
    let Next::Ask(probe) = one.next(now, half_open) else {
        panic!("a probe is due")
    };
    assert_eq!(one.target(probe).name.provider, "a");
    one.target(probe).state.with(|health, now| health.failed(now, 1.0));
    assert_eq!(one.failed(probe, error(FailureClass::Overload, None), false, now), None);
    let way = travel(&mut one, now, |_| Some((error(FailureClass::Overload, None), false)));
    assert!(!way.contains('a') && way.starts_with("b0 b0"), "{way}");
}

#[test]
fn a_retry_after_holds_across_calls_and_is_probed_once() {
    let seconds = Duration::from_secs;
    let begun = Instant::now();
    let mut first = trip(&[("a", 1, 1), ("b", 1, 1)], begun);
    let limited = |wait| move |_: &str| Some((error(FailureClass::Rate, Some(wait)), false));
    assert_eq!(travel(&mut first, begun, limited(60)), "a0 b0 over");
    let again = |first: &Trip, now| {
        let targets = first
            .stops
            .iter()
            .map(|stop| (Arc::clone(&stop.target), Arc::clone(&stop.keys)));
        Trip::new(targets.collect(), PATIENCE, now + seconds(60))
    };
    for (after, expected, left) in [(1, "over", 59), (20, "over", 40), (29, "over", 31)] {
        let now = begun + seconds(after);
        let mut next = again(&first, now);
        assert_eq!(travel(&mut next, now, limited(60)), expected, "{after}");
        let failure = next.failure(now).unwrap();
        assert_eq!(
            (failure.class, failure.retry_after),
            (FailureClass::Rate, Some(seconds(left)))
        );
        assert_eq!((next.attempts(), next.only_keys_failed()), (0, false));
    }
    // One probe for each of the two, which updates the remaining time, and then nothing until it has passed.
    let now = begun + seconds(30);
    let mut probe = again(&first, now);
    assert_eq!(travel(&mut probe, now, limited(30)), "a0 b0 over");
    for after in [31, 45, 54] {
        let now = begun + seconds(after);
        assert_eq!(travel(&mut again(&first, now), now, limited(60)), "over", "{after}");
    }
    // The remaining time is short enough to wait for.
    let now = begun + seconds(56);
    let way = travel(&mut again(&first, now), now, |_| None);
    assert_eq!(way, "4000ms a0");
}

#[test]
fn a_probe_that_is_answered_ends_the_rest() {
    let begun = Instant::now();
    let key = Key::new("k".to_owned(), Arc::new(Nobody));
    key.rest(Duration::from_secs(60), begun, FailureClass::Rate, true);
    let asked = begun + Duration::from_secs(30);
    assert!(key.take_probe(asked) && !key.take_probe(asked));
    // A call from before the cooldown says nothing about it.
    key.lives(
        begun
            .checked_sub(Duration::from_secs(1))
            .unwrap_or(begun - Duration::from_millis(1)),
    );
    assert!(!key.rests(asked).is_zero());
    key.lives(asked);
    assert!(key.rests(asked).is_zero());
}

#[test]
fn the_preferred_target_is_waited_for_as_long_as_the_route_says() {
    let seconds = Duration::from_secs;
    for (hold_ms, wait_s, expected) in [
        (0, Some(2), "a0 b0"),
        (3_000, Some(2), "a0 2000ms a0 b0"),
        (3_000, Some(4), "a0 b0"),
        // Without a named time there is no reason to wait.
        (3_000, None, "a0 b0"),
    ] {
        let now = Instant::now();
        let mut held = trip(&[("a", 1, 1), ("b", 1, 1)], now).holding(Duration::from_millis(hold_ms));
        let way = travel(&mut held, now, |name| {
            let limited = ModelError {
                retry_after: wait_s.map(seconds),
                ..error(FailureClass::Rate, None)
            };
            (name == "a").then_some((limited, false))
        });
        assert_eq!(way, expected, "{hold_ms} {wait_s:?}");
    }
}

#[test]
fn a_doubtful_refusal_goes_to_another_provider_once_and_a_certain_one_nowhere() {
    let refused = |is_certain| ModelError {
        refusal: Some(Box::new(Refusal {
            status: 400,
            is_certain,
            ..Refusal::default()
        })),
        ..error(FailureClass::Rejected, None)
    };
    let now = Instant::now();
    let targets = [("a", 2, 1), ("b", 1, 1), ("c", 1, 1)];
    let mut doubtful = trip(&targets, now);
    assert_eq!(
        travel(&mut doubtful, now, |_| Some((refused(false), false))),
        "a0 b0 over"
    );
    let mut certain = trip(&targets, now);
    assert_eq!(travel(&mut certain, now, |_| Some((refused(true), false))), "a0 over");
    // Other failures say more, whether they came before or after.
    for doubtful in ["a", "b"] {
        let mut mixed = trip(&targets[..2], now);
        travel(&mut mixed, now, |name| {
            let failure = if name == doubtful {
                refused(false)
            } else {
                error(FailureClass::Overload, None)
            };
            Some((failure, false))
        });
        assert_eq!(mixed.failure(now).unwrap().class, FailureClass::Overload);
    }
}

proptest::proptest! {
    /// Whatever fails how, and whichever targets are unhealthy: a plan ends, within its bounds, and says why.
    #[test]
    fn a_trip_always_ends_within_its_bounds(
        sizes in proptest::collection::vec((1_usize..4, 1_u64..4), 1..5),
        failures in proptest::collection::vec((0_usize..10, proptest::option::of(0_u64..20)), 20),
        ill in proptest::collection::vec(proptest::bool::ANY, 5),
    ) {
        use FailureClass as Class;
        const CLASSES: [FailureClass; 10] = [
            Class::Key, Class::Rate, Class::Overload, Class::ContextLength, Class::ContentPolicy, Class::Rejected,
            Class::TimedOut, Class::Cut, Class::Malformed, Class::Network,
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
                    if CLASSES[class] == Class::TimedOut {
                        silent.push(place.stop);
                    }
                    now += trip.failed(place, error(CLASSES[class], retry_after), false, now).unwrap_or_default();
                }
                Next::Wait(wait) => now += wait,
                Next::Over => break,
            }
        }
        proptest::prop_assert!(matches!(trip.next(now, |_| true), Next::Over), "it goes on for ever");
        proptest::prop_assert!((1..=MAX_ATTEMPTS as usize).contains(&asked));
        proptest::prop_assert!(now - begun <= PATIENCE + rule::PAUSE * MAX_ATTEMPTS);
        proptest::prop_assert!(trip.failure(now).is_some());
    }
}
