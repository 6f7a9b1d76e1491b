//! Attempts in flight, and when each is stored again.
//!
//! Each is stored with an estimate that holds until the next update. The interval doubles: a long call costs few
//! writes, and an estimate is never off by more than half of the usage.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::UsageRecord;
use super::writer::{milliseconds, record};
use crate::meter::LostEstimate;

/// An attempt is stored again only if its estimate has changed by more than one part in this many.
const MIN_CHANGE: u64 = 10;

/// See the module documentation.
#[derive(Default)]
pub(super) struct OpenCalls {
    calls: HashMap<Uuid, OpenCall>,
    /// May name calls that have ended.
    due: BinaryHeap<Reverse<(Instant, Uuid)>>,
}

struct OpenCall {
    lost: LostEstimate,
    at: Timestamp,
    since: Instant,
    /// Prompt and answer tokens as last stored.
    stored: Option<(u64, u64)>,
}

impl OpenCalls {
    /// How long an attempt is in flight before it is stored.
    pub(super) const FIRST_UPDATE: Duration = Duration::from_millis(200);
    /// Longest interval between two updates.
    const LONGEST: Duration = Duration::from_secs(60);

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn insert(&mut self, id: Uuid, lost: LostEstimate, at: Timestamp) {
        let since = Instant::now();
        let call = OpenCall {
            lost,
            at,
            since,
            stored: None,
        };
        self.calls.insert(id, call);
        self.due.push(Reverse((since + Self::FIRST_UPDATE, id)));
    }

    /// Removes an attempt that ended. Returns whether it was stored.
    pub(super) fn remove(&mut self, id: Uuid) -> bool {
        self.calls.remove(&id).is_some_and(|call| call.stored.is_some())
    }

    /// Passes attempts that are due to `put`, which returns whether it accepted them; others are passed again at the
    /// next update.
    pub(super) fn update_due(&mut self, now: Instant, mut put: impl FnMut(UsageRecord) -> bool) {
        while let Some(Reverse((at, id))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            let Some(call) = self.calls.get_mut(&id) else { continue };
            let elapsed = now.saturating_duration_since(call.since);
            let until_next = elapsed.clamp(Self::FIRST_UPDATE, Self::LONGEST);
            self.due.push(Reverse((now + until_next, id)));
            let mut record = record((call.lost)(until_next), id, call.at);
            record.took_ms = milliseconds(elapsed);
            let (prompt, answer) = (record.usage.prompt_tokens, record.usage.completion_tokens);
            let has_moved = |now: u64, before: u64| now.abs_diff(before) > before / MIN_CHANGE;
            let is_news = call
                .stored
                .is_none_or(|stored| has_moved(prompt, stored.0) || has_moved(answer, stored.1));
            if is_news && put(record) {
                call.stored = Some((prompt, answer));
            }
        }
    }
}
