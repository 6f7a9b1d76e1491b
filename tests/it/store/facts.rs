//! The contract of the store of facts about users, on every store.

use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::ids::{FactId, TurnId, UserId};
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::ports::{EventLog, LogError, TenantData, TenantEraser};
use copilotd_knowledge::facts::store::{Change, FactStore, Lesson, LessonState, MAX_ATTEMPTS, StoredFact};
use copilotd_knowledge::facts::{Attribute, Fact};
use copilotd_knowledge::fakes::MemoryFacts;
use jiff::Timestamp;
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, erased, turn};

/// A store, and the log beside which it stands.
struct Stores {
    log: Arc<dyn EventLog>,
    facts: Arc<dyn FactStore>,
    /// Set for the store that does not see the log.
    memory: Option<Arc<MemoryFacts>>,
}

impl Stores {
    async fn erase(&self, talk: &mut Talk) -> Vec<(String, u64)> {
        let tombstone = talk.write(self.log.as_ref(), vec![erased()]).await.last_seq();
        let receipt = self.log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
        match &self.memory {
            None => receipt.stores,
            Some(memory) => {
                let facts = memory.erase(talk.scope.tenant(), talk.id);
                vec![("memory.facts".to_owned(), facts as u64)]
            }
        }
    }

    async fn texts(&self, talk: &Talk, user: &str) -> Vec<String> {
        let facts = self.facts.facts(&talk.scope, &user.parse().unwrap()).await.unwrap();
        facts.into_iter().map(|fact| fact.fact.text).collect()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000 + second * 1_000 + 7).unwrap()
}

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

fn lesson(talk: &Talk, of: &str, turn: TurnId, second: i64) -> Lesson {
    Lesson {
        user: user(of),
        conversation: talk.id,
        turn,
        said_at: at(second),
    }
}

fn fact(lesson: &Lesson, text: &str) -> StoredFact {
    StoredFact {
        id: FactId::derived(lesson.turn, text),
        fact: Fact {
            text: text.to_owned(),
            attribute: Attribute::of(text),
            valid_from: lesson.said_at,
            said_at: lesson.said_at,
            valid_to: None,
        },
        conversation: lesson.conversation,
        turn: lesson.turn,
        range: 3..17,
        is_corrected: false,
    }
}

fn puts(facts: &[StoredFact]) -> Change {
    Change {
        put: facts.to_vec(),
        delete: Vec::new(),
    }
}

async fn open_talk(stores: &Stores, tenant: &str, user: &str) -> Talk {
    let mut talk = Talk::new(tenant, user);
    talk.open(stores.log.as_ref()).await;
    talk
}

async fn a_lesson_is_closed_once_with_its_facts(stores: &Stores) {
    let talk = open_talk(stores, "acme", "ann").await;
    let first = lesson(&talk, "ann", turn(), 1);
    let store = stores.facts.as_ref();
    assert!(
        !store
            .close_lesson(&talk.scope, &first, &puts(&[fact(&first, "User is early")]))
            .await
            .unwrap()
    );
    for _ in 0..2 {
        assert_eq!(store.open_lesson(&talk.scope, &first).await.unwrap(), LessonState::Open);
    }
    assert_eq!(
        store.open_lessons(&talk.scope, &user("ann"), 9).await.unwrap(),
        std::slice::from_ref(&first)
    );
    let oslo = fact(&first, "User lives in Oslo");
    assert!(
        store
            .close_lesson(&talk.scope, &first, &puts(std::slice::from_ref(&oslo)))
            .await
            .unwrap()
    );
    assert!(
        !store
            .close_lesson(&talk.scope, &first, &puts(&[fact(&first, "User is late")]))
            .await
            .unwrap()
    );
    assert_eq!(
        store.open_lesson(&talk.scope, &first).await.unwrap(),
        LessonState::Closed
    );
    assert_eq!(store.open_lessons(&talk.scope, &user("ann"), 9).await.unwrap(), []);
    assert_eq!(
        store.facts(&talk.scope, &user("ann")).await.unwrap(),
        std::slice::from_ref(&oslo)
    );

    // A deleted fact stays deleted: its turn is learned from no more.
    let delete = Change {
        put: Vec::new(),
        delete: vec![oslo.id],
    };
    for _ in 0..2 {
        store.change(&talk.scope, &user("ann"), &delete).await.unwrap();
    }
    assert!(!store.close_lesson(&talk.scope, &first, &puts(&[oslo])).await.unwrap());
    assert_eq!(store.facts(&talk.scope, &user("ann")).await.unwrap(), []);
}

async fn facts_are_replaced_and_come_the_last_said_first(stores: &Stores) {
    let talk = open_talk(stores, "acme", "ben").await;
    let store = stores.facts.as_ref();
    let lessons: Vec<Lesson> = (0..3).map(|n| lesson(&talk, "ben", turn(), n)).collect();
    for (n, lesson) in lessons.iter().enumerate() {
        store.open_lesson(&talk.scope, lesson).await.unwrap();
        let fact = fact(lesson, &format!("User has {n} dogs \u{1f600} 'x' \"y\""));
        assert!(store.close_lesson(&talk.scope, lesson, &puts(&[fact])).await.unwrap());
    }
    let mut facts = store.facts(&talk.scope, &user("ben")).await.unwrap();
    let said: Vec<Timestamp> = facts.iter().map(|fact| fact.fact.said_at).collect();
    assert_eq!(said, [at(2), at(1), at(0)]);
    facts[2].fact.valid_to = Some(at(5));
    facts[1].fact.text = "User has a cat".to_owned();
    facts[1].is_corrected = true;
    store
        .change(&talk.scope, &user("ben"), &puts(&facts[1..]))
        .await
        .unwrap();
    assert_eq!(store.facts(&talk.scope, &user("ben")).await.unwrap(), facts);
}

async fn tenants_and_users_are_apart(stores: &Stores) {
    let talk = open_talk(stores, "acme", "cid").await;
    // The same ids in another tenant.
    let mut other = Talk {
        id: talk.id,
        ..Talk::new("globex", "cid")
    };
    other.open(stores.log.as_ref()).await;
    let store = stores.facts.as_ref();
    let shared = turn();
    for (talk, text) in [(&talk, "User is of acme"), (&other, "User is of globex")] {
        let lesson = lesson(talk, "cid", shared, 1);
        assert_eq!(
            store.open_lesson(&talk.scope, &lesson).await.unwrap(),
            LessonState::Open
        );
        let mut fact = fact(&lesson, text);
        fact.id = FactId::derived(shared, "one id");
        assert!(store.close_lesson(&talk.scope, &lesson, &puts(&[fact])).await.unwrap());
    }
    assert_eq!(stores.texts(&talk, "cid").await, ["User is of acme"]);
    assert_eq!(stores.texts(&other, "cid").await, ["User is of globex"]);
    assert_eq!(stores.texts(&talk, "dan").await, Vec::<String>::new());
    let delete = Change {
        put: Vec::new(),
        delete: vec![FactId::derived(shared, "one id")],
    };
    store.change(&other.scope, &user("cid"), &delete).await.unwrap();
    assert_eq!(stores.texts(&talk, "cid").await, ["User is of acme"]);
    assert_eq!(stores.texts(&other, "cid").await, Vec::<String>::new());
}

async fn a_lesson_is_given_up_after_its_attempts(stores: &Stores) {
    let talk = open_talk(stores, "acme", "eve").await;
    let store = stores.facts.as_ref();
    let lessons: Vec<Lesson> = (0..3).map(|n| lesson(&talk, "eve", turn(), n)).collect();
    for lesson in lessons.iter().rev() {
        store.open_lesson(&talk.scope, lesson).await.unwrap();
    }
    assert_eq!(
        store.open_lessons(&talk.scope, &user("eve"), 2).await.unwrap(),
        lessons[..2]
    );
    for attempt in 1..=MAX_ATTEMPTS {
        let is_closed = store.fail_lesson(&talk.scope, &lessons[0]).await.unwrap();
        assert_eq!(is_closed, attempt == MAX_ATTEMPTS);
    }
    assert_eq!(
        store.open_lesson(&talk.scope, &lessons[0]).await.unwrap(),
        LessonState::Closed
    );
    assert_eq!(
        store.open_lessons(&talk.scope, &user("eve"), 9).await.unwrap(),
        lessons[1..]
    );
}

async fn an_erasure_takes_what_rests_on_it_in_either_order(stores: &Stores) {
    let mut talk = open_talk(stores, "acme", "fay").await;
    let kept = open_talk(stores, "acme", "fay").await;
    let store = stores.facts.as_ref();
    let (early, late, other) = (
        lesson(&talk, "fay", turn(), 1),
        lesson(&talk, "fay", turn(), 2),
        lesson(&kept, "fay", turn(), 3),
    );
    for lesson in [&early, &late, &other] {
        assert_eq!(store.open_lesson(&talk.scope, lesson).await.unwrap(), LessonState::Open);
    }
    let (first, second) = (fact(&early, "User is early"), fact(&late, "User is late"));
    assert!(
        store
            .close_lesson(&talk.scope, &early, &puts(std::slice::from_ref(&first)))
            .await
            .unwrap()
    );
    assert!(
        store
            .close_lesson(&talk.scope, &other, &puts(&[fact(&other, "User stays")]))
            .await
            .unwrap()
    );
    let receipt = stores.erase(&mut talk).await;
    let of_facts = receipt.iter().find(|(name, _)| name.ends_with(".facts"));
    assert!(of_facts.is_some_and(|(_, erased)| *erased >= 1), "{receipt:?}");
    assert_eq!(stores.texts(&talk, "fay").await, ["User stays"]);

    // What was being learned meanwhile comes too late, and nothing brings back what was erased.
    assert!(!store.close_lesson(&talk.scope, &late, &puts(&[second])).await.unwrap());
    assert_eq!(
        store.open_lesson(&talk.scope, &late).await.unwrap(),
        LessonState::Erased
    );
    store
        .change(&talk.scope, &user("fay"), &puts(std::slice::from_ref(&first)))
        .await
        .unwrap();
    let third = lesson(&kept, "fay", turn(), 4);
    store.open_lesson(&talk.scope, &third).await.unwrap();
    let mixed = puts(&[first, fact(&third, "User is new")]);
    assert!(store.close_lesson(&talk.scope, &third, &mixed).await.unwrap());
    assert_eq!(stores.texts(&talk, "fay").await, ["User is new", "User stays"]);
    assert_eq!(store.open_lessons(&talk.scope, &user("fay"), 9).await.unwrap(), []);
}

async fn a_withdrawn_turn_is_not_learned_from(stores: &Stores) {
    let talk = open_talk(stores, "acme", "will").await;
    let (facts, scope) = (&stores.facts, &talk.scope);
    let [kept, learned, running, unknown] = [1, 2, 3, 4].map(|second| lesson(&talk, "will", turn(), second));
    for lesson in [&kept, &learned, &running] {
        assert_eq!(facts.open_lesson(scope, lesson).await.unwrap(), LessonState::Open);
    }
    for lesson in [&kept, &learned] {
        let text = if lesson == &kept {
            "User lives in Oslo"
        } else {
            "User is tall"
        };
        assert!(
            facts
                .close_lesson(scope, lesson, &puts(&[fact(lesson, text)]))
                .await
                .unwrap()
        );
    }
    for lesson in [&learned, &running, &unknown] {
        for _ in 0..2 {
            facts.withdraw(scope, lesson).await.unwrap();
        }
        assert_eq!(facts.open_lesson(scope, lesson).await.unwrap(), LessonState::Closed);
        let late = puts(&[fact(lesson, "User is short")]);
        assert!(!facts.close_lesson(scope, lesson, &late).await.unwrap());
    }
    assert_eq!(stores.texts(&talk, "will").await, ["User lives in Oslo"]);
    assert_eq!(facts.open_lessons(scope, &user("will"), 9).await.unwrap(), []);
    // What a withdrawn fact had superseded holds again.
    let moved = lesson(&talk, "will", turn(), 5);
    assert_eq!(facts.open_lesson(scope, &moved).await.unwrap(), LessonState::Open);
    let mut ended = fact(&kept, "User lives in Oslo");
    ended.fact.valid_to = Some(moved.said_at);
    let change = puts(&[ended, fact(&moved, "User lives in Bergen")]);
    assert!(facts.close_lesson(scope, &moved, &change).await.unwrap());
    for _ in 0..2 {
        facts.withdraw(scope, &moved).await.unwrap();
    }
    let left = facts.facts(scope, &user("will")).await.unwrap();
    let left: Vec<_> = left
        .iter()
        .map(|fact| (fact.fact.text.as_str(), fact.fact.valid_to))
        .collect();
    assert_eq!(left, [("User lives in Oslo", None)]);
    // A turn of another tenant with the same id is another one.
    let other = open_talk(stores, "globex", "will").await;
    facts.withdraw(&other.scope, &kept).await.unwrap();
    assert_eq!(stores.texts(&talk, "will").await, ["User lives in Oslo"]);
}

async fn contract(stores: &Stores) {
    a_withdrawn_turn_is_not_learned_from(stores).await;
    a_lesson_is_closed_once_with_its_facts(stores).await;
    facts_are_replaced_and_come_the_last_said_first(stores).await;
    tenants_and_users_are_apart(stores).await;
    a_lesson_is_given_up_after_its_attempts(stores).await;
    an_erasure_takes_what_rests_on_it_in_either_order(stores).await;
}

/// What a deleted tenant leaves, and what is refused while it is deleted.
async fn deletion(stores: &Stores, eraser: &dyn TenantEraser) {
    let talk = open_talk(stores, "initech", "gus").await;
    let other = open_talk(stores, "globex", "gus").await;
    for talk in [&talk, &other] {
        let lesson = lesson(talk, "gus", turn(), 1);
        stores.facts.open_lesson(&talk.scope, &lesson).await.unwrap();
        let facts = puts(&[fact(&lesson, "User is here")]);
        assert!(stores.facts.close_lesson(&talk.scope, &lesson, &facts).await.unwrap());
    }
    let late = lesson(&talk, "gus", turn(), 2);
    stores.facts.open_lesson(&talk.scope, &late).await.unwrap();
    let initech = talk.scope.tenant();
    eraser.close_tenant(initech).await.unwrap();
    let facts = puts(&[fact(&late, "User is late")]);
    let refused = stores.facts.close_lesson(&talk.scope, &late, &facts).await;
    assert!(matches!(refused, Err(LogError::Refused(_))), "{refused:?}");
    for expected in [3, 0] {
        assert_eq!(eraser.erase_tenant(initech, TenantData::Facts).await.unwrap(), expected);
    }
    eraser.erase_tenant(initech, TenantData::Records).await.unwrap();
    eraser.erase_tenant(initech, TenantData::Projections).await.unwrap();
    eraser.reopen_tenant(initech);
    assert!(!stores.facts.close_lesson(&talk.scope, &late, &facts).await.unwrap());
    assert_eq!(stores.texts(&talk, "gus").await, Vec::<String>::new());
    assert_eq!(stores.texts(&other, "gus").await, ["User is here"]);
}

#[tokio::test]
async fn in_memory() {
    let facts = Arc::new(MemoryFacts::default());
    contract(&Stores {
        log: Arc::new(MemoryLog::new()),
        facts: Arc::clone(&facts) as _,
        memory: Some(facts),
    })
    .await;
}

#[tokio::test]
async fn on_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let stores = Stores {
        log: Arc::clone(&store) as _,
        facts: Arc::clone(&store) as _,
        memory: None,
    };
    contract(&stores).await;
    deletion(&stores, store.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    if let Some(database) = TestDatabase::new().await {
        let store = Arc::new(database.connect().await.unwrap());
        let stores = Stores {
            log: Arc::clone(&store) as _,
            facts: Arc::clone(&store) as _,
            memory: None,
        };
        contract(&stores).await;
        deletion(&stores, store.as_ref()).await;
    }
}

/// A deleted, a corrected and an erased text leave no bytes in the files.
#[tokio::test]
async fn no_text_stays_in_the_files_of_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let stores = Stores {
        log: Arc::clone(&store) as _,
        facts: Arc::clone(&store) as _,
        memory: None,
    };
    let mut talk = open_talk(&stores, "acme", "hal").await;
    let lesson = lesson(&talk, "hal", turn(), 1);
    store.open_lesson(&talk.scope, &lesson).await.unwrap();
    let mut facts: Vec<StoredFact> = (0..300).map(|n| fact(&lesson, &format!("User hid-kept {n}"))).collect();
    facts.push(fact(&lesson, "User hid-deleted"));
    facts.push(fact(&lesson, "User hid-corrected"));
    assert!(store.close_lesson(&talk.scope, &lesson, &puts(&facts)).await.unwrap());
    let mut corrected = facts.pop().unwrap();
    corrected.fact.text = "User is fine".to_owned();
    let change = Change {
        put: vec![corrected],
        delete: vec![facts.pop().unwrap().id],
    };
    store.change(&talk.scope, &user("hal"), &change).await.unwrap();
    let found = || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for secret in ["hid-deleted", "hid-corrected", "hid-kept"] {
                if bytes.windows(secret.len()).any(|window| window == secret.as_bytes()) && !found.contains(&secret) {
                    found.push(secret);
                }
            }
        }
        found
    };
    assert_eq!(found(), ["hid-kept"]);
    stores.erase(&mut talk).await;
    assert_eq!(found(), Vec::<&str>::new());
}
