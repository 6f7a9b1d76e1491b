//! Coalesces identical questions: while the first caller (the leader) waits for the model, the others wait for its
//! answer.
//!
//! Invariants: a flight ends when its leader has filled in an answer or is gone, and no later than [`SLOW`] after the
//! leader's reader began to delay it. Followers then look again, and the first of them leads if there is still no
//! answer; after a slow reader, or a second flight without an answer, each goes on by itself. So nobody waits for
//! another caller's reader.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Cache;
use super::answer::{CachedAnswer, Recorder};
use super::audit::Audit;
use super::question::Digest;
use super::question::{Partition, Question};
use crate::answer::AnswerStream;
use crate::error::GatewayError;
use crate::provider::Piece;
use crate::target::TargetName;
use copilotd_actors::ports::Vector;

/// Total time for which the leader's reader may delay the answer before followers stop waiting.
pub(super) const SLOW: Duration = Duration::from_millis(500);

type Key = (Partition, Digest);

/// Questions that are being answered. `true` means that the leader's reader is slow.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, watch::Sender<bool>>>);

/// A caller's role in a flight.
pub(super) enum FlightRole {
    Lead(FlightGuard),
    Wait(Follower),
}

/// Waits for the end of a flight.
pub(super) struct Follower(watch::Receiver<bool>);

impl Follower {
    /// Waits until the flight has ended; returns whether it ended because the leader's reader is slow.
    pub(super) async fn ended(&mut self) -> bool {
        // An error means that the leader is done, in whatever way.
        let _ = self.0.changed().await;
        *self.0.borrow()
    }
}

/// Ends the flight when dropped.
#[derive(Debug)]
pub(super) struct FlightGuard {
    flights: Arc<Flights>,
    key: Key,
}

impl Flights {
    pub(super) fn join(self: &Arc<Self>, question: &Question) -> FlightRole {
        let key = (question.partition.clone(), question.exact);
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&key) {
            return FlightRole::Wait(Follower(flight.subscribe()));
        }
        flights.insert(key.clone(), watch::Sender::new(false));
        FlightRole::Lead(FlightGuard {
            flights: Arc::clone(self),
            key,
        })
    }
}

impl FlightGuard {
    /// Ends the flight because the leader's reader is slow.
    fn slow(self) {
        if let Some(flight) = self.flights.0.lock().get(&self.key) {
            flight.send_replace(true);
        }
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        // Dropping the sender wakes the followers.
        self.flights.0.lock().remove(&self.key);
    }
}

/// The right, and the duty, to call the model.
#[derive(Debug)]
pub struct PendingFill {
    pub(super) cache: Arc<Cache>,
    pub(super) question: Question,
    pub(super) vector: Option<Vector>,
    pub(super) life: Duration,
    pub(super) max_entries: usize,
    pub(super) generation: u64,
    pub(super) explored: Option<Audit>,
    /// The target that answers.
    pub(crate) by: Option<TargetName>,
    /// `None` after waiting too long for other leaders: then nobody waits for this caller.
    pub(super) flight_guard: Option<FlightGuard>,
}

impl PendingFill {
    /// Stores the answer and wakes the followers. Returns the audit that the answer decides, if there is one: the model
    /// was called although an entry was near.
    pub fn fill(mut self, mut kept: CachedAnswer) -> Option<(Audit, CachedAnswer)> {
        kept.by = self.by.take().or(kept.by);
        let audit = self.explored.take().map(|audit| (audit, kept.clone()));
        self.cache
            .with_tenant(self.question.partition.tenant(), |tenant_cache| {
                if tenant_cache.generation == self.generation {
                    let now = Instant::now();
                    tenant_cache.insert(
                        &self.question,
                        kept,
                        self.vector.take(),
                        self.life,
                        self.max_entries,
                        now,
                    );
                }
            });
        audit
    }
}

impl PendingFill {
    /// Records a stream and stores its answer when it completes; otherwise nothing is stored. An audit that the answer
    /// decides is settled beside the stream.
    pub fn record(mut self, stream: AnswerStream) -> AnswerStream {
        let flight = self.flight_guard.take().map(|flight_guard| {
            let flight = Arc::new(Flight {
                flight_guard: Mutex::new(Some(flight_guard)),
                reader: Mutex::new(ReaderDelay {
                    since: Some(Instant::now()),
                    used: Duration::ZERO,
                }),
            });
            drop(tokio::spawn(watch_reader(Arc::downgrade(&flight))));
            flight
        });
        let recorded = RecordedStream {
            stream,
            recorder: Recorder::default(),
            pending_fill: Some(self),
            flight,
        };
        recorded.boxed()
    }
}

/// A stream whose answer is stored on completion.
struct RecordedStream {
    stream: AnswerStream,
    recorder: Recorder,
    pending_fill: Option<PendingFill>,
    flight: Option<Arc<Flight>>,
}

/// State shared by a stream and the task that watches its reader. Ends with the stream.
struct Flight {
    flight_guard: Mutex<Option<FlightGuard>>,
    reader: Mutex<ReaderDelay>,
}

/// How long the reader has delayed the answer.
struct ReaderDelay {
    /// Time at which the reader last received something; `None` while it waits for more.
    since: Option<Instant>,
    used: Duration,
}

impl Flight {
    /// The reader polls for more.
    fn polled(&self) {
        let mut reader = self.reader.lock();
        if let Some(since) = reader.since.take() {
            reader.used += since.elapsed();
        }
    }

    /// The reader received something.
    fn delivered(&self) {
        self.reader.lock().since = Some(Instant::now());
    }

    /// Time that the reader may still take.
    fn left(&self) -> Duration {
        let reader = self.reader.lock();
        let used = reader.used + reader.since.map_or(Duration::ZERO, |since| since.elapsed());
        SLOW.saturating_sub(used)
    }

    fn slow(&self) {
        if let Some(flight_guard) = self.flight_guard.lock().take() {
            flight_guard.slow();
        }
    }
}

/// Ends the flight when its reader is too slow. Ends with the stream.
async fn watch_reader(flight: Weak<Flight>) {
    loop {
        let Some(left) = flight.upgrade().map(|flight| flight.left()) else {
            return;
        };
        if left.is_zero() {
            if let Some(flight) = flight.upgrade() {
                flight.slow();
            }
            return;
        }
        tokio::time::sleep(left).await;
    }
}

impl RecordedStream {
    fn observe(&mut self, item: &Result<Piece, GatewayError>) {
        let kept = match item {
            Ok(piece) => self.recorder.observe(piece),
            Err(_) => {
                self.pending_fill = None;
                None
            }
        };
        if let Some(kept) = kept
            && let Some(pending_fill) = self.pending_fill.take()
            && let Some((audit, fresh)) = pending_fill.fill(kept)
        {
            tokio::spawn(audit.settle(Some(fresh)));
        }
        if self.recorder.is_uncacheable() {
            self.pending_fill = None;
        }
        if self.pending_fill.is_none() {
            // Nothing left to wait for: the answer is stored by now, or never will be.
            self.flight = None;
        }
    }
}

impl Stream for RecordedStream {
    type Item = Result<Piece, GatewayError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(flight) = &self.flight {
            flight.polled();
        }
        let item = std::task::ready!(self.stream.poll_next_unpin(context));
        if let Some(item) = &item {
            self.observe(item);
        }
        if let Some(flight) = &self.flight {
            flight.delivered();
        }
        Poll::Ready(item)
    }
}
