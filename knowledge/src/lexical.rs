//! The lexical search: BM25 over stemmed words.
//!
//! Computed by us on every store, from statistics of the tenant alone: what databases offer counts the rows of all tenants
//! (FTS5) or is no BM25 (PostgreSQL's `ts_rank`).

/// How fast further occurrences of a term stop to count: 0 counts presence only.
const K1: f64 = 0.9;
/// How much a chunk's length counts: 0 not at all, 1 in full proportion.
const B: f64 = 0.4;

/// What the weights of a tenant's terms depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Searchable chunks.
    pub chunks: u64,
    /// Terms of all of them, each occurrence counted.
    pub terms: u64,
}

impl Statistics {
    /// Returns the average number of terms of a chunk; 0 if there are no chunks.
    pub fn average_length(&self) -> f64 {
        if self.chunks == 0 {
            return 0.0;
        }
        as_float(self.terms) / as_float(self.chunks)
    }
}

/// Returns how much a term says that occurs in `containing` of `chunks` chunks; never negative. The caller passes
/// `containing <= chunks`.
pub fn idf(chunks: u64, containing: u64) -> f64 {
    let (chunks, containing) = (as_float(chunks.max(containing)), as_float(containing));
    (1.0 + (chunks - containing + 0.5) / (containing + 0.5)).ln()
}

/// Returns what `occurrences` of a term count in a chunk of `length` terms, from 0 (none) towards 1 (many).
pub fn weight(occurrences: u32, length: u64, average_length: f64) -> f64 {
    let occurrences = f64::from(occurrences);
    let relative = if average_length > 0.0 {
        as_float(length) / average_length
    } else {
        1.0
    };
    occurrences / (occurrences + K1 * (1.0 - B + B * relative))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of chunks and terms are far below 2^53"
)]
fn as_float(count: u64) -> f64 {
    count as f64
}
