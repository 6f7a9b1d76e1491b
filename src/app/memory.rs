//! Gives memory that was freed back to the system.
//!
//! glibc keeps what was freed for the next allocation, and after a burst of large bodies or answers that is most of what the
//! process has: it would look, to whoever watches it, as if the burst had never ended.

use std::time::Duration;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(20);
/// Part of the smallest size so far by which the process has to have grown.
const GROWTH: u64 = 10;

/// Looks at the process's size from time to time, and has the allocator give back what it keeps while that is large. Ends with
/// the runtime.
pub async fn keep_small() {
    // Before the first request: a size that is taken later may be that of a burst, and nothing would be given back after it.
    let Some(mut smallest) = resident() else { return };
    loop {
        tokio::time::sleep(EVERY).await;
        // Walks the whole heap: some milliseconds, and not on a thread that serves.
        let looked = tokio::task::spawn_blocking(move || look(smallest)).await;
        let Ok(Some(pages)) = looked else { return };
        smallest = smallest.min(pages);
    }
}

/// Returns the process's size in pages, after it was made smaller if it is large; none where that cannot be told.
fn look(smallest: u64) -> Option<u64> {
    let pages = resident()?;
    if pages <= smallest.saturating_add(smallest / GROWTH) {
        return Some(pages);
    }
    trim();
    resident()
}

/// Resident pages of this process.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library that no safe crate offers")]
fn trim() {
    // SAFETY: it takes a number and no pointer, and may be called by any thread at any time (malloc_trim(3), MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_given_back() {
        // Small pieces, which the allocator keeps, with one among them that pins the end of the heap.
        let pieces: Vec<Vec<u8>> = (0..200_000).map(|n| vec![1; 500 + n % 3]).collect();
        let pin = vec![1_u8; 600];
        let Some(before) = resident() else { return };
        drop(pieces);
        let after = look(1).unwrap();
        assert!(after < before, "{after} of {before} pages");
        drop(pin);
    }
}
