//! Streams over random interleavings: whatever a reader saw and wherever it was cut, the deltas are the text and each
//! durable event comes once.

use std::sync::Arc;

use copilotd_actors::domain::conversation::stream::{EncodedRecord, Position, Reader};
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::live::{Hub, Next, Tail};
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use crate::story::{Act, World, act};
use crate::support::{Client, Seen, parse};

/// What a reader does next.
#[derive(Debug, Clone)]
enum Look {
    Poll,
    /// Closes its connection; a crash closes all.
    Cut,
    /// Loses the last bytes that were sent: it resumes at an earlier event.
    Behind(usize),
}

/// A client over all its connections.
struct Viewer {
    turn: Option<TurnId>,
    connection: Option<(Reader, Arc<Tail>)>,
    events: Vec<Seen>,
    ended: bool,
}

impl Viewer {
    fn poll(&mut self, world: &World) {
        if self.ended {
            return;
        }
        let now = Timestamp::UNIX_EPOCH;
        let mut out = String::new();
        let fresh = self.connection.is_none();
        let after = self.events.last().map_or("0", |seen| seen.id.as_str());
        let position: Position = after.parse().unwrap();
        let (reader, tail) = self
            .connection
            .get_or_insert_with(|| (Reader::new(self.turn, position), world.tail()));
        let catch_up = |reader: &mut Reader, out: &mut String| {
            for record in &world.log[usize::try_from(reader.seen()).unwrap()..] {
                reader.record(&EncodedRecord::new(record), now, out);
            }
        };
        if fresh {
            catch_up(reader, &mut out);
        }
        while !reader.ended() {
            match tail.after(reader.seen()) {
                Next::Records(records) => records.iter().for_each(|record| reader.record(record, now, &mut out)),
                Next::Gap => catch_up(reader, &mut out),
                Next::UpToDate(live) => {
                    if let Some(live) = live {
                        reader.live(live.at.turn, live.message_id, |at| live.visible_from(at), now, &mut out);
                    }
                    break;
                }
            }
        }
        self.ended = reader.ended();
        self.events.extend(out.split_terminator("\n\n").map(parse));
    }

    fn look(&mut self, look: &Look, world: &World) {
        match look {
            Look::Poll => self.poll(world),
            Look::Cut => self.connection = None,
            Look::Behind(events) => {
                self.connection = None;
                self.ended = false;
                self.events.truncate(self.events.len().saturating_sub(*events));
            }
        }
    }
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![5 => Just(Look::Poll), 2 => Just(Look::Cut), 1 => (0usize..4).prop_map(Look::Behind)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn deltas_are_the_text_and_each_durable_event_comes_once_in_order(
        script in prop::collection::vec((act(), prop::collection::vec((0usize..3, look()), 0..3)), 1..50),
    ) {
        let mut world = World::new();
        let first = world.turn;
        let second = TurnId::new(Uuid::from_u128(101));
        let mut viewers: Vec<Viewer> = [None, Some(first), Some(second)]
            .into_iter()
            .map(|turn| Viewer { turn, connection: None, events: Vec::new(), ended: false })
            .collect();
        for (act, looks) in &script {
            if let Act::Crash = act {
                // The process is gone, and with it every connection and the tail.
                viewers.iter_mut().for_each(|viewer| viewer.connection = None);
                world.live = None;
                world.hub = Hub::default();
                world.tail = None;
                world.tail = Some(world.tail());
            }
            world.act(act);
            for (viewer, look) in looks {
                viewers[*viewer].look(look, &world);
            }
        }
        world.act(&Act::Complete { again: false });
        for viewer in &mut viewers {
            viewer.poll(&world);
            let mut client = Client::default();
            client.take(&viewer.events);
            client.has_all(&world.log, viewer.turn);
        }
    }
}
