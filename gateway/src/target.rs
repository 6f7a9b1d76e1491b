//! A model of a provider, as routes name it.

mod health;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::file::FileKind;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use health::{Health, Kind};

/// Name of a target: `provider/model`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetName {
    /// Name of the provider in the configuration.
    pub provider: String,
    /// The provider's name of the model.
    pub model: String,
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

impl TargetName {
    /// Parses `provider/model`; the model's name may contain slashes.
    pub fn parse(text: &str) -> Option<Self> {
        let (provider, model) = text.split_once('/')?;
        (!provider.is_empty() && !model.is_empty()).then(|| Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
        })
    }
}

/// A model of a provider, and its capabilities.
#[derive(Debug)]
pub struct Target {
    /// Name of the target.
    pub name: TargetName,
    /// Region in which it runs, if configured.
    pub region: Option<String>,
    /// Context window: prompt and answer together, in tokens.
    pub context_tokens: u64,
    /// Share among adjacent targets that have a weight too; targets without one are tried in order.
    pub weight: Option<u32>,
    /// Whether it supports tools.
    pub tools: bool,
    /// Whether it supports a JSON schema for the answer.
    pub schema: bool,
    /// Whether it continues an answer whose beginning is the last message.
    pub prefill: bool,
    /// The kinds of attached files that it reads, beside text.
    pub reads: Vec<FileKind>,
    /// Whether it reasons before it answers, so that its first token is late.
    pub reasoning: bool,
    /// Health of the target.
    pub state: Arc<TargetState>,
}

/// Observed health of a target.
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
    /// Reads or changes the health; `f` also gets the current time.
    pub fn with<T>(&self, f: impl FnOnce(&mut Health, Duration) -> T) -> T {
        let mut health = self.health.lock();
        f(&mut health, self.born.elapsed())
    }
}
