//! A stream shows each event once, in order, byte for byte, wherever its readers were cut off.
//!
//! What a reader receives is checked as it arrives (`support/live/transcript.rs`): numbers rise, deltas concatenate to
//! their message, offsets are right. Here it is compared with a reading from the start after everything has ended.

use super::{ServedConversation, Summary};
use crate::findings::Promise;
use crate::support::transcript::Durable;
use crate::user::UserConversation;

/// Events that are also messages.
const SAID: [&str; 3] = ["turn.queued", "message.completed", "tool.finished"];

pub fn check(
    talk: &UserConversation,
    served: &ServedConversation,
    summary: &mut Summary,
    broken: &mut impl FnMut(Promise, String),
) {
    let mut compare = |name: &str, got: &[Durable], truth: &[Durable]| {
        if let Some(what) = differ(got, truth) {
            broken(Promise::Streams, format!("{name}: {what}"));
        }
    };
    talk.watcher.look(|seen| {
        summary.resumes += seen.resumes();
        compare(&talk.watcher.path, &seen.durable, &served.events);
    });
    for (id, turn) in &served.turns {
        let own: Vec<Durable> = served
            .events
            .iter()
            .filter(|event| event.turn() == Some(id.as_str()))
            .cloned()
            .collect();
        compare(&format!("the stream of {id}"), &turn.events, &own);
    }
    for ask in &talk.asks {
        let (Some(watcher), Some(turn)) = (&ask.watcher, ask.turn().and_then(|id| served.turns.get(id))) else {
            continue;
        };
        watcher.look(|seen| {
            summary.resumes += seen.resumes();
            compare(&watcher.path, &seen.durable, &turn.events);
        });
    }
    for what in judge_messages(served) {
        broken(Promise::Streams, what);
    }
}

/// Returns the first difference between what a reader got and what the stream has. A slow reader may not have reached
/// the end.
fn differ(got: &[Durable], truth: &[Durable]) -> Option<String> {
    for (at, event) in got.iter().enumerate() {
        match truth.get(at) {
            None => return Some(format!("{event:?} was read, but is not in the stream any more")),
            Some(wanted) if wanted != event => {
                return Some(format!("{event:?} was read, but the stream has {wanted:?}"));
            }
            Some(_) => {}
        }
    }
    None
}

/// Messages and the turns' outputs must equal the stream.
fn judge_messages(served: &ServedConversation) -> Vec<String> {
    let mut wrong = Vec::new();
    let said: Vec<u64> = served
        .events
        .iter()
        .filter(|event| SAID.contains(&event.name.as_str()))
        .map(|event| event.seq)
        .collect();
    let listed: Vec<u64> = served
        .messages
        .iter()
        .filter_map(|message| message["seq"].as_u64())
        .collect();
    if said != listed {
        wrong.push(format!(
            "the stream has the messages {said:?}, but the list has {listed:?}"
        ));
    }
    for message in served.messages.iter().filter(|message| message["role"] == "assistant") {
        let event = served.events.iter().find(|event| message["seq"] == event.seq);
        let text = message["content"][0]["text"].as_str().unwrap_or_default();
        if event.is_none_or(|event| event.data["text"] != text) {
            wrong.push(format!("message {} differs from the stream", message["id"]));
        }
    }
    for (id, turn) in &served.turns {
        let last = turn.events.iter().rfind(|event| event.name == "message.completed");
        let output = turn.view["output"]["text"].as_str();
        if turn.status() == "completed" && last.and_then(|event| event.data["text"].as_str()) != output {
            wrong.push(format!("the output of {id} is not its last message"));
        }
        let end = turn.events.last().map_or("", |event| event.name.as_str());
        if end.strip_prefix("turn.") != Some(turn.status()) {
            wrong.push(format!(
                "the status of {id} is {}, but its stream ends with {end}",
                turn.status()
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events(numbers: &[u64]) -> Vec<Durable> {
        let event = |seq: &u64| Durable {
            seq: *seq,
            name: "turn.started".to_owned(),
            data: json!({ "seq": seq }),
        };
        numbers.iter().map(event).collect()
    }

    #[test]
    fn skipped_changed_and_vanished_events_are_told() {
        let truth = events(&[1, 2, 4]);
        assert_eq!(differ(&events(&[1, 2, 4]), &truth), None);
        assert_eq!(differ(&events(&[1, 2]), &truth), None, "it has not reached the end yet");
        assert!(differ(&events(&[1, 4]), &truth).is_some(), "skipped");
        assert!(differ(&events(&[1, 2, 3]), &truth).is_some(), "changed");
        assert!(differ(&events(&[1, 2, 4, 5]), &truth).is_some(), "vanished");
        assert!(differ(&events(&[1, 1, 2, 4]), &truth).is_some(), "twice");
    }
}
