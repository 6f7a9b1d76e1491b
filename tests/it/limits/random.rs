//! Any history, applied to both limiters: they answer the same.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::limiter::redis::{RedisLimiter, RedisOptions};
use copilotd_gateway::limit::{ActualUsage, Demand, Lease, LimitRefusal, Limiter as _, Limits, TenantLimits};
use copilotd_gateway::spending::Subject;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{LimiterFixture, patient, scope, start, subjects};
use crate::support::redis::Redis;

#[derive(Debug, Clone)]
enum Step {
    Reserve(usize, Demand),
    /// Which of the open ones, and what it used.
    Settle(usize, u64, u64),
    Exhausted(usize),
    Pass(u64),
}

fn limits() -> impl Strategy<Value = Limits> {
    let rate = || prop::option::of(1_u64..2_000);
    let money = || prop::option::of(0_u64..20_000);
    (rate(), rate(), prop::option::of(1_u64..6), money(), money()).prop_map(|(requests, tokens, calls, day, month)| {
        Limits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            concurrent_calls: calls,
            usd_per_day: day,
            usd_per_month: month,
        }
    })
}

fn all() -> impl Strategy<Value = TenantLimits> {
    (limits(), limits(), limits()).prop_map(|(tenant, user, key)| TenantLimits { tenant, user, key })
}

fn step() -> impl Strategy<Value = Step> {
    let demand = (0_u64..3, 0_u64..1_500, 0_u64..2, 0_u64..8_000).prop_map(|(requests, tokens, calls, cost)| Demand {
        requests,
        tokens,
        calls,
        cost,
    });
    prop_oneof![
        6 => (0_usize..3, demand).prop_map(|(user, demand)| Step::Reserve(user, demand)),
        4 => (any::<usize>(), 0_u64..3_000, 0_u64..10_000).prop_map(|(which, tokens, cost)| Step::Settle(which, tokens, cost)),
        1 => (0_usize..3).prop_map(Step::Exhausted),
        4 => prop_oneof![0_u64..500, 0_u64..60_000, 0_u64..40_000_000].prop_map(Step::Pass),
    ]
}

fn who(user: usize) -> Vec<Subject> {
    let mut subjects = subjects(["ada", "bob", "eve"][user]);
    if user > 0 {
        subjects.push(Subject::Key("ci".to_owned()));
    }
    subjects
}

/// Removes what only a store has: the id of a reservation.
fn told(answer: &Result<Lease, LimitRefusal>) -> String {
    match answer {
        Ok(lease) => format!("{:?}", lease.standings),
        Err(refused) => format!("{refused:?}"),
    }
}

async fn compare(local: &LimiterFixture, shared: &RedisLimiter, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut open: Vec<(Lease, Lease)> = Vec::new();
    for step in steps {
        match step {
            Step::Reserve(user, demand) => {
                let one = local.limiter.reserve(&scope(), who(user), demand).await;
                let other = shared.reserve(&scope(), who(user), demand).await;
                prop_assert_eq!(told(&one), told(&other), "{:?} of {}", demand, user);
                if let (Ok(one), Ok(other)) = (one, other) {
                    open.push((one, other));
                }
            }
            Step::Settle(which, tokens, cost) if !open.is_empty() => {
                let (one, other) = open.swap_remove(which % open.len());
                // A request that was only counted has used nothing.
                let is_counted = one.demand.tokens + one.demand.calls + one.demand.cost == 0;
                let spent = if is_counted {
                    ActualUsage::default()
                } else {
                    ActualUsage { tokens, cost }
                };
                local.limiter.settle(one, spent);
                shared.settle(other, spent);
                shared.settled().await;
            }
            Step::Settle(..) => {}
            Step::Exhausted(user) => {
                let one = local.limiter.exhausted(&scope(), who(user)).await;
                let other = shared.exhausted(&scope(), who(user)).await;
                prop_assert_eq!(one, other, "{}", user);
            }
            Step::Pass(ms) => local.watch.pass(ms),
        }
    }
    Ok(())
}

#[test]
fn both_limiters_answer_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Redis::start());
    let history = (all(), prop::collection::vec(step(), 1..60));
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let checked = TestRunner::new(config).run(&history, |(limits, steps)| {
        runtime.block_on(async {
            let mut connection = server.connection().await;
            redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
            let world = LimiterFixture::local(limits);
            // Reservations of a process never expire while it lives: nor do these.
            let options = RedisOptions {
                lease_life: Duration::from_hours(24 * 365),
                ..patient(&server)
            };
            let shared = start(options, limits, &Arc::default(), &world.watch);
            compare(&world, &shared, steps).await
        })
    });
    checked.unwrap();
}
