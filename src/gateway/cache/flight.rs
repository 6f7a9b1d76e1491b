//! One question at a time: while the first caller waits for the model, those who ask the same wait for its answer.
//!
//! Invariant: a flight ends when its leader's ticket is gone, filled or not. Followers then look again, and the first of
//! them leads if there is still no answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{Kept, Recorder};
use super::audit::Audit;
use super::canonical::Digest;
use super::question::{Partition, Question};
use super::{Cache, lock};
use crate::gateway::call::AnswerStream;
use crate::gateway::embedder::Vector;
use crate::gateway::route::TargetName;

type Key = (Partition, Digest);

/// Questions that are being answered.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, watch::Sender<()>>>);

/// One's place in a flight.
pub(super) enum Place {
    Lead(Landing),
    Wait(watch::Receiver<()>),
}

/// Ends the flight when it goes.
#[derive(Debug)]
pub(super) struct Landing {
    flights: Arc<Flights>,
    key: Key,
}

impl Flights {
    pub(super) fn join(self: &Arc<Self>, question: &Question) -> Place {
        let key = (question.partition.clone(), question.exact);
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.get(&key) {
            return Place::Wait(flight.subscribe());
        }
        flights.insert(key.clone(), watch::Sender::new(()));
        Place::Lead(Landing {
            flights: Arc::clone(self),
            key,
        })
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // The sender goes with it, which wakes those who wait.
        lock(&self.flights.0).remove(&self.key);
    }
}

/// The right and the duty to ask the model.
#[derive(Debug)]
pub struct Ticket {
    pub(super) cache: Arc<Cache>,
    pub(super) question: Question,
    pub(super) vector: Option<Vector>,
    pub(super) life: Duration,
    pub(super) max_entries: usize,
    pub(super) generation: u64,
    pub(super) explored: Option<Audit>,
    /// The target that answers.
    pub(in crate::gateway) by: Option<TargetName>,
    /// None after too long a wait for another leader: then nobody waits for this one.
    pub(super) _landing: Option<Landing>,
}

impl Ticket {
    /// Keeps the answer and lets those who wait have it. Returns the audit that the answer decides, if there is one:
    /// the model was asked although an entry was near.
    pub fn fill(mut self, mut kept: Kept) -> Option<(Audit, Kept)> {
        kept.by = self.by.take().or(kept.by);
        let audit = self.explored.take().map(|audit| (audit, kept.clone()));
        self.cache.on_shelf(self.question.partition.tenant(), |shelf| {
            if shelf.generation == self.generation {
                let now = Instant::now();
                shelf.insert(
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

    /// Fills itself with a stream's answer when it comes to its good end; otherwise nothing is kept. An audit that the
    /// answer decides is settled beside the stream.
    pub fn record(self, stream: AnswerStream) -> AnswerStream {
        let mut recorder = Recorder::default();
        let mut ticket = Some(self);
        stream
            .inspect(move |item| {
                let kept = match item {
                    Ok(piece) => recorder.observe(piece),
                    Err(_) => {
                        ticket = None;
                        None
                    }
                };
                if let Some(kept) = kept
                    && let Some(ticket) = ticket.take()
                    && let Some((audit, fresh)) = ticket.fill(kept)
                {
                    tokio::spawn(audit.settle(Some(fresh)));
                }
            })
            .boxed()
    }
}
