//! What is under way for long stands in the ledger before it ends.

use std::sync::Arc;
use std::time::Duration;

use copilotd::gateway::call::CacheOutcome;
use copilotd::gateway::ledger::{Ledger, UsageStore};
use copilotd::gateway::route::TargetName;
use copilotd::gateway::{Attempted, Meter, Outcome};
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::fakes::world::CountingIds;
use uuid::Uuid;

use super::cache::Still;
use super::caller;
use crate::support::usage::MemoryUsage;

fn attempt(id: u128, outcome: Outcome) -> Attempted {
    Attempted {
        id: Some(Uuid::from_u128(id)),
        caller: Arc::new(caller()),
        route: "default".into(),
        target: TargetName {
            provider: "a".to_owned(),
            model: "gpt".to_owned(),
        },
        key: "a#1".to_owned(),
        number: 1,
        model: None,
        usage: Usage::default(),
        is_estimated: outcome == Outcome::Lost,
        outcome,
        cache: CacheOutcome::Bypass,
        first_content: None,
        took: Duration::ZERO,
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_call_is_put_down_as_open_and_a_short_one_only_as_what_it_was() {
    let store = Arc::new(MemoryUsage::default());
    let ledger = Ledger::start(store.clone(), Arc::new(Still), Arc::new(CountingIds::default()));
    let done = Outcome::Finished(Finish::Stop);
    let pass = async |time| tokio::time::sleep(time).await;
    for id in 1..=3 {
        ledger.began(Uuid::from_u128(id), Box::new(move |_| attempt(id, Outcome::Lost)));
    }
    pass(Ledger::NOTED / 2).await;
    ledger.attempted(attempt(1, done));
    pass(Ledger::NOTED * 2).await;
    assert_eq!((store.open(), store.outcomes()), (2, vec!["ok".to_owned()]));
    ledger.attempted(attempt(2, done));
    pass(Ledger::WINDOW * 2).await;
    assert_eq!((store.open(), store.outcomes().len()), (1, 2));
    // The third one's process dies.
    ledger.close().await;
    assert_eq!(store.lose_usage().await.unwrap(), 1);
    assert_eq!(store.outcomes(), ["ok", "ok", "lost"]);
}
