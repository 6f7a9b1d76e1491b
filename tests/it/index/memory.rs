//! The in-memory index of the tests fulfils the same contract, so that what they prove holds for the others.

use std::sync::Arc;

use copilotd_knowledge::fakes::MemoryIndex;

use super::{Fixture, index_suite};

pub async fn open() -> Option<Fixture> {
    Some(Fixture {
        index: Arc::new(MemoryIndex::new()),
        reopen: Box::new(|index| index),
        _guard: Box::new(()),
    })
}

index_suite!(open);
