//! A model of a provider, as routes name it.

mod health;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use health::{Health, Kind};

/// Names a target: `provider/model`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetName {
    /// The provider's name in the configuration.
    pub provider: String,
    /// The model's name there.
    pub model: String,
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

impl TargetName {
    /// Reads `provider/model`; the model's name may hold slashes itself.
    pub fn parse(text: &str) -> Option<Self> {
        let (provider, model) = text.split_once('/')?;
        (!provider.is_empty() && !model.is_empty()).then(|| Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
        })
    }
}

/// A model of a provider, and what it can do.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: TargetName,
    /// Where it runs, if the configuration says so.
    pub region: Option<String>,
    /// Tokens of prompt and answer together.
    pub context_tokens: u64,
    /// Share among neighbours that have one too; targets without one are tried in order.
    pub weight: Option<u32>,
    /// Whether it can be offered tools.
    pub tools: bool,
    /// Whether it can be held to a schema.
    pub schema: bool,
    /// Whether it goes on with an answer whose beginning is the last message.
    pub prefill: bool,
    /// Whether it thinks before it speaks, so that its first token is late.
    pub reasoning: bool,
    /// How it does.
    pub state: Arc<TargetState>,
}

/// What is known of how a target does.
#[derive(Debug)]
pub struct TargetState {
    born: Instant,
    health: Mutex<Health>,
}

impl Default for TargetState {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            health: Mutex::default(),
        }
    }
}

impl TargetState {
    /// Looks at the health, or changes it; `f` also gets the present time.
    pub fn with<T>(&self, f: impl FnOnce(&mut Health, Duration) -> T) -> T {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut health, self.born.elapsed())
    }
}
