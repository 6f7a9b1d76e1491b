//! Detectors: whatever finds in a content what must not pass, besides the deny rules' literals.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::guardrail::content::Unreadable;
use crate::domain::guardrail::{ContentKind, Finding, Stage, Texts};
use crate::tenancy::TenantScope;

/// Default time limit of one inspection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Finds in contents what must not pass. It only finds:
/// [`judge`](crate::domain::guardrail::judge) decides what becomes of the content.
///
/// Contract (`fakes::detector::contract` checks it):
/// - *Bounded*: an inspection ends within [`timeout`](Self::timeout), after which its caller drops it. It neither keeps
///   a thread of the caller busy ([`compute`](crate::compute)) nor keeps the contents.
/// - *Failing closed*: what could not be inspected is an error, never a list without findings. The caller lets no
///   content pass that one of its detectors could not inspect.
/// - *Cancel-safe*: a dropped inspection leaves nothing behind, and the same contents can be inspected again.
/// - *Budgeted*: it bounds, for each tenant, what waits and what runs, and answers [`DetectorError::Busy`] beyond.
/// - *Repeatable*: it has no effects, and the verdict is stored where it counts, so that a replay does not ask again.
#[async_trait]
pub trait Detector: Send + Sync + fmt::Debug {
    /// Returns the name for logs.
    fn name(&self) -> &str;

    /// Returns whether the detector inspects contents of this kind. A kind that is only known at its end, such as an
    /// answer, is held back until then.
    fn looks_at(&self, kind: ContentKind) -> bool;

    /// Returns the time limit of one inspection.
    fn timeout(&self) -> Duration {
        TIMEOUT
    }

    /// Inspects contents that belong together, such as the tool calls of one answer. Returns one list for each, in
    /// their order.
    async fn inspect(&self, scope: &TenantScope, contents: &[Content]) -> Result<Vec<Vec<Finding>>, DetectorError>;
}

/// A content to be inspected. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    /// What it is.
    pub kind: ContentKind,
    /// Its texts.
    pub texts: Arc<dyn Texts>,
    /// The cost of scanning all texts once, in the unit of [`compute`](crate::compute).
    pub cost: usize,
}

impl Content {
    /// Creates a content.
    pub fn new(kind: ContentKind, texts: impl Texts + 'static, cost: usize) -> Self {
        let texts = Arc::new(texts);
        Self { kind, texts, cost }
    }

    /// Returns the stage at which it is checked.
    pub fn stage(&self) -> Stage {
        self.kind.stage()
    }
}

impl fmt::Debug for Content {
    // Without the texts: they do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Why there are no findings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetectorError {
    /// The content is ambiguous; nothing can check it.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Too many contents of this tenant are waiting.
    #[error("too many contents of this tenant are waiting to be checked")]
    Busy,
    /// There was no answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(
        /// The time limit.
        Duration,
    ),
    /// The detector cannot be used at present.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
