//! `copilotd serve`: serves until a signal, then drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::compute;
use copilotd_actors::domain::hash::derive_key;
use copilotd_gateway::ledger::Ledger;
use copilotd_gateway::limit::{AnswerStatistics, MAX_PAIRS, Period};
use secrecy::ExposeSecret as _;
use tokio::signal::unix::{SignalKind, signal};

use super::reload::Reloader;
use super::standby::{HandOver, Listeners, RunningServer, StandbyServer};
use super::store::{self, IfInUse};
use super::{App, KnowledgeParts, Records, embed, files, memory, service, system};
use crate::audit::{AuditKey, AuditLog};
use crate::cli::Failure;
use crate::config::{Config, Source};
use crate::http::server;
use crate::revocations::Revocations;
use crate::surfaces::router::{admin_router, router};
use crate::surfaces::state::AppState;
use crate::tenants::{Cipher, TenantRegistry};
use crate::{private_files, telemetry};

/// Longest time for closing the store at the end.
const CLOSING: Duration = Duration::from_secs(5);
/// Longest time for asking the store whether a standby is waiting.
const LOOK_FOR_STANDBY: Duration = Duration::from_millis(500);

/// Serves the product. `again` rereads the configuration on SIGHUP. With `standby` it waits while another process has
/// the store.
pub async fn run(source: Source, again: impl Fn() -> Result<Source, Failure>, standby: bool) -> anyhow::Result<()> {
    let globals = source.globals()?;
    let _telemetry = telemetry::start(&globals.config().telemetry)?;
    // Warnings about tenants are logged when the tenants are read.
    let mut warnings = globals.config().unused();
    warnings.extend(source.warnings());
    for warning in source.report(&warnings) {
        tracing::warn!(warning, "configuration warning");
    }
    let if_in_use = if standby { IfInUse::Wait } else { IfInUse::Refuse };
    run_with(source, again, if_in_use, router, async |address, _: &AppState| {
        tracing::info!(%address, "copilotd is ready");
        Ok(())
    })
    .await
}

/// Serves the router that `routes` builds from the state; `ready` is called with address and state once requests are
/// accepted. Signals are answered when it has returned.
pub async fn run_with(
    source: Source,
    again: impl Fn() -> Result<Source, Failure>,
    if_in_use: IfInUse,
    routes: impl FnOnce(AppState) -> Router,
    ready: impl AsyncFnOnce(SocketAddr, &AppState) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let open_files = system::raise_open_files();
    compute::start(compute::default_threads(), system::lower_priority).context("starting the compute threads")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Tenants are read later: one with a fault is left out and must not keep the process from starting.
    let globals = source.globals()?;
    let fingerprints = source.fingerprints();
    let file = globals.config();
    let most = server::max_connections(file.server.max_connections, open_files);
    // A standby listens before it has the store. Otherwise the store is opened first, so that a second process is
    // refused before it does anything.
    let waiting = match if_in_use {
        IfInUse::Refuse => None,
        IfInUse::Wait => Some(StandbyServer::start(&file.server, most).await?),
    };
    if waiting.is_some() {
        service::standing_by();
    }
    let opened = tokio::select! {
        opened = store::open(file, if_in_use) => Some(opened?),
        _ = terminate.recv(), if waiting.is_some() => None,
        _ = interrupt.recv(), if waiting.is_some() => None,
    };
    let store::OpenStore {
        log,
        usage,
        tenants,
        audit,
        revocations,
        jobs,
        eraser,
        facts,
        files,
        lost,
        has_standby,
        close,
    } = match (opened, waiting.is_some()) {
        (Some(opened), _) => opened,
        (None, _) => {
            service::stopping();
            tracing::info!("standby stopped before it took over; the other process keeps serving");
            return match waiting {
                Some(waiting) => waiting.end().await,
                None => Ok(()),
            };
        }
    };
    let listeners = match &waiting {
        Some(_) => None,
        None => Some(Listeners::bind(&file.server).await?),
    };
    private_files::create_directory(&file.server.data_dir)
        .with_context(|| format!("cannot create the data directory {}", file.server.data_dir.display()))?;
    private_files::tighten_directory(&file.server.data_dir);
    let sealing_key = sealing_key(file)?;
    let ticket_key = ticket_key(file, &sealing_key)?;
    let seal = Cipher::new(&sealing_key);
    let audit = AuditLog::new(audit, AuditKey::derive(&sealing_key), Arc::new(system::SystemClock));
    let audit = Arc::new(audit);
    // Before any request is accepted: a revoked token must not work even for a moment after a restart.
    let revocations = Revocations::open(revocations, Arc::new(system::SystemClock))
        .await
        .context("reading the token revocations")?;
    let clock = Arc::new(system::SystemClock);
    let registry = TenantRegistry::open(source.clone(), tenants, Arc::clone(&audit), seal, clock).await?;
    let config = &registry.config();
    let bounds = Bounds {
        idle: config.server.idle,
        node_turns: config.server.max_turns,
        tenant_turns: config.server.max_turns_per_tenant,
        tenant_approvals: config.server.max_approvals_per_tenant,
        user_approvals: config.server.max_approvals_per_user,
        ..Bounds::default()
    };
    // Before budgets are built from the ledger: calls of a process that died were probably billed.
    let lost_calls = match usage.record_lost_usage().await {
        // They stay open until the next start; revoking and suspending must be possible now.
        Err(error) if error.is_disk_full() => {
            tracing::error!(
                %error,
                "disk full: could not record the previous process's in-flight model calls as lost; budgets omit them until \
                 the next start"
            );
            0
        }
        recorded => recorded.context("recording model calls of the previous process as lost")?,
    };
    if lost_calls > 0 {
        tracing::warn!(
            calls = lost_calls,
            "model calls were in flight when the previous process exited; recorded as lost with estimated usage"
        );
    }
    let now = system::now();
    let (day, month) = (Period::Day.around(now).0, Period::Month.around(now).0);
    let spent = usage
        .spendings(day, month)
        .await
        .context("reading the money spent from the usage records")?;
    let learned = AnswerStatistics::default();
    match usage.learned(usize::try_from(MAX_PAIRS)?).await {
        Ok(rows) => learned.restore(rows),
        // They will be learned again.
        Err(error) => {
            tracing::warn!(%error, "could not read the stored answer statistics of models; learning them again")
        }
    }
    let ledger = Ledger::start_with(
        Arc::clone(&usage),
        Arc::new(system::SystemClock),
        Arc::new(system::TimeOrderedIds),
        learned.clone(),
    );
    let meter = Arc::clone(&ledger) as _;
    let settings = Arc::clone(config);
    let local = tokio::task::spawn_blocking(move || embed::load(&settings)).await??;
    let (gateway, providers) = App::gateway_with_keys(&registry, Some(meter), &spent, &usage, learned, local.as_ref())?;
    let ports = App::ports(&registry, log, &gateway)?;
    let knowledge = KnowledgeParts::open(config, local, &gateway).await?;
    let records = Records {
        usage,
        audit,
        revocations,
        jobs,
        eraser,
        facts,
        files,
        knowledge,
        ledger: Some(Arc::clone(&ledger)),
    };
    let mut app = App::start(Arc::clone(&registry), ports, gateway, records, &ticket_key, bounds).await?;
    let routes = routes(app.state.clone());
    drop(tokio::spawn(memory::trim_periodically()));
    tracing::info!(
        open_files,
        max_connections = most,
        "open file limit applied: up to max_connections files for clients, the rest for providers, external systems and the store"
    );
    if let Some(files) = open_files.and_then(|files| usize::try_from(files).ok()) {
        app.state.gateway.bound_calls(files.saturating_sub(most));
    }
    let admin = admin_router(app.state.clone());
    let serving = match (waiting, listeners) {
        (Some(waiting), _) => waiting.take_over(routes, admin),
        (None, Some(listeners)) => RunningServer::start(listeners, &config.server, most, routes, admin)?,
        (None, None) => anyhow::bail!("internal error: no port is open"),
    };
    let mut reloader = Reloader {
        registry,
        providers,
        fingerprints,
    };
    ready(serving.address, &app.state).await?;
    service::ready();
    let mut lost = lost;
    let failure = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => {
                service::reloading();
                reloader.reload(&again).await;
                service::ready();
            }
            _ = &mut app.supervisor => break Some("an essential actor died; the cause is in an earlier log line"),
            // Another process may own the store now: nothing that is not stored may be shown or sent any more.
            () = &mut lost => break Some("lost the lease on the store: another process may have taken over"),
        }
    };
    service::stopping();
    let to_standby = failure.is_none()
        && tokio::time::timeout(LOOK_FOR_STANDBY, has_standby)
            .await
            .unwrap_or(false);
    if to_standby {
        let plan = HandOver::now();
        tracing::info!("handing over to the standby");
        app.hand_over(&plan).await;
        serving.stop_until(plan.connections).await;
        if tokio::time::timeout_at(plan.ledger, ledger.close()).await.is_err() {
            tracing::error!(
                "handing over: the last usage records could not be stored in time; usage and cost of some calls are lost"
            );
        }
        if tokio::time::timeout_at(plan.store, close).await.is_err() {
            tracing::warn!(
                "handing over: the store did not answer in time; the standby has to wait for this process's lease to expire"
            );
        }
        tracing::info!("handed over to the standby; exiting");
        return Ok(());
    }
    tracing::info!(
        "draining: no new turns; running turns get up to {} s",
        config.server.drain.as_secs()
    );
    app.stop(failure.map_or(config.server.drain, |_| Duration::ZERO)).await;
    serving.stop().await?;
    ledger.close().await;
    if tokio::time::timeout(CLOSING, close).await.is_err() {
        tracing::warn!("closing the store timed out; the next process has to wait for this one's lease to expire");
    }
    failure.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
}

/// Returns the key of stream tickets. Processes with the same `seal_key` derive the same one, so that a stream opened
/// at one can continue at another; a file from an earlier start takes precedence.
fn ticket_key(file: &Config, sealing_key: &[u8; 32]) -> anyhow::Result<[u8; 32]> {
    const FILE: &str = "ticket.key";
    if file.server.seal_key.is_none() || file.server.data_dir.join(FILE).exists() {
        return files::key(&file.server.data_dir, FILE);
    }
    Ok(derive_key("copilotd ticket key 1\0", sealing_key))
}

/// Returns the key that tenants' settings are encrypted with and the audit log's key is derived from.
fn sealing_key(config: &Config) -> anyhow::Result<[u8; 32]> {
    match &config.server.seal_key {
        None => files::key(&config.server.data_dir, "tenants.key"),
        Some(given) => {
            let mut key = [0; 32];
            hex::decode_to_slice(given.expose_secret(), &mut key)
                .context("server.seal_key is not 64 hexadecimal digits")?;
            Ok(key)
        }
    }
}
