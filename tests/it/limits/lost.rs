//! Redis that lost its data, or is no longer the primary.

use std::sync::Arc;

use copilotd_gateway::limit::{LimitName, Limiter as _, Limits};

use super::{
    FakeLedger, TestClock, demand, exceeded, is_unavailable, of_tenant, patient, scope, spending, start, subjects,
};
use crate::support::redis::Redis;

fn budget() -> Limits {
    Limits {
        usd_per_month: Some(10_000),
        ..Limits::default()
    }
}

#[tokio::test]
async fn budgets_begin_with_what_the_ledger_knows_also_after_the_memory_is_lost() {
    let server = Redis::start().await;
    let (watch, ledger) = (TestClock::at("2027-01-15T08:00:00Z"), Arc::new(FakeLedger::default()));
    ledger.0.lock().push(spending("ada", 0, 3_000));
    let limiter = start(patient(&server), of_tenant(budget()), &ledger, &watch);
    let left = async || {
        exceeded(limiter.reserve(&scope(), subjects("ada"), demand(1_000)).await)
            .state
            .remaining
    };
    assert_eq!(left().await, 7_000);
    // Another process with an older ledger takes nothing back.
    let other = start(patient(&server), of_tenant(budget()), &Arc::default(), &watch);
    assert_eq!(
        exceeded(other.reserve(&scope(), subjects("ada"), demand(701)).await).name,
        LimitName::UsdPerMonth
    );
    ledger.0.lock().push(spending("bob", 1_000, 1_000));
    assert_eq!(left().await, 7_000, "the ledger is not read for every request");
    let mut connection = server.connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    assert_eq!(left().await, 6_000);
    ledger.0.lock().push(spending("eve", 6_000, 6_000));
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    redis::cmd("SCRIPT")
        .arg("FLUSH")
        .exec_async(&mut connection)
        .await
        .unwrap();
    assert!(limiter.exhausted(&scope(), subjects("ada")).await.is_some());
}

#[tokio::test]
async fn a_read_only_redis_counts_as_unavailable() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let limiter = start(patient(&server), of_tenant(budget()), &Arc::default(), &watch);
    let ask = async || limiter.reserve(&scope(), subjects("ada"), demand(1)).await;
    ask().await.unwrap();
    let mut connection = server.connection().await;
    let mut replicate = async |host: &str, port: &str| {
        let mut command = redis::cmd("REPLICAOF");
        command.arg(host).arg(port).exec_async(&mut connection).await.unwrap();
    };
    replicate("127.0.0.1", "1").await;
    assert!(is_unavailable(&ask().await));
    assert_eq!(limiter.is_ready(), Some(false));
    assert!(
        is_unavailable(&ask().await),
        "the search for it does not take it for a good one"
    );
    replicate("NO", "ONE").await;
    while limiter.is_ready() == Some(false) {
        // Another task checks for it, every 20 ms.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    ask().await.unwrap();
}
