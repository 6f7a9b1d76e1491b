//! Limits under many concurrent callers.
#![expect(clippy::disallowed_methods, reason = "tests open scopes")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use copilotd_actors::domain::ids::{TenantId, UserId};
use copilotd_actors::ports::Clock;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::spending::Spending;

/// A clock that a test sets.
#[derive(Debug, Default)]
struct TestClock(AtomicU64);

impl TestClock {
    fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.0.load(Ordering::Relaxed)).unwrap();
        Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn tenant() -> TenantId {
    "acme".parse::<TenantId>().unwrap()
}

fn scope() -> TenantScope {
    TenantScope::from_verified(tenant())
}

fn subjects(user: &str) -> Vec<Subject> {
    vec![Subject::Tenant, Subject::User(user.parse::<UserId>().unwrap())]
}

fn limiter(tenant_limits: Limits, user: Limits) -> (Arc<TestClock>, Arc<LocalLimiter>) {
    let watch = Arc::new(TestClock::default());
    let limits = TenantLimits {
        tenant: tenant_limits,
        user,
        key: Limits::default(),
    };
    let limiter = LocalLimiter::new([(tenant(), limits)], Arc::clone(&watch) as _);
    (watch, Arc::new(limiter))
}

fn exceeded(refused: LimitRefusal) -> LimitExceeded {
    match refused {
        LimitRefusal::LimitExceeded(exceeded) => exceeded,
        LimitRefusal::Unavailable { .. } => panic!("this process is its own store"),
    }
}

fn demand(tokens: u64) -> Demand {
    Demand {
        requests: 1,
        tokens,
        calls: 1,
        cost: tokens * 10,
    }
}

#[tokio::test]
async fn all_limits_or_none() {
    let (watch, limiter) = limiter(
        Limits {
            tokens_per_minute: Some(1_000),
            ..Limits::default()
        },
        Limits {
            requests_per_minute: Some(2),
            ..Limits::default()
        },
    );
    let ask = |user: &'static str, tokens| limiter.reserve(&SCOPE, subjects(user), demand(tokens));
    static SCOPE: std::sync::LazyLock<TenantScope> = std::sync::LazyLock::new(scope);
    ask("ada", 100).await.unwrap();
    ask("ada", 100).await.unwrap();
    let refused = exceeded(ask("ada", 100).await.unwrap_err());
    assert_eq!((refused.name, refused.of), (LimitName::Requests, "user"));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(30)));
    // A refusal by the user's limit has taken nothing from the tenant's.
    let lease = ask("bob", 800).await.unwrap();
    assert_eq!(
        lease.standings.iter().map(|state| state.remaining).collect::<Vec<_>>(),
        [1, 0]
    );
    let refused = exceeded(ask("eve", 1).await.unwrap_err());
    assert_eq!((refused.name, refused.of), (LimitName::Tokens, "tenant"));
    let too_much = exceeded(ask("eve", 1_001).await.unwrap_err());
    assert_eq!(too_much.retry_after, None, "it never fits");
    assert_eq!(GatewayError::from(too_much).kind, GatewayErrorKind::QuotaExceeded);
    watch.pass(60_000);
    ask("eve", 1_000).await.unwrap();
    let other = TenantScope::from_verified("globex".parse().unwrap());
    limiter
        .reserve(&other, subjects("ada"), demand(1_000_000))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_broken_stream_is_paid_for_and_frees_its_permit() {
    let limits = Limits {
        tokens_per_minute: Some(1_000),
        concurrent_calls: Some(1),
        usd_per_month: Some(5_000),
        ..Limits::default()
    };
    let (_, limiter) = limiter(limits, Limits::default());
    let scope = scope();
    let lease = limiter.reserve(&scope, subjects("ada"), demand(300)).await.unwrap();
    let refused = exceeded(limiter.reserve(&scope, subjects("bob"), demand(1)).await.unwrap_err());
    assert_eq!(refused.name, LimitName::Calls);
    let reservation = Reservation::new(Arc::clone(&limiter) as _, lease);
    // Two attempts, the second one dropped mid-stream.
    for tokens in [50, 600] {
        reservation.spend(&Usage {
            prompt_tokens: tokens,
            cost: tokens * 4,
            ..Usage::default()
        });
    }
    drop(reservation);
    let lease = limiter
        .reserve(&scope, subjects("bob"), Demand { cost: 0, ..demand(350) })
        .await
        .unwrap();
    assert_eq!(lease.standings[0].remaining, 0, "650 of 1,000 were spent");
    limiter.settle(
        lease,
        ActualUsage {
            tokens: 350,
            cost: 2_400,
        },
    );
    let gone = exceeded(limiter.exhausted(&scope, subjects("eve")).await.unwrap());
    assert_eq!((gone.name, gone.of), (LimitName::UsdPerMonth, "tenant"));
    let error = GatewayError::from(gone);
    assert_eq!(error.kind, GatewayErrorKind::BudgetExhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_callers_at_once_stay_within_the_limit_and_use_it() {
    const LIMIT: u64 = 100_000;
    let limits = Limits {
        tokens_per_minute: Some(LIMIT),
        concurrent_calls: Some(200),
        // More than can be used up: the rate is what ends it.
        usd_per_day: Some(LIMIT * 20),
        ..Limits::default()
    };
    let (watch, limiter) = limiter(limits, Limits::default());
    let (granted, at_once, most) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let open = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..1_000_u64 {
        let (limiter, open) = (limiter.clone(), open.clone());
        let (granted, at_once, most) = (granted.clone(), at_once.clone(), most.clone());
        callers.spawn(async move {
            let user = format!("user{}", n % 50);
            for round in 0.. {
                let want = 50 + (n * 7 + round * 13) % 100;
                let lease = match limiter.reserve(&scope(), subjects(&user), demand(want)).await {
                    Ok(lease) => lease,
                    // Nobody will give anything back any more: this is the end.
                    Err(refused)
                        if exceeded(refused.clone()).name != LimitName::Calls && open.load(Ordering::SeqCst) == 0 =>
                    {
                        break;
                    }
                    Err(_) => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                };
                open.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let reservation = Reservation::new(limiter.clone(), lease);
                tokio::task::yield_now().await;
                // Some fail at the start, some mid-stream.
                let used = match (n + round) % 5 {
                    0 => 0,
                    1 => want / 2,
                    _ => want,
                };
                reservation.spend(&Usage {
                    prompt_tokens: used,
                    cost: used * 10,
                    ..Usage::default()
                });
                granted.fetch_add(used, Ordering::SeqCst);
                at_once.fetch_sub(1, Ordering::SeqCst);
                drop(reservation);
                open.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let granted = granted.load(Ordering::SeqCst);
    assert!(granted <= LIMIT, "{granted} of {LIMIT}");
    assert!(granted * 100 >= LIMIT * 95, "only {granted} of {LIMIT} were used");
    assert!(most.load(Ordering::SeqCst) <= 200);
    // Everything is settled: after a minute the rate is full again, and the budget holds what was spent.
    watch.pass(60_000);
    let all = limiter
        .reserve(
            &scope(),
            subjects("ada"),
            Demand {
                tokens: LIMIT,
                ..Demand::default()
            },
        )
        .await;
    assert!(all.is_ok(), "{all:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_history_grants_more_than_the_limit_and_the_errors_of_open_estimates(
        steps in prop::collection::vec((1_u64..400, 0_u64..800, 0_u64..3_000, any::<bool>()), 1..120),
    ) {
        const LIMIT: u64 = 1_000;
        let limits = Limits { tokens_per_minute: Some(LIMIT), ..Limits::default() };
        let (watch, limiter) = limiter(limits, Limits::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut open, mut used, mut errors, mut passed) = (Vec::new(), 0, 0, 0);
        for (want, real, ms, settle) in steps {
            watch.pass(ms);
            passed += ms;
            if let Ok(lease) = runtime.block_on(limiter.reserve(&scope(), subjects("ada"), demand(want))) {
                open.push((lease, real));
            }
            if settle && let Some((lease, real)) = open.pop() {
                errors += real.saturating_sub(lease.demand.tokens);
                used += real;
                limiter.settle(lease, ActualUsage { tokens: real, cost: 0 });
            }
        }
        let flowed = LIMIT * passed / 60_000;
        prop_assert!(used <= LIMIT + flowed + errors, "{used} > {LIMIT} + {flowed} + {errors}");
    }
}

#[tokio::test]
async fn new_limits_take_over_what_was_used() {
    let minute = |tokens| Limits {
        tokens_per_minute: Some(tokens),
        ..Limits::default()
    };
    let (watch, limiter) = limiter(minute(1_000), Limits::default());
    let held = limiter.reserve(&scope(), subjects("ada"), demand(600)).await.unwrap();
    let of = |limits| {
        HashMap::from([(
            tenant(),
            TenantLimits {
                tenant: limits,
                ..TenantLimits::default()
            },
        )])
    };
    limiter.replace(of(minute(700)));
    let refused = exceeded(
        limiter
            .reserve(&scope(), subjects("ada"), demand(200))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (refused.name, refused.state.limit, refused.state.remaining),
        (LimitName::Tokens, 700, 100)
    );
    limiter.settle(
        held,
        ActualUsage {
            tokens: 300,
            cost: 3_000,
        },
    );
    let held = limiter.reserve(&scope(), subjects("ada"), demand(400)).await.unwrap();
    limiter.settle(
        held,
        ActualUsage {
            tokens: 400,
            cost: 4_000,
        },
    );
    // Money is counted even before it is limited; the ledger may know of more, never of less.
    limiter.replace(of(Limits {
        usd_per_day: Some(10_000),
        ..Limits::default()
    }));
    let spending = |day| Spending {
        tenant: tenant(),
        user: "ada".to_owned(),
        api_key: None,
        day,
        month: day,
    };
    limiter.spent(&[spending(1_000)]);
    let left = |refused: LimitExceeded| (refused.name, refused.state.remaining);
    let refused = exceeded(
        limiter
            .reserve(&scope(), subjects("ada"), demand(301))
            .await
            .unwrap_err(),
    );
    assert_eq!(left(refused), (LimitName::UsdPerDay, 3_000));
    limiter.spent(&[spending(5_000), spending(4_000)]);
    let refused = exceeded(
        limiter
            .reserve(&scope(), subjects("ada"), demand(101))
            .await
            .unwrap_err(),
    );
    assert_eq!(left(refused), (LimitName::UsdPerDay, 1_000));
    // A tenant that is no longer listed is unlimited.
    limiter.replace(HashMap::new());
    watch.pass(1);
    limiter
        .reserve(&scope(), subjects("ada"), demand(1_000_000))
        .await
        .unwrap();
}
