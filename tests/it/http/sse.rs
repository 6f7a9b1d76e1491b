//! A strict reader of event streams: it accepts exactly the documented framing.

use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use futures::StreamExt as _;
use serde_json::Value;

/// One block of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A comment.
    Comment(String),
    /// A position without an event.
    Id(String),
    /// The reconnection time, in milliseconds.
    Retry(u64),
    Event(Event),
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

impl Event {
    pub fn text(&self) -> &str {
        self.data["text"].as_str().unwrap()
    }

    /// The sequence number of the position.
    pub fn seq(&self) -> u64 {
        self.id.split(['.', '~']).next().unwrap().parse().unwrap()
    }
}

/// An open stream.
pub struct Stream {
    pub headers: HeaderMap,
    body: BodyDataStream,
    unread: Vec<u8>,
    ended: bool,
}

impl Stream {
    pub fn new(headers: HeaderMap, body: Body) -> Self {
        Self {
            headers,
            body: body.into_data_stream(),
            unread: Vec::new(),
            ended: false,
        }
    }

    /// The next block; `None` at the end.
    pub async fn block(&mut self) -> Option<Block> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Some(parse(std::str::from_utf8(&block[..end]).unwrap()));
            }
            match self.body.next().await {
                Some(bytes) => self.unread.extend_from_slice(&bytes.unwrap()),
                None => {
                    assert!(self.unread.is_empty(), "the stream ends inside a block");
                    self.ended = true;
                    return None;
                }
            }
        }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Block::Event(event) = self.block().await? {
                return Some(event);
            }
        }
    }

    /// Reads up to and including the first event of that name.
    pub async fn until(&mut self, name: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let event = event.unwrap_or_else(|| panic!("the stream ended before {name}: {events:#?}"));
            events.push(event);
            if events.last().is_some_and(|event| event.name == name) {
                return events;
            }
        }
    }

    /// Reads to the end.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parse(block: &str) -> Block {
    assert!(!block.contains('\r'), "{block:?}");
    if let Some(comment) = block.strip_prefix(": ") {
        assert!(!comment.contains('\n'), "{block:?}");
        return Block::Comment(comment.to_owned());
    }
    if let Some(time) = block.strip_prefix("retry: ") {
        return Block::Retry(time.parse().unwrap());
    }
    if let Some(id) = block.strip_prefix("id: ").filter(|id| !id.contains('\n')) {
        return Block::Id(id.to_owned());
    }
    let mut lines = block.split('\n');
    let mut field = |name: &str| {
        let line = lines.next().unwrap_or_else(|| panic!("no {name} in {block:?}"));
        line.strip_prefix(&format!("{name}: "))
            .unwrap_or_else(|| panic!("expected {name} in {block:?}"))
            .to_owned()
    };
    let (id, name, data) = (field("id"), field("event"), field("data"));
    assert_eq!(lines.next(), None, "{block:?}");
    let data: Value = serde_json::from_str(&data).unwrap();
    super::contract::check_event(&name, &data);
    Block::Event(Event { id, name, data })
}

/// The concatenated text of all deltas.
pub fn delta_text(events: &[Event]) -> String {
    events
        .iter()
        .filter(|event| event.name == "message.delta")
        .map(Event::text)
        .collect()
}

/// The names of the durable events, in order.
pub fn durable(events: &[Event]) -> Vec<&str> {
    let names = events.iter().map(|event| event.name.as_str());
    names.filter(|name| *name != "message.delta").collect()
}
