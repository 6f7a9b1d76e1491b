//! The sources of documents of all tenants, which follow configuration changes.

use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::ports::{Clock, ServingState};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::library::Library;
use copilotd_knowledge::sync::{Bounds, Msg, SourceBook, Sources, Spec};
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;

use crate::adapters::systems::Shared;
use crate::adapters::systems::kinds::Kinds;
use crate::adapters::systems::tools::http;
use crate::config::{Config, KnowledgeSource, Tenant};
use crate::tenants::{Reloadable, TenantRegistry};

/// Passes the sources of each configuration to the supervisor.
struct LiveSources {
    kinds: Kinds,
    shared: Shared,
    supervisor: ActorRef<Msg>,
}

/// Starts the supervisor with the sources of the live configuration. Also returns what administrators see, and the task
/// that ends with it.
pub(super) async fn start(
    registry: &Arc<TenantRegistry>,
    library: Arc<Library>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(SourceBook, ActorRef<Msg>, JoinHandle<()>)> {
    let book = SourceBook::default();
    let sources = Sources {
        library,
        book: book.clone(),
        bounds: Bounds::default(),
    };
    let (supervisor, end) = Actor::spawn(None, sources, ())
        .await
        .context("starting the supervisor of sources")?;
    let live = Arc::new(LiveSources {
        kinds: Kinds::built_in(),
        shared: Shared {
            client: http::client()?,
            clock,
        },
        supervisor: supervisor.clone(),
    });
    // Registered first: a change in between is applied after it.
    registry.register(Arc::clone(&live) as _);
    live.apply(live.specs(&registry.config()));
    Ok((book, supervisor, end))
}

impl LiveSources {
    /// Returns the sources of the tenants that are served. One that cannot be built is left out: it must not keep other
    /// tenants' changes from being applied.
    fn specs(&self, config: &Config) -> Vec<Spec> {
        let served = config
            .tenants
            .iter()
            .filter(|tenant| tenant.standing() == ServingState::Served);
        let sources = served.flat_map(|tenant| tenant.sources.iter().map(move |source| (tenant, source)));
        let specs = sources.filter_map(|(tenant, source)| match self.spec(tenant, source) {
            Ok(spec) => Some(spec),
            Err(error) => {
                let (tenant, source, error) = (&tenant.id, &source.name, format!("{error:#}"));
                tracing::error!(%tenant, source, error, "a source of documents cannot be used; it is not synchronised");
                None
            }
        });
        specs.collect()
    }

    fn spec(&self, tenant: &Tenant, source: &KnowledgeSource) -> anyhow::Result<Spec> {
        let system = tenant.systems.iter().find(|system| system.name == source.system);
        let system = system.with_context(|| format!("there is no system {:?}", source.system))?;
        let kind = self.kinds.find(&source.kind);
        let kind = kind.with_context(|| format!("there is no kind of system {:?}", source.kind))?;
        let interval = source.interval();
        #[expect(
            clippy::disallowed_methods,
            reason = "the tenant is one of the configuration itself, not one that a request claims to be"
        )]
        let scope = TenantScope::from_verified(tenant.id.clone());
        Ok(Spec {
            scope,
            name: source.name.clone(),
            interval,
            feed: kind.feed(&system.settings, &source.settings, &self.shared)?,
            fingerprint: fingerprint(&[
                &system.settings.canonical(),
                &source.settings.canonical(),
                &interval.as_secs().to_string(),
            ]),
        })
    }

    fn apply(&self, specs: Vec<Spec>) {
        // If it has ended the process is stopping.
        let _ = self.supervisor.cast(Msg::Apply(specs));
    }
}

impl Reloadable for LiveSources {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> anyhow::Result<Box<dyn FnOnce() + Send + 'a>> {
        let specs = self.specs(config);
        Ok(Box::new(move || self.apply(specs)))
    }
}
