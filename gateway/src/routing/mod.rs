//! Routes: a name, and the models behind it.

mod hedge;
mod order;
pub mod rule;
mod trip;

use std::sync::Arc;
use std::time::Duration;

pub use hedge::HedgeBudget;
pub use order::{Standing, order};
pub use trip::{Keyed, MAX_ATTEMPTS, Next, Place, Trip};

use crate::provider::Timeouts;
use crate::request::call::Mode;
use crate::target::Target;

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
