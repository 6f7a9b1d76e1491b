//! Search over a user's own conversations.

use std::time::Duration;

use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::search_words::SearchWords;
use copilotd_actors::ports::EventLog;
use copilotd_actors::search::{SearchBounds, SearchPage, SearchPosition, SearchQuery, search};
use jiff::SignedDuration;

use super::Fixture;
use crate::support::talk::{Talk, answered, completed, erased, queued, started, turn, updated};

/// Bounds that no test reaches.
const ALL: SearchBounds = SearchBounds {
    conversations: usize::MAX,
    bytes: usize::MAX,
    time: Duration::from_secs(600),
};

async fn page(
    log: &dyn EventLog,
    (tenant, user): (&str, &str),
    words: &str,
    from: Option<SearchPosition>,
    bounds: SearchBounds,
) -> SearchPage {
    let query = SearchQuery {
        user: user.parse().unwrap(),
        words: SearchWords::parse(words).unwrap(),
        from,
        limit: 3,
    };
    let scope = crate::support::talk::scope(tenant);
    search(log, &scope, &query, bounds).await.unwrap()
}

/// Reads all pages.
async fn found(log: &dyn EventLog, who: (&str, &str), words: &str, bounds: SearchBounds) -> Vec<ConversationId> {
    let (mut found, mut from) = (Vec::new(), None);
    for _ in 0..1_000 {
        let page = page(log, who, words, from, bounds).await;
        assert!(page.found.len() <= 3);
        found.extend(page.found.into_iter().map(|header| header.id));
        match page.next {
            Some(next) => assert_ne!(from.replace(next), Some(next), "a page makes progress"),
            None => return found,
        }
    }
    panic!("the search does not end");
}

async fn said(log: &dyn EventLog, who: (&str, &str), minute: i64, prompt: &str, answer: &str) -> Talk {
    let mut talk = Talk::new(who.0, who.1);
    talk.begun += SignedDuration::from_mins(minute);
    let turn = turn();
    let created = talk.created();
    talk.write(log, vec![created, updated("untitled")]).await;
    talk.write(log, vec![queued(turn, prompt), started(turn)]).await;
    talk.write(log, vec![answered(turn, answer), completed(turn)]).await;
    talk
}

pub async fn titles_prompts_and_answers_are_found(store: Fixture) {
    let (log, ann) = (store.log.as_ref(), ("acme", "ann"));
    let first = said(log, ann, 1, "The printer is on fire", "Call 112.").await;
    let mut second = said(
        log,
        ann,
        2,
        "Where is the caf\u{e9}?",
        "On the third floor, next to the PRINTER.",
    )
    .await;
    second.write(log, vec![updated("Coffee and cake")]).await;
    for (words, expected) in [
        ("printer", vec![second.id, first.id]),
        ("cafe", vec![second.id]),
        ("cake coff", vec![second.id]),
        ("112", vec![first.id]),
        // Of one message, and not one of each.
        ("fire call", vec![]),
        // The title before it was changed.
        ("invoices", vec![]),
        ("fir printer", vec![]),
    ] {
        assert_eq!(found(log, ann, words, ALL).await, expected, "{words}");
    }
}

pub async fn nobody_finds_what_is_not_their_own(store: Fixture) {
    let log = store.log.as_ref();
    let everybody = [("acme", "ann"), ("acme", "bob"), ("globex", "ann"), ("globex", "bob")];
    let mut talks = Vec::new();
    for (minute, who) in (0..).zip(everybody) {
        talks.push(said(log, who, minute, "The printer is on fire", "Run.").await);
    }
    let tight = SearchBounds {
        conversations: 1,
        bytes: 1,
        ..ALL
    };
    for (own, who) in talks.iter().zip(everybody) {
        for bounds in [ALL, tight] {
            assert_eq!(found(log, who, "printer", bounds).await, [own.id], "{who:?}");
        }
        // Nor with a position inside a conversation of somebody else.
        for other in talks.iter().filter(|talk| talk.id != own.id) {
            let position = SearchPosition {
                created_at: other.begun + SignedDuration::from_hours(1),
                conversation: other.id,
                before: Some(99),
            };
            let page = page(log, who, "printer", Some(position), ALL).await;
            assert!(page.found.iter().all(|header| header.id == own.id), "{who:?}");
        }
    }
}

pub async fn what_was_erased_is_not_found(store: Fixture) {
    let (log, ann) = (store.log.as_ref(), ("acme", "ann"));
    let mut talk = said(log, ann, 1, "The printer is on fire", "Run.").await;
    let position = SearchPosition {
        created_at: talk.header.as_ref().unwrap().created_at,
        conversation: talk.id,
        before: Some(99),
    };
    let tombstone = talk.write(log, vec![erased()]).await.last_seq();
    for is_cleaned in [false, true] {
        if is_cleaned {
            log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
        }
        assert_eq!(found(log, ann, "printer", ALL).await, []);
        assert_eq!(page(log, ann, "printer", Some(position), ALL).await.found, []);
    }
}

pub async fn pages_lose_nothing_and_repeat_nothing(store: Fixture) {
    let (log, ann) = (store.log.as_ref(), ("acme", "ann"));
    let mut expected = Vec::new();
    for n in 0..40 {
        let prompt = if n % 3 == 0 { "The printer is on fire" } else { "Hello" };
        let talk = said(log, ann, n, prompt, "Yes.").await;
        if n % 3 == 0 {
            expected.insert(0, talk.id);
        }
    }
    for (conversations, bytes) in [
        (usize::MAX, usize::MAX),
        (1, usize::MAX),
        (5, usize::MAX),
        (usize::MAX, 1),
        (7, 100),
    ] {
        let bounds = SearchBounds {
            conversations,
            bytes,
            ..ALL
        };
        assert_eq!(found(log, ann, "printer", bounds).await, expected, "{bounds:?}");
    }
    let no_time = SearchBounds {
        time: Duration::ZERO,
        ..ALL
    };
    assert_eq!(found(log, ann, "printer", no_time).await, expected);
}

pub async fn a_long_conversation_is_searched_in_parts(store: Fixture) {
    let (log, ann) = (store.log.as_ref(), ("acme", "ann"));
    let other = said(log, ann, 0, "Another needle", "Yes.").await;
    let mut talk = said(log, ann, 1, "The needle is here", "Yes.").await;
    for n in 0..120 {
        let turn = turn();
        let prompt = format!("Hay {n}");
        talk.write(
            log,
            vec![
                queued(turn, &prompt),
                started(turn),
                answered(turn, "Straw"),
                completed(turn),
            ],
        )
        .await;
    }
    let tight = SearchBounds { bytes: 1, ..ALL };
    let first = page(log, ann, "needle", None, tight).await;
    assert_eq!(first.found, []);
    assert!(
        first
            .next
            .is_some_and(|next| next.conversation == talk.id && next.before.is_some())
    );
    assert_eq!(found(log, ann, "needle", tight).await, [talk.id, other.id]);
    assert_eq!(found(log, ann, "needle", ALL).await, [talk.id, other.id]);
}
