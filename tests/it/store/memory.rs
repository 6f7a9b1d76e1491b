//! The in-memory store of the tests fulfils the same contract, so that what they prove holds for the others.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::fakes::log::{Fault, MemoryLog};
use copilotd_actors::ports::{EventLog, LogError};

use super::{Fixture, contract_suite};
use crate::support::talk::{Talk, updated};

async fn open() -> Option<Fixture> {
    Some(Fixture {
        log: Arc::new(MemoryLog::new()),
        drop_projections: Box::new(|| Box::pin(async {})),
        bounded: false,
        _guard: Box::new(()),
    })
}

contract_suite!(open);

#[tokio::test]
async fn a_retry_after_a_lost_answer_succeeds() {
    let log = MemoryLog::new();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    for (fault, commits) in [(Fault::Before, 1), (Fault::After, 3)] {
        log.fail_append(1, fault);
        let append = talk.draft(vec![updated("x")]);
        assert!(matches!(
            log.append(&talk.scope, &append).await,
            Err(LogError::Unavailable(_))
        ));
        assert_eq!(log.commits(), commits);
        log.append(&talk.scope, &append).await.unwrap();
        talk.written(&append);
    }
    assert_eq!(log.records(talk.id), talk.records);
    assert_eq!((log.commits(), log.attempts()), (3, 5));
}

#[tokio::test]
async fn appends_can_be_slow_held_and_refused() {
    let log = MemoryLog::new();
    let mut talk = Talk::new("acme", "ann");
    log.delay_appends(Duration::from_millis(40));
    let begun = tokio::time::Instant::now();
    talk.open(&log).await;
    assert!(begun.elapsed() >= Duration::from_millis(40));
    log.delay_appends(Duration::ZERO);

    log.refuse_append(1, "disk full");
    let refused = talk.clone().try_write(&log, vec![updated("x")]).await;
    assert!(matches!(refused, Err(LogError::Refused(reason)) if reason == "disk full"));

    log.hold();
    let held = {
        let (log, mut talk) = (log.clone(), talk.clone());
        tokio::spawn(async move { talk.try_write(&log, vec![updated("y")]).await })
    };
    tokio::task::yield_now().await;
    assert_eq!(log.commits(), 1);
    log.release();
    log.wait_for_commits(2).await;
    held.await.unwrap().unwrap();

    log.set_down(true);
    assert!(matches!(log.ready().await, Err(LogError::Unavailable(_))));
    assert!(matches!(
        log.read(&talk.scope, talk.id, 0, 1).await,
        Err(LogError::Unavailable(_))
    ));
}
