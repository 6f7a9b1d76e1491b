//! StoredAmount bytes and conversations are counted with each append, and subtracted when they are erased.

use copilotd_actors::domain::conversation::quota::{StoredAmount, StoredTotals};
use copilotd_actors::ports::{EventLog, ListQuery};

use super::Fixture;
use crate::support::talk::{Talk, cancelled, erased, queued, scope, started, turn, updated};

/// The totals of a tenant and one of its users according to the headers.
fn expected(talks: &[Talk], tenant: &str, user: &str) -> StoredTotals {
    let mut totals = StoredTotals::default();
    let of_tenant = talks.iter().filter(|talk| talk.scope == scope(tenant));
    for talk in of_tenant {
        let stored = talk.header.as_ref().map(|header| header.stored()).unwrap_or_default();
        let of_user = (talk.user.as_str() == user).then_some(&mut totals.user);
        for total in [Some(&mut totals.tenant), of_user].into_iter().flatten() {
            total.conversations += stored.conversations;
            total.bytes += stored.bytes;
        }
    }
    totals
}

async fn check(log: &dyn EventLog, talks: &[Talk], what: &str) {
    // Waits for projections of earlier appends.
    log.list(
        &scope("acme"),
        &ListQuery {
            limit: 1,
            ..ListQuery::default()
        },
    )
    .await
    .unwrap();
    for tenant in ["acme", "globex", "nobody"] {
        for user in ["ann", "bob", "eve"] {
            let stored = log.stored(&scope(tenant), &user.parse().unwrap()).await.unwrap();
            assert_eq!(stored, expected(talks, tenant, user), "{what}: {tenant}/{user}");
        }
    }
}

async fn filled(log: &dyn EventLog) -> Vec<Talk> {
    let mut talks = Vec::new();
    for n in 0..12 {
        let mut talk = Talk::new(["acme", "globex"][n % 2], ["ann", "bob", "eve"][n % 3]);
        talk.open(log).await;
        for _ in 0..n % 4 {
            talk.turn(log, "Grüße, 世界").await;
        }
        talks.push(talk);
    }
    talks
}

pub async fn what_is_kept_is_counted(store: Fixture) {
    let log = store.log.as_ref();
    check(log, &[], "an empty store").await;
    let mut talks = filled(log).await;
    check(log, &talks, "filled").await;
    let bytes: usize = talks[3]
        .records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap().len())
        .sum();
    assert_eq!(talks[3].header.as_ref().unwrap().log_bytes, bytes as u64);
    for talk in &mut talks {
        talk.write(log, vec![updated("renamed")]).await;
    }
    check(log, &talks, "renamed").await;
    // The same append again is the same append, and one that loses counts nothing.
    let lost = talks[0].draft(vec![updated("lost")]);
    talks[0].write(log, vec![updated("won")]).await;
    log.append(&talks[0].scope, &lost).await.unwrap_err();
    let again = talks[1].draft(vec![updated("again")]);
    for _ in 0..3 {
        log.append(&talks[1].scope, &again).await.unwrap();
    }
    talks[1].written(&again);
    check(log, &talks, "conflicts and copies").await;
}

pub async fn erasing_gives_back_what_was_kept(store: Fixture) {
    let log = store.log.as_ref();
    let mut talks = filled(log).await;
    for n in [0, 3, 4, 5] {
        let open = turn();
        talks[n].write(log, vec![queued(open, "y"), started(open)]).await;
        talks[n].write(log, vec![cancelled(open), erased()]).await;
    }
    check(log, &talks, "erased").await;
    for n in [0, 3] {
        let tombstone = talks[n].header.as_ref().unwrap().last_seq;
        for _ in 0..2 {
            log.erase(&talks[n].scope, talks[n].id, tombstone).await.unwrap();
        }
    }
    check(log, &talks, "erased and cleaned").await;
}

pub async fn a_rebuild_counts_the_same(store: Fixture) {
    let log = store.log.as_ref();
    let mut talks = filled(log).await;
    for n in [1, 2] {
        talks[n].write(log, vec![erased()]).await;
        let tombstone = talks[n].header.as_ref().unwrap().last_seq;
        log.erase(&talks[n].scope, talks[n].id, tombstone).await.unwrap();
    }
    check(log, &talks, "before").await;
    (store.drop_projections)().await;
    for _ in 0..2 {
        log.rebuild().await.unwrap();
        check(log, &talks, "rebuilt").await;
    }
    talks[0].turn(log, "afterwards").await;
    check(log, &talks, "afterwards").await;
    assert_ne!(expected(&talks, "acme", "ann").user, StoredAmount::default());
}
