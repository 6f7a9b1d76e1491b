//! Random pauses: what failed together must not come back together.

use std::time::Duration;

/// Returns a random duration from zero to `most`.
pub fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_bounded_and_differs() {
        let most = Duration::from_secs(60);
        let pauses: std::collections::HashSet<_> = (0..100).map(|_| jitter(most)).collect();
        assert!(pauses.iter().all(|pause| *pause <= most));
        assert!(pauses.len() > 90, "{}", pauses.len());
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
