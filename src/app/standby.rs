//! Standing by for another process, and handing over to a standby.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config;
use crate::http::server;
use crate::surfaces::standby::Standby;

/// Most connections of the admin port.
const ADMIN_CONNECTIONS: usize = 64;
/// Time for open connections to close once their streams have ended.
const CONNECTION_GRACE: Duration = Duration::from_secs(3);

/// Deadlines of a hand-over's steps, all within two seconds.
#[derive(Debug, Clone, Copy)]
pub struct HandOver {
    /// Calls to external systems that were in flight have ended.
    pub calls: Instant,
    /// Open turns are stored.
    pub turns: Instant,
    /// Actors have ended.
    pub rest: Instant,
    /// Connections are closed.
    pub connections: Instant,
    /// The last usage records are stored.
    pub ledger: Instant,
    /// The store's lease is released.
    pub store: Instant,
}

impl HandOver {
    /// Plans a hand-over that starts now.
    pub fn now() -> Self {
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        Self {
            calls: after(700),
            turns: after(1000),
            rest: after(1150),
            connections: after(1350),
            ledger: after(1550),
            store: after(1900),
        }
    }
}

/// The process's bound ports.
pub struct Listeners {
    public: TcpListener,
    admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds the configured ports.
    pub async fn bind(server: &config::Server) -> anyhow::Result<Self> {
        let listen = server.listen;
        let public = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (server.listen)"))?;
        let admin = match server.admin_listen {
            Some(listen) => {
                let bound = TcpListener::bind(listen).await;
                Some(bound.with_context(|| format!("cannot listen on {listen} (server.admin_listen)"))?)
            }
            None => None,
        };
        Ok(Self { public, admin })
    }
}

/// Both ports being served, until they are stopped.
pub struct RunningServer {
    /// Address of the public port.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    public: JoinHandle<()>,
    admin: Option<JoinHandle<()>>,
}

impl RunningServer {
    /// Serves `public` and `admin` on their ports, with at most `most` connections on the public one.
    pub fn start(
        listeners: Listeners,
        server: &config::Server,
        most: usize,
        public: Router,
        admin: Router,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let timeouts = server::Timeouts::new(server);
        let address = listeners.public.local_addr()?;
        let admin = match listeners.admin {
            Some(listener) => {
                tracing::info!(address = %listener.local_addr()?, "admin port open: serving /metrics with tenant labels, /healthz and /readyz");
                // Its connections are counted separately: monitoring has to get through when clients fill the public
                // port.
                let connections = server::Connections::new(server, ADMIN_CONNECTIONS);
                Some(tokio::spawn(server::serve(
                    listener,
                    admin,
                    timeouts,
                    connections,
                    stopped.clone(),
                    CONNECTION_GRACE,
                )))
            }
            None => None,
        };
        let connections = server::Connections::new(server, most);
        let public = tokio::spawn(server::serve(
            listeners.public,
            public,
            timeouts,
            connections,
            stopped,
            CONNECTION_GRACE,
        ));
        Ok(Self {
            address,
            stop,
            public,
            admin,
        })
    }

    /// Stops listening and waits until the connections are closed or their grace period has ended.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        self.public.await.context("the server's task")?;
        if let Some(admin) = self.admin {
            admin.await.context("the admin port's task")?;
        }
        Ok(())
    }

    /// Like [`RunningServer::stop`], but returns at `end` at the latest.
    pub async fn stop_until(self, end: Instant) {
        // Whatever is left ends with the process.
        let _ = tokio::time::timeout_at(end, self.stop()).await;
    }
}

/// A standby's ports, where requests wait until it has taken over.
pub struct StandbyServer {
    public: Arc<Standby>,
    admin: Arc<Standby>,
    serving: RunningServer,
}

impl StandbyServer {
    /// Opens the ports and lets requests wait.
    pub async fn start(server: &config::Server, most: usize) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(server).await?;
        let (public, admin) = (Arc::new(Standby::default()), Arc::new(Standby::default()));
        let serving = RunningServer::start(listeners, server, most, public.routes(), admin.routes())?;
        tracing::info!(address = %serving.address, "standing by until the store is free; requests wait for the takeover");
        Ok(Self { public, admin, serving })
    }

    /// Serves requests from now on, including those that wait.
    pub fn take_over(self, public: Router, admin: Router) -> RunningServer {
        self.public.serve(public);
        self.admin.serve(admin);
        self.serving
    }

    /// Stops without having taken over.
    pub async fn end(self) -> anyhow::Result<()> {
        self.public.end();
        self.admin.end();
        self.serving.stop().await
    }
}
