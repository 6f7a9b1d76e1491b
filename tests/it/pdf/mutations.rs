//! Damaged documents: one byte changed, the end cut off, references turned around into loops. Each is read within the
//! limits, to text or a named error.

use std::time::Duration;

use copilotd::adapters::pdf::{PdfPool, Settings};
use copilotd_knowledge::extract::ExtractError;

use super::{documents, library, pool, read};

/// A generator of the same mutations in every run.
pub struct Mutator(u64);

impl Mutator {
    /// Creates a generator.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }

    /// Returns a changed copy.
    pub fn mutate(&mut self, document: &[u8]) -> Vec<u8> {
        let mut mutated = document.to_vec();
        if mutated.is_empty() {
            return mutated;
        }
        match self.below(3) {
            0 => {
                let at = self.below(mutated.len());
                mutated[at] = u8::try_from(self.below(256)).unwrap();
            }
            1 => mutated.truncate(self.below(document.len())),
            _ => self.turn_reference(&mut mutated),
        }
        mutated
    }

    /// Makes a reference, such as `12 0 R`, refer to another object, or to the one it is in.
    fn turn_reference(&mut self, document: &mut [u8]) {
        let references: Vec<usize> = document
            .windows(5)
            .enumerate()
            .filter(|(_, window)| window[0].is_ascii_digit() && window[1..] == *b" 0 R")
            .map(|(at, _)| at)
            .collect();
        if references.is_empty() {
            let at = self.below(document.len());
            document[at] ^= 1;
            return;
        }
        let at = references[self.below(references.len())];
        document[at] = b'0' + u8::try_from(self.below(10)).unwrap();
    }
}

/// Settings that a damaged document meets soon.
pub fn strict(library: std::path::PathBuf) -> Settings {
    Settings {
        processor_seconds: 5,
        deadline: Duration::from_secs(60),
        ..super::ample(library)
    }
}

/// Reads a document; fails if its failure is not the document's.
pub async fn outcome(pool: &PdfPool, content: &[u8]) -> &'static str {
    match read(pool, content).await {
        Ok(_) => "read",
        Err(error @ (ExtractError::Busy | ExtractError::PdfUnavailable)) => panic!("{error:?}"),
        Err(error) => error.code(),
    }
}

#[tokio::test]
async fn damaged_documents_are_read_or_refused() {
    let Some(library) = library() else { return };
    let pool = pool(strict(library));
    let mut mutator = Mutator::new(11);
    for document in documents::all() {
        for _ in 0..12 {
            outcome(&pool, &mutator.mutate(&document)).await;
        }
    }
}
