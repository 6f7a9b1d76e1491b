//! Where limits and budgets are counted.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::seconds;

/// Where limits and budgets are counted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "store", rename_all = "lowercase", deny_unknown_fields)]
pub enum LimitStore {
    /// In this process.
    #[default]
    Local,
    /// In Redis, shared by all processes that use the same one.
    Redis {
        /// URL; may contain a password.
        url: SecretString,
        /// Prefix of all keys in Redis.
        #[serde(default = "default_prefix")]
        prefix: String,
        /// Share of each rate that this process may use while Redis is unavailable.
        #[serde(default = "default_local_share")]
        local_share: f64,
        /// How long that share may be used; after that, limited requests are refused.
        #[serde(
            default = "default_max_outage",
            rename = "max_outage_s",
            deserialize_with = "seconds"
        )]
        max_outage: Duration,
    },
}

fn default_prefix() -> String {
    "copilotd".to_owned()
}

fn default_local_share() -> f64 {
    0.25
}

fn default_max_outage() -> Duration {
    Duration::from_secs(60)
}
