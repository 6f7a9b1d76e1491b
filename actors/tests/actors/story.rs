//! A conversation as its watchers see it: records and live text, without actors.

use std::sync::Arc;

use copilotd_actors::domain::content::{Finish, Input};
use copilotd_actors::domain::conversation::command::Step;
use copilotd_actors::domain::conversation::stream::EncodedRecord;
use copilotd_actors::domain::event::{CompressionMethod, Event, Record};
use copilotd_actors::domain::ids::{ConversationId, MessageId, Seq, TurnId};
use copilotd_actors::domain::usage::{TotalUsage, Usage};
use copilotd_actors::live::{Hub, LiveMessage, Tail};
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

/// What happens next in the conversation, if it can.
#[derive(Debug, Clone)]
pub enum Act {
    Say(&'static str),
    Show,
    /// Ends the step: another step follows, or the turn ends.
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

/// The conversation.
pub struct World {
    pub hub: Hub,
    id: ConversationId,
    pub tail: Option<Arc<Tail>>,
    pub log: Vec<Record>,
    unpublished: usize,
    pub turn: TurnId,
    turns: u128,
    waiting: Vec<TurnId>,
    pub live: Option<(Arc<LiveMessage>, bool)>,
    attempt: u32,
    step: u32,
}

impl World {
    pub fn new() -> Self {
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

    pub fn tail(&self) -> Arc<Tail> {
        self.hub.tail(&crate::support::scope("acme"), self.id)
    }

    fn queued(&self, turn: TurnId) -> (Option<TurnId>, Event) {
        let input = Input::Text("x".into());
        let event = Event::TurnQueued {
            input,
            metadata: Default::default(),
            response_schema: None,
            idempotency: None,
            trace: None,
            api_key: None,
            roles: Vec::new(),
            nonce: None,
            next: false,
            replaces: None,
            client_tools: Vec::new(),
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

    /// Like the conversation: a message that is not the current one is no longer shown.
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
        self.tail()
            .publish(self.log[from..].iter().map(EncodedRecord::new).collect(), shown);
        self.unpublished = 0;
    }

    fn completed(&self, text: String, finish: Finish) -> Event {
        Event::MessageCompleted {
            message_id: self.message_id(),
            text,
            citations: vec![],
            unsupported: Vec::new(),
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
        // Not `seal`: the message continues, and only its text is wanted.
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
        self.tail().replayed(self.log.len() as Seq);
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

    pub fn act(&mut self, act: &Act) {
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
                    retrieval: None,
                    context: None,
                    sent: None,
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

pub fn act() -> impl Strategy<Value = Act> {
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
