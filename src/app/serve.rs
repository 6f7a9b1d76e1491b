//! `copilotd serve`: runs until a signal, then drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::compute;
use copilotd_gateway::ledger::Ledger;
use copilotd_gateway::limit::{Learned, MAX_PAIRS, Period};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use super::reload::Reloader;
use super::standby::{HandOver, Listeners, Serving, Waiting};
use super::store::{self, WhenTaken};
use super::{App, Records, files, memory, service, system};
use crate::audit::{AuditKey, AuditLog};
use crate::cli::Failure;
use crate::config::{Config, Source};
use crate::http::router::{admin_router, router};
use crate::http::server;
use crate::http::state::AppState;
use crate::revocations::Revocations;
use crate::tenants::{Roster, Seal};
use crate::{private_files, telemetry};

/// Longest time that closing the store may take at the end.
const CLOSING: Duration = Duration::from_secs(5);
/// Longest time for finding out whether a standby is there.
const LOOK_FOR_STANDBY: Duration = Duration::from_millis(500);

/// Serves the product. `again` reads the configuration again, when a SIGHUP asks for it. With `standby` it waits while another process
/// serves.
pub async fn run(source: Source, again: impl Fn() -> Result<Source, Failure>, standby: bool) -> anyhow::Result<()> {
    let globals = source.globals()?;
    let _telemetry = telemetry::start(&globals.config().telemetry)?;
    // Those of tenants are told when the tenants are read.
    let mut warnings = globals.config().unused();
    warnings.extend(source.warnings());
    for warning in source.report(&warnings) {
        tracing::warn!(warning, "the configuration file has a warning");
    }
    let when_taken = if standby { WhenTaken::Wait } else { WhenTaken::Refuse };
    run_with(source, again, when_taken, router, |address| {
        tracing::info!(%address, "copilotd serves");
        Ok(())
    })
    .await
}

/// Serves what `routes` makes of the state; `ready` is told the address once requests are taken.
pub async fn run_with(
    source: Source,
    again: impl Fn() -> Result<Source, Failure>,
    when_taken: WhenTaken,
    routes: impl FnOnce(AppState) -> Router,
    ready: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let open_files = system::raise_open_files();
    compute::start(compute::default_threads(), system::give_way).context("starting the compute threads")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Tenants come later: one with a fault is left out, which must not keep the process from starting.
    let globals = source.globals()?;
    let prints = source.prints();
    let file = globals.config();
    let most = server::max_connections(file.server.max_connections, open_files);
    // A standby listens before it has the store. Otherwise the store comes first: it refuses a second process before anything is done
    // twice.
    let waiting = match when_taken {
        WhenTaken::Refuse => None,
        WhenTaken::Wait => Some(Waiting::start(&file.server, most).await?),
    };
    if waiting.is_some() {
        service::standing_by();
    }
    let opened = tokio::select! {
        opened = store::open(file, when_taken) => Some(opened?),
        _ = terminate.recv(), if waiting.is_some() => None,
        _ = interrupt.recv(), if waiting.is_some() => None,
    };
    let store::Opened {
        log,
        usage,
        tenants,
        audit,
        revocations,
        jobs,
        eraser,
        lost,
        has_standby,
        close,
    } = match (opened, waiting.is_some()) {
        (Some(opened), _) => opened,
        (None, _) => {
            service::stopping();
            tracing::info!("the standby ends; another process serves");
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
        .with_context(|| format!("cannot make {}", file.server.data_dir.display()))?;
    private_files::tighten_directory(&file.server.data_dir);
    let sealing_key = sealing_key(file)?;
    let ticket_key = ticket_key(file, &sealing_key)?;
    let seal = Seal::new(&sealing_key);
    let audit = AuditLog::new(audit, AuditKey::derive(&sealing_key), Arc::new(system::SystemClock));
    let audit = Arc::new(audit);
    // Before anything is accepted: a token that is revoked must not be let in for a moment after a restart.
    let revocations = Revocations::open(revocations, Arc::new(system::SystemClock))
        .await
        .context("reading the token revocations")?;
    let clock = Arc::new(system::SystemClock);
    let roster = Roster::open(source.clone(), tenants, Arc::clone(&audit), seal, clock).await?;
    let config = &roster.config();
    let bounds = Bounds {
        idle: config.server.idle,
        node_turns: config.server.max_turns,
        tenant_turns: config.server.max_turns_per_tenant,
        tenant_approvals: config.server.max_approvals_per_tenant,
        user_approvals: config.server.max_approvals_per_user,
        ..Bounds::default()
    };
    // Before budgets are made of the ledger: what a dead process had asked for was probably paid.
    let lost_calls = match usage.lose_usage().await {
        // They stay open, and the next start does it: revoking and suspending must be possible now.
        Err(error) if error.is_disk_full() => {
            tracing::error!(%error, "model calls of an earlier process could not be recorded as lost; budgets do not count them yet");
            0
        }
        recorded => recorded.context("ending what a dead process had open")?,
    };
    if lost_calls > 0 {
        tracing::warn!(
            calls = lost_calls,
            "model calls were in flight when the previous process exited; recorded as lost with estimated usage"
        );
    }
    let now = system::now();
    let (day, month) = (Period::Day.around(now).0, Period::Month.around(now).0);
    let spent = usage.spendings(day, month).await.context("reading what was spent")?;
    let learned = Learned::default();
    match usage.learned(usize::try_from(MAX_PAIRS)?).await {
        Ok(rows) => learned.restore(rows),
        // It is learned anew.
        Err(error) => tracing::warn!(%error, "what was learned of models' answers could not be read"),
    }
    let ledger = Ledger::start_with(
        Arc::clone(&usage),
        Arc::new(system::SystemClock),
        Arc::new(system::TimeOrderedIds),
        learned.clone(),
    );
    let meter = Arc::clone(&ledger) as _;
    let (gateway, providers) = App::gateway_with_keys(&roster, Some(meter), &spent, &usage, learned)?;
    let ports = App::ports(&roster, log, &gateway)?;
    let records = Records {
        usage,
        audit,
        revocations,
        jobs,
        eraser,
        ledger: Some(Arc::clone(&ledger)),
    };
    let mut app = App::start(Arc::clone(&roster), ports, gateway, records, &ticket_key, bounds).await?;
    let routes = routes(app.state.clone());
    drop(tokio::spawn(memory::keep_small()));
    tracing::info!(
        open_files,
        max_connections = most,
        "limit of open files; what it leaves beside connections is kept for providers, external systems and the store"
    );
    if let Some(files) = open_files.and_then(|files| usize::try_from(files).ok()) {
        app.state.gateway.bound_calls(files.saturating_sub(most));
    }
    let admin = admin_router(app.state.clone());
    let serving = match (waiting, listeners) {
        (Some(waiting), _) => waiting.take_over(routes, admin),
        (None, Some(listeners)) => Serving::start(listeners, &config.server, most, routes, admin)?,
        (None, None) => anyhow::bail!("no port is open"),
    };
    let mut reloader = Reloader {
        roster,
        providers,
        prints,
    };
    ready(serving.address)?;
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
            _ = &mut app.supervisor => break Some("an actor died that nothing survives"),
            // Another process may own the store from now on: nothing may be shown or sent that is not stored.
            () = &mut lost => break Some("the store's lease was lost"),
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
            tracing::error!("the last usage records could not be stored in time");
        }
        if tokio::time::timeout_at(plan.store, close).await.is_err() {
            tracing::warn!("the store did not answer in time; the standby waits for this process's lease to end");
        }
        tracing::info!("handed over");
        return Ok(());
    }
    tracing::info!(
        "draining: no new turns, running ones get {} s",
        config.server.drain.as_secs()
    );
    app.stop(failure.map_or(config.server.drain, |_| Duration::ZERO)).await;
    serving.stop().await?;
    ledger.close().await;
    if tokio::time::timeout(CLOSING, close).await.is_err() {
        tracing::warn!(
            "the store did not answer while it was closed; the next process waits for this one's lease to end"
        );
    }
    failure.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
}

/// The key of tickets. Processes with one `seal_key` have the same, so that a stream that was opened at one goes on at the other; a
/// file of an earlier start counts before it.
fn ticket_key(file: &Config, sealing_key: &[u8; 32]) -> anyhow::Result<[u8; 32]> {
    const FILE: &str = "ticket.key";
    if file.server.seal_key.is_none() || file.server.data_dir.join(FILE).exists() {
        return files::key(&file.server.data_dir, FILE);
    }
    let key = Sha256::new()
        .chain_update(b"copilotd ticket key 1\0")
        .chain_update(sealing_key)
        .finalize();
    Ok(key.into())
}

/// The key that tenants' settings are encrypted with, and that the key of the audit log is derived from.
fn sealing_key(config: &Config) -> anyhow::Result<[u8; 32]> {
    match &config.server.seal_key {
        None => files::key(&config.server.data_dir, "tenants.key"),
        Some(given) => {
            let mut key = [0; 32];
            hex::decode_to_slice(given.expose_secret(), &mut key).context("server.seal_key")?;
            Ok(key)
        }
    }
}
