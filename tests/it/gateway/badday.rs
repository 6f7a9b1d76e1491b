//! A bad day of three providers, in paused time: no buffered call, stream or document, is lost, and each request is
//! recorded once.

use std::sync::Arc;
use std::time::Duration;

use copilotd_gateway::meter::{AttemptRecord, Meter};
use copilotd_gateway::request::call::Caller;

use super::{Ledger, caller};

#[path = "../../bench/src/scenario/badday/day.rs"]
mod day;

use day::{CallOutcome, DAY, Day};

/// Makes `calls` calls, `per_second`; returns what was lost, and asserts that the records are right.
async fn lost(calls: u32, per_second: u32, seed: u64) -> Vec<CallOutcome> {
    let ledger = Arc::new(Ledger::default());
    let day = Day::begin(seed, Some(ledger.clone() as Arc<dyn Meter>));
    let user = |n: u32| format!("user-{n}");
    let by = |n: u32| Caller {
        user: user(n).parse().unwrap(),
        ..caller()
    };
    let asked = (0..calls).map(|n| day.call(n, per_second, by(n), n.is_multiple_of(2)));
    let got = futures::future::join_all(asked).await;
    let attempts = ledger.take();
    for (n, _) in (0..).zip(&got).filter(|(_, got)| **got != CallOutcome::Whole) {
        let of_call = attempts
            .iter()
            .filter(|attempt| attempt.caller.user.as_str() == user(n));
        for AttemptRecord {
            number,
            target,
            outcome,
            took,
            ..
        } in of_call
        {
            println!(
                "call {n}: request {number} to {target}: {} after {took:?}",
                outcome.code()
            );
        }
    }
    assert_eq!(
        attempts.len() as u64,
        day.seen().iter().sum::<u64>(),
        "each request is booked once"
    );
    got.into_iter().filter(|got| *got != CallOutcome::Whole).collect()
}

#[tokio::test(start_paused = true)]
async fn a_bad_day_loses_no_buffered_call() {
    let calls = 500;
    let per_second = calls / u32::try_from(DAY.as_secs()).unwrap();
    assert_eq!(lost(calls, per_second, 1).await, []);
}

#[tokio::test(start_paused = true)]
async fn nor_do_fifteen_other_days_at_their_full_rate() {
    // 30,000 calls.
    for seed in 2..17 {
        assert_eq!(lost(40 * 50, 40, seed).await, [], "{seed}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
