//! Records as JSON: what was written once can always be read.

use std::collections::BTreeSet;

use copilotd_actors::domain::conversation::snapshot;
use copilotd_actors::domain::event::{Event, Record};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::acts::*;
use crate::support::{Scenario, conversation_id, policy};

const V1: &str = include_str!("../fixtures/events_v1.jsonl");

/// Every variant once. A new variant does not compile without an entry here, and then fails the test without a line in
/// the fixture.
fn name(event: &Event) -> &'static str {
    match event {
        Event::ConversationCreated { .. } => "conversation.created",
        Event::ConversationUpdated { .. } => "conversation.updated",
        Event::ConversationTitled { .. } => "conversation.titled",
        Event::ConversationErased { .. } => "conversation.erased",
        Event::TurnQueued { .. } => "turn.queued",
        Event::TurnReplaced { .. } => "turn.replaced",
        Event::TurnStarted { .. } => "turn.started",
        Event::TurnWaiting { .. } => "turn.waiting",
        Event::TurnPaused { .. } => "turn.paused",
        Event::TurnHandedOver { .. } => "turn.handed_over",
        Event::TurnResumed {} => "turn.resumed",
        Event::ContextAssembled { .. } => "context.assembled",
        Event::MessageCompleted { .. } => "message.completed",
        Event::MessageReset { .. } => "message.reset",
        Event::OutputRejected { .. } => "output.rejected",
        Event::ModelFailed { .. } => "model.failed",
        Event::ApprovalRequested { .. } => "approval.requested",
        Event::ApprovalDecided { .. } => "approval.decided",
        Event::ClientToolRequested { .. } => "client_tool.requested",
        Event::ToolCalled { .. } => "tool.called",
        Event::ToolRetried { .. } => "tool.retried",
        Event::ToolFinished { .. } => "tool.finished",
        Event::ToolSettled { .. } => "tool.settled",
        Event::GuardrailTriggered { .. } => "guardrail.triggered",
        Event::ModelFallback { .. } => "model.fallback",
        Event::MemoryCompressed { .. } => "memory.compressed",
        Event::FeedbackGiven { .. } => "turn.feedback",
        Event::TurnCompleted { .. } => "turn.completed",
        Event::TurnFailed { .. } => "turn.failed",
        Event::TurnCancelled { .. } => "turn.cancelled",
    }
}
const VARIANTS: usize = 30;

#[test]
fn records_of_version_one_are_read_and_written_unchanged() {
    let mut seen = BTreeSet::new();
    for (index, line) in V1.lines().enumerate() {
        let record: Record = serde_json::from_str(line).unwrap_or_else(|error| panic!("line {}: {error}", index + 1));
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["type"], json!(name(&record.event)), "line {}", index + 1);
        assert_eq!(serde_json::to_value(&record).unwrap(), json, "line {}", index + 1);
        seen.insert(name(&record.event));
    }
    assert_eq!(seen.len(), VARIANTS, "{seen:?}");
}

/// Any JSON that a tool may send: integers, floats and everything else.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".*", inner), 0..4).prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A live state contains what was decided, a replayed one what was written: they must be equal.
    #[test]
    fn values_of_tools_survive_the_log(value in any_json()) {
        let mut record: Record = V1
            .lines()
            .map(|line| serde_json::from_str::<Record>(line).unwrap())
            .find(|record| matches!(record.event, Event::ToolFinished { .. }))
            .unwrap();
        if let Event::ToolFinished { result, .. } = &mut record.event {
            *result = Some(value);
        }
        let json = serde_json::to_string(&record).unwrap();
        let again: Record = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&again, &record);
        prop_assert_eq!(serde_json::to_string(&again).unwrap(), json);
    }
}

#[test]
fn a_foreign_snapshot_is_ignored() {
    let mut scenario = Scenario::new(policy());
    scenario.play(&submit(1));
    let (id, seq) = (conversation_id(), scenario.conversation.seq);
    let bytes = snapshot::encode(&scenario.conversation);
    assert!(snapshot::decode(id, seq, &bytes).is_some());
    assert!(
        snapshot::decode(id, seq + 1, &bytes).is_none(),
        "of another position in the log"
    );
    let other = copilotd_actors::domain::ids::ConversationId::new(uuid::Uuid::from_u128(2));
    assert!(
        snapshot::decode(other, seq, &bytes).is_none(),
        "of another conversation"
    );
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("question 1"), "no text of a turn: {text}");
    let version = |version: u32| format!("\"version\":{version}");
    let newer = text.replace(&version(snapshot::VERSION), &version(snapshot::VERSION + 1));
    assert_ne!(newer, text);
    assert!(snapshot::decode(id, seq, newer.as_bytes()).is_none());
    for broken in ["", "{}", "null", &text[..text.len() / 2]] {
        assert!(snapshot::decode(id, seq, broken.as_bytes()).is_none());
    }
}

#[test]
fn an_empty_log_has_a_snapshot_too() {
    let empty = Scenario::empty(policy()).conversation;
    let (woken, from) = snapshot::decode(empty.id, 0, &snapshot::encode(&empty)).unwrap();
    assert_eq!((woken, from), (empty, 1));
}
