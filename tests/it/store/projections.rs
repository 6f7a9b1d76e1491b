//! What is derived from the log: headers, snapshots, and rebuilding all of it.

use copilotd_actors::domain::event::{CompressionMethod, Event};
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::ports::{ListQuery, Snapshot};

use super::Fixture;
use crate::support::talk::{
    Talk, answered, assembled, cancelled, completed, erased, queued, scope, started, turn, updated, usage,
};

fn compressed() -> (Option<TurnId>, Event) {
    let event = Event::MemoryCompressed {
        upto_seq: 4,
        tokens_before: 900,
        tokens_after: 100,
        summary: "short".to_owned(),
        method: CompressionMethod::Summarised,
        model: "tiny-1".to_owned(),
        usage: usage(),
    };
    (None, event)
}

pub async fn a_header_shows_each_append_at_once(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    let (a, b) = (turn(), turn());
    for events in [
        vec![talk.created()],
        vec![queued(a, "x"), started(a)],
        vec![assembled(a)],
        vec![updated("re\0named"), queued(b, "y")],
        vec![answered(a, "z")],
        vec![completed(a), started(b)],
        vec![compressed()],
        vec![cancelled(b)],
        vec![erased()],
    ] {
        talk.write(log, events).await;
        assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    }
}

pub async fn a_snapshot_replaces_an_older_one(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    let snapshot = |seq, version| Snapshot {
        seq,
        version,
        state: vec![seq as u8, 0, 255, version as u8],
    };
    // Before its conversation there is nothing to fold.
    log.save_snapshot(&talk.scope, talk.id, &snapshot(1, 1)).await.unwrap();
    assert_eq!(log.snapshot(&talk.scope, talk.id).await.unwrap(), None);
    talk.open(log).await;
    talk.turn(log, "x").await;
    for (saved, newest) in [
        (snapshot(2, 1), snapshot(2, 1)),
        (snapshot(5, 1), snapshot(5, 1)),
        (snapshot(4, 1), snapshot(5, 1)),
        (snapshot(5, 2), snapshot(5, 2)),
        (snapshot(6, 1), snapshot(6, 1)),
    ] {
        log.save_snapshot(&talk.scope, talk.id, &saved).await.unwrap();
        assert_eq!(log.snapshot(&talk.scope, talk.id).await.unwrap(), Some(newest));
    }
}

pub async fn lost_projections_are_rebuilt_from_the_log(store: Fixture) {
    let log = store.log.as_ref();
    let mut talks = Vec::new();
    let mut turns = Vec::new();
    for n in 0..6 {
        let mut talk = Talk::new(["acme", "globex"][n % 2], ["ann", "bob", "eve"][n % 3]);
        talk.open(log).await;
        turns.push((n, talk.turn(log, "x").await));
        let open = turn();
        talk.write(log, vec![queued(open, "y"), updated("renamed"), started(open)])
            .await;
        turns.push((n, open));
        if n == 2 {
            talk.write(log, vec![cancelled(open), erased()]).await;
        }
        talks.push(talk);
    }
    let all = ListQuery {
        erased: true,
        limit: 100,
        ..ListQuery::default()
    };
    let listed = log.list(&scope("acme"), &all).await.unwrap();
    let pending = log.pending(None, 100).await.unwrap();
    (store.drop_projections)().await;
    assert_eq!(log.rebuild().await.unwrap(), 6);
    assert_eq!(log.list(&scope("acme"), &all).await.unwrap(), listed);
    assert_eq!(log.pending(None, 100).await.unwrap(), pending);
    for talk in &talks {
        assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    }
    for (n, turn) in turns {
        let found = log.read_turn(&talks[n].scope, turn).await.unwrap().unwrap();
        assert_eq!((found.conversation, &found.user), (talks[n].id, &talks[n].user));
        assert!(
            found
                .records
                .iter()
                .eq(talks[n].records.iter().filter(|r| r.turn == Some(turn)))
        );
    }
    // And again, without a loss; then appends continue.
    assert_eq!(log.rebuild().await.unwrap(), 6);
    talks[0].turn(log, "afterwards").await;
    assert_eq!(log.header(&talks[0].scope, talks[0].id).await.unwrap(), talks[0].header);
}
