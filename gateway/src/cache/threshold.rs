//! From which similarity on an earlier answer is served: defaults for the local embedding models, from measurements. A
//! provider's model has its own scale, so its route has to name a threshold.

/// A kind of embedding model, by how far apart it puts questions that need different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingKind {
    /// A static table of word vectors (wordllama-l2-256): near paraphrases and near misses overlap.
    WordVectors,
    /// A sentence transformer (all-MiniLM-L6-v2).
    Sentences,
}

/// How much nearer the nearest entry must be than one with another answer.
pub const MARGIN: f32 = 0.02;

/// Returns the similarity from which an entry without audits is served: the lowest that keeps false hits on the
/// `gptcache` set under a tenth of GPTCache's own (the table is in docs/operate/semantic-cache.md). That of word vectors
/// was not lowered, because their false hits would rise. Without a model only identical questions are found, whatever
/// this is.
pub fn default_threshold(kind: Option<EmbeddingKind>) -> f32 {
    match kind {
        Some(EmbeddingKind::Sentences) => 0.80,
        Some(EmbeddingKind::WordVectors) | None => 0.85,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::FLOOR;

    #[test]
    fn thresholds_are_those_measured_and_above_the_floor() {
        for (kind, expected) in [
            (Some(EmbeddingKind::Sentences), 0.80),
            (Some(EmbeddingKind::WordVectors), 0.85),
            (None, 0.85),
        ] {
            let threshold = default_threshold(kind);
            assert!((threshold - expected).abs() < f32::EPSILON, "{kind:?}");
            assert!(threshold - MARGIN > FLOOR && threshold + MARGIN < 1.0, "{kind:?}");
        }
    }
}
