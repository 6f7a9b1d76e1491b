//! Where limits are counted.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::seconds;

/// Where limits are counted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "store", rename_all = "lowercase", deny_unknown_fields)]
pub enum LimitStore {
    /// In this process.
    #[default]
    Local,
    /// In Redis, for all processes that name the same one.
    Redis {
        /// Address; may hold a password.
        url: SecretString,
        /// What the names of its keys begin with.
        #[serde(default = "default_prefix")]
        prefix: String,
        /// Share of each rate that this process may use while Redis is away.
        #[serde(default = "default_local_share")]
        local_share: f64,
        /// How long it may.
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
