//! The local embedding models of this process.

use std::collections::HashMap;
use std::sync::Arc;

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

/// Returns the model that is configured, if there is one.
fn kind(config: &Config) -> anyhow::Result<Option<ModelKind>> {
    let kind = config.embeddings.as_ref().map(|embeddings| embeddings.model.parse());
    kind.transpose().map_err(anyhow::Error::msg).context("embeddings.model")
}

/// Loads the model that is configured, for caches and knowledge alike. Takes up to a second. If it cannot be loaded the
/// process serves without it, and an error is logged.
pub fn load(config: &Config) -> anyhow::Result<Option<Arc<LocalEmbedder>>> {
    let Some(kind) = kind(config)? else { return Ok(None) };
    let named = config
        .embeddings
        .as_ref()
        .and_then(|embeddings| embeddings.directory.clone());
    let directory = named.unwrap_or_else(|| config.server.data_dir.join("models"));
    match LocalEmbedder::load(kind, &directory, Threads::default()) {
        Ok(embedder) => Ok(Some(Arc::new(embedder))),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(
                model = %kind, %error,
                "local embedding model could not be loaded; semantic caches match identical questions only, and documents are \
                 searched by words alone"
            );
            Ok(None)
        }
    }
}

/// Adds a cache to the gateway, if a route has one; `local` is the model of this process.
pub fn with_cache(
    gateway: Gateway,
    config: &Config,
    clock: Arc<dyn Clock>,
    local: Option<&Arc<LocalEmbedder>>,
) -> anyhow::Result<Gateway> {
    let kind = kind(config)?;
    let wanting = config.routes.iter().filter(|route| route.cache.mode != CacheMode::Off);
    let mut routes = HashMap::new();
    for route in wanting {
        let embeddings = match (route.cache.mode, &route.cache.embedding_route) {
            (CacheMode::Off | CacheMode::Exact, _) => Embeddings::None,
            (CacheMode::Semantic, Some(route)) => Embeddings::Route(route.as_str().into()),
            (CacheMode::Semantic, None) => {
                Embeddings::Local(local.map(|embedder| Arc::clone(embedder) as Arc<dyn Embedder>))
            }
        };
        routes.insert(route.name.clone(), (settings(&route.cache, kind), embeddings));
    }
    if routes.is_empty() {
        return Ok(gateway);
    }
    Ok(gateway.with_cache(Cache::new(rand::random::<f64>), routes, clock))
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
