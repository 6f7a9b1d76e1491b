//! The provider's knobs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Knobs. `POST /_sim/knobs` names the ones to change; `null` resets one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Knobs {
    /// Time to the first piece, unless a step says otherwise.
    pub(crate) first_ms: u64,
    /// Time between pieces, unless a step says otherwise.
    pub(crate) pace_ms: u64,
    /// Share of the requests, 0 to 1, that fail with `error_status`.
    pub(crate) error_rate: f64,
    pub(crate) error_status: u16,
    /// Keys of a directive (`status=429 retry_after=1`) applied to every request instead of what its message says.
    pub(crate) fault: Option<String>,
    /// Holds every answer until this is `false` again (or `POST /_sim/release`).
    pub(crate) hold: bool,
    /// The only API key that is accepted.
    pub(crate) require_key: Option<String>,
    /// Longer prompts fail with `context_length_exceeded`.
    pub(crate) context_tokens: Option<u64>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            first_ms: 120,
            pace_ms: 25,
            error_rate: 0.0,
            error_status: 500,
            fault: None,
            hold: false,
            require_key: None,
            context_tokens: None,
        }
    }
}

impl Knobs {
    /// Changes the named knobs.
    pub(crate) fn merge(&mut self, changes: &Value) -> Result<(), String> {
        let Value::Object(changes) = changes else {
            return Err("knobs must be a JSON object".to_owned());
        };
        let mut all = serde_json::to_value(&*self).map_err(|error| error.to_string())?;
        let defaults = serde_json::to_value(Self::default()).map_err(|error| error.to_string())?;
        for (name, value) in changes {
            all[name] = match value {
                Value::Null => defaults.get(name).cloned().unwrap_or(Value::Null),
                value => value.clone(),
            };
        }
        *self = serde_json::from_value(all).map_err(|error| error.to_string())?;
        Ok(())
    }
}
