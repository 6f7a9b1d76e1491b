//! Writes one reader's event stream. [`Reader`] decides what is sent when; the writer waits, and reads the log where
//! the tail does not reach back far enough. [`crate::http::keep_alive`] handles idle streams.
//!
//! Invariant: a writer owns one offset and nothing else of the conversation: no queue, no copy of the text. A reader
//! that disconnects drops its writer and affects nothing else.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::conversation::stream::{EncodedRecord, Reader};
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId};
use copilotd_actors::live::{Next, Tail};
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::state::AppState;
use crate::http::budget::Reservation;
use crate::http::credentials::Caller;

/// Minimum time between two deltas: a fast model causes at most a hundred frames a second per reader.
const PACE: Duration = Duration::from_millis(10);
/// Minimum and maximum records per read: few while records are long, so that a reader costs little more memory than
/// what it is sent.
const PAGE: (usize, usize) = (8, 256);
/// Bytes gathered before they are passed to the connection.
const CHUNK: usize = 64 * 1024;

/// The writer of one stream.
pub struct StreamWriter {
    state: AppState,
    caller: Caller,
    conversation: ConversationId,
    reader: Reader,
    tail: Arc<Tail>,
    wake: watch::Receiver<()>,
    greeting_sent: bool,
    /// Number of records of the next read.
    page: usize,
    /// Whether the log was read to its end once, or the tail continues where this reader is; only then can the tail be
    /// used.
    caught_up: bool,
    last_delta: Option<Instant>,
    _slot: Reservation,
}

/// Encodes records, on the compute pool when they are long.
pub async fn encoded(tenant: &TenantId, records: Vec<Record>) -> Result<Vec<EncodedRecord>, LogError> {
    let cost = records.iter().map(Record::weight).sum();
    let encode = move || records.iter().map(EncodedRecord::new).collect();
    let encoded = compute::run(Some(tenant), cost, encode).await;
    encoded.map_err(|error| LogError::Unavailable(error.to_string()))
}

enum WakeReason {
    Changed,
    End,
}

impl StreamWriter {
    /// Opens a stream at the reader's position. The tail must have been obtained before the position was checked.
    pub fn new(
        state: AppState,
        caller: Caller,
        conversation: ConversationId,
        reader: Reader,
        tail: Arc<Tail>,
        slot: Reservation,
    ) -> Self {
        let wake = tail.subscribe();
        Self {
            state,
            caller,
            conversation,
            reader,
            tail,
            wake,
            greeting_sent: false,
            page: PAGE.0,
            caught_up: false,
            last_delta: None,
            _slot: slot,
        }
    }

    /// Returns the next bytes; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Bytes> {
        if !self.greeting_sent {
            self.greeting_sent = true;
            // Headers and first bytes are sent at once: the time to the first byte does not depend on the model.
            let mut greeting = ": copilotd\n\nretry: 2000\n\n".to_owned();
            self.reader.write_preamble(&mut greeting);
            return Some(greeting.into());
        }
        let mut out = String::new();
        loop {
            if self.reader.ended() {
                return (!out.is_empty()).then(|| out.into());
            }
            if let Err(error) = self.collect(&mut out).await {
                // The client reconnects with its position and misses nothing.
                tracing::warn!(
                    %error, conversation = %self.conversation,
                    "event stream closed because the conversation's log could not be read; the client can resume it"
                );
                return None;
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            if self.reader.ended() {
                return None;
            }
            match self.wait().await {
                WakeReason::Changed => {}
                WakeReason::End => return None,
            }
        }
    }

    /// Collects what is available without waiting.
    async fn collect(&mut self, out: &mut String) -> Result<(), LogError> {
        let now = self.state.clock().now();
        self.caught_up = self.caught_up || self.tail.continues(self.reader.seen());
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
                    let bytes: usize = read.iter().map(EncodedRecord::size).sum();
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

    /// Writes records until the stream ends or enough is gathered; returns whether all were taken.
    fn take<R: Borrow<EncodedRecord>>(&mut self, records: &[R], now: Timestamp, out: &mut String) -> bool {
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

    async fn page(&self) -> Result<Vec<EncodedRecord>, LogError> {
        let seen: Seq = self.reader.seen();
        let records = self
            .state
            .log()
            .read(&self.caller.scope, self.conversation, seen, self.page)
            .await?;
        encoded(self.caller.scope.tenant(), records).await
    }

    async fn wait(&mut self) -> WakeReason {
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
        // Text that arrived within `PACE` of the last delta is sent when that has passed.
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
            () = changed => WakeReason::Changed,
            () = expiry => WakeReason::End,
            () = self.state.auth.verifier.ended(&self.caller) => WakeReason::End,
            () = self.state.shutdown.closed() => WakeReason::End,
        }
    }
}
