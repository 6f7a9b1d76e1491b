//! Points at which crash tests stop the real binary. Compiled to nothing without the feature `crash-points`.

/// Aborts the process here if the environment says so.
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
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// `NAME` or `NAME#N`: abort when the point is reached for the N-th time (the first time without `#N`).
    const VARIABLE: &str = "COPILOTD_CRASH_AT";
    /// File to which the name of every point reached is appended, so that a test knows which ones to try.
    const TRACE: &str = "COPILOTD_CRASH_TRACE";

    struct Plan {
        name: String,
        left: AtomicU64,
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "only in builds for crash tests, which control it through the environment"
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

    #[expect(
        clippy::disallowed_methods,
        reason = "only in builds for crash tests, which control it through the environment"
    )]
    fn note(name: &str) {
        static FILE: OnceLock<Option<String>> = OnceLock::new();
        if let Some(path) = FILE.get_or_init(|| std::env::var(TRACE).ok()) {
            // One write in append mode: lines of several threads do not mix.
            let file = OpenOptions::new().append(true).create(true).open(path);
            let _ = file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
        }
    }

    pub(super) fn point(name: &str) {
        note(name);
        let Some(plan) = plan() else { return };
        if plan.name == name && plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // No destructors run and nothing is flushed, as with `kill -9`.
            std::process::abort();
        }
    }
}
