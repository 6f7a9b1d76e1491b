//! The answer cache of a route, and the embedding model of this process.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::seconds;

/// Settings of a route's answer cache.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteCache {
    /// Which earlier questions count as the same.
    pub mode: CacheMode,
    /// Who may get an answer that was given to someone else.
    pub audience: CacheAudience,
    /// How long an answer is stored.
    #[serde(rename = "ttl_s", deserialize_with = "seconds")]
    pub ttl: Duration,
    /// Most stored answers per tenant.
    pub max_entries: usize,
    /// Requests with a higher temperature are not cached; a request without one counts as 1.
    pub max_temperature: f64,
    /// The route whose embedding model compares questions; the model of this process if missing.
    pub embedding_route: Option<String>,
    /// Similarity from which an answer is given before audits have measured errors; the model's default if missing.
    pub threshold: Option<f32>,
    /// Share of wrong answers that is tolerated, once audits measure it.
    pub max_error: f64,
    /// Share of near hits that are audited by also asking the model.
    pub audit_share: f64,
}

impl Default for RouteCache {
    fn default() -> Self {
        Self {
            mode: CacheMode::Off,
            audience: CacheAudience::User,
            ttl: Duration::from_secs(3_600),
            max_entries: 1_000,
            max_temperature: 1.0,
            embedding_route: None,
            threshold: None,
            max_error: 0.02,
            audit_share: 0.02,
        }
    }
}

/// Which earlier questions count as the same. Off by default: the operator decides whether an old answer is good
/// enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// None: the cache is off.
    #[default]
    Off,
    /// Identical questions.
    Exact,
    /// Questions of the same meaning too.
    Semantic,
}

/// Who may get an answer that was given to someone else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheAudience {
    /// Nobody: only the user who asked gets it again.
    #[default]
    User,
    /// Users with the same role.
    Role,
    /// All users of the tenant.
    Tenant,
}

/// The embedding model of this process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embeddings {
    /// Name of the model.
    pub model: String,
    /// Directory of all models' files; `models` in the data directory if missing.
    pub directory: Option<PathBuf>,
}
