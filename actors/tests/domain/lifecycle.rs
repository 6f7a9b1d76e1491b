//! Creating and changing a conversation.

use copilotd_actors::domain::command::Command;
use copilotd_actors::domain::content::Metadata;
use serde_json::json;

use crate::acts::*;
use crate::support::{World, case, policy};

#[test]
fn a_conversation_is_created_once() {
    let mut world = World::empty(policy());
    let creates = |body: &'static str| act(move |_| create(key("k", body)));
    assert_eq!(world.play(&submit(1)), "refused NotFound");
    assert_eq!(world.play(&recover()), "refused NotFound");
    assert_eq!(world.play(&creates("a")), "conversation.created");
    assert_eq!(world.play(&creates("a")), "nothing");
    assert_eq!(world.play(&creates("b")), "refused KeyReused");
    assert_eq!(world.play(&act(|_| create(None))), "refused KeyReused");
    world.play(&erase(""));
    assert_eq!(world.play(&creates("a")), "refused KeyReused");
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
