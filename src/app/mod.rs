//! Wires the parts of the process together; the only module that knows all of them.

#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "demo")]
mod demo_origin;
#[cfg(feature = "demo")]
mod demo_page;
mod detectors;
mod embed;
mod files;
mod knowledge;
pub(crate) mod last_used;
mod limiter;
mod memory;
mod models;
mod online;
mod parts;
mod reload;
mod serve;
mod service;
mod sources;
mod standby;
mod store;
mod system;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use copilotd_actors::actors::connector::Connectors;
use copilotd_actors::actors::conversations::Conversations;
use copilotd_actors::actors::reconcile::Reconciler;
use copilotd_actors::actors::shared::{Bounds, Shared};
use copilotd_actors::domain::context::tokens;
use copilotd_actors::ports::{EventLog, Ports};
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::{Ledger, UsageStore};
use copilotd_gateway::limit::AnswerStatistics;
use copilotd_gateway::meter::Meter;
use copilotd_gateway::spending::Spending;
use copilotd_knowledge::facts::FactMemory;
use copilotd_knowledge::facts::store::FactStore;
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::adapters::child;
use crate::adapters::embedding::LocalEmbedder;
use crate::adapters::schema_check::{self, SchemaPool};
use crate::adapters::systems::kinds::Kinds;
use crate::audit::AuditLog;
use crate::cli::{self, Command, Context, Failure, ModelsCommand, ProjectionsCommand, TokenArgs, TokenCommand};
use crate::config::{Env, SystemKinds};
use crate::http::account::Budgets;
use crate::http::bodies::BodyLimits;
use crate::http::credentials::{Authenticator, FailureLimit, Jwks, Tickets, Verifier, WriteLimits};
use crate::http::probe::StoreProbe;
use crate::jobs;
use crate::jobs::Jobs;
use crate::private_files;
use crate::revocations::Revocations;
use crate::surfaces::file_access::FileAccess;
use crate::surfaces::state::{AppState, Services, Shutdown};
use crate::telemetry::content::{ContentLogger, ContentTenants};
use crate::telemetry::{self, HttpUse, StoredTraces};
use crate::tenants::TenantRegistry;
use copilotd_actors::ports::{FileStore, JobStore, TenantEraser};
use standby::HandOver;

pub use knowledge::{KnowledgeParts, PdfReader};

/// Everything stored besides the conversations' log.
pub struct Records {
    /// Usage records of model calls.
    pub usage: Arc<dyn UsageStore>,
    /// The audit logs of all tenants.
    pub audit: Arc<AuditLog>,
    /// Revoked user tokens.
    pub revocations: Arc<Revocations>,
    /// Jobs and their results.
    pub jobs: Arc<dyn JobStore>,
    /// Erases tenants from the store.
    pub eraser: Arc<dyn TenantEraser>,
    /// Facts about users.
    pub facts: Arc<dyn FactStore>,
    /// Attached files.
    pub files: Arc<dyn FileStore>,
    /// What the knowledge is made of.
    pub knowledge: KnowledgeParts,
    /// Writes usage records; none in tests without one.
    pub ledger: Option<Arc<Ledger>>,
}

/// The running application behind the router.
pub struct App {
    /// State shared by all handlers.
    pub state: AppState,
    /// Completes when an actor that the process cannot run without has ended: the directory, the supervisor of
    /// connectors, of ingestion or of sources, or the reconciler.
    pub supervisor: JoinHandle<()>,
    reconciler: ActorRef<copilotd_actors::actors::reconcile::StartScan>,
    connectors: ActorRef<<Connectors as Actor>::Msg>,
    sources: ActorRef<copilotd_knowledge::sync::Msg>,
    uses: crate::app::last_used::LastUsedRecorder,
}

impl App {
    /// Builds the gateway to all configured models. One per process, because it tracks their health. `meter` is called
    /// for every attempt; `spent` is the initial state of budgets, and `ledger` is where more of it can be looked up.
    pub fn gateway(
        registry: &TenantRegistry,
        meter: Option<Arc<dyn Meter>>,
        spent: &[Spending],
        ledger: &Arc<dyn UsageStore>,
    ) -> anyhow::Result<Arc<Gateway>> {
        let local = embed::load(&registry.config())?;
        let learned = AnswerStatistics::default();
        Ok(Self::gateway_with_keys(registry, meter, spent, ledger, learned, local.as_ref())?.0)
    }

    /// Like [`App::gateway`], with statistics `learned` from earlier answers; also returns the handle that changes
    /// providers' keys while the process runs.
    fn gateway_with_keys(
        registry: &TenantRegistry,
        meter: Option<Arc<dyn Meter>>,
        spent: &[Spending],
        ledger: &Arc<dyn UsageStore>,
        learned: AnswerStatistics,
        local: Option<&Arc<LocalEmbedder>>,
    ) -> anyhow::Result<(Arc<Gateway>, Arc<models::GatewayTenants>)> {
        let clock = Arc::new(system::SystemClock);
        let (gateway, tenancy) = models::gateway(&registry.config(), clock, spent, ledger, local)?;
        registry.register(Arc::clone(&tenancy) as _);
        let gateway = gateway.with_learned(learned);
        let gateway = gateway.with_meter(telemetry::CallMetrics::around(meter));
        Ok((Arc::new(gateway), tenancy))
    }

    /// Builds the ports to the outside world from the configuration, around an open log.
    pub fn ports(registry: &TenantRegistry, log: Arc<dyn EventLog>, gateway: &Arc<Gateway>) -> anyhow::Result<Ports> {
        let config = registry.config();
        let clock = Arc::new(system::SystemClock);
        let systems = Arc::new(parts::LiveSystems::new(&config, Kinds::built_in(), clock.clone())?);
        let standings = Arc::clone(registry.standings());
        let policies = Arc::new(parts::LivePolicies::new(&config, Arc::clone(&systems), standings)?);
        let logged = Arc::new(ContentTenants::from_pointee(parts::content_tenants(&config)));
        registry.register(Arc::clone(&policies) as _);
        registry.register(Arc::new(parts::LoggedTenants(Arc::clone(&logged))));
        Ok(Ports {
            log,
            model: ContentLogger::around(Arc::clone(gateway) as _, logged),
            systems,
            policies,
            schemas: Arc::new(SchemaPool::new(child::own_program(), schema_check::Settings::default())),
            clock,
            ids: Arc::new(system::TimeOrderedIds),
            traces: Arc::new(StoredTraces),
            detectors: gateway.guardrails().detectors().to_vec(),
            knowledge: None,
            recollection: None,
            facts: None,
            files: None,
        })
    }

    /// Starts the actors on `ports`. `ticket_key` has to stay the same across restarts.
    pub async fn start(
        registry: Arc<TenantRegistry>,
        mut ports: Ports,
        gateway: Arc<Gateway>,
        records: Records,
        ticket_key: &[u8; 32],
        bounds: Bounds,
    ) -> anyhow::Result<Self> {
        let Records {
            usage,
            audit,
            revocations,
            jobs,
            eraser,
            facts,
            files,
            knowledge,
            ledger,
        } = records;
        // Before anything that counts is started: without a recorder its counts are lost.
        telemetry::start_counting();
        let config = registry.config();
        // The tokenizer's tables take a quarter of a second to build; do it before the first user's turn.
        drop(tokio::task::spawn_blocking(tokens::warm_up));
        let clock = Arc::clone(&ports.clock);
        let (retriever, pdf, index_is_remote) = (knowledge.retriever(), knowledge.pdf, knowledge.is_remote);
        let pdf_reader = knowledge.pdf_reader.map(PdfReader::name);
        let document_search = knowledge.compared();
        ports.knowledge.get_or_insert_with(|| Arc::clone(&retriever) as _);
        if ports.recollection.is_none() {
            ports.recollection = Some(Arc::new(knowledge.recollector(Arc::clone(&ports.log))));
        }
        let facts = FactMemory::new(facts, Arc::clone(&ports.log), Arc::clone(&ports.model));
        ports.facts.get_or_insert_with(|| Arc::new(facts.clone()));
        ports.files.get_or_insert_with(|| Arc::clone(&files));
        let shared = Shared::new(ports, bounds);
        let (directory, conversations_end) = Conversations::start(Arc::clone(&shared))
            .await
            .context("starting the directory")?;
        let (connectors, connectors_end) = Actor::spawn(
            None,
            Connectors {
                shared: Arc::clone(&shared),
            },
            (),
        )
        .await?;
        // Set once: the process starts once.
        let _ = shared.connectors.set(connectors.clone());
        let (ids, time) = (Arc::clone(&shared.ports.ids), Arc::clone(&clock));
        let (library, ingestion_end) = knowledge.start(retriever, &registry, time, ids).await?;
        let (book, sources, sources_end) = sources::start(&registry, Arc::clone(&library), Arc::clone(&clock)).await?;
        let synced = book.clone();
        let budgets = Budgets::new(&config.server);
        let (requests, calls) = (Arc::clone(&budgets), Arc::clone(&gateway));
        let jobs = Jobs::new(jobs::Dependencies {
            store: jobs,
            eraser,
            registry: Arc::clone(&registry),
            audit: Arc::clone(&audit),
            revocations: Arc::clone(&revocations),
            gateway: Arc::clone(&gateway),
            directory: directory.clone(),
            log: Arc::clone(&shared.ports.log),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&shared.ports.ids),
            index: Arc::clone(&library.index),
            recollection: shared.ports.recollection.clone(),
            files: Arc::clone(&files),
            ledger,
            is_busy: Box::new(move |scope| {
                let tenant = scope.tenant();
                requests.requests.is_held_by(tenant) || calls.is_calling(scope) || synced.is_active(tenant)
            }),
        });
        // Before the reconciler starts, which must not wake conversations that are being erased.
        jobs.close_deleted()
            .await
            .context("closing tenants that are being deleted")?;
        let reconciler = Reconciler {
            shared: Arc::clone(&shared),
            directory: directory.clone(),
        };
        let (reconciler, reconciler_end) = Actor::spawn(None, reconciler, ()).await?;
        let supervisor = tokio::spawn(async move {
            // None of them ends while the process serves; each logs why it ended.
            let _ = tokio::select! {
                end = conversations_end => end,
                end = connectors_end => end,
                end = reconciler_end => end,
                end = ingestion_end => end,
                end = sources_end => end,
            };
        });
        let auth = Authenticator {
            verifier: Verifier::with_revocations(&config, revocations.list())?,
            jwks: Jwks::new()?,
            tickets: Tickets::new(ticket_key),
            failures: FailureLimit::new(&config.server),
            writes: WriteLimits::new(&config, Arc::clone(&clock)),
            clock,
        };
        let auth = Arc::new(auth);
        registry.register(Arc::new(parts::Credentials(Arc::clone(&auth))));
        registry.register(Arc::new(parts::Writes(Arc::clone(&auth))));
        let told = directory.clone();
        registry
            .standings()
            .listen(move |before, after| told.notify_standing_changed(|tenant| before.of(tenant) != after.of(tenant)));
        let fetching = Arc::clone(&auth);
        // Ends with the runtime: it has nothing to clean up.
        drop(tokio::spawn(
            async move { fetching.jwks.keep(&fetching.verifier).await },
        ));
        let uses = crate::app::last_used::LastUses {
            registry: Arc::clone(&registry),
            auth: Arc::clone(&auth),
        };
        let uses = uses.keep();
        let metrics = telemetry::metrics(Arc::clone(&shared), held_by_requests(&budgets));
        config
            .providers
            .iter()
            .for_each(|provider| telemetry::start_counters_of_provider(&provider.name));
        Kinds::built_in()
            .for_config()
            .for_each(|kind| telemetry::start_counters_of_system_kind(kind.name()));
        for route in &config.routes {
            for target in &route.targets {
                telemetry::start_counters_of_target(&route.name, &target.provider, &target.model);
            }
        }
        let probe = Arc::new(StoreProbe::default());
        // Ends with the runtime, as above.
        drop(tokio::spawn(Arc::clone(&probe).run(Arc::clone(&shared.ports.log))));
        let state = AppState::from(Services {
            auth,
            usage,
            audit,
            gateway,
            tenants: registry,
            jobs,
            revocations,
            library,
            sources: book,
            facts,
            files: FileAccess::new(files),
            pdf,
            pdf_reader,
            document_search,
            index_is_remote,
            directory,
            shared,
            body: BodyLimits {
                bytes: config.server.max_body_bytes,
                time: config.server.body_timeout,
                ..BodyLimits::default()
            },
            budgets,
            shutdown: Shutdown::default(),
            metrics,
            probe,
            store: store::name(&config.store),
        });
        state.jobs.resume().await.context("reading unfinished jobs")?;
        Ok(Self {
            state,
            supervisor,
            reconciler,
            connectors,
            sources,
            uses,
        })
    }

    /// Hands over to the standby within the times of `plan`: nothing new is started, open turns are left to the
    /// standby, and streams end.
    pub async fn hand_over(self, plan: &HandOver) {
        self.state.shutdown.hand_over();
        self.state.jobs.stop();
        self.reconciler.stop(Some("handing over".into()));
        self.sources.stop(Some("handing over".into()));
        self.state.library.ingestion.stop(Some("handing over".into()));
        self.state.directory.hand_over(plan.calls, plan.turns).await;
        self.state.shutdown.close();
        let left = || plan.rest.saturating_duration_since(Instant::now());
        let rest = async {
            self.state.directory.stop(left()).await;
            let stopped = self.connectors.stop_and_wait(Some("handing over".into()), Some(left()));
            let _ = tokio::join!(stopped, self.uses.stop(), self.state.gateway.settled());
        };
        let _ = tokio::time::timeout_at(plan.rest, rest).await;
    }

    /// Drains: no new turns; running ones get up to `deadline`, and unfinished ones are left to the next process.
    pub async fn stop(self, deadline: Duration) {
        self.state.shutdown.drain();
        self.state.jobs.stop();
        self.reconciler.stop(Some("shutting down".into()));
        // They continue where they are: killing them is safe.
        self.sources.stop(Some("shutting down".into()));
        // What it has not finished waits in the index.
        self.state.library.ingestion.stop(Some("shutting down".into()));
        let drained = async {
            while self.state.shared.admission.busy() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!("turns were still running at the drain deadline; the next process will resume them");
        }
        self.state.shutdown.close();
        self.uses.stop().await;
        self.state.directory.stop(Duration::from_secs(10)).await;
        let _ = self
            .connectors
            .stop_and_wait(Some("shutting down".into()), Some(Duration::from_secs(5)))
            .await;
        // Reservations that cannot be settled in time expire.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.state.gateway.settled()).await;
    }
}

/// Runs the commands that need the whole product.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::failed(format!("{error:#}"));
    if !matches!(command, Command::Models(_)) {
        // Model files are public, and other users of the machine may use them too.
        private_files::restrict_new_files();
    }
    match command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => runtime()?.block_on(demo::run(&args, context)).map_err(failed),
        Command::Serve(args) => {
            let source = context.source(&args.config)?;
            let again = || context.source(&args.config);
            runtime()?
                .block_on(serve::run(source, again, args.standby))
                .map_err(failed)
        }
        Command::Projections(ProjectionsCommand::Rebuild(args)) => {
            let globals = context.globals(&args)?;
            runtime()?.block_on(store::rebuild(globals.config())).map_err(failed)
        }
        Command::Models(ModelsCommand::Pull(args)) => runtime()?.block_on(embed::pull(&args)),
        Command::Openapi => {
            let text = serde_json::to_string_pretty(crate::surfaces::openapi::document());
            println!("{}", text.map_err(|error| Failure::failed(error.to_string()))?);
            Ok(())
        }
        Command::Token(TokenArgs {
            command: Some(TokenCommand::Verify(args)),
            ..
        }) => runtime()?.block_on(cli::verify_token(&args, context)),
        Command::Tenant(_)
        | Command::Key(_)
        | Command::Knowledge(_)
        | Command::Token(TokenArgs { command: Some(_), .. }) => runtime()?.block_on(cli::remote(&command)),
        Command::Check(args) => {
            let (config, source) = cli::check(&args, context)?;
            runtime()?.block_on(online::check(&config, &source, &Kinds::built_in()))
        }
        Command::Healthcheck(args) => runtime()?.block_on(cli::healthcheck(&args, context)),
        Command::Token(_) => Err(Failure::failed("internal error: this command does not run here")),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))
}

/// Reads the process's environment; called by `main`.
pub fn context() -> Context {
    Context {
        env: Env::of_process(),
        kinds: SystemKinds::new(Kinds::built_in().for_config()),
        now: system::now(),
    }
}

/// Reads what requests hold, for the metrics.
fn held_by_requests(budgets: &Arc<Budgets>) -> impl Fn() -> HttpUse + Send + Sync + 'static {
    let budgets = Arc::clone(budgets);
    move || HttpUse {
        streams: budgets.streams.in_use(),
        bodies: budgets.bodies.in_use(),
        answers: budgets.answers.in_use(),
        changes: budgets.changes.in_use(),
    }
}
