//! Redis that does not respond: budgets are refused, rates get a local share for a while, and no call is held up.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::limiter::redis::{RedisLimiter, RedisOptions};
use copilotd_gateway::error::{GatewayError, GatewayErrorKind};
use copilotd_gateway::limit::{ActualUsage, LimitName, LimitRefusal, Limiter as _, Limits, TenantLimits};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::{TestClock, demand, exceeded, is_unavailable, of_tenant, patient, scope, start, subjects};
use crate::support::redis::Redis;

/// What the limiter logged. For tests on one thread.
#[derive(Clone, Default)]
struct LoggedLines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for LoggedLines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        if event.metadata().target().contains("limiter::redis") {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().push(message.0);
        }
    }
}

impl LoggedLines {
    fn count(&self, part: &str) -> usize {
        self.0.lock().iter().filter(|line| line.contains(part)).count()
    }
}

fn rates() -> Limits {
    Limits {
        requests_per_minute: Some(100),
        concurrent_calls: Some(1_000),
        ..Limits::default()
    }
}

async fn wait_until(limiter: &RedisLimiter, is_up: bool) {
    while limiter.is_ready() != Some(is_up) {
        // Another task checks for it, every 20 ms.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_redis_no_money_is_granted_and_of_the_rates_a_share() {
    let said = LoggedLines::default();
    let _said = tracing::subscriber::set_default(tracing_subscriber::registry().with(said.clone()));
    let mut server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let limits = TenantLimits {
        tenant: rates(),
        key: Limits {
            usd_per_day: Some(1_000_000),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    let limiter = start(patient(&server), limits, &Arc::default(), &watch);
    let rich = || {
        let mut subjects = subjects("ada");
        subjects.push(copilotd_gateway::spending::Subject::Key("ci".to_owned()));
        subjects
    };
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(limiter.reserve(&scope(), rich(), demand(1)).await.unwrap());
    }
    server.kill();
    // Under load: callers with a budget are refused, everybody else goes on.
    let refused = limiter.reserve(&scope(), rich(), demand(1)).await.unwrap_err();
    assert!(matches!(refused, LimitRefusal::Unavailable { .. }), "{refused:?}");
    let error = GatewayError::from(refused);
    assert_eq!(
        (error.kind, error.kind.status()),
        (GatewayErrorKind::LimitsUnavailable, 503)
    );
    assert_eq!(
        (error.retry_after, error.kind.code()),
        (Some(Duration::from_secs(1)), "unavailable")
    );
    let gone = limiter.exhausted(&scope(), rich()).await;
    assert!(matches!(gone, Some(LimitRefusal::Unavailable { .. })), "{gone:?}");
    assert!(limiter.exhausted(&scope(), subjects("ada")).await.is_none());
    let mut granted = 0;
    let refused = loop {
        match limiter.reserve(&scope(), subjects("ada"), demand(1)).await {
            Ok(lease) => {
                granted += 1;
                limiter.settle(lease, ActualUsage::default());
            }
            refused => break exceeded(refused),
        }
    };
    assert_eq!(
        (granted, refused.name),
        (25, LimitName::Requests),
        "a quarter of a hundred"
    );
    assert_eq!(limiter.is_ready(), Some(false));
    for lease in open {
        limiter.settle(lease, ActualUsage::default());
    }
    server.restart().await;
    wait_until(&limiter, true).await;
    limiter.reserve(&scope(), rich(), demand(1)).await.unwrap();
    limiter.settled().await;
    assert_eq!(
        (said.count("does not answer"), said.count("answers again")),
        (1, 1),
        "{:?}",
        said.0
    );
    // And once more.
    server.kill();
    assert!(is_unavailable(&limiter.reserve(&scope(), rich(), demand(1)).await));
    server.restart().await;
    wait_until(&limiter, true).await;
    assert_eq!(
        (said.count("does not answer"), said.count("answers again")),
        (2, 2),
        "{:?}",
        said.0
    );
}

#[tokio::test]
async fn what_was_settled_meanwhile_is_settled_when_redis_is_back() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let options = RedisOptions {
        request_timeout: Duration::from_millis(250),
        ..patient(&server)
    };
    let one = Limits {
        concurrent_calls: Some(4),
        usd_per_day: Some(10_000),
        ..Limits::default()
    };
    let limiter = start(options, of_tenant(one), &Arc::default(), &watch);
    wait_until(&limiter, true).await;
    let lease = limiter.reserve(&scope(), subjects("ada"), demand(500)).await.unwrap();
    server.freeze();
    let began = Instant::now();
    assert!(is_unavailable(
        &limiter.reserve(&scope(), subjects("ada"), demand(100)).await
    ));
    limiter.settle(lease, ActualUsage { tokens: 0, cost: 1_000 });
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "nobody waits for a settlement"
    );
    server.thaw();
    limiter.settled().await;
    // Only actual usage is spent; nothing is held for the request whose answer nobody waited for.
    let all = limiter.reserve(&scope(), subjects("ada"), demand(900)).await.unwrap();
    let refused = exceeded(limiter.reserve(&scope(), subjects("ada"), demand(1)).await);
    assert_eq!((refused.name, refused.state.remaining), (LimitName::UsdPerDay, 0));
    limiter.settle(all, ActualUsage::default());
}

#[tokio::test]
async fn a_redis_that_hangs_holds_up_nobody_for_long() {
    let server = Redis::start().await;
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let options = RedisOptions {
        request_timeout: Duration::from_millis(250),
        ..patient(&server)
    };
    let limiter = start(options, of_tenant(rates()), &Arc::default(), &watch);
    wait_until(&limiter, true).await;
    server.freeze();
    let began = Instant::now();
    limiter.reserve(&scope(), subjects("ada"), demand(1)).await.unwrap();
    let first = began.elapsed();
    assert!(first >= Duration::from_millis(250), "it hangs: {first:?}");
    // A busy machine may add to it; a hang would take forever.
    assert!(first < Duration::from_secs(3), "{first:?}");
    let began = Instant::now();
    for _ in 0..24 {
        limiter.reserve(&scope(), subjects("ada"), demand(1)).await.unwrap();
    }
    let rest = began.elapsed();
    assert!(
        rest < Duration::from_millis(24 * 250 / 2),
        "they did not wait each: {rest:?}"
    );
    server.thaw();
    wait_until(&limiter, true).await;
}

#[tokio::test]
async fn after_a_while_nothing_is_granted_without_redis() {
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let mut server = Redis::start().await;
    let options = RedisOptions {
        max_outage: Duration::ZERO,
        ..patient(&server)
    };
    server.kill();
    let limiter = start(options, of_tenant(rates()), &Arc::default(), &watch);
    let ask = async || limiter.reserve(&scope(), subjects("ada"), demand(1)).await;
    assert!(is_unavailable(&ask().await));
    let other = crate::support::talk::scope("globex");
    limiter.reserve(&other, subjects("ada"), demand(1)).await.unwrap();
    server.restart().await;
    wait_until(&limiter, true).await;
    ask().await.unwrap();
}

#[tokio::test]
async fn what_is_larger_than_the_share_is_not_said_to_fit_never() {
    let watch = TestClock::at("2027-01-15T08:00:00Z");
    let mut server = Redis::start().await;
    let options = patient(&server);
    server.kill();
    let tokens = Limits {
        tokens_per_minute: Some(1_000),
        ..Limits::default()
    };
    let limiter = start(options, of_tenant(tokens), &Arc::default(), &watch);
    let ask = async |tokens| limiter.reserve(&scope(), subjects("ada"), demand(tokens)).await;
    assert!(is_unavailable(&ask(251).await));
    ask(250).await.unwrap();
    assert!(exceeded(ask(1).await).retry_after.is_some());
}
