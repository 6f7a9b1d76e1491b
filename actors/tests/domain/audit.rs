//! Invariants that hold for every log, whatever led to it.

use std::collections::{BTreeMap, BTreeSet};

use copilotd_actors::domain::conversation::Conversation;
use copilotd_actors::domain::conversation::turn::Phase;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{CallId, MessageId, TurnId};
use copilotd_actors::domain::usage::Usage;

use crate::support::conversation_id;

#[derive(Default)]
struct Seen {
    queued: BTreeSet<TurnId>,
    ended: BTreeSet<TurnId>,
    replaced: BTreeSet<TurnId>,
    open_calls: BTreeMap<CallId, TurnId>,
    finished: BTreeSet<CallId>,
    unknown: BTreeSet<CallId>,
    /// Calls that were offered to pages, and those that a page claimed.
    offered: BTreeSet<CallId>,
    claimed: BTreeSet<CallId>,
    closed: BTreeSet<MessageId>,
    /// Usage of each turn's model calls, summed over the records that carry it.
    used: BTreeMap<TurnId, Usage>,
}

/// Panics at the first append that violates an invariant.
pub fn audit(appends: &[Vec<Record>]) {
    let mut seen = Seen::default();
    let mut conversation = Conversation::new(conversation_id());
    let mut seq = 0;
    for append in appends {
        let open = step_under_way(&conversation);
        for record in append {
            seq += 1;
            assert_eq!(record.seq, seq);
            look(&mut seen, record);
            conversation.apply(record);
        }
        // A model step that was running is closed exactly once when the turn leaves it.
        if let Some(message) = open
            && step_under_way(&conversation) != Some(message)
        {
            assert!(
                seen.closed.contains(&message),
                "an open message was not closed: {append:#?}"
            );
        }
        let idle = conversation
            .book
            .iter()
            .any(|book| book.turns.front().is_some_and(|turn| turn.phase == Phase::Queued));
        assert!(!idle, "a turn is queued although none is running: {append:#?}");
    }
}

/// Returns the message that is being written between two appends.
fn step_under_way(conversation: &Conversation) -> Option<MessageId> {
    let turn = conversation.active().filter(|turn| turn.phase == Phase::Thinking)?;
    Some(MessageId::of_step(turn.id, turn.attempt, turn.step))
}

fn look(seen: &mut Seen, record: &Record) {
    if let Some(turn) = record.turn {
        match &record.event {
            Event::TurnQueued { .. } => assert!(seen.queued.insert(turn), "queued twice"),
            Event::FeedbackGiven { .. } | Event::ToolSettled { .. } => {}
            Event::TurnReplaced { by } => {
                assert!(seen.ended.contains(&turn), "replaced before its end");
                assert!(seen.replaced.insert(turn), "replaced twice");
                assert!(!seen.queued.contains(by), "replaced by a turn that exists");
            }
            event => {
                assert!(seen.queued.contains(&turn), "not queued: {event:?}");
                assert!(!seen.ended.contains(&turn), "after its end: {event:?}");
            }
        }
        if let Event::MessageCompleted { usage, .. }
        | Event::OutputRejected { usage, .. }
        | Event::ModelFailed { usage, .. } = &record.event
        {
            *seen.used.entry(turn).or_default() += *usage;
        }
        if let Event::TurnCompleted { usage, .. } | Event::TurnFailed { usage, .. } | Event::TurnCancelled { usage } =
            &record.event
        {
            let used = seen.used.remove(&turn).unwrap_or_default();
            assert_eq!(usage.sum, used, "the usage at the end of a turn includes all its calls");
        }
        if record.event.is_terminal() {
            seen.ended.insert(turn);
            assert!(
                !seen.open_calls.values().any(|owner| *owner == turn),
                "ended with open calls"
            );
        }
    }
    match &record.event {
        Event::MessageCompleted {
            message_id, tool_calls, ..
        } => {
            assert!(seen.closed.insert(*message_id), "a message was closed twice");
            for call in tool_calls {
                let turn = record.turn.expect("a message has a turn");
                assert!(seen.open_calls.insert(call.id, turn).is_none(), "one id for two calls");
                assert!(!seen.finished.contains(&call.id), "one id for two calls");
            }
        }
        Event::MessageReset { message_id, .. } => {
            assert!(seen.closed.insert(*message_id), "a message was closed twice");
        }
        Event::ToolCalled { call_id, claim, .. } => {
            assert!(seen.open_calls.contains_key(call_id), "no message asked for this call");
            assert_eq!(claim.is_some(), seen.offered.contains(call_id), "run by the wrong side");
            let is_first = claim.is_none() || seen.claimed.insert(*call_id);
            assert!(is_first, "two pages have the same call");
        }
        Event::ApprovalRequested { call_id, .. } => {
            assert!(seen.open_calls.contains_key(call_id), "no message asked for this call");
        }
        Event::ClientToolRequested { call_id, .. } => {
            assert!(seen.open_calls.contains_key(call_id), "no message asked for this call");
            assert!(seen.offered.insert(*call_id), "offered twice");
        }
        Event::ToolFinished {
            call_id,
            status,
            answer_hash,
            ..
        } => {
            use copilotd_actors::domain::content::ToolStatus;
            let (offered, claimed) = (seen.offered.contains(call_id), seen.claimed.contains(call_id));
            assert!(claimed || answer_hash.is_none(), "answered without a claim");
            if offered && !claimed {
                let not_run = [ToolStatus::Failed, ToolStatus::Cancelled];
                assert!(not_run.contains(status), "{status:?}, but no page had it");
            }
            if claimed && answer_hash.is_none() {
                assert_eq!(*status, ToolStatus::Unknown, "a page had it and did not answer");
            }
            assert!(seen.open_calls.remove(call_id).is_some(), "a result without a call");
            assert!(seen.finished.insert(*call_id), "two results of one call");
            if *status == copilotd_actors::domain::content::ToolStatus::Unknown {
                seen.unknown.insert(*call_id);
            }
        }
        Event::ToolSettled { call_id, .. } => {
            assert!(seen.unknown.remove(call_id), "settled twice, or not unknown before");
        }
        _ => {}
    }
}
