//! Routes: a name, and an ordered list of targets.

mod access;
mod health;
mod hedge;
mod order;
mod rights;
pub mod rule;
mod target;
mod trip;

use std::sync::Arc;
use std::time::Duration;

pub use access::{Access, Key, Keys, SharedKeys};
pub use health::{Health, Kind};
pub use hedge::HedgeBudget;
pub use order::{Standing, order};
pub use rights::{Rights, TenantAccess};
pub use target::{Target, TargetName, TargetState};
pub use trip::{Keyed, MAX_ATTEMPTS, Next, Place, Trip};

use super::call::Mode;
use super::upstream::Timeouts;

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
