//! Creating, changing and erasing a conversation.

use copilotd_actors::domain::content::Metadata;
use copilotd_actors::domain::conversation::command::Command;
use serde_json::json;

use crate::acts::*;
use crate::support::{Scenario, case, policy, turn};

#[test]
fn a_conversation_is_created_once() {
    let mut scenario = Scenario::empty(policy());
    let creates = |body: &'static str| act(move |_| create(key("k", body)));
    assert_eq!(scenario.play(&submit(1)), "refused NotFound");
    assert_eq!(scenario.play(&recover()), "refused NotFound");
    assert_eq!(scenario.play(&creates("a")), "conversation.created");
    assert_eq!(scenario.play(&creates("a")), "nothing");
    assert_eq!(scenario.play(&creates("b")), "refused KeyReused");
    assert_eq!(scenario.play(&act(|_| create(None))), "refused KeyReused");
    scenario.play(&erase(""));
    assert_eq!(scenario.play(&creates("a")), "refused KeyReused");
}

#[test]
fn titles_and_metadata_are_bounded() {
    let update = |title: Option<String>, metadata: Option<Metadata>| {
        act(move |_| Command::Update {
            title: title.clone(),
            metadata: metadata.clone(),
        })
    };
    let object = |length: usize| json!({ "a": "x".repeat(length) }).as_object().cloned();
    case(vec![], update(Some("t".into()), object(5)), "conversation.updated");
    case(vec![], update(None, None), "nothing");
    case(
        vec![],
        update(Some("t".repeat(1025)), None),
        "refused TooLarge { what: \"the title\", max: 1024 }",
    );
    case(
        vec![],
        update(None, object(100)),
        "refused TooLarge { what: \"metadata\", max: 100 }",
    );
}

#[test]
fn a_written_title_never_replaces_one_and_is_tried_twice() {
    let titled = |title: Option<&'static str>| {
        act(move |_| Command::Titled {
            title: title.map(str::to_owned),
            model: "s".into(),
            usage: USAGE,
        })
    };
    let renamed = || {
        act(|_| Command::Update {
            title: Some("mine".into()),
            metadata: None,
        })
    };
    case(vec![], titled(Some("a title")), "conversation.titled a title");
    case(vec![], titled(None), "conversation.titled");
    case(
        vec![titled(None)],
        titled(Some("a title")),
        "conversation.titled a title",
    );
    case(vec![titled(None), titled(None)], titled(Some("a title")), "nothing");
    case(vec![renamed()], titled(Some("a title")), "conversation.titled");
    case(
        vec![titled(Some("first"))],
        titled(Some("second")),
        "conversation.titled",
    );
    case(vec![erase("")], titled(Some("a title")), "refused NotFound");
    let mut scenario = Scenario::new(policy());
    for act in [titled(Some("a title")), renamed()] {
        scenario.play(&act);
    }
    let header = &scenario.conversation.book.as_ref().expect("a conversation").header;
    assert_eq!((header.title.as_deref(), header.usage.sum), (Some("mine"), USAGE));
}

#[test]
fn feedback_on_a_turn_is_stored_a_bounded_number_of_times() {
    let rate = |n: u128, rating: i8, earlier: u32| {
        act(move |_| Command::GiveFeedback {
            turn: turn(n),
            rating,
            comment: None,
            by: "ada".into(),
            earlier,
        })
    };
    let mut scenario = Scenario::new(policy());
    scenario.play(&submit(1));
    scenario.play(&says("done"));
    let full = "refused FeedbackFull { max: 20 }";
    for n in 0..20 {
        // The caller's count may be outdated: the state's count applies.
        let rating = if n % 2 == 0 { 1 } else { -1 };
        assert_eq!(scenario.play(&rate(1, rating, 0)), format!("t1 turn.feedback {rating}"));
    }
    assert_eq!(scenario.play(&rate(1, 1, 0)), full);
    scenario.crash();
    assert_eq!(scenario.play(&rate(1, 1, 0)), full);
    // For turns that the state has forgotten, the caller has the count from the log.
    for n in 2..80 {
        assert_eq!(scenario.play(&rate(n, 1, 0)), format!("t{n} turn.feedback 1"));
    }
    assert_eq!(scenario.play(&rate(1, 1, 20)), full);
    assert!(
        scenario
            .conversation
            .book
            .as_ref()
            .is_some_and(|book| book.rated.len() <= 64)
    );
}

#[test]
fn a_suspended_tenants_turns_end() {
    case(
        vec![submit(1), submit(2)],
        suspend("so far"),
        "t1 message.completed cancelled 'so far'
         t1 turn.cancelled
         t2 turn.cancelled",
    );
    case(
        vec![submit(1), asks(&["ask", "read", "never"])],
        suspend(""),
        "t1 approval.decided c0 rejected system
         t1 tool.finished c0 rejected
         t1 tool.finished c1 cancelled
         t1 tool.finished c2 unknown
         t1 turn.cancelled",
    );
    case(vec![], suspend(""), "nothing");
    case(vec![submit(1), says("ok")], suspend(""), "nothing");
    case(
        vec![submit(1), suspend("")],
        submit(2),
        "t2 turn.queued\n t2 turn.started 1",
    );
}

#[test]
fn only_an_idle_conversation_is_erased_for_its_age() {
    // Every record of these worlds is older than the year 2100 and younger than 1970.
    let idle = |since: &'static str| {
        act(move |_| Command::EraseIdle {
            by: "retention".into(),
            since: since.parse().expect("a time"),
        })
    };
    let (later, earlier) = ("2100-01-01T00:00:00Z", "1970-01-01T00:00:00Z");
    case(vec![], idle(later), "conversation.erased retention");
    case(vec![], idle(earlier), "refused TurnRunning");
    let mut scenario = Scenario::new(policy());
    scenario.play(&submit(1));
    assert_eq!(
        scenario.play(&idle(later)),
        "refused TurnRunning",
        "while a turn is running"
    );
    scenario.play(&submit(2));
    scenario.play(&says("done"));
    assert_eq!(
        scenario.play(&idle(later)),
        "refused TurnRunning",
        "while a second turn is still open"
    );
    scenario.play(&says("done too"));
    assert_eq!(scenario.play(&idle(earlier)), "refused TurnRunning");
    assert_eq!(scenario.play(&idle(later)), "conversation.erased retention");
    assert_eq!(scenario.play(&idle(later)), "refused NotFound");
}
