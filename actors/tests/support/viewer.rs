//! A reader of a stream that works like an SSE writer: subscribe to the tail, read the log to its end, then follow the
//! tail.

use std::sync::Arc;

use copilotd_actors::domain::conversation::stream::{EncodedRecord, Position, Reader};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::live::{Next, Tail};
use copilotd_actors::ports::{Clock, EventLog};
use copilotd_actors::tenancy::TenantScope;
use serde_json::Value;

use super::{Probe, World};

/// One event as received.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// A connected reader.
pub struct Viewer {
    reader: Reader,
    tail: Arc<Tail>,
    wake: tokio::sync::watch::Receiver<()>,
    log: Arc<Probe>,
    clock: Arc<dyn Clock>,
    scope: TenantScope,
    id: ConversationId,
    pub events: Vec<Seen>,
}

impl Viewer {
    pub fn new(world: &World, id: ConversationId, turn: Option<TurnId>, after: &str) -> Self {
        let position: Position = after.parse().unwrap();
        let tail = world.directory().watch(&world.scope, id);
        Self {
            reader: Reader::new(turn, position),
            wake: tail.subscribe(),
            tail,
            log: Arc::clone(&world.probe),
            clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
            scope: world.scope.clone(),
            id,
            events: Vec::new(),
        }
    }

    async fn catch_up(&mut self, out: &mut String) {
        loop {
            let page = self
                .log
                .read(&self.scope, self.id, self.reader.seen(), 512)
                .await
                .unwrap();
            if page.is_empty() {
                return;
            }
            for record in &page {
                self.reader.record(&EncodedRecord::new(record), self.clock.now(), out);
            }
        }
    }

    /// Reads everything available now.
    pub async fn poll(&mut self, first: bool) {
        let mut out = String::new();
        if first {
            self.catch_up(&mut out).await;
        }
        while !self.reader.ended() {
            match self.tail.after(self.reader.seen()) {
                Next::Records(records) => {
                    for record in records {
                        self.reader.record(&record, self.clock.now(), &mut out);
                    }
                }
                Next::Gap => self.catch_up(&mut out).await,
                Next::UpToDate(live) => {
                    if let Some(live) = live {
                        let (turn, message) = (live.at.turn, live.message_id);
                        let from = |offset| live.visible_from(offset);
                        self.reader.live(turn, message, from, self.clock.now(), &mut out);
                    }
                    break;
                }
            }
        }
        self.events.extend(out.split_terminator("\n\n").map(parse));
    }

    /// Reads until `enough` returns true, or the stream ends.
    pub async fn read_until(&mut self, mut enough: impl FnMut(&[Seen]) -> bool) {
        self.poll(true).await;
        while !self.reader.ended() && !enough(&self.events) {
            self.wake.changed().await.unwrap();
            self.wake.borrow_and_update();
            self.poll(false).await;
        }
    }

    /// Reads to the end of the stream.
    pub async fn read_all(&mut self) -> &[Seen] {
        let end = self.read_until(|_| false);
        if tokio::time::timeout(std::time::Duration::from_secs(4 * 3600), end)
            .await
            .is_err()
        {
            panic!("the stream does not end: {:#?}", self.events);
        }
        &self.events
    }
}

pub fn parse(frame: &str) -> Seen {
    let mut lines = frame.lines();
    let mut line = |prefix: &str| lines.next().unwrap().strip_prefix(prefix).unwrap().to_owned();
    Seen {
        id: line("id: "),
        name: line("event: "),
        data: serde_json::from_str(&line("data: ")).unwrap(),
    }
}
