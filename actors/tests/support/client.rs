//! A client of a stream that checks every event.

use std::collections::BTreeMap;

use copilotd_actors::domain::conversation::view::public_event;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::TurnId;
use serde_json::Value;

use super::Seen;

/// A client that has received all events of its connections, in order. Invariant, checked with each event: the deltas
/// of a segment concatenate to the text of its `message.completed` event, and every id is the client's position.
#[derive(Debug, Default)]
pub struct Client {
    /// The durable events.
    durable: Vec<(u64, String)>,
    /// Text of the open messages, by id.
    open: BTreeMap<String, String>,
    /// Texts of the completed messages.
    pub texts: Vec<String>,
    /// The `finish` of the last one.
    pub finish: String,
    pub last_id: String,
}

fn text_of<'a>(data: &'a Value, field: &str) -> &'a str {
    data[field].as_str().unwrap_or_default()
}

impl Client {
    pub fn take(&mut self, events: &[Seen]) {
        for event in events {
            self.take_one(event);
            self.last_id.clone_from(&event.id);
        }
    }

    fn take_one(&mut self, event: &Seen) {
        let message = text_of(&event.data, "message_id").to_owned();
        let (seq, offset) = match event.id.split_once('.') {
            Some((seq, offset)) => (seq, offset.parse::<usize>().unwrap()),
            None => (event.id.as_str(), 0),
        };
        let seq: u64 = seq.parse().unwrap();
        assert_eq!(event.data["seq"], seq, "{event:?}");
        if event.name == "message.delta" {
            let text = self.open.entry(message).or_default();
            text.push_str(text_of(&event.data, "text"));
            assert_eq!(
                offset,
                text.len(),
                "the offset is the length of the text so far: {event:?}"
            );
            return;
        }
        if let Some((last, _)) = self.durable.last() {
            assert!(*last < seq, "{last} before {event:?}");
        }
        self.durable.push((seq, event.name.clone()));
        match event.name.as_str() {
            "turn.started" | "message.reset" => self.open.clear(),
            "message.completed" => {
                let text = text_of(&event.data, "text").to_owned();
                let deltas = self.open.remove(&message).unwrap_or_default();
                assert_eq!(deltas, text, "the deltas are the text: {event:?}");
                assert!(self.open.is_empty(), "{:?} was never closed", self.open);
                self.texts.push(text);
                self.finish = text_of(&event.data, "finish").to_owned();
            }
            _ => {}
        }
        if event.name != "message.completed" && !self.open.is_empty() {
            let length: usize = self.open.values().map(String::len).sum();
            assert_eq!(
                offset, length,
                "a durable event in mid-message carries the offset: {event:?}"
            );
        }
    }

    /// Returns whether the last event is the end of a turn.
    pub fn has_ended(&self) -> bool {
        let last = self.names().last().copied().unwrap_or_default();
        ["turn.completed", "turn.failed", "turn.cancelled"].contains(&last)
    }

    pub fn names(&self) -> Vec<&str> {
        self.durable.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// Checks that each public record was received exactly once, in order.
    pub fn has_all(&self, records: &[Record], turn: Option<TurnId>) {
        let wanted: Vec<(u64, String)> = records
            .iter()
            .filter(|record| turn.is_none() || record.turn == turn)
            .filter_map(|record| Some((record.seq, public_event(record)?.name.to_owned())))
            .collect();
        assert_eq!(self.durable, wanted);
    }
}
