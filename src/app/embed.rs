//! The local embedding model of this process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use copilotd_actors::ports::Clock;
use copilotd_actors::ports::Embedder;
use copilotd_gateway::cache::threshold::{BGE_SMALL, MARGIN};
use copilotd_gateway::cache::{Audience, Cache, Rules, Settings};
use copilotd_gateway::{Embeddings, Gateway};

use crate::adapters::embedding as embed;
use crate::adapters::embedding::{LocalEmbedder, ModelKind, Threads};
use crate::cli::{Failure, PullArgs};
use crate::config::{CacheAudience, CacheMode, Config, RouteCache};

/// Returns the similarity from which a cache serves an answer, unless its route names another.
fn threshold(kind: ModelKind) -> f32 {
    match kind {
        ModelKind::BgeSmall => BGE_SMALL,
    }
}

/// The local model of a configuration: loaded when something first asks for it, and shared by all that do.
#[derive(Debug)]
pub struct LocalModel {
    kind: Option<ModelKind>,
    directory: PathBuf,
    /// `Some(None)` if it could not be loaded.
    loaded: OnceLock<Option<Arc<dyn Embedder>>>,
}

impl LocalModel {
    /// Reads which model is configured.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let embeddings = config.embeddings.as_ref();
        let kind: Option<Result<ModelKind, String>> = embeddings.map(|embeddings| embeddings.model.parse());
        let named = embeddings.and_then(|embeddings| embeddings.directory.clone());
        Ok(Self {
            kind: kind
                .transpose()
                .map_err(anyhow::Error::msg)
                .context("embeddings.model")?,
            directory: named.unwrap_or_else(|| config.server.data_dir.join("models")),
            loaded: OnceLock::new(),
        })
    }

    /// Returns the model; loads it, which takes up to a second, if nothing has asked before. `None` if none is
    /// configured, and if it could not be loaded: the process then serves without it, and an error is logged once.
    pub fn get(&self) -> Option<Arc<dyn Embedder>> {
        self.loaded.get_or_init(|| self.load()).clone()
    }

    fn load(&self) -> Option<Arc<dyn Embedder>> {
        let kind = self.kind?;
        match LocalEmbedder::load(kind, &self.directory, Threads::default()) {
            Ok(embedder) => Some(Arc::new(embedder)),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(
                    model = %kind, %error,
                    "local embedding model could not be loaded; semantic caches match identical questions only"
                );
                None
            }
        }
    }
}

/// Adds a cache to the gateway, if a route has one.
pub fn with_cache(gateway: Gateway, config: &Config, local: &LocalModel, clock: Arc<dyn Clock>) -> Gateway {
    let wanting = config.routes.iter().filter(|route| route.cache.mode != CacheMode::Off);
    let mut routes = HashMap::new();
    for route in wanting {
        let embeddings = match (route.cache.mode, &route.cache.embedding_route) {
            (CacheMode::Off | CacheMode::Exact, _) => Embeddings::None,
            (CacheMode::Semantic, Some(route)) => Embeddings::Route(route.as_str().into()),
            (CacheMode::Semantic, None) => Embeddings::Local(local.get()),
        };
        routes.insert(route.name.clone(), (settings(&route.cache, local.kind), embeddings));
    }
    if routes.is_empty() {
        return gateway;
    }
    gateway.with_cache(Cache::new(rand::random::<f64>), routes, clock)
}

fn settings(cache: &RouteCache, kind: Option<ModelKind>) -> Settings {
    Settings {
        rules: Rules {
            audience: match cache.audience {
                CacheAudience::User => Audience::User,
                CacheAudience::Role => Audience::Role,
                CacheAudience::Tenant => Audience::Tenant,
            },
            max_temperature: cache.max_temperature,
        },
        life: cache.ttl,
        max_entries: cache.max_entries,
        max_error: cache.max_error,
        // Without a model only identical questions are found, whatever this is.
        cut: cache.threshold.or(kind.map(threshold)).unwrap_or(1.0),
        margin: MARGIN,
        audit_share: cache.audit_share,
    }
}

/// Runs `copilotd models pull`.
pub async fn pull(args: &PullArgs) -> Result<(), Failure> {
    let kind: ModelKind = args
        .model
        .parse()
        .map_err(|message| Failure::usage(format!("the model {:?} {message}", args.model)))?;
    let client = reqwest::Client::builder().build();
    let client = client.map_err(|error| Failure::failed(format!("HTTP client could not be created: {error}")))?;
    let fetched = embed::pull(&client, kind, &args.from, &args.into)
        .await
        .map_err(|error| Failure::failed(format!("{:#}", anyhow::Error::from(error))))?;
    println!("{kind}: {fetched} files fetched into {}", args.into.display());
    Ok(())
}
