//! Routes: a name, and the models behind it.

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

/// A name behind which models stand.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Models, in order of preference; never empty.
    pub targets: Vec<Arc<Target>>,
    /// The clocks of a call; `total` is for all attempts together.
    pub timeouts: Timeouts,
    /// The clock for the first token where the model thinks before it speaks: the target does, or the request asks for it.
    pub first_token_reasoning: Duration,
    /// How long a call waits for its preferred target's `Retry-After` before it falls back to another one.
    pub patience: Duration,
    /// Whether pieces are passed on as they come, unless the caller says so.
    pub mode: Mode,
    /// What may be spent on a second request when a first token is late; none: nothing.
    pub hedges: Option<Arc<HedgeBudget>>,
}
