//! `copilotd serve`: runs until a signal, then drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use copilotd_actors::shared::Bounds;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{App, files, store, system};
use crate::config::Config;
use crate::gateway::ledger::Ledger;
use crate::gateway::limit::Period;
use crate::http::router::router;
use crate::http::server;
use crate::http::state::AppState;
use crate::telemetry;

/// Time that open connections get once their streams have ended.
const CONNECTION_GRACE: Duration = Duration::from_secs(3);

/// Serves the product.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let _telemetry = telemetry::start(&config.telemetry)?;
    run_with(config, router, |address| {
        tracing::info!(%address, "copilotd serves");
        Ok(())
    })
    .await
}

/// Serves what `routes` makes of the state; `ready` is told the address once requests are taken.
pub async fn run_with(
    config: &Config,
    routes: impl FnOnce(AppState) -> Router,
    ready: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    system::raise_open_files();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The store first: it refuses a second process before anything is done twice.
    let store::Opened { log, usage, lost } = store::open(config).await?;
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    std::fs::create_dir_all(&config.server.data_dir)
        .with_context(|| format!("cannot make {}", config.server.data_dir.display()))?;
    let ticket_key = files::key(&config.server.data_dir, "ticket.key")?;
    let bounds = Bounds {
        idle: config.server.idle,
        ..Bounds::default()
    };
    let now = system::now();
    let (day, month) = (Period::Day.around(now).0, Period::Month.around(now).0);
    let spent = usage.spendings(day, month).await.context("reading what was spent")?;
    let ledger = Ledger::start(
        Arc::clone(&usage),
        Arc::new(system::SystemClock),
        Arc::new(system::TimeOrderedIds),
    );
    let gateway = App::gateway(config, Some(Arc::clone(&ledger) as _), &spent, &usage)?;
    let ports = App::ports(config, log, &gateway)?;
    let mut app = App::start(config, ports, gateway, usage, &ticket_key, bounds).await?;
    let routes = routes(app.state.clone());
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server::serve(
        listener,
        routes,
        config.server.header_timeout,
        stopped,
        CONNECTION_GRACE,
    ));
    ready(address)?;
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        _ = &mut app.supervisor => Some("an actor died that nothing survives"),
        // Another process may own the store from now on: nothing may be shown or sent that is not stored.
        () = lost => Some("the store's lease was lost"),
    };
    tracing::info!(
        "draining: no new turns, running ones get {} s",
        config.server.drain.as_secs()
    );
    app.stop(failure.map_or(config.server.drain, |_| Duration::ZERO)).await;
    stop.send_replace(true);
    serving.await.context("the server's task")?;
    ledger.close().await;
    failure.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
}
