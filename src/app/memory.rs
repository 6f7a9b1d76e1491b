//! Returns freed memory to the operating system.
//!
//! glibc keeps freed memory for later allocations. After a burst of large bodies or answers that is most of the
//! process's size, and monitoring would see a burst that never ends.

use std::time::Duration;

/// Interval between two checks.
const EVERY: Duration = Duration::from_secs(20);
/// Divisor: memory is trimmed when the process has grown by more than a tenth of its smallest size so far.
const GROWTH: u64 = 10;

/// Checks the process's size periodically and makes the allocator return free memory when the process has grown. Ends
/// with the runtime.
pub async fn trim_periodically() {
    // Measured before the first request: a size measured during a burst would keep memory from ever being returned.
    let Some(mut smallest) = resident() else { return };
    loop {
        tokio::time::sleep(EVERY).await;
        // Walks the whole heap, which takes some milliseconds; not on a thread that serves.
        let looked = tokio::task::spawn_blocking(move || trim_if_grown(smallest)).await;
        let Ok(Some(pages)) = looked else { return };
        smallest = smallest.min(pages);
    }
}

/// Trims the process if it has grown. Returns its size in pages after that; none where that is unknown.
fn trim_if_grown(smallest: u64) -> Option<u64> {
    let pages = resident()?;
    if pages <= smallest.saturating_add(smallest / GROWTH) {
        return Some(pages);
    }
    trim();
    resident()
}

/// Returns the number of resident pages of this process.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library that no safe crate offers")]
fn trim() {
    // SAFETY: it takes a number and no pointer, and any thread may call it at any time (malloc_trim(3), MT-Safe).
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
        // Small allocations, which the allocator keeps, and a last one that pins the end of the heap.
        let pieces: Vec<Vec<u8>> = (0..200_000).map(|n| vec![1; 500 + n % 3]).collect();
        let pin = vec![1_u8; 600];
        let Some(before) = resident() else { return };
        drop(pieces);
        let after = trim_if_grown(1).unwrap();
        assert!(after < before, "{after} of {before} pages");
        drop(pin);
    }
}
