//! Writes one reader's stream. What comes when is decided by [`Reader`]; this waits, and reads the log where the tail does
//! not reach back. Silence is [`super::keep_alive`]'s.
//!
//! Invariant: a writer owns one offset and nothing else of the conversation: no queue, no copy of the text. A reader that
//! leaves drops its writer and stops nothing.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::conversation::stream::{Encoded, Reader};
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId};
use copilotd_actors::live::{Next, Tail};
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::auth::Caller;
use super::budget::Reservation;
use super::state::AppState;

/// Least time between two deltas: a fast model costs a reader no more than a hundred frames a second.
const PACE: Duration = Duration::from_millis(10);
/// Fewest and most records that are read at once: a few, as long as they are long, so that a reader costs little more than what it
/// is sent.
const PAGE: (usize, usize) = (8, 256);
/// Bytes that are gathered before they are handed to the connection.
const CHUNK: usize = 64 * 1024;

/// The writer of one stream.
pub struct Writer {
    state: AppState,
    caller: Caller,
    conversation: ConversationId,
    reader: Reader,
    tail: Arc<Tail>,
    wake: watch::Receiver<()>,
    greeted: bool,
    /// Records that are read next.
    page: usize,
    /// Whether the log was read to its end once: only then does the tail tell what is new.
    caught_up: bool,
    last_delta: Option<Instant>,
    _place: Reservation,
}

/// Encodes records: on the compute pool when they are long.
pub async fn encoded(tenant: &TenantId, records: Vec<Record>) -> Result<Vec<Encoded>, LogError> {
    let cost = records.iter().map(Record::weight).sum();
    let encode = move || records.iter().map(Encoded::new).collect();
    let encoded = compute::run(Some(tenant), cost, encode).await;
    encoded.map_err(|error| LogError::Unavailable(error.to_string()))
}

enum Woken {
    Changed,
    End,
}

impl Writer {
    /// Opens the stream behind the reader's position. The tail has to have been taken before the position was checked.
    pub fn new(
        state: AppState,
        caller: Caller,
        conversation: ConversationId,
        reader: Reader,
        tail: Arc<Tail>,
        place: Reservation,
    ) -> Self {
        let wake = tail.subscribe();
        Self {
            state,
            caller,
            conversation,
            reader,
            tail,
            wake,
            greeted: false,
            page: PAGE.0,
            caught_up: false,
            last_delta: None,
            _place: place,
        }
    }

    /// Returns the next bytes; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            // Headers and first bytes leave at once: the time to the first byte is not the model's.
            let mut greeting = ": copilotd\n\nretry: 2000\n\n".to_owned();
            self.reader.greet(&mut greeting);
            return Some(greeting.into());
        }
        let mut out = String::new();
        loop {
            if self.reader.ended() {
                return (!out.is_empty()).then(|| out.into());
            }
            if let Err(error) = self.collect(&mut out).await {
                // The client comes back with its position and misses nothing.
                tracing::warn!(%error, conversation = %self.conversation, "a stream ends: the log cannot be read");
                return None;
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            if self.reader.ended() {
                return None;
            }
            match self.wait().await {
                Woken::Changed => {}
                Woken::End => return None,
            }
        }
    }

    /// Takes what is there, without waiting for anything new.
    async fn collect(&mut self, out: &mut String) -> Result<(), LogError> {
        let now = self.state.clock().now();
        loop {
            let next = if self.caught_up {
                self.tail.after(self.reader.seen())
            } else {
                Next::Gap
            };
            match next {
                Next::Records(records) => {
                    self.take(&records, now, out);
                }
                Next::Gap => {
                    let wanted = self.page;
                    let read = self.page().await?;
                    let all = self.take(&read, now, out);
                    self.caught_up |= all && read.len() < wanted;
                    let bytes: usize = read.iter().map(Encoded::size).sum();
                    self.page = if bytes < CHUNK / 4 {
                        (wanted * 2).min(PAGE.1)
                    } else {
                        PAGE.0
                    };
                }
                Next::UpToDate(live) => {
                    let due = self.last_delta.is_none_or(|last| last.elapsed() >= PACE);
                    if let Some(live) = live.filter(|_| due) {
                        let before = out.len();
                        let (turn, message_id) = (live.at.turn, live.message_id);
                        self.reader
                            .live(turn, message_id, |offset| live.visible_from(offset), now, out);
                        if out.len() > before {
                            self.last_delta = Some(Instant::now());
                        }
                    }
                    return Ok(());
                }
            }
            if self.reader.ended() || out.len() >= CHUNK {
                return Ok(());
            }
        }
    }

    /// Takes records until the stream ends or enough is gathered, and tells whether these were all.
    fn take<R: Borrow<Encoded>>(&mut self, records: &[R], now: Timestamp, out: &mut String) -> bool {
        for record in records {
            if out.len() >= CHUNK {
                return false;
            }
            if !self.reader.ended() {
                self.reader.record(record.borrow(), now, out);
            }
        }
        true
    }

    async fn page(&self) -> Result<Vec<Encoded>, LogError> {
        let seen: Seq = self.reader.seen();
        let records = self
            .state
            .log()
            .read(&self.caller.scope, self.conversation, seen, self.page)
            .await?;
        encoded(self.caller.scope.tenant(), records).await
    }

    async fn wait(&mut self) -> Woken {
        let now = self.state.clock().now();
        let left = self
            .caller
            .expires_at
            .map(|end| Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO));
        let expiry = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        // Text that came within the pace of the last delta is taken when that has passed.
        let pace = self
            .last_delta
            .map(|last| last + PACE)
            .filter(|at| *at > Instant::now());
        let changed = async {
            if let Some(at) = pace {
                tokio::time::sleep_until(at).await;
            } else if self.wake.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => Woken::Changed,
            () = expiry => Woken::End,
            () = self.state.auth.verifier.ended(&self.caller) => Woken::End,
            () = self.state.shutdown.closed() => Woken::End,
        }
    }
}
