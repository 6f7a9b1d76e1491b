//! The semantic cache of a route, and the model that it measures nearness with.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::seconds;

/// Answers that are kept and given again.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteCache {
    /// Which questions count as asked before.
    pub mode: CacheMode,
    /// Who shares answers.
    pub audience: CacheAudience,
    /// How long an answer is kept.
    #[serde(rename = "ttl_s", deserialize_with = "seconds")]
    pub ttl: Duration,
    /// Most answers of a tenant.
    pub max_entries: usize,
    /// The highest temperature of a request; one without counts as 1.
    pub max_temperature: f64,
    /// The route whose models find near questions; the model of this process when missing.
    pub embedding_route: Option<String>,
    /// Similarity from which an answer serves that no audit has looked at; by the model when missing.
    pub threshold: Option<f32>,
    /// Share of served answers that may be wrong, once audits are the measure.
    pub max_error: f64,
    /// Share of near hits for which the model is asked too.
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

/// Which questions count as asked before. Off by default: whether an old answer will do is the operator's to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// None.
    #[default]
    Off,
    /// The same.
    Exact,
    /// Those of the same meaning.
    Semantic,
}

/// Who shares answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheAudience {
    /// Only the user who asked.
    #[default]
    User,
    /// Those whose credentials may do the same.
    Role,
    /// All of the tenant.
    Tenant,
}

/// The embedding model of this process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embeddings {
    /// Its name.
    pub model: String,
    /// Directory of all models' files; `models` in the data directory when missing.
    pub directory: Option<PathBuf>,
}
