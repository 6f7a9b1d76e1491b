//! What this process knows of the calls that it began or looked up: where and when they post, and which of their
//! messages are posted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::Clock;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};

/// How far back a message is looked for when this process did not begin its call.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much the two clocks may differ.
const SKEW: Duration = Duration::from_secs(300);
/// Calls that are remembered.
const REMEMBERED: usize = 4096;

/// The messages of a call that are known to be posted: each one's `ts`, if Slack returned it.
pub(super) type Posted = BTreeMap<usize, Option<String>>;

pub(super) struct CallMemory {
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    calls: HashMap<CallId, StartedCall>,
    order: VecDeque<CallId>,
}

#[derive(Default)]
struct StartedCall {
    /// When this process first began it, if it did.
    at: Option<Timestamp>,
    /// The channel that it posts to.
    channel: Option<String>,
    posted: Posted,
    /// How many of its messages may have been sent, the posted ones included.
    sent: usize,
}

impl CallMemory {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            memory: Mutex::default(),
        }
    }

    /// Records the first start of `call`; the oldest call is forgotten when there are too many.
    pub fn note(&self, call: CallId) {
        let now = self.clock.now();
        self.change(call, |begun| _ = begun.at.get_or_insert(now));
    }

    /// The earliest time at which a message of `call` can have been posted, in Slack's format.
    pub fn oldest(&self, call: CallId) -> String {
        let began = self.memory().calls.get(&call).and_then(|begun| begun.at);
        let oldest = match began {
            Some(began) => began.as_second() - SKEW.as_secs() as i64,
            None => self.clock.now().as_second() - WINDOW.as_secs() as i64,
        };
        format!("{oldest}.000000")
    }

    /// Records where a call posts to.
    pub fn is_for(&self, call: CallId, channel: &str) {
        self.change(call, |begun| begun.channel = Some(channel.to_owned()));
    }

    /// Returns where a call posts to.
    pub fn channel(&self, call: CallId) -> Option<String> {
        self.memory().calls.get(&call)?.channel.clone()
    }

    /// Records a posted message.
    pub fn add(&self, call: CallId, part: usize, ts: Option<String>) {
        self.change(call, |begun| _ = begun.posted.insert(part, ts));
    }

    /// The posted messages.
    pub fn posted(&self, call: CallId) -> Posted {
        let memory = self.memory();
        memory
            .calls
            .get(&call)
            .map(|begun| begun.posted.clone())
            .unwrap_or_default()
    }

    /// Records how many messages may have been sent.
    pub fn set_sent(&self, call: CallId, sent: usize) {
        self.change(call, |begun| begun.sent = sent);
    }

    /// Forgets a call's messages: all of them are posted and reported.
    pub fn done(&self, call: CallId) {
        self.change(call, |begun| {
            *begun = StartedCall {
                at: begun.at,
                ..StartedCall::default()
            };
        });
    }

    /// How many messages may have been sent.
    pub fn sent(&self, call: CallId) -> usize {
        self.memory().calls.get(&call).map_or(0, |begun| begun.sent)
    }

    fn change(&self, call: CallId, change: impl FnOnce(&mut StartedCall)) {
        let mut memory = self.memory();
        let Memory { calls, order } = &mut *memory;
        if !calls.contains_key(&call) {
            if order.len() >= REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                calls.remove(&oldest);
            }
            order.push_back(call);
        }
        change(calls.entry(call).or_default());
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }
}
