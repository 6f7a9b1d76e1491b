//! Routes: a name, and an ordered list of targets.

pub(crate) mod failover_plan;
mod hedge;
mod order;
pub mod rule;

use std::sync::Arc;
use std::time::Duration;

pub use failover_plan::{Candidate, FailoverPlan, MAX_ATTEMPTS, Next, TargetWithKeys};
pub use hedge::HedgeBudget;
pub use order::{Ranking, order};

use crate::provider::Timeouts;
use crate::request::call::Mode;
use crate::target::Target;

/// A named model of ours.
#[derive(Debug)]
pub struct Route {
    /// Name of the route.
    pub name: String,
    /// Targets in order of preference; never empty.
    pub targets: Vec<Arc<Target>>,
    /// Timeouts of a call; `total` bounds all attempts together.
    pub timeouts: Timeouts,
    /// First-token timeout if the model reasons before it answers: by default, or because the request asks for it.
    pub first_token_reasoning: Duration,
    /// How long a call waits for its preferred target's `Retry-After` before it falls back to another one.
    pub patience: Duration,
    /// When pieces are passed on, unless the caller says.
    pub mode: Mode,
    /// Budget for hedging a late first token; `None` disables hedging.
    pub hedges: Option<Arc<HedgeBudget>>,
}
