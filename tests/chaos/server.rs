//! The server process: killed, stopped, and restarted whenever it has ended.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::history::History;
use crate::support::child::Child;

/// Pause before a server that ended by itself is restarted, like a service manager's.
const RESTART: Duration = Duration::from_millis(500);

/// State and address of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    Serving(SocketAddr),
    /// It accepts connections and does nothing.
    Stopped(SocketAddr),
    Dead,
}

impl ServerState {
    /// Returns the address to send requests to.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Serving(address) | Self::Stopped(address) => Some(address),
            Self::Dead => None,
        }
    }
}

/// An unexpected end.
#[derive(Debug, Clone)]
pub struct UnexpectedEnd {
    pub at: Duration,
    pub status: i32,
    /// It was not serving yet.
    pub starting: bool,
    pub last_words: String,
}

impl fmt::Display for UnexpectedEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.starting {
            "while starting"
        } else {
            "while serving"
        };
        write!(
            formatter,
            "the server exited with status {} {when}: {}",
            self.status, self.last_words
        )
    }
}

/// What happened to its processes.
#[derive(Debug, Default)]
pub struct ServerHistory {
    /// Exit status of the last one.
    pub status: i32,
    /// Unexpected ends.
    pub ends: Vec<UnexpectedEnd>,
}

enum Command {
    Kill { down: Duration },
    Stop { lasts: Duration },
    Terminate(oneshot::Sender<ServerHistory>),
}

pub struct Server {
    commands: mpsc::UnboundedSender<Command>,
    life: watch::Receiver<ServerState>,
    deaths: Arc<Mutex<Vec<Duration>>>,
    _task: JoinHandle<()>,
}

impl Server {
    /// Starts the first process.
    pub fn start(config: PathBuf, log: PathBuf, history: Arc<History>) -> Self {
        let (commands, incoming) = mpsc::unbounded_channel();
        let (life, watched) = watch::channel(ServerState::Dead);
        let deaths = Arc::default();
        let keeper = ServerSupervisor {
            config,
            log,
            history,
            life,
            incoming,
            past: ServerHistory::default(),
            deaths: Arc::clone(&deaths),
        };
        Self {
            commands,
            life: watched,
            deaths,
            _task: tokio::spawn(keeper.keep()),
        }
    }

    pub fn life(&self) -> watch::Receiver<ServerState> {
        self.life.clone()
    }

    /// Returns when it died, since the start of the run.
    pub fn deaths(&self) -> Vec<Duration> {
        self.deaths.lock().clone()
    }

    /// Kills it, once it runs, and restarts it after `down`.
    pub fn kill(&self, down: Duration) {
        let _ = self.commands.send(Command::Kill { down });
    }

    pub fn stop(&self, lasts: Duration) {
        let _ = self.commands.send(Command::Stop { lasts });
    }

    /// Terminates it cleanly.
    pub async fn terminate(&self) -> ServerHistory {
        let (told, ended) = oneshot::channel();
        let _ = self.commands.send(Command::Terminate(told));
        ended.await.expect("the task that supervises the server does not panic")
    }
}

struct ServerSupervisor {
    config: PathBuf,
    log: PathBuf,
    history: Arc<History>,
    life: watch::Sender<ServerState>,
    incoming: mpsc::UnboundedReceiver<Command>,
    past: ServerHistory,
    deaths: Arc<Mutex<Vec<Duration>>>,
}

impl ServerSupervisor {
    async fn keep(mut self) {
        loop {
            let mut child = self.spawn().await;
            let mut address = None;
            loop {
                let command = tokio::select! {
                    happened = happens(&mut child, address.is_some()) => {
                        let Some(there) = happened else {
                            self.ended(&mut child, address.is_none()).await;
                            break;
                        };
                        address = Some(there);
                        self.history.note(format!("the server is serving, pid {}", child.pid()));
                        self.life.send_replace(ServerState::Serving(there));
                        continue;
                    }
                    Some(command) = self.incoming.recv() => command,
                };
                match command {
                    Command::Kill { down } => {
                        self.history.note(format!("kill -9 {}, down for {down:?}", child.pid()));
                        self.deaths.lock().push(self.history.elapsed());
                        child.kill().await;
                        self.life.send_replace(ServerState::Dead);
                        tokio::time::sleep(down).await;
                        break;
                    }
                    Command::Stop { lasts } => {
                        self.history.note(format!("SIGSTOP for {lasts:?}"));
                        if let Some(address) = address {
                            self.life.send_replace(ServerState::Stopped(address));
                        }
                        child.signal("STOP").await;
                        tokio::time::sleep(lasts).await;
                        child.signal("CONT").await;
                        self.history.note("continued");
                        if let Some(address) = address {
                            self.life.send_replace(ServerState::Serving(address));
                        }
                    }
                    Command::Terminate(told) => {
                        child.signal("TERM").await;
                        self.past.status = child.wait().await;
                        self.life.send_replace(ServerState::Dead);
                        let _ = told.send(self.past);
                        return;
                    }
                }
            }
        }
    }

    async fn spawn(&self) -> Child {
        let program = Path::new(env!("CARGO_BIN_EXE_copilotd"));
        let config = self
            .config
            .to_str()
            .expect("the path of a temporary directory is UTF-8");
        Child::start(program, &["serve", "--config", config], &[], &self.log).await
    }

    async fn ended(&mut self, child: &mut Child, starting: bool) {
        let output = child.output();
        let lines: Vec<&str> = output.lines().collect();
        let ended = UnexpectedEnd {
            at: self.history.elapsed(),
            status: child.wait().await,
            starting,
            last_words: lines[lines.len().saturating_sub(4)..].join(" | "),
        };
        self.history.note(&ended);
        self.deaths.lock().push(ended.at);
        self.past.ends.push(ended);
        self.life.send_replace(ServerState::Dead);
        tokio::time::sleep(RESTART).await;
    }
}

/// Waits until it serves, or ends: then returns `None`. Cancel-safe.
async fn happens(child: &mut Child, serves: bool) -> Option<SocketAddr> {
    if !serves {
        return child.wait_for(serving_at).await;
    }
    child.wait().await;
    None
}

/// Finds the log line with the server's address.
fn serving_at(log: &str) -> Option<SocketAddr> {
    let (_, said) = log.split_once("copilotd is ready")?;
    let (line, _) = said.split_once('\n')?;
    let (_, port) = line.split_once("127.0.0.1:")?;
    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
    Some(SocketAddr::from(([127, 0, 0, 1], digits.parse().ok()?)))
}
