//! What holds for every limiter.

use std::time::Duration;

use copilotd_gateway::error::{GatewayError, GatewayErrorKind};
use copilotd_gateway::limit::{Demand, LimitName, Limits, TenantLimits};

use super::{LimiterFixture, demand, exceeded, of_tenant, spending, subjects, time};

#[tokio::test]
async fn all_limits_or_none() {
    let limits = TenantLimits {
        tenant: Limits {
            tokens_per_minute: Some(1_000),
            ..Limits::default()
        },
        user: Limits {
            requests_per_minute: Some(2),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    for world in LimiterFixture::both(limits).await {
        world.reserve("ada", demand(100)).await.unwrap();
        world.reserve("ada", demand(100)).await.unwrap();
        let refused = exceeded(world.reserve("ada", demand(100)).await);
        assert_eq!((refused.name, refused.of), (LimitName::Requests, "user"));
        assert_eq!(refused.retry_after, Some(Duration::from_secs(30)));
        assert_eq!((refused.state.limit, refused.state.remaining), (2, 0));
        // A refusal by the user's limit has taken nothing from the tenant's.
        let lease = world.reserve("bob", demand(800)).await.unwrap();
        let left: Vec<u64> = lease.standings.iter().map(|state| state.remaining).collect();
        assert_eq!(left, [1, 0]);
        let refused = exceeded(world.reserve("eve", demand(1)).await);
        assert_eq!((refused.name, refused.of), (LimitName::Tokens, "tenant"));
        assert_eq!(refused.retry_after, Some(Duration::from_millis(60)));
        let never = exceeded(world.reserve("eve", demand(1_001)).await);
        assert_eq!(never.retry_after, None, "it never fits");
        // It fits exactly at the time named, and not a millisecond earlier.
        world.watch.pass(59);
        exceeded(world.reserve("eve", demand(1)).await);
        world.watch.pass(1);
        world.reserve("eve", demand(1)).await.unwrap();
        let other = crate::support::talk::scope("globex");
        let free = world.limiter.reserve(&other, subjects("ada"), demand(1_000_000)).await;
        assert!(free.unwrap().standings.is_empty());
    }
}

#[tokio::test]
async fn what_was_not_used_comes_back_and_what_was_used_beyond_is_owed() {
    let limits = of_tenant(Limits {
        tokens_per_minute: Some(600),
        ..Limits::default()
    });
    for world in LimiterFixture::both(limits).await {
        let lease = world.reserve("ada", demand(600)).await.unwrap();
        world.settle(lease, 100, 0).await;
        let lease = world.reserve("ada", demand(500)).await.unwrap();
        world.settle(lease, 1_100, 0).await;
        // 600 in debt: a minute until it is back at zero, and 100 ms for the one.
        let refused = exceeded(world.reserve("ada", demand(1)).await);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(60_100)));
        assert_eq!(refused.state.remaining, 0);
        world.watch.pass(60_099);
        exceeded(world.reserve("ada", demand(1)).await);
        world.watch.pass(1);
        world.reserve("ada", demand(1)).await.unwrap();
        // A clock that goes back fills nothing.
        world.watch.step(-50_000);
        exceeded(world.reserve("ada", demand(1)).await);
    }
}

#[tokio::test]
async fn a_place_is_free_again_when_its_call_is_over() {
    let limits = of_tenant(Limits {
        concurrent_calls: Some(2),
        ..Limits::default()
    });
    for world in LimiterFixture::both(limits).await {
        let first = world.reserve("ada", demand(1)).await.unwrap();
        world.reserve("bob", demand(1)).await.unwrap();
        let refused = exceeded(world.reserve("eve", demand(1)).await);
        assert_eq!(
            (refused.name, refused.retry_after),
            (LimitName::Calls, Some(Duration::from_secs(1)))
        );
        // Submitting a turn takes no permit.
        let turn = Demand {
            requests: 1,
            ..Demand::default()
        };
        world.reserve("eve", turn).await.unwrap();
        world.settle(first, 0, 0).await;
        world.reserve("eve", demand(1)).await.unwrap();
        exceeded(world.reserve("ada", demand(1)).await);
    }
}

#[tokio::test]
async fn money_is_held_then_spent_until_its_period_is_over() {
    let limits = TenantLimits {
        tenant: Limits {
            usd_per_month: Some(5_000),
            ..Limits::default()
        },
        user: Limits {
            usd_per_day: Some(2_000),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    for world in LimiterFixture::both(limits).await {
        let scope = super::scope();
        let gone = |user| world.limiter.exhausted(&scope, subjects(user));
        let lease = world.reserve("ada", demand(150)).await.unwrap();
        // Only reservations are in the way.
        let refused = exceeded(world.reserve("ada", demand(100)).await);
        assert_eq!((refused.name, refused.of), (LimitName::UsdPerDay, "user"));
        assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(refused.state.remaining, 500);
        assert!(gone("ada").await.is_none());
        world.settle(lease, 0, 2_100).await;
        let spent = exceeded(gone("ada").await.map_or(Ok(()), Err));
        assert_eq!((spent.name, spent.of), (LimitName::UsdPerDay, "user"));
        assert_eq!(spent.retry_after, Some(Duration::from_hours(16)));
        assert_eq!(GatewayError::from(spent).kind, GatewayErrorKind::BudgetExhausted);
        let refused = exceeded(world.reserve("ada", demand(0)).await);
        assert_eq!(refused.retry_after, Some(Duration::from_hours(16)));
        assert!(gone("bob").await.is_none());
        let never = exceeded(world.reserve("bob", demand(201)).await);
        assert_eq!((never.name, never.retry_after), (LimitName::UsdPerDay, None));
        // A reservation held over midnight is spent on the day when it ends.
        let late = world.reserve("bob", demand(10)).await.unwrap();
        world.watch.set(time("2027-01-16T00:00:00Z"));
        world.settle(late, 0, 2_500).await;
        assert!(gone("ada").await.is_none(), "a new day");
        assert_eq!(exceeded(gone("bob").await.map_or(Ok(()), Err)).of, "user");
        let lease = world.reserve("ada", demand(40)).await.unwrap();
        world.settle(lease, 0, 400).await;
        let spent = exceeded(gone("eve").await.map_or(Ok(()), Err));
        assert_eq!((spent.name, spent.of), (LimitName::UsdPerMonth, "tenant"));
    }
}

#[tokio::test]
async fn days_and_months_end_when_the_calendar_says() {
    let limits = of_tenant(Limits {
        usd_per_day: Some(100),
        usd_per_month: Some(250),
        ..Limits::default()
    });
    for world in LimiterFixture::both(limits).await {
        for (last, next) in [
            ("2027-01-31T23:59:59.999Z", "2027-02-01T00:00:00Z"),
            ("2027-02-28T23:59:59.999Z", "2027-03-01T00:00:00Z"),
            ("2027-03-31T23:59:59.999Z", "2027-04-01T00:00:00Z"),
            ("2027-12-31T23:59:59.999Z", "2028-01-01T00:00:00Z"),
            ("2028-02-29T23:59:59.999Z", "2028-03-01T00:00:00Z"),
            ("2100-02-28T23:59:59.999Z", "2100-03-01T00:00:00Z"),
            ("2400-02-29T23:59:59.999Z", "2400-03-01T00:00:00Z"),
        ] {
            // Three days of the month, then its last moment.
            for days in [2, 1] {
                world
                    .watch
                    .set(time(last) - jiff::SignedDuration::from_hours(24 * days));
                let lease = world.reserve("ada", demand(10)).await.unwrap();
                world.settle(lease, 0, 100).await;
                let refused = exceeded(world.reserve("ada", demand(1)).await);
                assert_eq!(refused.name, LimitName::UsdPerDay, "{last}");
            }
            world.watch.set(time(last));
            let lease = world.reserve("ada", demand(5)).await.unwrap();
            world.settle(lease, 0, 50).await;
            let refused = exceeded(world.reserve("ada", demand(1)).await);
            assert_eq!(
                (refused.name, refused.retry_after),
                (LimitName::UsdPerMonth, Some(Duration::from_millis(1)))
            );
            world.watch.set(time(next));
            let lease = world.reserve("ada", demand(10)).await.unwrap();
            world.settle(lease, 0, 0).await;
        }
    }
}

#[tokio::test]
async fn new_limits_take_over_what_was_used() {
    let minute = |tokens| {
        of_tenant(Limits {
            tokens_per_minute: Some(tokens),
            ..Limits::default()
        })
    };
    let day = of_tenant(Limits {
        usd_per_day: Some(10_000),
        ..Limits::default()
    });
    for world in LimiterFixture::both(minute(1_000)).await {
        let held = world.reserve("ada", demand(600)).await.unwrap();
        world.replace(minute(700));
        let refused = exceeded(world.reserve("ada", demand(200)).await);
        assert_eq!(
            (refused.name, refused.state.limit, refused.state.remaining),
            (LimitName::Tokens, 700, 100)
        );
        world.settle(held, 300, 3_000).await;
        let held = world.reserve("ada", demand(400)).await.unwrap();
        world.settle(held, 400, 4_000).await;
        // Money is counted even before it is limited; the ledger may know of more, never of less.
        world.owe(vec![spending("ada", 1_000, 1_000)], day);
        let refused = exceeded(world.reserve("ada", demand(301)).await);
        assert_eq!((refused.name, refused.state.remaining), (LimitName::UsdPerDay, 3_000));
        world.owe(vec![spending("ada", 5_000, 5_000), spending("bob", 4_000, 4_000)], day);
        let refused = exceeded(world.reserve("ada", demand(101)).await);
        assert_eq!((refused.name, refused.state.remaining), (LimitName::UsdPerDay, 1_000));
        // A tenant that is no longer listed is unlimited.
        world.limiter.replace(std::collections::HashMap::new());
        world.reserve("ada", demand(1_000_000)).await.unwrap();
    }
}
