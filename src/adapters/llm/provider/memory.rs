//! Memory for large events and documents of providers, shared by the whole process.
//!
//! Small ones are bounded by the number of streams. What exceeds [`FREE`] is counted: all of it together is limited,
//! and an answer that does not fit fails instead of taking the process down.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that each reader may hold uncounted.
const FREE: usize = 64 * 1024;
/// Bytes that all readers together may hold beyond that.
const ALL: usize = 256 * 1024 * 1024;
/// Reserved at once, so that a large event is not counted byte by byte.
const STEP: usize = 64 * 1024;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// The memory budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryExhausted;

/// What one reader holds beyond `FREE`; released when dropped.
#[derive(Debug, Default)]
pub struct MemoryShare(usize);

impl MemoryShare {
    /// Reserves memory until `bytes` are covered.
    pub fn hold(&mut self, bytes: usize) -> Result<(), MemoryExhausted> {
        let wanted = bytes.saturating_sub(FREE).next_multiple_of(STEP);
        let more = wanted.saturating_sub(self.0);
        if more == 0 {
            return Ok(());
        }
        let add = |held: usize| held.checked_add(more).filter(|sum| *sum <= ALL);
        HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| MemoryExhausted)?;
        self.0 = wanted;
        Ok(())
    }

    /// Releases what is not needed for `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let wanted = bytes.saturating_sub(FREE).next_multiple_of(STEP);
        let less = self.0.saturating_sub(wanted);
        if less > 0 {
            HELD.fetch_sub(less, Ordering::Relaxed);
            self.0 -= less;
        }
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_memory_is_bounded_and_released() {
        // The process's own count, of which other tests use little.
        let mut rooms: Vec<MemoryShare> = (0..32).map(|_| MemoryShare::default()).collect();
        let fits = |rooms: &mut Vec<MemoryShare>| {
            let held = rooms.iter_mut().filter_map(|memory| memory.hold(16 * 1024 * 1024).ok());
            held.count()
        };
        let first = fits(&mut rooms);
        assert!((8..=16).contains(&first), "{first}");
        for memory in &mut rooms {
            memory.shrink_to(FREE);
            assert_eq!(memory.0, 0);
        }
        assert!(fits(&mut rooms) >= 8);
        drop(rooms);
        let mut small = MemoryShare::default();
        assert_eq!(small.hold(FREE), Ok(()));
        assert_eq!(small.0, 0);
        assert_eq!(small.hold(FREE + 1), Ok(()));
        assert_eq!(small.0, STEP);
    }
}
