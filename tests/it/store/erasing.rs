//! Erasing: the tombstone fences, the rest is deleted.

use copilotd_actors::domain::content::Metadata;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::ports::{Append, ErasureReceipt, EventLog, ListQuery, LogError, Order, Snapshot};

use super::Fixture;
use crate::support::talk::{Talk, cancelled, erased, queued, started, turn, updated};

/// A conversation with a snapshot and an open turn that its tombstone's append cancels.
async fn erased_talk(log: &dyn EventLog) -> (Talk, Vec<TurnId>, Append) {
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let done = talk.turn(log, "secret").await;
    let open = turn();
    talk.write(log, vec![queued(open, "secret"), started(open)]).await;
    let snapshot = Snapshot {
        seq: 5,
        version: 1,
        state: b"secret".to_vec(),
    };
    log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
    let tombstone = talk.write(log, vec![cancelled(open), erased()]).await;
    (talk, vec![done, open], tombstone)
}

fn total(receipt: &ErasureReceipt) -> u64 {
    receipt.stores.iter().map(|(_, count)| count).sum()
}

async fn assert_refused(log: &dyn EventLog, talk: &Talk, stale: &[Append]) {
    for append in stale {
        let outcome = log.append(&talk.scope, append).await;
        assert!(matches!(outcome, Err(LogError::Erased)), "{outcome:?}");
    }
}

/// Writers with state of every age: at the end, at each number before it, and at the very first.
fn writers_of_every_age(talk: &Talk) -> Vec<Append> {
    let mut stale = vec![talk.draft(vec![updated("too late")])];
    let first = Talk {
        header: None,
        records: Vec::new(),
        ..talk.clone()
    };
    stale.push(first.draft(vec![first.created()]));
    for cut in 1..talk.records.len() {
        let mut header = Header::open(talk.id, &talk.records[0]).unwrap();
        talk.records[1..cut].iter().for_each(|record| header.apply(record));
        let then = Talk {
            header: Some(header),
            ..talk.clone()
        };
        stale.push(then.draft(vec![updated("too late")]));
    }
    stale
}

pub async fn a_tombstone_refuses_every_append(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, _, tombstone) = erased_talk(log).await;
    let stale = writers_of_every_age(&talk);
    assert_refused(log, &talk, &stale).await;
    // Its own writer may append it again.
    log.append(&talk.scope, &tombstone).await.unwrap();
    log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
    assert_refused(log, &talk, &stale).await;
    log.append(&talk.scope, &tombstone).await.unwrap();
    let snapshot = Snapshot {
        seq: 3,
        version: 1,
        state: b"late".to_vec(),
    };
    log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
    assert_eq!(log.snapshot(&talk.scope, talk.id).await.unwrap(), None);
    let left = log.read(&talk.scope, talk.id, 0, 100).await.unwrap();
    assert_eq!(left, talk.records[talk.records.len() - 1..]);
}

pub async fn erasing_leaves_only_the_tombstone(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, turns, tombstone) = erased_talk(log).await;
    // Until then the log can be folded as before.
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    let receipt = log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
    assert_eq!(
        total(&receipt),
        tombstone.last_seq() - 1 + 1,
        "records and a snapshot: {receipt:?}"
    );

    let left = log.read(&talk.scope, talk.id, 0, 100).await.unwrap();
    assert_eq!(left, talk.records[talk.records.len() - 1..]);
    for turn in turns {
        assert_eq!(log.read_turn(&talk.scope, turn).await.unwrap(), None);
    }
    for order in [Order::Asc, Order::Desc] {
        assert_eq!(
            log.read_messages(&talk.scope, talk.id, None, order, 100).await.unwrap(),
            []
        );
    }
    assert_eq!(log.snapshot(&talk.scope, talk.id).await.unwrap(), None);
    let header = log.header(&talk.scope, talk.id).await.unwrap().unwrap();
    assert_eq!(Some(&header), talk.header.as_ref());
    assert_eq!((header.erased, header.title, header.idempotency), (true, None, None));
    assert_eq!(header.metadata, Metadata::new());
    let query = ListQuery {
        erased: true,
        limit: 10,
        ..ListQuery::default()
    };
    assert_eq!(
        log.list(&talk.scope, &query).await.unwrap(),
        Vec::from_iter(talk.header.clone())
    );
    assert_eq!(log.pending(None, 10).await.unwrap(), []);
}

pub async fn erasing_twice_deletes_nothing_more(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, _, tombstone) = erased_talk(log).await;
    assert!(total(&log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap()) > 0);
    let header = log.header(&talk.scope, talk.id).await.unwrap();
    let again = log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
    assert_eq!(total(&again), 0, "{again:?}");
    assert!(!again.stores.is_empty(), "each store is named");
    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), header);
}

pub async fn only_the_tombstone_can_be_erased_up_to(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    talk.turn(log, "x").await;
    for seq in [0, 1, 3, talk.next() - 1, talk.next()] {
        let outcome = log.erase(&talk.scope, talk.id, seq).await;
        assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    let tombstone = talk.write(log, vec![erased()]).await;
    let outcome = log.erase(&talk.scope, talk.id, tombstone.last_seq() - 1).await;
    assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

pub async fn a_long_conversation_is_erased_whole(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    let mut neighbour = Talk::new("acme", "ann");
    talk.open(log).await;
    neighbour.open(log).await;
    for n in 0..430 {
        talk.write(log, vec![updated(&n.to_string())]).await;
    }
    let turn = talk.turn(log, "last").await;
    let tombstone = talk.write(log, vec![erased()]).await.last_seq();
    let receipt = log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
    assert_eq!(total(&receipt), tombstone - 1);
    assert_eq!(log.read(&talk.scope, talk.id, 0, 1000).await.unwrap().len(), 1);
    assert_eq!(log.read_turn(&talk.scope, turn).await.unwrap(), None);
    assert_eq!(
        log.read(&neighbour.scope, neighbour.id, 0, 10).await.unwrap(),
        neighbour.records
    );
}

pub async fn rebuilding_keeps_what_is_erased_erased(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, turns, tombstone) = erased_talk(log).await;
    log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
    (store.drop_projections)().await;
    assert_eq!(log.rebuild().await.unwrap(), 1);
    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    assert_eq!(log.pending(None, 10).await.unwrap(), []);
    assert_eq!(log.read_turn(&talk.scope, turns[0]).await.unwrap(), None);
    assert_refused(log, &talk, &writers_of_every_age(&talk)).await;
}
