//! Audits: a fresh answer of the model is compared with the cached one.
//!
//! Invariant: never on the request path, and never more than a bounded number at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::Cache;
use super::answer::CachedAnswer;
use super::question::Partition;
use super::tenant_cache::Neighbour;
use super::veto::{Veto, veto};
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Purpose, Urgency, Vector};

/// Longest wait for the embeddings of two answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are compared: local models hardly read more.
const COMPARED: usize = 1_024;

/// A cached answer that is to be compared with a fresh one.
#[derive(Debug)]
pub struct Audit {
    pub(super) cache: Arc<Cache>,
    pub(super) partition: Partition,
    pub(super) near: Neighbour,
    pub(super) kept: CachedAnswer,
    pub(super) embedder: Arc<dyn Embedder>,
    /// Similarity from which two answers count as equal.
    pub(super) same: f32,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Audit {
    /// Compares with the model's fresh answer and teaches the cache. Returns whether the cached answer was right;
    /// `None` if the model gave no complete answer, or the two could not be compared.
    pub async fn settle(self, fresh: Option<CachedAnswer>) -> Option<bool> {
        let right = self.compare(&fresh?.text).await?;
        let Self {
            cache, partition, near, ..
        } = self;
        cache.with_tenant(partition.tenant(), |tenant_cache| {
            tenant_cache.learn(&partition, near.id, near.similarity, right)
        });
        metrics::counter!("copilotd_cache_audits_total", "right" => if right { "yes" } else { "no" }).increment(1);
        Some(right)
    }

    async fn compare(&self, fresh: &str) -> Option<bool> {
        if let Some(same) = compare_words(&self.kept.text, fresh) {
            return Some(same);
        }
        let request = EmbedRequest {
            texts: vec![start(&self.kept.text), start(fresh)],
            purpose: Purpose::Passage,
            urgency: Urgency::Background,
        };
        let embedded = tokio::time::timeout(PATIENCE, self.embedder.embed(request)).await;
        match embedded.unwrap_or(Err(EmbedError::Timeout)) {
            Ok(vectors) => match <[Vector; 2]>::try_from(vectors) {
                Ok([kept, fresh]) => Some(kept.cosine(&fresh) >= self.same),
                Err(_) => None,
            },
            Err(error) => {
                tracing::debug!(%error, "cache audit could not compare two answers; audit discarded");
                None
            }
        }
    }
}

fn start(text: &str) -> String {
    text[..text.floor_char_boundary(COMPARED.min(text.len()))].to_owned()
}

/// Compares two answers by their words alone. If a number, a date or a negation differs they count as different; that
/// may be too strict and then costs a hit.
fn compare_words(kept: &str, fresh: &str) -> Option<bool> {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect()
    };
    if words(kept) == words(fresh) {
        return Some(true);
    }
    match veto(kept, fresh) {
        Some(Veto::Number | Veto::Date | Veto::Unit | Veto::Negation | Veto::Antonym) => Some(false),
        Some(Veto::Name | Veto::QuestionWord | Veto::Order) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_differ_in_a_fact_are_told_apart() {
        for (kept, fresh, expected) in [
            ("Thirty days.", "thirty days", Some(true)),
            ("You get 30 days.", "You get 28 days.", Some(false)),
            ("It is allowed.", "It is not allowed.", Some(false)),
            ("Ask your manager.", "Please talk to the manager.", None),
        ] {
            assert_eq!(compare_words(kept, fresh), expected, "{kept} / {fresh}");
        }
    }
}
