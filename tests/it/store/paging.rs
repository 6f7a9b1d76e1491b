//! Reading in pages: records, turns, messages, conversations, work of the reconciler.

use copilotd_actors::domain::event::{Channel, Record};
use copilotd_actors::domain::ids::Seq;
use copilotd_actors::ports::{EventLog, ListQuery, Order, PendingConversation};
use jiff::SignedDuration;

use super::Fixture;
use crate::support::talk::{
    Talk, answered, assembled, cancelled, completed, erased, queued, scope, started, turn, updated,
};

/// A conversation whose appends have one to five records, with two turns that interleave.
async fn interleaved(log: &dyn EventLog) -> (Talk, [copilotd_actors::domain::ids::TurnId; 2]) {
    let mut talk = Talk::new("acme", "ann");
    let (a, b) = (turn(), turn());
    talk.open(log).await;
    talk.write(log, vec![queued(a, "first"), started(a), queued(b, "second")])
        .await;
    talk.write(log, vec![assembled(a)]).await;
    talk.write(
        log,
        vec![
            answered(a, "one"),
            completed(a),
            started(b),
            assembled(b),
            answered(b, "two"),
        ],
    )
    .await;
    talk.write(log, vec![updated("a title")]).await;
    talk.write(log, vec![answered(b, "three"), answered(b, "four")]).await;
    talk.write(log, vec![completed(b)]).await;
    (talk, [a, b])
}

pub async fn reading_pages_at_every_cut(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, _) = interleaved(log).await;
    let end = talk.records.len();
    for after in 0..=end + 1 {
        for limit in 0..=end + 1 {
            let page = log.read(&talk.scope, talk.id, after as Seq, limit).await.unwrap();
            let expected: Vec<Record> = talk.records.iter().skip(after).take(limit).cloned().collect();
            assert_eq!(page, expected, "after {after}, limit {limit}");
        }
    }
    let all = log.read(&talk.scope, talk.id, 0, usize::MAX).await.unwrap();
    assert_eq!(all, talk.records);
    // A reader may name a number beyond any log.
    assert_eq!(log.read(&talk.scope, talk.id, Seq::MAX, 10).await.unwrap(), []);
}

pub async fn a_turn_is_found_among_others(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, turns) = interleaved(log).await;
    let (mut other, _) = interleaved(log).await;
    other.turn(log, "another").await;
    for turn in turns {
        let found = log.read_turn(&talk.scope, turn).await.unwrap().unwrap();
        let expected: Vec<Record> = talk.records.iter().filter(|r| r.turn == Some(turn)).cloned().collect();
        assert_eq!(found.records, expected);
        assert_eq!((found.conversation, found.user), (talk.id, talk.user.clone()));
    }
    assert_eq!(log.read_turn(&talk.scope, turn()).await.unwrap(), None);
}

pub async fn messages_page_both_ways(store: Fixture) {
    let log = store.log.as_ref();
    let (talk, _) = interleaved(log).await;
    let messages: Vec<Record> = talk.records.iter().filter(|r| r.event.is_message()).cloned().collect();
    let cursors = (0..=talk.next() + 1).map(Some).chain([None, Some(Seq::MAX)]);
    for cursor in cursors {
        for limit in 0..=messages.len() + 1 {
            let up = log
                .read_messages(&talk.scope, talk.id, cursor, Order::Asc, limit)
                .await
                .unwrap();
            let later = messages.iter().filter(|r| cursor.is_none_or(|cursor| r.seq > cursor));
            assert_eq!(
                up,
                later.take(limit).cloned().collect::<Vec<_>>(),
                "up from {cursor:?}, {limit}"
            );
            let down = log
                .read_messages(&talk.scope, talk.id, cursor, Order::Desc, limit)
                .await
                .unwrap();
            let earlier = messages
                .iter()
                .rev()
                .filter(|r| cursor.is_none_or(|cursor| r.seq < cursor));
            assert_eq!(
                down,
                earlier.take(limit).cloned().collect::<Vec<_>>(),
                "down from {cursor:?}, {limit}"
            );
        }
    }
}

pub async fn lists_are_newest_first(store: Fixture) {
    let log = store.log.as_ref();
    let mut talks = Vec::new();
    for n in 0..13 {
        let mut talk = Talk::new("acme", "ann");
        // Three share each timestamp, and order of creation is not order of writing.
        talk.begun += SignedDuration::from_nanos((n * 5 % 13) / 3);
        talk.open(log).await;
        talks.push(talk);
    }
    let mut foreign = Talk::new("globex", "ann");
    foreign.open(log).await;
    let mut expected: Vec<_> = talks.iter().filter_map(|talk| talk.header.clone()).collect();
    expected.sort_by_key(|header| std::cmp::Reverse((header.created_at, header.id)));
    for limit in [1, 2, 3, 5, 13, 100] {
        let mut before = None;
        let mut listed = Vec::new();
        loop {
            let query = ListQuery {
                before,
                limit,
                ..ListQuery::default()
            };
            let page = log.list(&scope("acme"), &query).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            before = Some((last.created_at, last.id));
            listed.extend(page);
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
}

pub async fn lists_filter_by_user_channel_and_erasure(store: Fixture) {
    let log = store.log.as_ref();
    let mut talks = Vec::new();
    for (n, (user, channel)) in [
        ("ann", Channel::Api),
        ("ann", Channel::Slack),
        ("bob", Channel::Api),
        ("bob", Channel::Widget),
        ("ann", Channel::Api),
    ]
    .into_iter()
    .enumerate()
    {
        let mut talk = Talk::new("acme", user);
        talk.channel = channel;
        talk.begun += SignedDuration::from_secs(n as i64);
        talk.open(log).await;
        talks.push(talk);
    }
    talks[0].write(log, vec![erased()]).await;
    let check = async |user: Option<&str>, channel: Option<Channel>, erased: bool, expected: &[usize]| {
        let query = ListQuery {
            user: user.map(|user| user.parse().unwrap()),
            channel,
            erased,
            before: None,
            limit: 10,
        };
        let listed: Vec<_> = log
            .list(&scope("acme"), &query)
            .await
            .unwrap()
            .iter()
            .map(|h| h.id)
            .collect();
        let expected: Vec<_> = expected.iter().map(|n| talks[*n].id).collect();
        assert_eq!(listed, expected, "{query:?}");
    };
    check(None, None, false, &[4, 3, 2, 1]).await;
    check(None, None, true, &[4, 3, 2, 1, 0]).await;
    check(Some("ann"), None, false, &[4, 1]).await;
    check(Some("ann"), None, true, &[4, 1, 0]).await;
    check(Some("ann"), Some(Channel::Api), true, &[4, 0]).await;
    check(None, Some(Channel::Api), false, &[4, 2]).await;
    check(Some("eve"), None, true, &[]).await;
}

pub async fn pending_pages_over_all_tenants(store: Fixture) {
    let log = store.log.as_ref();
    let mut expected = Vec::new();
    for (n, tenant) in ["globex", "acme", "initech", "acme", "globex", "acme"]
        .into_iter()
        .enumerate()
    {
        let mut talk = Talk::new(tenant, "ann");
        talk.open(log).await;
        talk.turn(log, "done").await;
        let open = turn();
        let last = match n % 3 {
            0 => talk.write(log, vec![queued(open, "open"), started(open)]).await,
            1 => {
                talk.write(log, vec![queued(open, "open"), started(open)]).await;
                talk.write(log, vec![cancelled(open), erased()]).await
            }
            _ => continue,
        };
        expected.push(PendingConversation {
            scope: talk.scope.clone(),
            conversation: talk.id,
            tombstone: last.tombstone(),
            updated_at: last.header.updated_at,
            last_seq: last.header.last_seq,
        });
    }
    expected.sort_by_key(|pending| (pending.scope.tenant().clone(), pending.conversation));
    assert_eq!(expected.len(), 4);
    for limit in 1..=5 {
        let mut found: Vec<PendingConversation> = Vec::new();
        loop {
            let page = log.pending(found.last(), limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, expected, "in pages of {limit}");
    }
    // What has been reconciled is not pending any more.
    for pending in &expected {
        if let Some(tombstone) = pending.tombstone {
            log.erase(&pending.scope, pending.conversation, tombstone)
                .await
                .unwrap();
        }
    }
    expected.retain(|pending| pending.tombstone.is_none());
    assert_eq!(log.pending(None, 10).await.unwrap(), expected);
}
