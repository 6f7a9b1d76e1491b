//! Running answers and watched conversations, in memory: what SSE writers read once they have caught up with the log.
//!
//! Tokens touch neither a mailbox nor the database: the agent appends to a [`LiveMessage`], each writer keeps its own
//! offset, and a [`Tail`] wakes all of them with one signal. Nothing here awaits while it holds a lock.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::conversation::command::Step;
use crate::domain::conversation::stream::EncodedRecord;
use crate::domain::ids::{ConversationId, MessageId, Seq, TurnId, UserId};
use crate::tenancy::TenantScope;

/// Maximum records that a tail keeps for writers slightly behind; others read the log.
const RING_RECORDS: usize = 128;
/// Maximum bytes of encoded events that a tail keeps.
const RING_BYTES: usize = 256 * 1024;

/// An answer while it is being written.
#[derive(Debug)]
pub struct LiveMessage {
    /// The step that writes it.
    pub at: Step,
    /// Message id.
    pub message_id: MessageId,
    text: Mutex<Text>,
    wake: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Text {
    released: String,
    /// Whether readers may see it: its opening records are committed, and it does not need validation first.
    visible: bool,
    sealed: bool,
}

impl LiveMessage {
    /// Opens an answer that is not visible yet.
    pub fn new(at: Step, tail: &Tail) -> Arc<Self> {
        Arc::new(Self {
            at,
            message_id: MessageId::of_step(at.turn, at.attempt, at.step),
            text: Mutex::default(),
            wake: tail.wake.clone(),
        })
    }

    /// Appends released text. Returns false once the message is sealed: readers will see no more of it.
    pub fn push(&self, piece: &str) -> bool {
        let mut text = self.text.lock();
        if text.sealed {
            return false;
        }
        text.released.push_str(piece);
        if text.visible {
            self.wake.send_replace(());
        }
        true
    }

    /// Makes the text visible to readers.
    pub fn show(&self) {
        self.text.lock().visible = true;
        self.wake.send_replace(());
    }

    /// Stops the message for good and returns what readers may have seen of it.
    pub fn seal(&self) -> String {
        let mut text = self.text.lock();
        text.sealed = true;
        if text.visible {
            text.released.clone()
        } else {
            String::new()
        }
    }

    /// Returns the length of the visible text in bytes.
    pub fn visible_len(&self) -> usize {
        let text = self.text.lock();
        if text.visible { text.released.len() } else { 0 }
    }

    /// Returns the visible text from `offset` on; `None` if `offset` is beyond the end or inside a character.
    pub fn visible_from(&self, offset: usize) -> Option<String> {
        let text = self.text.lock();
        let visible = if text.visible { text.released.as_str() } else { "" };
        visible.get(offset..).map(str::to_owned)
    }
}

/// The end of one conversation's log while somebody watches it or works on it.
#[derive(Debug)]
pub struct Tail {
    state: Mutex<TailState>,
    wake: watch::Sender<()>,
    key: (TenantScope, ConversationId),
    hub: Weak<Tails>,
}

type Tails = DashMap<(TenantScope, ConversationId), Weak<Tail>>;

#[derive(Debug, Default)]
struct TailState {
    /// Last committed record that was published here; 0 if none.
    last_seq: Seq,
    ring: VecDeque<Arc<EncodedRecord>>,
    ring_bytes: usize,
    live: Option<Arc<LiveMessage>>,
}

/// What a writer has to do next.
#[derive(Debug)]
pub enum Next {
    /// Send these.
    Records(Vec<Arc<EncodedRecord>>),
    /// Read the log: the ring does not reach back far enough.
    Gap,
    /// Nothing more is committed; this is the answer being written, if any.
    UpToDate(Option<Arc<LiveMessage>>),
}

impl Tail {
    /// Publishes committed records and the answer that is open after them, atomically.
    pub fn publish(&self, records: Vec<EncodedRecord>, live: Option<&Arc<LiveMessage>>) {
        let mut state = self.state.lock();
        if records.first().is_some_and(|first| first.seq != state.last_seq + 1) {
            // Records were committed but not published here, because their writer died in between.
            state.ring.clear();
            state.ring_bytes = 0;
        }
        for encoded in records {
            let encoded = Arc::new(encoded);
            state.ring_bytes += encoded.bytes();
            state.last_seq = encoded.seq;
            state.ring.push_back(encoded);
        }
        while state.ring.len() > RING_RECORDS || (state.ring_bytes > RING_BYTES && state.ring.len() > 1) {
            let dropped = state.ring.pop_front().map_or(0, |encoded| encoded.bytes());
            state.ring_bytes -= dropped;
        }
        state.live = live.cloned();
        drop(state);
        self.wake.send_replace(());
    }

    /// Notes that a new actor has replayed the log up to `seq`: what its predecessor committed without publishing is
    /// read from the log, and its open answer is abandoned.
    pub fn replayed(&self, seq: Seq) {
        let mut state = self.state.lock();
        if state.last_seq < seq {
            state.ring.clear();
            state.ring_bytes = 0;
            state.last_seq = seq;
        }
        state.live = None;
        drop(state);
        self.wake.send_replace(());
    }

    /// Returns what a writer that has sent everything up to `seq` has to do next.
    pub fn after(&self, seq: Seq) -> Next {
        let state = self.state.lock();
        if state.last_seq > seq {
            let first = state.ring.front().map_or(Seq::MAX, |encoded| encoded.seq);
            if first > seq + 1 {
                return Next::Gap;
            }
            return Next::Records(state.ring.iter().filter(|encoded| encoded.seq > seq).cloned().collect());
        }
        // A writer that has read further in the log than was published waits: the open answer may be closed already.
        Next::UpToDate(state.live.clone().filter(|_| state.last_seq == seq))
    }

    /// Whether everything committed after `seq` is here or will be: the actor that wrote `seq` published it here. If not,
    /// the log has to be read to its end once.
    pub fn continues(&self, seq: Seq) -> bool {
        let state = self.state.lock();
        let first = state.ring.front().map_or(Seq::MAX, |encoded| encoded.seq);
        seq > 0 && (state.last_seq == seq || (state.last_seq > seq && first <= seq + 1))
    }

    /// Returns a receiver that wakes at every change. Subscribe before reading the state.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.remove_if(&self.key, |_, tail| tail.strong_count() == 0);
        }
    }
}

/// An open turn, as far as a reader needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTurn {
    /// Conversation of the turn.
    pub conversation: ConversationId,
    /// Owner of the conversation.
    pub user: UserId,
    /// Sequence number of the turn's first record.
    pub first_seq: Seq,
}

type OpenTurns = DashMap<(TenantScope, TurnId), OpenTurn>;

/// Keeps an open turn listed until dropped.
#[derive(Debug)]
pub struct ListedTurn {
    turns: Arc<OpenTurns>,
    key: (TenantScope, TurnId),
}

impl Drop for ListedTurn {
    fn drop(&mut self) {
        self.turns.remove(&self.key);
    }
}

/// All tails of this process, by conversation, and open turns that were accepted here. A tail lives as long as somebody
/// holds it. A turn that is not listed may be open all the same: the log tells.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    tails: Arc<Tails>,
    turns: Arc<OpenTurns>,
}

impl Hub {
    /// Returns the conversation's tail; creates it if nobody holds one.
    pub fn tail(&self, scope: &TenantScope, conversation: ConversationId) -> Arc<Tail> {
        let key = (scope.clone(), conversation);
        let mut slot = self.tails.entry(key.clone()).or_default();
        if let Some(tail) = slot.upgrade() {
            return tail;
        }
        let tail = Arc::new(Tail {
            state: Mutex::default(),
            wake: watch::Sender::new(()),
            key,
            hub: Arc::downgrade(&self.tails),
        });
        *slot = Arc::downgrade(&tail);
        tail
    }

    /// Returns the conversation's tail if somebody holds it.
    pub fn existing(&self, scope: &TenantScope, conversation: ConversationId) -> Option<Arc<Tail>> {
        self.tails
            .get(&(scope.clone(), conversation))
            .and_then(|slot| slot.upgrade())
    }

    /// Lists a turn whose first record is committed, so that readers find it without reading the log.
    pub fn list_turn(&self, scope: &TenantScope, id: TurnId, turn: OpenTurn) -> ListedTurn {
        let key = (scope.clone(), id);
        self.turns.insert(key.clone(), turn);
        ListedTurn {
            turns: Arc::clone(&self.turns),
            key,
        }
    }

    /// Returns an open turn if it is listed.
    pub fn open_turn(&self, scope: &TenantScope, id: TurnId) -> Option<OpenTurn> {
        self.turns.get(&(scope.clone(), id)).map(|turn| turn.clone())
    }

    /// Returns the number of tails.
    pub fn len(&self) -> usize {
        self.tails.len()
    }

    /// Whether nobody holds a tail.
    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }
}
