//! From which similarity on an earlier answer is served: defaults for the embedding models of this process, from
//! measurements. A provider's model has its own scale, so its route has to name a threshold.

/// How much nearer the nearest entry must be than one with another answer.
pub const MARGIN: f32 = 0.02;

/// The similarity by bge-small-en-v1.5 from which an entry without audits is served: the lowest with at most one false
/// hit in the half of the `gptcache` set that rules are tuned on. docs/operate/semantic-cache.md has the table for the
/// other half.
pub const BGE_SMALL: f32 = 0.90;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{FLOOR, SAME};

    #[test]
    fn thresholds_are_above_those_of_neighbours_and_audits() {
        for threshold in [BGE_SMALL] {
            assert!(threshold - MARGIN > FLOOR && threshold + MARGIN < 1.0, "{threshold}");
            assert!(threshold >= SAME, "{threshold}");
        }
    }
}
