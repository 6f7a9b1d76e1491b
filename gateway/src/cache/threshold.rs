//! From which similarity on an earlier answer is served: defaults for the embedding models of this process, from
//! measurements. A provider's model has its own scale, so its route has to name a threshold.

use super::{FLOOR, SAME};

/// How much nearer the nearest entry must be than one with another answer.
pub const MARGIN: f32 = 0.02;

/// The similarity by bge-small-en-v1.5 from which an entry without audits is served: the lowest of those tried that keeps
/// false hits, in the halves of the sets that rules are tuned on, under a tenth of GPTCache's own for `gptcache`, and
/// under a tenth of all questions for `qqp`. It was settled after the other halves had been seen, so their figures are no
/// independent check. The table is in docs/operate/semantic-cache.md.
pub const BGE_SMALL: f32 = 0.85;

// A nearest question must be able to lead by the margin, and answers are compared no more strictly than questions.
const _: () = assert!(BGE_SMALL - MARGIN > FLOOR && BGE_SMALL + MARGIN < 1.0 && BGE_SMALL >= SAME);
