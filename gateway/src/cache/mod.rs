//! The semantic cache: gates in series, cheapest first. Partition and exact match, nearest neighbour, veto, learned
//! decision.
//!
//! Invariants: an answer never leaves its [`Partition`], which begins with the tenant; only complete answers are
//! stored; a caller's instructions can only raise the threshold. No lock is held across an await.

mod answer;
mod audit;
mod evidence;
mod flight;
mod matrix;
mod personal;
mod question;
pub(crate) mod tenant_cache;
pub mod threshold;
pub mod veto;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use answer::{CachedAnswer, Recorder};
pub use audit::Audit;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::tenancy::TenantScope;
pub use evidence::{Decision, Evidence};
pub use flight::PendingFill;
use flight::{FlightRole, Flights};
pub use question::{Audience, Knowledge, Partition, Question, Rules, Skip, question};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Vector};
use tenant_cache::{Neighbour, TenantCache};

/// Longest wait for an identical question that is already being answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for the embedding of a question; by then the model itself would soon have answered.
const EMBEDDING: Duration = Duration::from_secs(1);
/// Most concurrent audits; more are skipped.
const AUDITS: usize = 16;
/// Number of a partition's audit results that replace an entry's own.
const ENOUGH_POOLED: usize = 32;
/// Similarity below which nothing is learned: such pairs are never served.
const FLOOR: f32 = 0.6;
/// Least similarity at which two answers count as equal.
const SAME: f32 = 0.85;

/// Settings of a route's cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which questions are cacheable.
    pub rules: Rules,
    /// Time to live of an answer.
    pub life: Duration,
    /// Most entries per tenant.
    pub max_entries: usize,
    /// Tolerated share of wrong answers, as measured by audits.
    pub max_error: f64,
    /// Similarity from which an entry without audits is served; see [`threshold`].
    pub cut: f32,
    /// How much nearer the entry must be than the next one with another answer; see [`threshold::MARGIN`].
    pub margin: f32,
    /// Share of semantic hits for which the model is also called, off the request path.
    pub audit_share: f64,
}

/// How many leaders without an answer one caller waits for before it calls the model itself.
const MAX_FLIGHTS: u32 = 2;

/// Result of a lookup.
#[derive(Debug)]
pub enum Lookup {
    /// A cached answer.
    Hit(Box<Hit>),
    /// A miss: call the model and fill in its answer. Dropping this lets the next caller lead.
    Lead(Box<PendingFill>),
}

/// A cache hit.
#[derive(Debug)]
pub struct Hit {
    /// The cached answer.
    pub kept: CachedAnswer,
    /// Similarity of its question; 1 if identical.
    pub similarity: f32,
    /// Set if this hit is to be audited: call the model, then settle the audit.
    pub audit: Option<Audit>,
}

/// The cache; one per process.
pub struct Cache {
    tenants: Mutex<HashMap<TenantId, Arc<Mutex<TenantCache>>>>,
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
    /// Creates an empty cache. `chance` draws a uniform number from 0 to 1.
    pub fn new(chance: impl Fn() -> f64 + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            tenants: Mutex::default(),
            flights: Arc::default(),
            audits: Arc::new(Semaphore::new(AUDITS)),
            chance: Box::new(chance),
        })
    }

    /// Looks up an answer. Waits while the same question is being answered for another caller of its partition. `bar`
    /// is the least similarity that the caller accepts; it cannot lower the route's. Without an `embedder` only
    /// identical questions are found.
    pub async fn look_up(
        self: &Arc<Self>,
        question: Question,
        settings: &Settings,
        embedder: Option<Arc<dyn Embedder>>,
        bar: Option<f32>,
    ) -> Lookup {
        let deadline = Instant::now() + PATIENCE;
        let generation = self.with_tenant(question.partition.tenant(), |tenant_cache| tenant_cache.generation);
        let mut flights = 0;
        let place = loop {
            if let Some(hit) = self.exact(&question) {
                return Lookup::Hit(hit);
            }
            match self.flights.join(&question) {
                FlightRole::Lead(flight_guard) => break Some(flight_guard),
                FlightRole::Wait(_) if flights >= MAX_FLIGHTS => break None,
                FlightRole::Wait(mut follower) => {
                    flights += 1;
                    if tokio::time::timeout_at(deadline, follower.ended())
                        .await
                        .unwrap_or(true)
                    {
                        break None;
                    }
                    // Answers were deleted meanwhile: this caller's answer will not be stored, so nobody may wait for
                    // it.
                    if self.with_tenant(question.partition.tenant(), |tenant_cache| tenant_cache.generation)
                        != generation
                    {
                        break None;
                    }
                }
            }
        };
        // An answer may have been stored between the lookup and joining the flight.
        if let Some(hit) = self.exact(&question) {
            return Lookup::Hit(hit);
        }
        let mut vector = None;
        let mut explored = None;
        if let Some(embedder) = embedder
            && let Some(embedded) = embed_question(&*embedder, &question).await
        {
            match self.near(&question, &embedded, settings, bar, &embedder) {
                GateResult::Serve(hit) => return Lookup::Hit(hit),
                GateResult::Explore(audit) => explored = Some(*audit),
                GateResult::None => {}
            }
            vector = Some(embedded);
        }
        Lookup::Lead(Box::new(PendingFill {
            cache: Arc::clone(self),
            question,
            vector,
            life: settings.life,
            max_entries: settings.max_entries,
            generation,
            explored,
            by: None,
            flight_guard: place,
        }))
    }

    /// Drops a tenant's cached answers if they were made with another version of the tenant's knowledge. They could not be
    /// served any more and only take space.
    pub fn set_knowledge_version(&self, scope: &TenantScope, version: &str) {
        let tenant = scope.tenant();
        let dropped = self.with_tenant(tenant, |tenant_cache| tenant_cache.set_knowledge_version(version));
        if dropped > 0 {
            tracing::info!(%tenant, dropped, "knowledge_version changed; dropped the cached answers of the previous version");
        }
    }

    /// Deletes a tenant's cached answers, or those of one of its routes. Returns how many.
    pub fn forget(&self, scope: &TenantScope, route: Option<&str>) -> usize {
        let tenant_cache = self.tenants.lock().get(scope.tenant()).cloned();
        tenant_cache.map_or(0, |tenant_cache| tenant_cache.lock().forget(route))
    }

    /// Deletes all cached answers of a tenant. Returns how many.
    pub fn forget_tenant(&self, scope: &TenantScope) -> usize {
        let tenant_cache = self.tenants.lock().remove(scope.tenant());
        // A caller that still holds the cache stores nothing there: the generation has changed.
        tenant_cache.map_or(0, |tenant_cache| tenant_cache.lock().forget(None))
    }

    /// Number of cached answers of a tenant.
    pub fn len(&self, scope: &TenantScope) -> usize {
        let tenant_cache = self.tenants.lock().get(scope.tenant()).cloned();
        tenant_cache.map_or(0, |tenant_cache| tenant_cache.lock().len())
    }

    /// Gates (c), (d) and (e).
    fn near(
        self: &Arc<Self>,
        question: &Question,
        vector: &Vector,
        settings: &Settings,
        bar: Option<f32>,
        embedder: &Arc<dyn Embedder>,
    ) -> GateResult {
        let partition = &question.partition;
        let judged = self.with_tenant(partition.tenant(), |tenant_cache| {
            let nearest = tenant_cache.nearest(partition, vector, Instant::now());
            let (best, entry) = nearest.first().filter(|(near, _)| near.similarity >= FLOOR)?;
            if veto::veto(&question.text, &entry.text).is_some() {
                return None;
            }
            // Another answer is about as near, so it is unclear which question this is.
            let unclear = nearest.get(1).is_some_and(|(second, rival)| {
                best.similarity - second.similarity < settings.margin
                    && rival.kept.text.trim() != entry.kept.text.trim()
            });
            let pooled = tenant_cache
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
                tenant_cache.touch(partition, best.id);
            }
            Some((best, kept, decision))
        });
        let Some((best, kept, decision)) = judged else {
            return GateResult::None;
        };
        let same = settings.cut.max(SAME);
        let audit = |kept| self.audit(partition, best, kept, embedder, same);
        match decision {
            Decision::Explore => audit(kept).map_or(GateResult::None, |audit| GateResult::Explore(Box::new(audit))),
            Decision::Serve => {
                let sampled = (self.chance)() < settings.audit_share;
                let audit = if sampled { audit(kept.clone()) } else { None };
                GateResult::Serve(Box::new(Hit {
                    kept,
                    similarity: best.similarity,
                    audit,
                }))
            }
        }
    }

    /// Opens an audit, unless too many are open.
    fn audit(
        self: &Arc<Self>,
        partition: &Partition,
        near: Neighbour,
        kept: CachedAnswer,
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

    /// Runs `work` on a tenant's cache, which is created if missing.
    fn with_tenant<T>(&self, tenant: &TenantId, work: impl FnOnce(&mut TenantCache) -> T) -> T {
        let tenant_cache = {
            let mut tenants = self.tenants.lock();
            match tenants.get(tenant) {
                Some(tenant_cache) => Arc::clone(tenant_cache),
                None => Arc::clone(tenants.entry(tenant.clone()).or_default()),
            }
        };
        let mut tenant_cache = tenant_cache.lock();
        work(&mut tenant_cache)
    }

    fn exact(&self, question: &Question) -> Option<Box<Hit>> {
        let kept = self.with_tenant(question.partition.tenant(), |tenant_cache| {
            tenant_cache.exact(question, Instant::now())
        })?;
        Some(Box::new(Hit {
            kept,
            similarity: 1.0,
            audit: None,
        }))
    }
}

/// Embeds a question, unless that takes too long.
async fn embed_question(embedder: &dyn Embedder, question: &Question) -> Option<Vector> {
    let embedded = embedder.embed(EmbedRequest::to_compare(vec![question.text.clone()]));
    let embedded = tokio::time::timeout(EMBEDDING, embedded).await;
    match embedded.unwrap_or(Err(EmbedError::Timeout)) {
        Ok(mut vectors) => vectors.pop(),
        Err(error) => {
            // The model is called as if nothing were near.
            metrics::counter!("copilotd_cache_embeddings_missed_total").increment(1);
            tracing::debug!(%error, "no embedding for a cache lookup; calling the model");
            None
        }
    }
}

/// Result of gates (c) to (e).
enum GateResult {
    Serve(Box<Hit>),
    Explore(Box<Audit>),
    None,
}

/// Decides whether an entry is served: by its own audits, else by those of its partition, else by the route's
/// threshold, and then never where an audit found it wrong.
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

#[cfg(test)]
mod tests;
