//! Streams over random interleavings: whatever a reader saw and wherever it was cut, the deltas are the text and each
//! durable event comes once.

use std::sync::Arc;

use copilotd_actors::domain::command::Step;
use copilotd_actors::domain::content::{Finish, Input};
use copilotd_actors::domain::event::{CompressionMethod, Event, Record};
use copilotd_actors::domain::ids::{ConversationId, MessageId, Seq, TurnId};
use copilotd_actors::domain::stream::{Encoded, Position, Reader};
use copilotd_actors::domain::usage::{TotalUsage, Usage};
use copilotd_actors::live::{Hub, LiveMessage, Next, Tail};
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{Client, Seen, parse};

/// What happens next in the conversation, if it can.
#[derive(Debug, Clone)]
enum Act {
    Say(&'static str),
    Show,
    /// Ends the step: with another one behind it, or as the turn's end.
    Complete {
        again: bool,
    },
    Reset,
    Cancel,
    Blocked,
    /// The actor dies with the process; recovery follows with the next act.
    Crash,
    /// The actor dies between an append and its publishing; the process lives.
    Unpublished,
    QueueOther,
    CancelOther,
    Compress,
    Feedback,
}

/// What a reader does next.
#[derive(Debug, Clone)]
enum Look {
    Poll,
    /// Closes its connection; with a crash all do.
    Cut,
    /// Loses the last bytes of what was sent: it resumes at an earlier event of its own.
    Behind(usize),
}

struct World {
    hub: Hub,
    id: ConversationId,
    tail: Option<Arc<Tail>>,
    log: Vec<Record>,
    unpublished: usize,
    turn: TurnId,
    turns: u128,
    waiting: Vec<TurnId>,
    live: Option<(Arc<LiveMessage>, bool)>,
    attempt: u32,
    step: u32,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            hub: Hub::default(),
            id: ConversationId::new(Uuid::from_u128(1)),
            tail: None,
            log: Vec::new(),
            unpublished: 0,
            turn: TurnId::new(Uuid::from_u128(100)),
            turns: 100,
            waiting: Vec::new(),
            live: None,
            attempt: 1,
            step: 1,
        };
        world.tail = Some(world.tail());
        let first = world.queued(world.turn);
        world.commit(vec![first, (Some(world.turn), world.started())]);
        world.open();
        world
    }

    fn tail(&self) -> Arc<Tail> {
        self.hub.tail(&"acme".parse().unwrap(), self.id)
    }

    fn queued(&self, turn: TurnId) -> (Option<TurnId>, Event) {
        let input = Input::Text("x".into());
        let event = Event::TurnQueued {
            input,
            metadata: Default::default(),
            response_schema: None,
            idempotency: None,
            trace: None,
            next: false,
        };
        (Some(turn), event)
    }

    fn started(&self) -> Event {
        Event::TurnStarted {
            attempt: self.attempt,
            model: "m".into(),
        }
    }

    fn message_id(&self) -> MessageId {
        MessageId::of_step(self.turn, self.attempt, self.step)
    }

    fn open(&mut self) {
        let at = Step {
            turn: self.turn,
            attempt: self.attempt,
            step: self.step,
        };
        self.live = Some((LiveMessage::new(at, &self.tail()), false));
    }

    fn commit(&mut self, events: Vec<(Option<TurnId>, Event)>) {
        for (turn, event) in events {
            let seq = self.log.len() as Seq + 1;
            self.log.push(Record {
                seq,
                at: Timestamp::UNIX_EPOCH,
                turn,
                event,
            });
            self.unpublished += 1;
        }
        self.publish();
    }

    /// As the conversation does: a message that is not the present one is not shown any more.
    fn publish(&mut self) {
        let present = Step {
            turn: self.turn,
            attempt: self.attempt,
            step: self.step,
        };
        if self.live.as_ref().is_some_and(|(live, _)| live.at != present) {
            self.live = None;
        }
        let shown = self.live.as_ref().filter(|(_, shown)| *shown).map(|(live, _)| live);
        let from = self.log.len() - self.unpublished;
        self.tail().publish(&self.log[from..], shown);
        self.unpublished = 0;
    }

    fn completed(&self, text: String, finish: Finish) -> Event {
        Event::MessageCompleted {
            message_id: self.message_id(),
            text,
            citations: vec![],
            tool_calls: vec![],
            finish,
            structured: None,
            step: self.step,
            model: "m".into(),
            usage: Usage::default(),
            first_token_ms: None,
        }
    }

    fn text(&self) -> String {
        // Nothing is sealed here that goes on: only the text is wanted.
        self.live
            .as_ref()
            .map(|(live, _)| {
                live.show();
                live.visible_from(0).unwrap()
            })
            .unwrap_or_default()
    }

    /// Ends the turn and starts the next one.
    fn next_turn(&mut self, mut events: Vec<(Option<TurnId>, Event)>) {
        let next = if self.waiting.is_empty() {
            self.turns += 1;
            TurnId::new(Uuid::from_u128(self.turns))
        } else {
            self.waiting.remove(0)
        };
        let known = self.log.iter().any(|record| record.turn == Some(next));
        (self.turn, self.attempt, self.step) = (next, 1, 1);
        if !known {
            events.push(self.queued(next));
        }
        events.push((Some(next), self.started()));
        self.commit(events);
        self.open();
    }

    fn recover(&mut self) {
        self.tail().folded(self.log.len() as Seq);
        let reset = Event::MessageReset {
            message_id: self.message_id(),
            reason: "recovered".into(),
        };
        self.attempt += 1;
        let events = vec![(Some(self.turn), reset), (Some(self.turn), self.started())];
        self.unpublished = 0;
        self.commit(events);
        self.open();
    }

    fn act(&mut self, act: &Act) {
        let turn = Some(self.turn);
        let cancelled = Event::TurnCancelled {
            usage: TotalUsage::default(),
        };
        match act {
            Act::Say(piece) => {
                self.live.as_ref().map(|(live, _)| live.push(piece));
            }
            Act::Show => {
                let (attempt, step) = (self.attempt, self.step);
                let event = Event::ContextAssembled {
                    prompt_tokens: 1,
                    summary_upto_seq: None,
                    retrieved: vec![],
                    attempt,
                    step,
                };
                if let Some((live, shown @ false)) = &mut self.live {
                    *shown = true;
                    live.show();
                    self.commit(vec![(turn, event)]);
                }
            }
            Act::Complete { again } => {
                let event = self.completed(self.text(), Finish::Stop);
                if *again {
                    self.step += 1;
                    self.commit(vec![(turn, event)]);
                    self.open();
                } else {
                    let end = Event::TurnCompleted {
                        usage: TotalUsage::default(),
                        first_token_ms: None,
                    };
                    self.next_turn(vec![(turn, event), (turn, end)]);
                }
            }
            Act::Reset => {
                let reset = Event::MessageReset {
                    message_id: self.message_id(),
                    reason: "cut".into(),
                };
                self.attempt += 1;
                let started = self.started();
                self.commit(vec![(turn, reset), (turn, started)]);
                self.open();
            }
            Act::Cancel => {
                let text = self.live.as_ref().map(|(live, _)| live.seal()).unwrap_or_default();
                self.live.as_ref().map(|(live, _)| live.push("too late"));
                let message = if text.is_empty() {
                    Event::MessageReset {
                        message_id: self.message_id(),
                        reason: "stopped".into(),
                    }
                } else {
                    self.completed(text, Finish::Cancelled)
                };
                self.next_turn(vec![(turn, message), (turn, cancelled)]);
            }
            Act::Blocked => {
                let reset = Event::MessageReset {
                    message_id: self.message_id(),
                    reason: "guardrail".into(),
                };
                self.next_turn(vec![(turn, reset), (turn, cancelled)]);
            }
            Act::Crash => self.recover(),
            Act::Unpublished => {
                let event = self.completed(self.text(), Finish::Stop);
                let seq = self.log.len() as Seq + 1;
                self.log.push(Record {
                    seq,
                    at: Timestamp::UNIX_EPOCH,
                    turn,
                    event,
                });
                self.step += 1;
                self.recover();
            }
            Act::QueueOther => {
                self.turns += 1;
                let other = TurnId::new(Uuid::from_u128(self.turns));
                self.waiting.push(other);
                self.commit(vec![self.queued(other)]);
            }
            Act::CancelOther => {
                if let Some(other) = self.waiting.pop() {
                    self.commit(vec![(Some(other), cancelled)]);
                }
            }
            Act::Compress => {
                let event = Event::MemoryCompressed {
                    upto_seq: 1,
                    tokens_before: 2,
                    tokens_after: 1,
                    summary: "s".into(),
                    method: CompressionMethod::Truncated,
                    model: "m".into(),
                    usage: Usage::default(),
                };
                self.commit(vec![(None, event)]);
            }
            Act::Feedback => self.commit(vec![(
                turn,
                Event::FeedbackGiven {
                    rating: 1,
                    comment: None,
                    by: "ada".into(),
                },
            )]),
        }
    }
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
        let mut catch_up = |reader: &mut Reader, out: &mut String| {
            for record in &world.log[usize::try_from(reader.seen()).unwrap()..] {
                reader.record(&Encoded::new(record), now, out);
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

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "bc", "dé", "🙂", "[redacted]", " "]).prop_map(Act::Say),
        4 => Just(Act::Show),
        2 => any::<bool>().prop_map(|again| Act::Complete { again }),
        1 => Just(Act::Reset),
        1 => Just(Act::Cancel),
        1 => Just(Act::Blocked),
        1 => Just(Act::Crash),
        1 => Just(Act::Unpublished),
        2 => Just(Act::QueueOther),
        1 => Just(Act::CancelOther),
        1 => Just(Act::Compress),
        1 => Just(Act::Feedback),
    ]
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![5 => Just(Look::Poll), 2 => Just(Look::Cut), 1 => (0usize..4).prop_map(Look::Behind)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

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
