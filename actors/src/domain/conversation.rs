//! The state of one conversation: purely a fold over its log.

pub mod command;
pub mod decide;
pub mod effects;
pub mod header;
pub mod outage;
pub mod quota;
pub mod screen;
pub mod snapshot;
pub mod stream;
pub mod turn;
pub mod view;

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::content::ToolStatus;
use super::context::memory::Memory;
use super::conversation::header::Header;
use super::conversation::turn::{Phase, Turn};
use super::event::{Event, Idempotency, Record};
use super::ids::{CallId, ConversationId, Seq, TurnId};
use super::sent_prompt::Fixed;

/// How long an `Idempotency-Key` is remembered.
pub const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// How often the small model is asked for the title of a conversation.
pub const MAX_TITLE_ATTEMPTS: u32 = 2;
/// Number of recent keys that the state remembers, so that quickly repeated requests cost no look-up. Older keys are
/// found in the log ([`TurnId::derived`]).
const MAX_KEYS: usize = 256;
/// Number of accepted turns that are remembered. A submission is repeated at once or not at all.
const MAX_ACCEPTED: usize = 64;
/// Number of rated turns that are remembered.
const MAX_RATED: usize = 64;
/// Maximum number of calls with unknown outcome whose late result is still accepted.
const MAX_UNSETTLED: usize = 64;

/// The state of a conversation, folded from its log.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// The conversation's id.
    pub id: ConversationId,
    /// Sequence number of the last record; 0 for an empty log.
    pub seq: Seq,
    /// The state for decisions; none until the conversation is created.
    pub book: Option<DecisionState>,
    /// Idempotency keys of its turns.
    pub keys: IdempotencyKeys,
    /// What the model sees of the conversation.
    pub memory: Memory,
}

/// The part of the state on which decisions are based. Small, because every decision is drafted on a copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionState {
    /// The conversation's header, as shown in lists.
    pub header: Header,
    /// Open turns. Invariant: the first one is running or queued, and all others are queued.
    pub turns: VecDeque<Turn>,
    /// Calls that ended as `unknown` and may still report a result.
    pub unsettled: VecDeque<(TurnId, CallId)>,
    /// How often each of the most recently rated turns has been rated.
    #[serde(default)]
    pub rated: VecDeque<(TurnId, u32)>,
    /// Recently accepted turns, open or not: a repeated submission whose answer got lost is recognised by its turn id.
    pub accepted: VecDeque<TurnId>,
    /// The last turn: nothing was asked or answered after it.
    #[serde(default)]
    pub last_turn: Option<LastTurn>,
    /// How often the small model was asked for a title.
    #[serde(default)]
    pub title_attempts: u32,
    /// The API key of the turn that ended last; a summary counts against this key's limits.
    pub last_api_key: Option<String>,
    /// Where the log has the system message and the tools of the newest prompt.
    #[serde(default)]
    pub fixed_prompt: Option<KnownFixed>,
}

/// The turn that was queued or first started last. Its part of the window, if it has one, is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTurn {
    /// The id of the turn.
    pub id: TurnId,
    /// Whether a model was asked for it: a turn that a guardrail blocked, or that was cancelled in the queue, never started.
    pub has_started: bool,
    /// Sequence number of the record that ended it.
    pub end_seq: Option<Seq>,
}

/// A record with a [`FixedPrompt`](super::sent_prompt::FixedPrompt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFixed {
    /// The hash of what it has.
    pub hash: String,
    /// Its sequence number.
    pub seq: Seq,
}

/// The most recent idempotency keys, at most a day old.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IdempotencyKeys(VecDeque<(Idempotency, TurnId, Timestamp)>);

impl IdempotencyKeys {
    /// Finds the turn that was submitted with a key.
    pub fn find(&self, key: &str, now: Timestamp) -> Option<(&Idempotency, TurnId)> {
        let fresh = |at: &Timestamp| now.duration_since(*at) < KEY_LIFETIME;
        self.0
            .iter()
            .rev()
            .find(|(known, _, at)| known.key == key && fresh(at))
            .map(|(known, turn, _)| (known, *turn))
    }

    fn remember(&mut self, idempotency: &Idempotency, turn: TurnId, at: Timestamp) {
        while self.0.len() >= MAX_KEYS
            || self
                .0
                .front()
                .is_some_and(|old| at.duration_since(old.2) >= KEY_LIFETIME)
        {
            self.0.pop_front();
        }
        self.0.push_back((idempotency.clone(), turn, at));
    }
}

impl Conversation {
    /// Creates the state of an empty log.
    pub fn new(id: ConversationId) -> Self {
        Self {
            id,
            seq: 0,
            book: None,
            keys: IdempotencyKeys::default(),
            memory: Memory::default(),
        }
    }

    /// Applies one record. The state changes in no other way, in normal operation and in replay alike.
    pub fn apply(&mut self, record: &Record) {
        self.seq = record.seq;
        match &mut self.book {
            None => self.book = Header::open(self.id, record).map(DecisionState::new),
            Some(book) => book.apply(record),
        }
        if let (
            Event::TurnQueued {
                idempotency: Some(idempotency),
                ..
            },
            Some(turn),
        ) = (&record.event, record.turn)
        {
            self.keys.remember(idempotency, turn, record.at);
        }
        if let Event::ConversationErased { .. } = record.event {
            self.keys = IdempotencyKeys::default();
        }
        self.memory.apply(record);
    }

    /// Returns the state for decisions, if the conversation exists and was not erased.
    pub fn live(&self) -> Option<&DecisionState> {
        self.book.as_ref().filter(|book| !book.header.erased)
    }

    /// Returns the turn that is being worked on.
    pub fn active(&self) -> Option<&Turn> {
        self.book.as_ref().and_then(DecisionState::active)
    }
}

impl DecisionState {
    fn new(header: Header) -> Self {
        Self {
            header,
            turns: VecDeque::new(),
            unsettled: VecDeque::new(),
            rated: VecDeque::new(),
            accepted: VecDeque::new(),
            last_turn: None,
            title_attempts: 0,
            last_api_key: None,
            fixed_prompt: None,
        }
    }

    /// Returns the turn that is being worked on.
    pub fn active(&self) -> Option<&Turn> {
        self.turns.front().filter(|turn| turn.phase != Phase::Queued)
    }

    /// Returns whether the small model may write a title.
    pub fn wants_title(&self) -> bool {
        self.header.title.is_none() && self.title_attempts < MAX_TITLE_ATTEMPTS
    }

    /// Finds an open turn.
    pub fn turn(&self, id: TurnId) -> Option<&Turn> {
        self.turns.iter().find(|turn| turn.id == id)
    }

    /// Returns whether a connector may still report the outcome of a call. Nobody does of a page's.
    fn is_running(&self, turn: TurnId, call: CallId) -> bool {
        let turn = self.turn(turn);
        turn.is_some_and(|turn| turn.calls().iter().any(|known| known.id == call && known.is_running()))
    }

    /// Returns how often a turn was rated, as far as it is remembered.
    pub fn feedback_on(&self, turn: TurnId) -> u32 {
        let rated = self.rated.iter().find(|(rated, _)| *rated == turn);
        rated.map_or(0, |(_, times)| *times)
    }

    fn rate(&mut self, turn: TurnId) {
        let times = self.feedback_on(turn);
        self.rated.retain(|(rated, _)| *rated != turn);
        if self.rated.len() >= MAX_RATED {
            self.rated.pop_front();
        }
        self.rated.push_back((turn, times.saturating_add(1)));
    }

    /// Keeps track of the last turn.
    fn follow_last(&mut self, id: TurnId, record: &Record) {
        let is_start = matches!(record.event, Event::TurnStarted { attempt: 1, .. });
        if is_start || matches!(record.event, Event::TurnQueued { .. }) {
            self.last_turn = Some(LastTurn {
                id,
                has_started: is_start,
                end_seq: None,
            });
        } else if record.event.is_terminal()
            && let Some(last) = self.last_turn.as_mut().filter(|last| last.id == id)
        {
            last.end_seq = Some(record.seq);
        }
    }

    /// Applies one record.
    pub fn apply(&mut self, record: &Record) {
        self.header.apply(record);
        let Some(id) = record.turn else {
            if let Event::ConversationTitled { .. } = record.event {
                self.title_attempts += 1;
            }
            if let Event::ConversationErased { .. } = record.event {
                self.turns.clear();
                self.unsettled.clear();
                self.rated.clear();
                self.last_turn = None;
                self.fixed_prompt = None;
            }
            return;
        };
        self.follow_last(id, record);
        match &record.event {
            Event::TurnQueued { next, .. } => {
                if self.accepted.len() >= MAX_ACCEPTED {
                    self.accepted.pop_front();
                }
                self.accepted.push_back(id);
                let place = if *next {
                    usize::from(self.active().is_some())
                } else {
                    self.turns.len()
                };
                self.turns.extend(Turn::open(record));
                if let Some(turn) = self.turns.pop_back() {
                    self.turns.insert(place, turn);
                }
            }
            Event::FeedbackGiven { .. } => self.rate(id),
            event if event.is_terminal() => {
                if let Some(ended) = self.turn(id) {
                    self.last_api_key = ended.api_key.clone();
                }
                self.turns.retain(|turn| turn.id != id);
            }
            event => {
                match event {
                    Event::ToolFinished {
                        call_id,
                        status: ToolStatus::Unknown,
                        ..
                    } if self.is_running(id, *call_id) => {
                        if self.unsettled.len() >= MAX_UNSETTLED {
                            self.unsettled.pop_front();
                        }
                        self.unsettled.push_back((id, *call_id));
                    }
                    Event::ContextAssembled { sent: Some(sent), .. } => {
                        if let Fixed::Parts(parts) = &sent.fixed {
                            let (hash, seq) = (parts.hash.clone(), record.seq);
                            self.fixed_prompt = Some(KnownFixed { hash, seq });
                        }
                    }
                    Event::ToolSettled { call_id, .. } => self.unsettled.retain(|(_, call)| call != call_id),
                    _ => {}
                }
                if let Some(turn) = self.turns.iter_mut().find(|turn| turn.id == id) {
                    turn.apply(record);
                }
            }
        }
    }
}
