//! The cost of broken and abandoned answers: they count against the limits with their counted tokens.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::usage::Price;
use copilotd_actors::ports::Clock;
use copilotd_gateway::Gateway;
use copilotd_gateway::answer::Answer;
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::limit::{Limits, LocalLimiter, TenantLimits};
use copilotd_gateway::meter::Outcome;
use copilotd_gateway::request::call::Mode;
use futures::StreamExt;
use jiff::Timestamp;

use super::{CLOCKS, Ledger, Provider, TEXT, caller, gateway, place, read, request};

/// One request's estimate fits, with some room.
const BUDGET: u64 = 3_000_000;

/// A clock that stands still.
#[derive(Debug)]
pub struct NewYear;

impl Clock for NewYear {
    fn now(&self) -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A gateway with one provider, for a tenant with a small budget.
fn poor(provider: &Provider) -> (Gateway, Arc<Ledger>) {
    let (gateway, ledger) = gateway(vec![place("a", provider.url())], CLOCKS);
    let clock = Arc::new(NewYear);
    let limits = TenantLimits {
        tenant: Limits {
            usd_per_month: Some(BUDGET),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    let limiter = LocalLimiter::new([(caller().scope.tenant().clone(), limits)], clock.clone());
    // A thousand nano-dollars per token.
    let price = Price::flat(1_000_000_000, 1_000_000_000);
    let prices: PriceList = [("gpt".to_owned(), Timestamp::MIN, price)].into_iter().collect();
    let gateway = Arc::into_inner(gateway).unwrap();
    (gateway.with_limits(Arc::new(limiter), prices, clock), ledger)
}

#[tokio::test]
async fn a_budget_ends_though_every_answer_breaks() {
    let provider = Provider::faulty(&format!("text=\"{TEXT}\" cut_after=9")).await;
    let (gateway, ledger) = poor(&provider);
    let mut spent = 0;
    for _ in 0..200 {
        let reply = match gateway.chat(request(true, Mode::Live)).await {
            Ok(reply) => reply,
            Err(error) => {
                assert_eq!(error.kind, GatewayErrorKind::BudgetExhausted, "{error}");
                assert!(0 < spent && spent <= BUDGET, "{spent}");
                return;
            }
        };
        assert!(read(reply).await.error.is_some());
        for attempt in ledger.take() {
            assert!(matches!(attempt.outcome, Outcome::Failed(_)), "{attempt:?}");
            assert_eq!(attempt.usage.cost, attempt.usage.total_tokens() * 1_000);
            assert!(attempt.usage.completion_tokens > 0, "{attempt:?}");
            spent += attempt.usage.cost;
        }
    }
    panic!("{spent} of {BUDGET} were spent and nothing was refused");
}

#[tokio::test]
async fn a_caller_that_leaves_pays() {
    let provider = Provider::faulty("tokens=1000 pace_ms=20").await;
    let (gateway, ledger) = poor(&provider);
    let Answer::Stream(mut pieces) = gateway.chat(request(true, Mode::Live)).await.unwrap().answer else {
        panic!("a stream was asked for")
    };
    while !pieces.next().await.unwrap().unwrap().content {}
    drop(pieces);
    let attempts = ledger.take();
    assert_eq!((attempts.len(), attempts[0].outcome), (1, Outcome::Left));
    assert_eq!(attempts[0].usage.cost, attempts[0].usage.total_tokens() * 1_000);
    assert!(attempts[0].usage.cost > 0);
}
