//! What holds between processes: one bucket for all, and nothing that outlives a process that died.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::limiter::redis::{RedisLimiter, RedisOptions};
use copilotd_gateway::limit::{ActualUsage, Demand, LimitName, Limiter as _, Limits, TenantLimits};

use super::{FakeLedger, TestClock, demand, exceeded, of_tenant, patient, scope, spending, start, subjects};
use crate::support::redis::Redis;

/// Two processes with one Redis.
struct Pair {
    first: RedisLimiter,
    second: RedisLimiter,
    watch: Arc<TestClock>,
    _server: Redis,
}

impl Pair {
    async fn new(limits: Limits) -> Self {
        let server = Redis::start().await;
        let watch = TestClock::at("2027-01-15T08:00:00Z");
        let process = || start(patient(&server), of_tenant(limits), &Arc::default(), &watch);
        Self {
            first: process(),
            second: process(),
            watch,
            _server: server,
        }
    }
}

const HOUR: u64 = 3_600_000;

fn everything() -> Limits {
    Limits {
        tokens_per_minute: Some(1_000),
        concurrent_calls: Some(2),
        usd_per_day: Some(10_000),
        ..Limits::default()
    }
}

async fn settle(limiter: &RedisLimiter, lease: copilotd_gateway::limit::Lease, tokens: u64, cost: u64) {
    limiter.settle(lease, ActualUsage { tokens, cost });
    limiter.settled().await;
}

#[tokio::test]
async fn two_processes_share_one_bucket() {
    let pair = Pair::new(everything()).await;
    let (first, second) = (&pair.first, &pair.second);
    let free = |tokens| Demand {
        cost: 0,
        ..demand(tokens)
    };
    let one = first.reserve(&scope(), subjects("ada"), demand(600)).await.unwrap();
    let refused = exceeded(second.reserve(&scope(), subjects("bob"), free(401)).await);
    assert_eq!((refused.name, refused.state.remaining), (LimitName::Tokens, 400));
    let two = second.reserve(&scope(), subjects("bob"), demand(100)).await.unwrap();
    let refused = exceeded(first.reserve(&scope(), subjects("ada"), demand(1)).await);
    assert_eq!(refused.name, LimitName::Calls);
    settle(first, one, 0, 9_500).await;
    let refused = exceeded(second.reserve(&scope(), subjects("bob"), demand(1)).await);
    assert_eq!(
        (refused.name, refused.retry_after),
        (LimitName::UsdPerDay, Some(Duration::from_secs(1)))
    );
    settle(second, two, 0, 500).await;
    assert!(first.exhausted(&scope(), subjects("ada")).await.is_some());
}

#[tokio::test]
async fn what_a_dead_process_had_reserved_is_charged_in_full_and_its_place_is_free() {
    let pair = Pair::new(everything()).await;
    let (first, second) = (pair.first, &pair.second);
    for _ in 0..2 {
        first.reserve(&scope(), subjects("ada"), demand(300)).await.unwrap();
    }
    drop(first);
    let ask = async |tokens| second.reserve(&scope(), subjects("bob"), demand(tokens)).await;
    assert_eq!(exceeded(ask(1).await).name, LimitName::Calls);
    pair.watch.pass(HOUR - 1);
    assert_eq!(exceeded(ask(1).await).name, LimitName::Calls, "it may yet live");
    pair.watch.pass(1);
    // Both permits are free, and what was reserved is spent: 6,000 of 10,000.
    let lease = ask(300).await.unwrap();
    let refused = exceeded(ask(101).await);
    assert_eq!((refused.name, refused.state.remaining), (LimitName::UsdPerDay, 1_000));
    settle(second, lease, 300, 4_000).await;
    assert!(second.exhausted(&scope(), subjects("bob")).await.is_some());
}

#[tokio::test]
async fn a_call_that_died_is_charged_once_although_the_ledger_knows_of_it_too() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let budget = Limits {
        usd_per_month: Some(10_000),
        ..Limits::default()
    };
    for (estimate, expected) in [(2_000, 3_000), (3_500, 3_500)] {
        let ledger = Arc::new(FakeLedger::default());
        let died = start(patient(&server), of_tenant(budget), &ledger, &watch);
        let cost = Demand {
            cost: 3_000,
            ..Demand::default()
        };
        died.reserve(&scope(), subjects("ada"), cost).await.unwrap();
        drop(died);
        ledger.0.lock().push(spending("ada", estimate, estimate));
        let next = start(patient(&server), of_tenant(budget), &ledger, &watch);
        let left = async || {
            let dear = Demand {
                cost: 10_001,
                ..Demand::default()
            };
            exceeded(next.reserve(&scope(), subjects("ada"), dear).await)
                .state
                .remaining
        };
        left().await;
        watch.pass(HOUR);
        assert_eq!(left().await, 10_000 - expected, "estimated at {estimate}");
        let mut connection = server.connection().await;
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn live_reservations_are_renewed() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let options = RedisOptions {
        lease_life: Duration::from_millis(90),
        ..patient(&server)
    };
    let limiter = start(options, of_tenant(everything()), &Arc::default(), &watch);
    let held = limiter.reserve(&scope(), subjects("ada"), demand(300)).await.unwrap();
    let mut connection = server.connection().await;
    let mut expiry = async || {
        let leases: Vec<(String, i64)> = redis::cmd("ZRANGE")
            .arg("copilotd:{acme}:leases:tenant")
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query_async(&mut connection)
            .await
            .unwrap();
        leases.first().map(|(_, at)| *at)
    };
    for _ in 0..5 {
        let before = expiry().await.unwrap();
        watch.pass(60);
        while expiry().await == Some(before) {
            // Another task renews it by its own clock.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(expiry().await, Some(before + 60));
    }
    settle(&limiter, held, 0, 100).await;
    assert_eq!(expiry().await, None);
    let dear = Demand {
        cost: 9_901,
        ..Demand::default()
    };
    let refused = exceeded(limiter.reserve(&scope(), subjects("ada"), dear).await);
    assert_eq!(refused.state.remaining, 9_900, "only what was used is spent");
}

#[tokio::test]
async fn nothing_is_counted_twice() {
    let pair = Pair::new(everything()).await;
    let (first, second) = (&pair.first, &pair.second);
    let lease = first.reserve(&scope(), subjects("ada"), demand(300)).await.unwrap();
    let held = first.reserve(&scope(), subjects("ada"), demand(100)).await.unwrap();
    settle(first, lease.clone(), 300, 2_000).await;
    settle(first, lease.clone(), 300, 2_000).await;
    settle(second, lease, 900, 9_000).await;
    let dear = Demand {
        cost: 10_000,
        ..Demand::default()
    };
    let left = async || {
        exceeded(second.reserve(&scope(), subjects("ada"), dear).await)
            .state
            .remaining
    };
    assert_eq!(left().await, 7_000, "2,000 are spent and 1,000 held");
    // Charged in full when it expired; what its process reports then comes too late.
    pair.watch.pass(HOUR);
    assert_eq!(left().await, 7_000);
    settle(first, held, 0, 0).await;
    assert_eq!(left().await, 7_000);
    let lease = second.reserve(&scope(), subjects("ada"), demand(1_000 - 300)).await;
    assert_eq!(
        lease.unwrap().standings[0].remaining,
        300,
        "no tokens came back that had flowed in again"
    );
}

#[tokio::test]
async fn every_key_expires_and_an_account_at_rest_has_none() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let limits = TenantLimits {
        tenant: everything(),
        user: Limits {
            tokens_per_minute: Some(100),
            concurrent_calls: Some(1),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    let ledger = Arc::new(FakeLedger::default());
    ledger.0.lock().push(spending("zoe", 5, 6));
    let limiter = start(patient(&server), limits, &ledger, &watch);
    let mut connection = server.connection().await;
    let mut keys = async || {
        let mut left: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        left.sort();
        for key in &left {
            let ttl: i64 = redis::cmd("PTTL").arg(key).query_async(&mut connection).await.unwrap();
            assert!(ttl > 0, "{key} stays for ever");
            let longest = Duration::from_hours(32 * 24).as_millis();
            assert!(u128::from(ttl.unsigned_abs()) <= longest, "{key}: {ttl}");
        }
        left
    };
    let mut open = Vec::new();
    let long = "u".repeat(256);
    for user in ["ada", "bob", long.as_str()] {
        open.push(
            limiter
                .reserve(&scope(), subjects(user), demand(50))
                .await
                .unwrap_or_else(|_| panic!("{user}")),
        );
        keys().await;
        if user == "bob" {
            settle(&limiter, open.remove(0), 70, 0).await;
        }
    }
    let held = keys().await;
    assert!(
        held.iter()
            .all(|key| key.starts_with("copilotd:{acme}:") || key == "copilotd:probe"),
        "{held:?}"
    );
    assert!(
        held.iter().any(|key| key.starts_with("copilotd:{acme}:leases:user:#")),
        "{held:?}"
    );
    for lease in open {
        settle(&limiter, lease, 0, 0).await;
    }
    // What was given back in full leaves nothing; ada's 70 tokens remain until the rate has refilled, and money for its
    // month.
    let left = keys().await;
    assert_eq!(
        left,
        [
            "copilotd:probe",
            "copilotd:{acme}:mark",
            "copilotd:{acme}:tenant",
            "copilotd:{acme}:user:=ada",
            "copilotd:{acme}:user:=zoe",
        ]
    );
}

#[tokio::test]
async fn a_tenant_that_is_forgotten_leaves_no_key_and_others_keep_theirs() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let limiter = start(patient(&server), of_tenant(everything()), &Arc::default(), &watch);
    let mut connection = server.connection().await;
    // More keys than one step scans, and tenants whose names begin alike.
    for n in 0..1_200 {
        let key = format!("copilotd:{{acme}}:user:=u{n}");
        redis::cmd("SET")
            .arg(key)
            .arg(1)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
    }
    let others = [
        "copilotd:{acme2}:tenant",
        "copilotd:{ac}:tenant",
        "copilotd:{ac*e}:tenant",
        "another:{acme}:x",
    ];
    for key in others {
        redis::cmd("SET")
            .arg(key)
            .arg(1)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
    }
    let lease = limiter.reserve(&scope(), subjects("ada"), demand(600)).await.unwrap();
    settle(&limiter, lease, 600, 10_000).await;
    assert!(limiter.exhausted(&scope(), subjects("ada")).await.is_some());
    assert!(limiter.forget(&scope()).await.unwrap() > 1_200);
    assert_eq!(limiter.forget(&scope()).await.unwrap(), 0);
    let left: Vec<String> = redis::cmd("KEYS")
        .arg("*{acme}*")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, ["another:{acme}:x"]);
    for key in others {
        let there: i64 = redis::cmd("EXISTS")
            .arg(key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(there, 1, "{key}");
    }
    assert!(limiter.exhausted(&scope(), subjects("ada")).await.is_none());
}
