//! The calendar is set forward and back: rates and permits follow elapsed time, budgets the current date.

use std::sync::Arc;
use std::time::Duration;

use copilotd_gateway::limit::{LimitName, Limiter as _, Limits};

use super::{LimiterFixture, TestClock, demand, exceeded, of_tenant, patient, scope, start, subjects};
use crate::support::redis::Redis;

const HOUR: i64 = 3_600_000;
const STEPS: [i64; 6] = [-24 * HOUR, -HOUR, -1_000, 1_000, HOUR, 24 * HOUR];

#[tokio::test]
async fn a_rate_that_is_used_up_is_full_after_a_minute_whatever_was_made_of_the_calendar() {
    let limits = of_tenant(Limits {
        requests_per_minute: Some(5),
        tokens_per_minute: Some(1_000),
        ..Limits::default()
    });
    for step in STEPS {
        for world in LimiterFixture::both(limits).await {
            let said = format!("set by {step} ms, local: {}", world.local.is_some());
            let lease = world.reserve("ada", demand(1_000)).await.unwrap();
            world.settle(lease, 1_000, 0).await;
            world.watch.step(step);
            // Redis has no other clock than its calendar: set forward, it fills at most one minute's worth.
            if world.local.is_some() || step < 0 {
                let refused = exceeded(world.reserve("ada", demand(1_000)).await);
                assert_eq!(refused.name, LimitName::Tokens, "{said}");
                assert_eq!(refused.retry_after, Some(Duration::from_secs(60)), "{said}");
            }
            world.watch.pass(60_000);
            let lease = world.reserve("ada", demand(1_000)).await.expect(&said);
            assert!(
                lease.standings.iter().all(|state| state.remaining <= 4),
                "{said}: {lease:?}"
            );
            // And back again.
            world.settle(lease, 1_000, 0).await;
            world.watch.step(-step);
            // Redis notices with the next request, whether that is granted or not.
            drop(world.reserve("ada", demand(1_000)).await);
            world.watch.pass(60_000);
            world.reserve("ada", demand(1_000)).await.expect(&said);
        }
    }
}

#[tokio::test]
async fn a_budget_ends_with_the_day_that_it_is() {
    let limits = of_tenant(Limits {
        usd_per_day: Some(1_000),
        ..Limits::default()
    });
    for step in STEPS {
        for world in LimiterFixture::both(limits).await {
            let said = format!("set by {step} ms, local: {}", world.local.is_some());
            let spend = async || {
                let lease = world.reserve("ada", demand(100)).await.expect(&said);
                world.settle(lease, 100, 1_000).await;
            };
            spend().await;
            world.watch.step(step);
            if step == 24 * HOUR {
                // It is tomorrow, which has its own money; and then it is today again.
                spend().await;
                world.watch.step(-step);
            }
            let refused = exceeded(world.reserve("ada", demand(100)).await);
            assert_eq!(refused.name, LimitName::UsdPerDay, "{said}");
            let wait = refused.retry_after.unwrap();
            assert!(wait <= Duration::from_hours(24), "{said}: {wait:?}");
            world.watch.pass(u64::try_from(wait.as_millis()).unwrap());
            spend().await;
        }
    }
}

#[tokio::test]
async fn the_place_of_a_dead_process_is_free_after_the_life_of_its_reservation() {
    let limits = of_tenant(Limits {
        concurrent_calls: Some(1),
        ..Limits::default()
    });
    let server = Redis::start().await;
    for step in STEPS {
        let watch = TestClock::at("2027-01-15T08:00:00Z");
        let died = start(patient(&server), limits, &Arc::default(), &watch);
        died.reserve(&scope(), subjects("ada"), demand(1)).await.unwrap();
        drop(died);
        let next = start(patient(&server), limits, &Arc::default(), &watch);
        watch.step(step);
        if step < HOUR {
            let refused = exceeded(next.reserve(&scope(), subjects("ada"), demand(1)).await);
            assert_eq!(refused.name, LimitName::Calls, "set by {step} ms");
        }
        // Reservations of these tests live for an hour.
        watch.pass(3_600_000);
        let free = next.reserve(&scope(), subjects("ada"), demand(1)).await;
        assert!(free.is_ok(), "set by {step} ms: {free:?}");
        let mut connection = server.connection().await;
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    }
}
