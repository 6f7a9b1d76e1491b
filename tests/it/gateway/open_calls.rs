//! Long calls are in the ledger before they end, and records that the store refused are stored later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::fakes::world::CountingIds;
use copilotd_actors::ports::{DISK_FULL, LogError};
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::ledger::{Ledger, UsageEntries, UsageStore};
use copilotd_gateway::meter::{AttemptRecord, Meter, Outcome, UnreportedAttempts};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{GatewayCall, Mode, Purpose};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::cache::FixedClock;
use super::{CLOCKS, Provider, caller, gateway, place, request};
use crate::support::usage::{MemoryUsage, attempt};

const DONE: Outcome = Outcome::Finished(Finish::Stop);

fn ledger(store: &Arc<MemoryUsage>) -> Arc<Ledger> {
    Ledger::start(
        Arc::clone(store) as _,
        Arc::new(FixedClock),
        Arc::new(CountingIds::default()),
    )
}

fn full(_: &UsageEntries) -> Option<LogError> {
    Some(LogError::Refused(DISK_FULL.to_owned()))
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_call_is_stored_as_open_and_a_short_one_only_at_its_end() {
    let store = Arc::new(MemoryUsage::default());
    let (ledger, done) = (ledger(&store), DONE);
    for id in 1..=3 {
        ledger.began(Uuid::from_u128(id), Box::new(move |_| attempt(id, Outcome::Lost)));
    }
    pass(Ledger::STORED_OPEN_AFTER / 2).await;
    ledger.attempted(attempt(1, done));
    pass(Ledger::STORED_OPEN_AFTER * 2).await;
    assert_eq!((store.open(), store.outcomes()), (2, vec!["ok".to_owned()]));
    ledger.attempted(attempt(2, done));
    pass(Ledger::WINDOW * 2).await;
    assert_eq!((store.open(), store.outcomes().len()), (1, 2));
    // The third call's process dies.
    ledger.close().await;
    assert_eq!(store.record_lost_usage().await.unwrap(), 1);
    assert_eq!(store.outcomes(), ["ok", "ok", "lost"]);
}

#[tokio::test(start_paused = true)]
async fn the_stored_estimate_follows_its_call() {
    let store = Arc::new(MemoryUsage::default());
    let ledger = ledger(&store);
    let written = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&written);
    let lost = move |until_next: Duration| {
        let mut lost = attempt(1, Outcome::Lost);
        lost.usage.completion_tokens = seen.load(Ordering::Relaxed) + until_next.as_secs();
        lost
    };
    ledger.began(Uuid::from_u128(1), Box::new(lost));
    let noted = || store.notes().first().map(|record| record.usage.completion_tokens);
    let begun = store.writes();
    for second in 1..=64 {
        written.store(second * 100, Ordering::Relaxed);
        pass(Duration::from_secs(1)).await;
        // Never off by more than one update: the stored estimate was true in the last half of the call's life.
        let noted = noted().unwrap();
        assert!((second * 40..=second * 100 + 64).contains(&noted), "{second} {noted}");
    }
    let writes = store.writes() - begun;
    assert!(writes <= 10, "{writes} writes");
    // An estimate that does not change costs nothing.
    pass(Duration::from_secs(600)).await;
    let before = store.writes();
    pass(Duration::from_secs(600)).await;
    assert_eq!(store.writes(), before);
    ledger.attempted(attempt(1, DONE));
    pass(Ledger::WINDOW * 2).await;
    assert_eq!((store.open(), store.outcomes()), (0, vec!["ok".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_joins_writes_has_each_record_within_the_window() {
    for step in [1, 30, 90, 110, 199, 230] {
        let store = Arc::new(MemoryUsage::joining());
        let ledger = ledger(&store);
        let mut ended = Vec::new();
        for id in 0..100 {
            ledger.attempted(attempt(id, DONE));
            ended.push(Instant::now());
            pass(Duration::from_millis(step)).await;
            // The clock has whole milliseconds.
            let is_due = |at: &&Instant| at.elapsed() > Ledger::WINDOW + Duration::from_millis(2);
            let due = ended.iter().filter(is_due).count();
            let stored = store.outcomes().len();
            assert!(stored >= due, "{stored} of {due} are stored, one every {step} ms");
        }
        // Not more writes than one after the other in the time.
        let time = Duration::from_millis(step * 100);
        let most = 2 + time.as_millis() / 100;
        assert!(store.writes() as u128 <= most, "{} writes in {time:?}", store.writes());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_is_kept_until_it_takes_it() {
    let errors: [fn() -> LogError; 4] = [
        || LogError::Refused(DISK_FULL.to_owned()),
        || LogError::Refused("read-only".to_owned()),
        || LogError::Corrupt("not a database".to_owned()),
        || LogError::Unavailable("no answer".to_owned()),
    ];
    for error in errors {
        let store = Arc::new(MemoryUsage::default());
        store.refuse(move |_| Some(error()));
        let error = error();
        let ledger = ledger(&store);
        for id in 0..700 {
            ledger.attempted(attempt(id, DONE));
        }
        pass(Duration::from_secs(300)).await;
        assert_eq!(store.outcomes().len(), 0, "{error}");
        assert!(ledger.has_room());
        store.take_all();
        pass(Duration::from_secs(60)).await;
        assert_eq!(store.outcomes().len(), 700, "{error}");
        ledger.close().await;
        assert_eq!(store.outcomes().len(), 700, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_by_itself_holds_up_no_other_and_is_not_dropped() {
    let store = Arc::new(MemoryUsage::default());
    store.refuse(|entries| {
        let is_bad = entries.ended.iter().any(|record| record.id.as_u128() % 10 == 3);
        is_bad.then(|| LogError::Refused("constraint".to_owned()))
    });
    let ledger = ledger(&store);
    for id in 0..20 {
        ledger.attempted(attempt(id, DONE));
    }
    pass(Duration::from_secs(5)).await;
    assert_eq!(store.outcomes().len(), 18);
    for id in 20..30 {
        ledger.attempted(attempt(id, DONE));
    }
    pass(Duration::from_secs(5)).await;
    assert_eq!(store.outcomes().len(), 27);
    store.take_all();
    pass(Duration::from_secs(60)).await;
    assert_eq!(store.outcomes().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn when_too_much_waits_no_call_begins_until_the_store_takes_it() {
    let store = Arc::new(MemoryUsage::default());
    store.refuse(full);
    let ledger = ledger(&store);
    for id in 0..Ledger::MAX_PENDING as u128 - 1 {
        ledger.attempted(attempt(id, DONE));
    }
    assert!(ledger.has_room());
    // A call in flight will have a record, too.
    ledger.began(Uuid::from_u128(1 << 64), Box::new(|_| attempt(1 << 64, Outcome::Lost)));
    assert!(!ledger.has_room());
    store.take_all();
    pass(Duration::from_secs(60)).await;
    assert!(ledger.has_room());
    assert_eq!(store.outcomes().len(), Ledger::MAX_PENDING - 1);
}

/// A ledger whose store has as many records before it as may wait.
fn filled(store: &Arc<MemoryUsage>) -> Arc<Ledger> {
    let ledger = ledger(store);
    for id in 0..Ledger::MAX_PENDING as u128 {
        ledger.attempted(attempt(id, DONE));
    }
    ledger
}

#[tokio::test(start_paused = true)]
async fn calls_go_at_the_pace_of_a_slow_store() {
    const CALLS: usize = 1_200;
    let store = Arc::new(MemoryUsage::default());
    store.slow_down(Duration::from_millis(300));
    let ledger = filled(&store);
    let mut calls = JoinSet::new();
    for id in 0..CALLS as u128 {
        let ledger = Arc::clone(&ledger);
        calls.spawn(async move {
            let is_accepted = ledger.wait_for_room().await;
            if is_accepted {
                ledger.attempted(attempt((1 << 64) + id, DONE));
            }
            is_accepted
        });
    }
    // No more begin than were stored.
    while store.outcomes().is_empty() {
        pass(Duration::from_millis(1)).await;
    }
    pass(Duration::from_millis(1)).await;
    assert!(!ledger.has_room());
    let mut accepted = 0;
    while let Some(call) = calls.try_join_next() {
        accepted += usize::from(call.unwrap());
    }
    assert_eq!(accepted, store.outcomes().len());
    while let Some(call) = calls.join_next().await {
        accepted += usize::from(call.unwrap());
    }
    assert_eq!(accepted, CALLS);
    ledger.flushed().await;
    assert_eq!(store.outcomes().len(), Ledger::MAX_PENDING + CALLS);
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_long_for_a_store_that_hangs_or_refuses() {
    let store = Arc::new(MemoryUsage::default());
    store.slow_down(Duration::from_secs(10));
    let hanging = filled(&store);
    let begun = Instant::now();
    assert!(!hanging.wait_for_room().await);
    assert_eq!(begun.elapsed(), Ledger::ROOM_WAIT);

    let store = Arc::new(MemoryUsage::default());
    store.refuse(full);
    let refused = filled(&store);
    // Those that wait when the store refuses, and those that come later.
    for _ in 0..2 {
        let begun = Instant::now();
        assert!(!refused.wait_for_room().await);
        assert!(begun.elapsed() <= Ledger::WINDOW, "{:?}", begun.elapsed());
    }
}

/// A ledger without room.
#[derive(Debug)]
struct FullLedger;

impl Meter for FullLedger {
    fn attempted(&self, attempt: AttemptRecord) {
        panic!("no call was to begin: {attempt:?}");
    }

    fn has_room(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_call_that_could_not_be_accounted_for_asks_no_provider() {
    let provider = Provider::faulty("text=x").await;
    let (gateway, _) = gateway(vec![place("a", provider.url())], CLOCKS);
    let gateway = Arc::into_inner(gateway).unwrap().with_meter(Arc::new(FullLedger));
    for stream in [false, true] {
        let error = gateway.chat(request(stream, Mode::Live)).await.unwrap_err();
        assert_eq!(error.kind, GatewayErrorKind::LimitsUnavailable);
        assert!(error.retry_after.is_some());
    }
    let refused = gateway.admit(&caller()).await.unwrap_err();
    assert_eq!(refused.kind, GatewayErrorKind::LimitsUnavailable);
    assert_eq!(provider.seen().await, 0);
}

#[tokio::test(start_paused = true)]
async fn exactly_the_lost_usage_of_a_turn_is_found() {
    let store = Arc::new(MemoryUsage::default());
    let ledger = ledger(&store);
    let turn = TurnId::new(Uuid::from_u128(9));
    let of = |id: u128, turn: Option<TurnId>, outcome| {
        let mut caller = caller();
        (caller.turn, caller.purpose) = (turn, Purpose::Turn);
        AttemptRecord {
            caller: Arc::new(caller),
            usage: Usage {
                completion_tokens: id as u64,
                ..Usage::default()
            },
            ..attempt(id, outcome)
        }
    };
    let other = Some(TurnId::new(Uuid::from_u128(8)));
    for (id, turn) in [(1, Some(turn)), (2, other), (3, None)] {
        ledger.began(Uuid::from_u128(id), Box::new(move |_| of(id, turn, Outcome::Lost)));
    }
    ledger.attempted(of(4, Some(turn), DONE));
    ledger.attempted(of(5, Some(turn), Outcome::Left));
    pass(Duration::from_secs(1)).await;
    ledger.close().await;
    store.record_lost_usage().await.unwrap();
    let now = copilotd_actors::ports::Clock::now(&FixedClock);
    let scope = caller().scope;
    let found = async |ledger: &Ledger, by_this_process: bool| {
        let of = UnreportedAttempts {
            turn,
            began_at: now,
            asked_at: by_this_process.then_some(now),
        };
        let found = ledger.unreported(&scope, &of, by_this_process).await.unwrap();
        found
            .iter()
            .map(|lost| lost.usage.completion_tokens)
            .collect::<Vec<_>>()
    };
    // This process knows what ended in it; what an earlier process did not live to record, the store knows.
    assert_eq!(found(&ledger, true).await, [4, 5]);
    let next = self::ledger(&store);
    assert_eq!(found(&next, true).await, [0_u64; 0]);
    assert_eq!(found(&next, false).await, [1]);
}

#[tokio::test]
async fn a_lost_call_is_recorded_for_the_target_that_was_called() {
    let slow = Provider::start().await;
    let places = vec![place("dead", super::refusing().await), place("alive", slow.url())];
    let (gateway, _) = gateway(places, CLOCKS);
    let store = Arc::new(MemoryUsage::default());
    let gateway = Arc::into_inner(gateway).unwrap().with_meter(ledger(&store));
    let prompt = "Count. [[sim tokens=2000 pace_ms=10]]";
    let body = json!({"model": "default", "messages": [{"role": "user", "content": prompt}], "stream": true});
    let call = GatewayCall {
        body: ChatBody::from_value(&body).unwrap(),
        ..request(true, Mode::Live)
    };
    let reply = gateway.chat(call).await.unwrap();
    let seen = async {
        // The first stored estimate may be from before the first piece.
        while store.notes().iter().all(|record| record.usage.completion_tokens == 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), async {
        let drained = async {
            if let copilotd_gateway::answer::Answer::Stream(mut pieces) = reply.answer {
                while futures::StreamExt::next(&mut pieces).await.is_some() {}
            }
        };
        tokio::select! { () = seen => {}, () = drained => panic!("it ended before it was put down") }
    })
    .await
    .unwrap();
    let notes = store.notes();
    let targets: Vec<_> = notes
        .iter()
        .map(|record| (record.provider.as_str(), record.outcome.as_str()))
        .collect();
    assert_eq!(targets, [("alive", "lost")]);
    assert!(notes[0].is_estimated && notes[0].usage.prompt_tokens > 0);
}
