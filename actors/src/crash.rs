//! Points at which crash tests stop the real binary. Without the feature `crash-points` nothing of this exists.

/// Dies here if the environment says so.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    enabled::point(name);
}

/// Does nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(feature = "crash-points")]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// `NAME` or `NAME#N`: die at the N-th time that point is reached (the first without `#N`).
    const VARIABLE: &str = "COPILOTD_CRASH_AT";

    struct Plan {
        name: String,
        left: AtomicU64,
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "only in builds for crash tests, which steer it from outside"
    )]
    fn plan() -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        PLAN.get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            let (name, count) = text.rsplit_once('#').unwrap_or((&text, "1"));
            Some(Plan {
                name: name.to_owned(),
                left: AtomicU64::new(count.parse().unwrap_or(1)),
            })
        })
        .as_ref()
    }

    pub(super) fn point(name: &str) {
        let Some(plan) = plan() else { return };
        if plan.name == name && plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // No destructor runs and nothing is flushed, as with `kill -9`.
            std::process::abort();
        }
    }
}
