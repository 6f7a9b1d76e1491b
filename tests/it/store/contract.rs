//! Appending: atomic, fenced, repeatable, and closed to other tenants.

use std::sync::Arc;

use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::ports::{Append, ListQuery, LogError, Order, Snapshot};
use futures::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use super::Fixture;
use crate::support::talk::{Talk, answered, assembled, completed, erased, queued, scope, started, turn, updated};

pub async fn an_append_is_read_back_as_it_was(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    talk.turn(log, "Grüße, 世界 \u{0} \u{1F600}").await;
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

pub async fn an_append_is_all_or_nothing(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let rival = talk.clone();
    let turn = turn();
    talk.write(log, vec![queued(turn, "first"), started(turn), assembled(turn)])
        .await;
    let loser = rival.draft(vec![updated("lost"), queued(crate::support::talk::turn(), "lost")]);
    assert!(matches!(
        log.append(&talk.scope, &loser).await,
        Err(LogError::Conflict(2))
    ));
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
}

pub async fn malformed_appends_are_refused(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let good = talk.draft(vec![updated("a"), updated("b")]);
    let spoil = |spoil: fn(&mut Append)| {
        let mut append = good.clone();
        spoil(&mut append);
        append
    };
    for bad in [
        spoil(|append| append.records = Arc::from([])),
        spoil(|append| Arc::make_mut(&mut append.records)[1].seq += 1),
        spoil(|append| append.header.tenant = "other".parse().unwrap()),
        spoil(|append| append.header.id = ConversationId::new(Uuid::now_v7())),
        spoil(|append| append.header.last_seq -= 1),
        spoil(|append| append.user = "bob".parse().unwrap()),
    ] {
        let outcome = log.append(&talk.scope, &bad).await;
        assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?} for {bad:?}");
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

pub async fn the_second_append_at_a_number_conflicts(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    let rival = talk.clone();
    talk.open(log).await;
    let second = rival.draft(vec![rival.created()]);
    assert!(matches!(
        log.append(&talk.scope, &second).await,
        Err(LogError::Conflict(1))
    ));
}

pub async fn an_append_behind_or_beyond_the_end_conflicts(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    let unborn = {
        let mut ahead = talk.clone();
        let first = ahead.draft(vec![ahead.created()]);
        ahead.written(&first);
        ahead.draft(vec![updated("before its creation")])
    };
    assert!(matches!(
        log.append(&talk.scope, &unborn).await,
        Err(LogError::Conflict(2))
    ));
    talk.open(log).await;
    talk.write(log, vec![updated("a"), updated("b")]).await;
    let beyond = {
        let mut ahead = talk.clone();
        let missing = ahead.draft(vec![updated("never written")]);
        ahead.written(&missing);
        ahead.draft(vec![updated("c")])
    };
    assert!(matches!(
        log.append(&talk.scope, &beyond).await,
        Err(LogError::Conflict(5))
    ));
    // In the middle of an append, where no append of a correct writer can begin.
    let mut middle = talk.draft(vec![updated("d")]);
    Arc::make_mut(&mut middle.records)[0].seq = 3;
    middle.header.last_seq = 3;
    assert!(matches!(
        log.append(&talk.scope, &middle).await,
        Err(LogError::Conflict(3))
    ));
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

pub async fn a_repeated_append_is_success(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    let first = talk.open(log).await;
    log.append(&talk.scope, &first).await.unwrap();
    let turn = turn();
    let second = talk.write(log, vec![queued(turn, "hello"), started(turn)]).await;
    talk.write(log, vec![completed(turn)]).await;
    for repeated in [&first, &second, &first] {
        log.append(&talk.scope, repeated).await.unwrap();
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    assert_eq!(
        log.header(&talk.scope, talk.id).await.unwrap(),
        talk.header,
        "an old append must not move it back"
    );
}

pub async fn of_concurrent_appends_at_one_number_one_wins(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    for round in 0..5 {
        let rivals: Vec<Append> = (0..8)
            .map(|n| talk.draft(vec![updated(&format!("{round}/{n}"))]))
            .collect();
        let tasks = rivals.iter().map(|append| {
            let (log, scope, append) = (Arc::clone(&store.log), talk.scope.clone(), append.clone());
            tokio::spawn(async move { log.append(&scope, &append).await })
        });
        let outcomes: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        let winners: Vec<usize> = (0..8).filter(|n| outcomes[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let conflicts = outcomes
            .iter()
            .filter(|o| matches!(o, Err(LogError::Conflict(_))))
            .count();
        assert_eq!(conflicts, 7, "{outcomes:?}");
        talk.written(&rivals[winners[0]]);
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
}

pub async fn concurrent_conversations_do_not_disturb_each_other(store: Fixture) {
    let tasks = (0..24).map(|n| {
        let log = Arc::clone(&store.log);
        tokio::spawn(async move {
            let mut talk = Talk::new(["acme", "globex"][n % 2], "ann");
            talk.open(log.as_ref()).await;
            for round in 0..5 {
                // Every third one asks for a number that is taken, amid the others' commits.
                let stale = (n % 3 == 0).then(|| talk.draft(vec![updated("stale")]));
                talk.turn(log.as_ref(), &format!("{n}/{round}")).await;
                if let Some(stale) = stale {
                    let outcome = log.append(&talk.scope, &stale).await;
                    assert!(matches!(outcome, Err(LogError::Conflict(_))), "{outcome:?}");
                }
            }
            assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
}

pub async fn numbers_and_key_order_survive(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let schema: Value = serde_json::from_str(
        r#"{"z":1,"a":{"$ref":"x","b.c":[18446744073709551615,-9223372036854775808,0.1,1e300,1.0,5e-324]},"":null,"y":[]}"#,
    )
    .unwrap();
    let turn = turn();
    let Event::TurnQueued { input, metadata, .. } = queued(turn, "exact").1 else {
        unreachable!("`queued` makes that event")
    };
    let event = Event::TurnQueued {
        input,
        metadata,
        response_schema: Some(schema),
        idempotency: None,
        trace: None,
        api_key: None,
        roles: Vec::new(),
        nonce: Some("0123456789abcdef".to_owned()),
        next: false,
        replaces: None,
        client_tools: Vec::new(),
    };
    talk.write(log, vec![(Some(turn), event)]).await;
    let read = log.read(&talk.scope, talk.id, 1, 1).await.unwrap();
    // As text: two maps with their keys in another order are equal, and must not pass here.
    assert_eq!(
        serde_json::to_string(&read).unwrap(),
        serde_json::to_string(&talk.records[1..]).unwrap()
    );
}

pub async fn a_large_append_is_kept_and_a_huge_one_refused(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let large = "0123456789abcdé\u{1}".repeat(200_000);
    let turn = turn();
    talk.write(log, vec![queued(turn, &large), answered(turn, &large)])
        .await;
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    if store.bounded {
        let huge = vec![queued(crate::support::talk::turn(), &"x".repeat(13 << 20))];
        let outcome = talk.clone().try_write(log, huge).await;
        assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
        assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    }
    talk.write(log, vec![updated("still alive")]).await;
}

pub async fn nothing_crosses_tenants(store: Fixture) {
    let log = store.log.as_ref();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let turn = talk.turn(log, "secret").await;
    let snapshot = Snapshot {
        seq: 6,
        version: 1,
        state: b"secret".to_vec(),
    };
    log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();

    let other = scope("globex");
    assert_eq!(log.read(&other, talk.id, 0, 100).await.unwrap(), []);
    assert_eq!(log.read_turn(&other, turn).await.unwrap(), None);
    for order in [Order::Asc, Order::Desc] {
        assert_eq!(log.read_messages(&other, talk.id, None, order, 100).await.unwrap(), []);
    }
    assert_eq!(log.header(&other, talk.id).await.unwrap(), None);
    let all = ListQuery {
        erased: true,
        limit: 100,
        ..ListQuery::default()
    };
    assert_eq!(log.list(&other, &all).await.unwrap(), []);
    assert_eq!(log.snapshot(&other, talk.id).await.unwrap(), None);
    // Writes in another tenant's scope: to an id that is not theirs, and with a header that names the real owner.
    let theft = Snapshot {
        state: b"theft".to_vec(),
        ..snapshot.clone()
    };
    log.save_snapshot(&other, talk.id, &theft).await.unwrap();
    let append = talk.draft(vec![updated("theft")]);
    assert!(matches!(log.append(&other, &append).await, Err(LogError::Refused(_))));
    // Before and after the tombstone is stored.
    for _ in 0..2 {
        let receipt = log.erase(&other, talk.id, talk.next() - 1).await.unwrap();
        assert_eq!(receipt.stores.iter().map(|(_, count)| count).sum::<u64>(), 0);
        assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
        assert_eq!(
            log.snapshot(&talk.scope, talk.id).await.unwrap().as_ref(),
            Some(&snapshot)
        );
        if talk.header.as_ref().is_some_and(|header| !header.erased) {
            talk.write(log, vec![erased()]).await;
        }
    }
    // The same id in another tenant is another conversation.
    let mut twin = Talk::new("globex", "bob");
    twin.id = talk.id;
    twin.open(log).await;
    twin.turn(log, "mine").await;
    assert_eq!(log.read(&twin.scope, twin.id, 0, 100).await.unwrap(), twin.records);
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    log.erase(&talk.scope, talk.id, talk.next() - 1).await.unwrap();
    assert_eq!(log.read(&twin.scope, twin.id, 0, 100).await.unwrap(), twin.records);
    assert_eq!(log.header(&twin.scope, twin.id).await.unwrap(), twin.header);
}

pub async fn an_empty_store_answers(store: Fixture) {
    let log = store.log.as_ref();
    let (scope, id) = (scope("acme"), ConversationId::new(Uuid::now_v7()));
    log.ready().await.unwrap();
    assert_eq!(log.read(&scope, id, 0, 10).await.unwrap(), []);
    assert_eq!(log.read_turn(&scope, turn()).await.unwrap(), None);
    assert_eq!(log.header(&scope, id).await.unwrap(), None);
    assert_eq!(log.snapshot(&scope, id).await.unwrap(), None);
    assert_eq!(log.pending(None, 10).await.unwrap(), []);
    assert_eq!(
        log.erase(&scope, id, 3)
            .await
            .unwrap()
            .stores
            .iter()
            .map(|(_, n)| n)
            .sum::<u64>(),
        0
    );
    assert_eq!(log.rebuild().await.unwrap(), 0);
    let query = ListQuery {
        limit: 10,
        ..ListQuery::default()
    };
    assert_eq!(log.list(&scope, &query).await.unwrap(), []);
}
