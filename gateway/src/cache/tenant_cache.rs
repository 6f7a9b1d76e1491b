//! The cache of one tenant, with its bounds.
//!
//! Invariant: an entry is found only through its own partition; there are never more than `max_entries` entries nor
//! more than [`MOST_BYTES`] of answers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::CachedAnswer;
use super::evidence::Evidence;
use super::matrix::Matrix;
use super::question::Digest;
use super::question::{Partition, Question};
use copilotd_actors::ports::{Space, Vector};

/// Most bytes of one tenant's answers, questions and vectors.
const MOST_BYTES: usize = 128 << 20;

/// All cached answers of one tenant.
#[derive(Debug, Default)]
pub(super) struct TenantCache {
    /// Increases when answers are deleted: answers to questions asked before are then not stored.
    pub(super) generation: u64,
    /// Version of the tenant's knowledge; `None` before the first question.
    knowledge: Option<String>,
    partitions: HashMap<Partition, PartitionCache>,
    /// Entries by their last use.
    used: BTreeMap<u64, (Partition, u64)>,
    tick: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct PartitionCache {
    entries: HashMap<u64, Entry>,
    exact: HashMap<Digest, u64>,
    matrix: Matrix,
    /// By embedding space: similarities of two models are not comparable.
    pooled: HashMap<Space, Evidence>,
}

/// A question and its answer.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) text: String,
    pub(super) kept: CachedAnswer,
    pub(super) evidence: Evidence,
    exact: Digest,
    vector: Option<Vector>,
    expires: Instant,
    tick: u64,
}

/// An entry that is near to a question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    pub(super) id: u64,
    pub(super) similarity: f32,
}

impl Entry {
    fn size(&self) -> usize {
        // Once as floats and once as bytes.
        let vector = self.vector.as_ref().map_or(0, |vector| 5 * vector.values().len());
        self.kept.size() + self.text.len() + vector + size_of::<Self>()
    }
}

impl TenantCache {
    /// Returns the answer to exactly this question, and marks it as used.
    pub(super) fn exact(&mut self, question: &Question, now: Instant) -> Option<CachedAnswer> {
        let partition_cache = self.partitions.get(&question.partition)?;
        let entry = partition_cache
            .entries
            .get(partition_cache.exact.get(&question.exact)?)?;
        let (id, fresh) = (entry.id, entry.expires > now);
        if !fresh {
            self.remove(&question.partition, id);
            return None;
        }
        let kept = entry.kept.clone();
        self.touch(&question.partition, id);
        Some(kept)
    }

    /// Returns the two nearest entries of the partition, nearest first.
    pub(super) fn nearest(&self, partition: &Partition, vector: &Vector, now: Instant) -> Vec<(Neighbour, &Entry)> {
        let mut best: Vec<(Neighbour, &Entry)> = Vec::with_capacity(3);
        let Some(partition_cache) = self.partitions.get(partition) else {
            return best;
        };
        for entry in partition_cache
            .matrix
            .candidates(vector, now)
            .iter()
            .filter_map(|id| partition_cache.entries.get(id))
        {
            let Some(own) = &entry.vector else { continue };
            let near = Neighbour {
                id: entry.id,
                similarity: own.cosine(vector),
            };
            // Ties go to the older entry, independent of the map's order.
            let before = |(other, _): &(Neighbour, &Entry)| {
                other.similarity > near.similarity || (other.similarity >= near.similarity && other.id < near.id)
            };
            let place = best.partition_point(before);
            if place < 2 {
                best.insert(place, (near, entry));
                best.truncate(2);
            }
        }
        best
    }

    /// Returns the audit results of a whole partition, for vectors of `space`.
    pub(super) fn pooled(&self, partition: &Partition, space: &Space) -> Option<&Evidence> {
        self.partitions.get(partition)?.pooled.get(space)
    }

    /// Records an audit result; ignored if the entry is gone.
    pub(super) fn learn(&mut self, partition: &Partition, id: u64, similarity: f32, right: bool) {
        let Some(partition_cache) = self.partitions.get_mut(partition) else {
            return;
        };
        if let Some(entry) = partition_cache.entries.get_mut(&id) {
            entry.evidence.add(similarity, right);
            if let Some(vector) = &entry.vector {
                let space = Space::clone(vector.space());
                partition_cache.pooled.entry(space).or_default().add(similarity, right);
            }
        }
    }

    /// Marks an entry as used.
    pub(super) fn touch(&mut self, partition: &Partition, id: u64) {
        self.tick += 1;
        let tick = self.tick;
        let partition_cache = self.partitions.get_mut(partition);
        if let Some(entry) = partition_cache.and_then(|partition_cache| partition_cache.entries.get_mut(&id))
            && let Some(place) = self.used.remove(&entry.tick)
        {
            entry.tick = tick;
            self.used.insert(tick, place);
        }
    }

    /// Stores an answer, evicting the least recently used ones.
    pub(super) fn insert(
        &mut self,
        question: &Question,
        kept: CachedAnswer,
        vector: Option<Vector>,
        life: Duration,
        max_entries: usize,
        now: Instant,
    ) {
        let known = self.partitions.get(&question.partition);
        if let Some(known) = known
            .and_then(|partition_cache| partition_cache.exact.get(&question.exact))
            .copied()
        {
            self.remove(&question.partition, known);
        }
        self.tick += 1;
        let entry = Entry {
            id: self.tick,
            text: question.text.clone(),
            kept,
            evidence: Evidence::default(),
            exact: question.exact,
            vector,
            expires: now + life,
            tick: self.tick,
        };
        self.bytes += entry.size();
        self.used.insert(self.tick, (question.partition.clone(), entry.id));
        let partition_cache = self.partitions.entry(question.partition.clone()).or_default();
        partition_cache.exact.insert(question.exact, entry.id);
        if let Some(vector) = &entry.vector {
            partition_cache.matrix.insert(entry.id, vector, entry.expires);
        }
        partition_cache.entries.insert(entry.id, entry);
        while self.used.len() > max_entries || self.bytes > MOST_BYTES {
            let Some((_, (partition, id))) = self.used.first_key_value() else {
                break;
            };
            let (partition, id) = (partition.clone(), *id);
            self.remove(&partition, id);
        }
    }

    fn remove(&mut self, partition: &Partition, id: u64) {
        let Some(partition_cache) = self.partitions.get_mut(partition) else {
            return;
        };
        if let Some(entry) = partition_cache.entries.remove(&id) {
            partition_cache.exact.remove(&entry.exact);
            if let Some(vector) = &entry.vector {
                partition_cache.matrix.remove(entry.id, vector.space());
            }
            self.bytes -= entry.size();
            self.used.remove(&entry.tick);
        }
        if partition_cache.entries.is_empty() {
            self.partitions.remove(partition);
        }
    }

    /// Deletes all entries if they were made with another version of the tenant's knowledge. Returns how many.
    pub(super) fn set_knowledge_version(&mut self, version: &str) -> usize {
        let known = self.knowledge.as_deref();
        if known == Some(version) {
            return 0;
        }
        let is_first = known.is_none();
        self.knowledge = Some(version.to_owned());
        if is_first { 0 } else { self.forget(None) }
    }

    /// Deletes all entries, or those of one route. Returns how many.
    pub(super) fn forget(&mut self, route: Option<&str>) -> usize {
        self.generation += 1;
        let gone: Vec<_> = self
            .used
            .values()
            .filter(|(partition, _)| route.is_none_or(|route| partition.route() == route))
            .cloned()
            .collect();
        for (partition, id) in &gone {
            self.remove(partition, *id);
        }
        gone.len()
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }
}
