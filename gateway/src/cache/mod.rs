//! The semantic cache: gates in series, the cheapest first. Partition and exact match, nearest neighbour, veto, learned
//! decision.
//!
//! Invariants: an answer never leaves its [`Partition`], which begins with the tenant; only whole answers are kept; what
//! the caller says can only raise the bar. No lock is held over an await.

mod answer;
mod audit;
mod canonical;
pub mod embedder;
mod evidence;
mod flight;
mod matrix;
mod personal;
mod question;
mod shelf;
pub mod veto;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use answer::{Kept, Recorder};
pub use audit::Audit;
use copilotd_actors::domain::ids::TenantId;
pub use evidence::{Decision, Evidence};
pub use flight::Ticket;
use flight::{Flights, Place};
pub use question::{Audience, Knowledge, Partition, Question, Rules, Skip, question};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cache::embedder::{EmbedError, Embedder, Vector};
use shelf::{Near, Shelf};

/// Longest wait for an identical question that is being answered already.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for the vector of a question: the model's own answer is no longer far away then.
const EMBEDDING: Duration = Duration::from_secs(1);
/// Audits at one time; more are left out.
const AUDITS: usize = 16;
/// Results of a partition's audits that make up for an entry's own.
const ENOUGH_POOLED: usize = 32;
/// Similarity below which nothing is learned: such pairs are never served.
const FLOOR: f32 = 0.6;
/// Least similarity from which two answers say the same.
const SAME: f32 = 0.85;

/// How a route's cache works.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What a question has to be like.
    pub rules: Rules,
    /// How long an answer is kept.
    pub life: Duration,
    /// Most entries of a tenant.
    pub max_entries: usize,
    /// Share of served answers that may be wrong, where audits are the measure.
    pub max_error: f64,
    /// Similarity from which an entry without audits serves.
    pub cut: f32,
    /// By how much it has to be nearer than the next entry with another answer.
    pub margin: f32,
    /// Share of near hits for which the model is asked too, off the path.
    pub audit_share: f64,
}

/// Flights without an answer that one caller waits for, before it asks the model whoever else does.
const MAX_FLIGHTS: u32 = 2;

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// An answer.
    Hit(Box<Hit>),
    /// Nothing: ask the model, and give the answer to the ticket. Dropped, it lets the next one ask.
    Lead(Box<Ticket>),
}

/// An answer out of the cache.
#[derive(Debug)]
pub struct Hit {
    /// It.
    pub kept: Kept,
    /// How near its question was; 1 when it was the same.
    pub similarity: f32,
    /// Set when this hit is to be checked: ask the model, and settle it.
    pub audit: Option<Audit>,
}

/// The cache. One per process.
pub struct Cache {
    shelves: Mutex<HashMap<TenantId, Arc<Mutex<Shelf>>>>,
    flights: Arc<Flights>,
    audits: Arc<Semaphore>,
    chance: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache. `chance` draws a number evenly from 0 to 1.
    pub fn new(chance: impl Fn() -> f64 + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            shelves: Mutex::default(),
            flights: Arc::default(),
            audits: Arc::new(Semaphore::new(AUDITS)),
            chance: Box::new(chance),
        })
    }

    /// Looks an answer up. Waits while the same question is being answered for another caller of its partition. `bar`
    /// is the least similarity that the caller wants; it cannot lower the route's. Without an `embedder` only the same
    /// question is found.
    pub async fn look_up(
        self: &Arc<Self>,
        question: Question,
        settings: &Settings,
        embedder: Option<Arc<dyn Embedder>>,
        bar: Option<f32>,
    ) -> Found {
        let deadline = Instant::now() + PATIENCE;
        let generation = self.on_shelf(question.partition.tenant(), |shelf| shelf.generation);
        let mut flights = 0;
        let place = loop {
            if let Some(hit) = self.exact(&question) {
                return Found::Hit(hit);
            }
            match self.flights.join(&question) {
                Place::Lead(landing) => break Some(landing),
                Place::Wait(_) if flights >= MAX_FLIGHTS => break None,
                Place::Wait(mut follower) => {
                    flights += 1;
                    if tokio::time::timeout_at(deadline, follower.landed())
                        .await
                        .unwrap_or(true)
                    {
                        break None;
                    }
                    // Something was forgotten meanwhile: what this one is told is not kept, so nobody shall wait for it.
                    if self.on_shelf(question.partition.tenant(), |shelf| shelf.generation) != generation {
                        break None;
                    }
                }
            }
        };
        // An answer may have been kept between the look and the take-off.
        if let Some(hit) = self.exact(&question) {
            return Found::Hit(hit);
        }
        let mut vector = None;
        let mut explored = None;
        if let Some(embedder) = embedder
            && let Some(located) = locate(&*embedder, &question).await
        {
            match self.near(&question, &located, settings, bar, &embedder) {
                Nearness::Serve(hit) => return Found::Hit(hit),
                Nearness::Explore(audit) => explored = Some(*audit),
                Nearness::None => {}
            }
            vector = Some(located);
        }
        Found::Lead(Box::new(Ticket {
            cache: Arc::clone(self),
            question,
            vector,
            life: settings.life,
            max_entries: settings.max_entries,
            generation,
            explored,
            by: None,
            landing: place,
        }))
    }

    /// Drops what is kept for a tenant if it rests on another version of what the tenant knows. Nobody would be answered with
    /// it: it only takes room.
    pub fn rests_on(&self, tenant: &TenantId, version: &str) {
        let dropped = self.on_shelf(tenant, |shelf| shelf.rests_on(version));
        if dropped > 0 {
            tracing::info!(%tenant, dropped, "kept answers rested on another version of the knowledge");
        }
    }

    /// Forgets what is kept for a tenant, or for one of its routes. Returns how many answers.
    pub fn forget(&self, tenant: &TenantId, route: Option<&str>) -> usize {
        let shelf = lock(&self.shelves).get(tenant).cloned();
        shelf.map_or(0, |shelf| lock(&shelf).forget(route))
    }

    /// Forgets everything that is kept for a tenant. Returns how many answers.
    pub fn forget_tenant(&self, tenant: &TenantId) -> usize {
        let shelf = lock(&self.shelves).remove(tenant);
        // Whoever still holds it keeps nothing there: the generation rises.
        shelf.map_or(0, |shelf| lock(&shelf).forget(None))
    }

    /// Returns how many answers are kept for a tenant.
    pub fn len(&self, tenant: &TenantId) -> usize {
        let shelf = lock(&self.shelves).get(tenant).cloned();
        shelf.map_or(0, |shelf| lock(&shelf).len())
    }

    /// Gates (c), (d) and (e).
    fn near(
        self: &Arc<Self>,
        question: &Question,
        vector: &Vector,
        settings: &Settings,
        bar: Option<f32>,
        embedder: &Arc<dyn Embedder>,
    ) -> Nearness {
        let partition = &question.partition;
        let judged = self.on_shelf(partition.tenant(), |shelf| {
            let nearest = shelf.nearest(partition, vector, Instant::now());
            let (best, entry) = nearest.first().filter(|(near, _)| near.similarity >= FLOOR)?;
            if veto::veto(&question.text, &entry.text).is_some() {
                return None;
            }
            // Another answer about as near: it is not clear which question this is.
            let unclear = nearest.get(1).is_some_and(|(second, rival)| {
                best.similarity - second.similarity < settings.margin
                    && rival.kept.text.trim() != entry.kept.text.trim()
            });
            let pooled = shelf
                .pooled(partition, vector.space())
                .filter(|pooled| pooled.len() >= ENOUGH_POOLED);
            let low = bar.is_some_and(|bar| best.similarity < bar);
            let decision = if unclear || low {
                Decision::Explore
            } else {
                decide(&entry.evidence, pooled, best.similarity, settings, (self.chance)())
            };
            let (best, kept) = (*best, entry.kept.clone());
            if decision == Decision::Serve {
                shelf.touch(partition, best.id);
            }
            Some((best, kept, decision))
        });
        let Some((best, kept, decision)) = judged else {
            return Nearness::None;
        };
        let same = settings.cut.max(SAME);
        let audit = |kept| self.audit(partition, best, kept, embedder, same);
        match decision {
            Decision::Explore => audit(kept).map_or(Nearness::None, |audit| Nearness::Explore(Box::new(audit))),
            Decision::Serve => {
                let sampled = (self.chance)() < settings.audit_share;
                let audit = if sampled { audit(kept.clone()) } else { None };
                Nearness::Serve(Box::new(Hit {
                    kept,
                    similarity: best.similarity,
                    audit,
                }))
            }
        }
    }

    /// Opens an audit, if not too many are open.
    fn audit(
        self: &Arc<Self>,
        partition: &Partition,
        near: Near,
        kept: Kept,
        embedder: &Arc<dyn Embedder>,
        same: f32,
    ) -> Option<Audit> {
        let permit = Arc::clone(&self.audits).try_acquire_owned().ok()?;
        Some(Audit {
            cache: Arc::clone(self),
            partition: partition.clone(),
            near,
            kept,
            embedder: Arc::clone(embedder),
            same,
            _permit: permit,
        })
    }

    /// Works on a tenant's shelf, which is made if there is none.
    fn on_shelf<T>(&self, tenant: &TenantId, work: impl FnOnce(&mut Shelf) -> T) -> T {
        let shelf = {
            let mut shelves = lock(&self.shelves);
            match shelves.get(tenant) {
                Some(shelf) => Arc::clone(shelf),
                None => Arc::clone(shelves.entry(tenant.clone()).or_default()),
            }
        };
        let mut shelf = lock(&shelf);
        work(&mut shelf)
    }

    fn exact(&self, question: &Question) -> Option<Box<Hit>> {
        let kept = self.on_shelf(question.partition.tenant(), |shelf| {
            shelf.exact(question, Instant::now())
        })?;
        Some(Box::new(Hit {
            kept,
            similarity: 1.0,
            audit: None,
        }))
    }
}

/// Places a question among meanings, if that does not take too long.
async fn locate(embedder: &dyn Embedder, question: &Question) -> Option<Vector> {
    let embedded = embedder.embed(vec![question.text.clone()]);
    let embedded = tokio::time::timeout(EMBEDDING, embedded).await;
    match embedded.unwrap_or(Err(EmbedError::Timeout)) {
        Ok(mut vectors) => vectors.pop(),
        Err(error) => {
            // The question goes to the model as if nothing were near.
            metrics::counter!("copilotd_cache_embeddings_missed_total").increment(1);
            tracing::debug!(%error, "no vector for a look-up in the cache");
            None
        }
    }
}

/// What gates (c) to (e) say.
enum Nearness {
    Serve(Box<Hit>),
    Explore(Box<Audit>),
    None,
}

/// Decides whether an entry serves: by its own audits, else by those of its partition, else by the route's cut, and then
/// never where an audit found it wrong.
fn decide(own: &Evidence, pooled: Option<&Evidence>, similarity: f32, settings: &Settings, chance: f64) -> Decision {
    if let Some(decision) = own.decide(similarity, settings.max_error, chance) {
        return decision;
    }
    if own.wrong_at(similarity) {
        return Decision::Explore;
    }
    let pooled = pooled.and_then(|pooled| pooled.decide(similarity, settings.max_error, chance));
    pooled.unwrap_or(if similarity >= settings.cut {
        Decision::Serve
    } else {
        Decision::Explore
    })
}

/// Locks; a panic elsewhere leaves a map that is still one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
