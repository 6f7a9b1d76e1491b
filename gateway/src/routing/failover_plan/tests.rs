//! The failover plan by itself, without any upstream.

use async_trait::async_trait;
use copilotd_actors::ports::{Refusal, RefusedBy};

use super::*;
use crate::provider::{PieceStream, Upstream, UpstreamCall, WholeAnswer};
use crate::target::{TargetName, TargetState};

/// An upstream that is never called here.
#[derive(Debug)]
struct NeverCalled;

#[async_trait]
impl Upstream for NeverCalled {
    async fn stream(&self, _: &UpstreamCall) -> Result<PieceStream, ModelError> {
        unreachable!("a failover plan calls no upstream")
    }

    async fn whole(&self, _: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        unreachable!("a failover plan calls no upstream")
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Targets named by letters, each with a number of keys and a context size.
fn plan(targets: &[(&str, usize, u64)], now: Instant) -> FailoverPlan {
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
            reads: Vec::new(),
            reasoning: false,
            state: Arc::new(TargetState::default()),
        };
        let keys: Vec<_> = (0..keys)
            .map(|n| Arc::new(Key::new(n.to_string(), Arc::new(NeverCalled))))
            .collect();
        (Arc::new(target), keys.into())
    };
    FailoverPlan::new(
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
fn steps(plan: &mut FailoverPlan, class: FailureClass, retry_after: Option<u64>, mut now: Instant) -> String {
    let mut steps = Vec::new();
    loop {
        match plan.next(now, |_| true) {
            Next::Try(candidate) => {
                steps.push(format!("{}{}", plan.target(candidate).name.provider, candidate.key));
                now += plan
                    .failed(candidate, error(class, retry_after), false, now)
                    .unwrap_or_default();
            }
            Next::Wait(wait) => {
                steps.push("wait".to_owned());
                now += wait;
            }
            Next::Exhausted => return steps.join(" "),
        }
    }
}

#[test]
fn each_failure_class_has_its_path() {
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
        let mut plan = plan(targets, now);
        assert_eq!(
            steps(&mut plan, class, retry_after, now),
            expected,
            "{class:?} {retry_after:?}"
        );
        assert_eq!(plan.only_keys_failed(), class == FailureClass::Key);
        assert_eq!(plan.failure(now).unwrap().class, class);
    }
}

#[test]
fn unhealthy_and_disabled_come_last_and_cooling_down_not_at_all() {
    let now = Instant::now();
    let mut plan = plan(&[("a", 1, 1), ("b", 2, 1), ("c", 1, 1), ("d", 1, 1)], now);
    let key = |plan: &FailoverPlan, entry: usize, key: usize| Arc::clone(&plan.entries[entry].keys[key]);
    key(&plan, 1, 0).disable(now);
    key(&plan, 2, 0).cool_down(Duration::from_secs(60), now, FailureClass::Rate, true);
    let mut steps = Vec::new();
    while let Next::Try(candidate) = plan.next(now, |target| target.name.provider != "a") {
        steps.push(format!("{}{}", plan.target(candidate).name.provider, candidate.key));
        plan.failed(candidate, error(FailureClass::TimedOut, None), false, now);
        // TimedOut closes the target; its other key is not used either.
        assert!(steps.len() < 10);
    }
    assert_eq!(steps, ["b1", "d0", "a0"]);
}

#[test]
fn nothing_begins_after_the_deadline_and_a_rate_limit_says_most() {
    let now = Instant::now();
    let mut plan = plan(&[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)], now);
    for class in [FailureClass::Rate, FailureClass::Key] {
        let Next::Try(candidate) = plan.next(now, |_| true) else {
            panic!("there are more")
        };
        plan.failed(candidate, error(class, Some(9)), false, now);
    }
    assert!(matches!(
        plan.next(now + Duration::from_secs(60), |_| true),
        Next::Exhausted
    ));
    assert!(!plan.only_keys_failed());
    let failure = plan.failure(now).unwrap();
    // A third target was not tried, and may be at once.
    assert_eq!(
        (failure.class, failure.retry_after),
        (FailureClass::Rate, Some(rule::DEFAULT_COOLDOWN))
    );
}

#[test]
fn a_cooldown_is_reported_only_if_nothing_else_failed() {
    let unsaid = || ModelError {
        refusal: Some(Box::new(Refusal::new(RefusedBy::Adapter))),
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
        let mut plan = plan(&[("a", 1, 1), ("b", 1, 1)], now);
        for error in [first, second] {
            let Next::Try(candidate) = plan.next(now, |_| true) else {
                panic!("there are more")
            };
            plan.failed(candidate, error, false, now);
        }
        assert!(matches!(plan.next(now, |_| true), Next::Exhausted));
        assert_eq!(plan.only_keys_failed(), only_keys);
        assert_eq!(plan.failure(now).unwrap().class, told);
    }
}

/// Makes a target unhealthy, as five failed calls do.
fn open_breaker(plan: &FailoverPlan, entry: usize) {
    plan.entries[entry].target.state.with(|health, now| {
        for _ in 0..copilotd_actors::domain::tool::breaker::THRESHOLD {
            health.failed(now, 1.0);
        }
    });
}

/// Follows the plan with `fails` answering for each candidate; returns the steps.
fn travel(
    plan: &mut FailoverPlan,
    mut now: Instant,
    mut fails: impl FnMut(&str) -> Option<(ModelError, bool)>,
) -> String {
    let mut steps = Vec::new();
    loop {
        let admit = |target: &Target| target.state.with(|health, now| health.admit(now, 0.0));
        match plan.next(now, admit) {
            Next::Try(candidate) => {
                let name = plan.target(candidate).name.provider.clone();
                steps.push(format!("{name}{}", candidate.key));
                let Some((error, began)) = fails(&name) else { break };
                if rule::counts_against_health(error.class) {
                    plan.target(candidate).state.with(|health, now| health.failed(now, 1.0));
                }
                now += plan.failed(candidate, error, began, now).unwrap_or_default();
            }
            Next::Wait(wait) => {
                steps.push(format!("{}ms", wait.as_millis()));
                now += wait;
            }
            Next::Exhausted => {
                steps.push("over".to_owned());
                break;
            }
        }
    }
    steps.join(" ")
}

#[test]
fn a_healthy_target_is_retried_while_the_others_are_unhealthy() {
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
        let mut plan = plan(&[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)], now);
        open_breaker(&plan, 0);
        plan.entries[1].keys[0].cool_down(Duration::from_secs(3), now, FailureClass::Rate, false);
        open_breaker(&plan, 1);
        let mut deaths = deaths.into_iter();
        let steps = travel(&mut plan, now, |name| match name {
            "c" => deaths.next().flatten(),
            _ => Some((error(FailureClass::Overload, None), false)),
        });
        let expected = expected.replace("a0 b0 over", "a0 3000ms b0 over");
        assert_eq!(steps, expected, "{what}");
    }
}

#[test]
fn two_targets_with_transient_failures_are_each_tried_twice() {
    let now = Instant::now();
    let mut both = plan(&[("a", 1, 1), ("b", 1, 1)], now);
    let steps = travel(&mut both, now, |_| Some((error(FailureClass::Cut, None), true)));
    assert_eq!(steps, "a0 b0 a0 b0 over");
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
            let mut ill = plan(&targets[..count], now);
            (0..count).for_each(|entry| open_breaker(&ill, entry));
            let steps = travel(&mut ill, now, |_| Some((error(class, None), false)));
            let expected = ["a0 over", "a0 b0 over", "a0 b0 c0 over"][count - 1];
            assert_eq!(steps, expected, "{class:?}");
        }
    }
}

#[test]
fn a_probe_is_one_request() {
    let now = Instant::now();
    let mut one = plan(&[("a", 1, 1), ("b", 1, 1)], now);
    open_breaker(&one, 0);
    // The pause is over: this call is the probe.
    let half_open = |target: &Target| {
        target
            .state
            .with(|health, now| health.admit(now + Duration::from_secs(8), 0.0))
    };
    let Next::Try(probe) = one.next(now, half_open) else {
        panic!("a probe is due")
    };
    assert_eq!(one.target(probe).name.provider, "a");
    one.target(probe).state.with(|health, now| health.failed(now, 1.0));
    assert_eq!(one.failed(probe, error(FailureClass::Overload, None), false, now), None);
    let steps = travel(&mut one, now, |_| Some((error(FailureClass::Overload, None), false)));
    assert!(!steps.contains('a') && steps.starts_with("b0 b0"), "{steps}");
}

#[test]
fn a_retry_after_holds_across_calls_and_is_probed_once() {
    let seconds = Duration::from_secs;
    let begun = Instant::now();
    let mut first = plan(&[("a", 1, 1), ("b", 1, 1)], begun);
    let limited = |wait| move |_: &str| Some((error(FailureClass::Rate, Some(wait)), false));
    assert_eq!(travel(&mut first, begun, limited(60)), "a0 b0 over");
    let again = |first: &FailoverPlan, now| {
        let targets = first
            .entries
            .iter()
            .map(|entry| (Arc::clone(&entry.target), Arc::clone(&entry.keys)));
        FailoverPlan::new(targets.collect(), PATIENCE, now + seconds(60))
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
    let steps = travel(&mut again(&first, now), now, |_| None);
    assert_eq!(steps, "4000ms a0");
}

#[test]
fn an_answered_probe_ends_the_cooldown() {
    let begun = Instant::now();
    let key = Key::new("k".to_owned(), Arc::new(NeverCalled));
    key.cool_down(Duration::from_secs(60), begun, FailureClass::Rate, true);
    let asked = begun + Duration::from_secs(30);
    assert!(key.take_probe(asked) && !key.take_probe(asked));
    // A call from before the cooldown says nothing about it.
    key.accepted(
        begun
            .checked_sub(Duration::from_secs(1))
            .unwrap_or(begun - Duration::from_millis(1)),
    );
    assert!(!key.remaining_cooldown(asked).is_zero());
    key.accepted(asked);
    assert!(key.remaining_cooldown(asked).is_zero());
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
        let mut held = plan(&[("a", 1, 1), ("b", 1, 1)], now).with_hold(Duration::from_millis(hold_ms));
        let steps = travel(&mut held, now, |name| {
            let limited = ModelError {
                retry_after: wait_s.map(seconds),
                ..error(FailureClass::Rate, None)
            };
            (name == "a").then_some((limited, false))
        });
        assert_eq!(steps, expected, "{hold_ms} {wait_s:?}");
    }
}

#[test]
fn a_doubtful_refusal_goes_to_another_provider_once_and_a_certain_one_nowhere() {
    let refused = |is_certain| ModelError {
        refusal: Some(Box::new(Refusal {
            is_certain,
            ..Refusal::new(RefusedBy::Provider(400))
        })),
        ..error(FailureClass::Rejected, None)
    };
    let now = Instant::now();
    let targets = [("a", 2, 1), ("b", 1, 1), ("c", 1, 1)];
    let mut doubtful = plan(&targets, now);
    assert_eq!(
        travel(&mut doubtful, now, |_| Some((refused(false), false))),
        "a0 b0 over"
    );
    let mut certain = plan(&targets, now);
    assert_eq!(travel(&mut certain, now, |_| Some((refused(true), false))), "a0 over");
    // Other failures say more, whether they came before or after.
    for doubtful in ["a", "b"] {
        let mut mixed = plan(&targets[..2], now);
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
    fn a_plan_always_ends_within_its_bounds(
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
        let mut plan = plan(&targets, now);
        for _ in 0..100 {
            let is_well = |target: &Target| !ill[target.name.provider.parse::<usize>().unwrap()];
            match plan.next(now, is_well) {
                Next::Try(candidate) => {
                    let (class, retry_after) = failures[asked];
                    asked += 1;
                    proptest::prop_assert!(!silent.contains(&candidate.entry), "a silent target is asked again");
                    if CLASSES[class] == Class::TimedOut {
                        silent.push(candidate.entry);
                    }
                    now += plan.failed(candidate, error(CLASSES[class], retry_after), false, now).unwrap_or_default();
                }
                Next::Wait(wait) => now += wait,
                Next::Exhausted => break,
            }
        }
        proptest::prop_assert!(matches!(plan.next(now, |_| true), Next::Exhausted), "it goes on for ever");
        proptest::prop_assert!((1..=MAX_ATTEMPTS as usize).contains(&asked));
        proptest::prop_assert!(now - begun <= PATIENCE + rule::PAUSE * MAX_ATTEMPTS);
        proptest::prop_assert!(plan.failure(now).is_some());
    }
}
