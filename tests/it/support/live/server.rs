//! The real server on one data directory, which a test can restart as often as it wants.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use copilotd_actors::domain::access::key_hash::KeyHash;
use tempfile::TempDir;
use tokio::sync::watch;

use super::child::Child;
use super::world::World;

/// An API key that acts for any user of the one tenant.
pub const KEY: &str = "cpk_killkillkillkillkillkillkillkillkillkillkil";

/// Lines of the server's log that a failing test shows.
const SHOWN_LINES: usize = 200;

/// The store.
#[derive(Debug, Clone)]
pub enum Store {
    Sqlite,
    Mongo {
        url: String,
        database: String,
        /// How long a process waits for the lease after a kill, and how long the store may be unavailable.
        lease_s: u64,
    },
}

/// Settings that differ between tests.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: Store,
    /// Time that turns get to finish after SIGTERM.
    pub drain_s: u64,
    /// The data directory, if not the server's own.
    pub data: Option<PathBuf>,
    /// Whether the route's model speaks Anthropic's protocol instead of OpenAI's.
    pub anthropic: bool,
}

impl From<Store> for Settings {
    fn from(store: Store) -> Self {
        Self {
            store,
            drain_s: 5,
            data: None,
            anthropic: false,
        }
    }
}

/// The server of one configuration; each [`Server::start`] starts a process.
pub struct Server {
    directory: TempDir,
    pub data: PathBuf,
    config: PathBuf,
    child: Option<Child>,
    /// Its address; none while no process runs.
    address: watch::Sender<Option<SocketAddr>>,
}

impl Server {
    /// Writes the configuration; starts nothing yet.
    pub fn new(world: &World, settings: impl Into<Settings>) -> Self {
        let settings = settings.into();
        let directory = TempDir::new().unwrap();
        let config = directory.path().join("copilotd.toml");
        let data = settings.data.clone();
        let data = data.unwrap_or_else(|| directory.path().join("data"));
        let text = configuration(world, &settings, &data);
        std::fs::write(&config, text).unwrap();
        Self {
            directory,
            data,
            config,
            child: None,
            address: watch::Sender::new(None),
        }
    }

    /// Returns a receiver of its address, across restarts.
    pub fn address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.address.subscribe()
    }

    /// Starts a process with the environment variables `env`; returns once it serves.
    pub async fn start(&mut self, env: &[(String, String)]) {
        let ended = self.try_start(env).await.err();
        assert!(
            ended.is_none(),
            "the server did not start, it ended with {ended:?}:\n{}",
            self.log()
        );
    }

    /// Starts a process that may end before it serves; then returns its exit code.
    pub async fn try_start(&mut self, env: &[(String, String)]) -> Result<(), i32> {
        assert!(self.child.is_none(), "it still lives");
        let mut child = serve(&self.config, env, &self.directory.path().join("server.log")).await;
        let address = child.wait_for(serving_at).await;
        if address.is_none() {
            return Err(child.wait().await);
        }
        self.address.send_replace(address);
        self.child = Some(child);
        Ok(())
    }

    /// Starts a standby of another server; returns once it stands by.
    pub async fn stand_by(&mut self) {
        assert!(self.child.is_none(), "it still lives");
        let log = self.directory.path().join("server.log");
        let mut child = run(&self.config, &["--standby"], &[], &log).await;
        let address = child
            .wait_for(|said| address_in(said, "standing by until the store is free"))
            .await;
        assert!(address.is_some(), "it does not stand by:\n{}", child.output());
        self.address.send_replace(address);
        self.child = Some(child);
    }

    /// Waits until it has logged this text.
    pub async fn said(&mut self, words: &str) {
        let child = self.child.as_mut().expect("it lives");
        let said = child.wait_for(|log| log.contains(words).then_some(())).await;
        assert!(said.is_some(), "it ended without saying it:\n{}", child.output());
    }

    /// Waits until a standby serves.
    pub async fn took_over(&mut self) {
        let child = self.child.as_mut().expect("it lives");
        let serves = child.wait_for(serving_at).await;
        assert!(serves.is_some(), "it ended without taking over:\n{}", child.output());
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> i32 {
        let status = self.child.as_mut().expect("it lives").wait().await;
        self.gone();
        status
    }

    pub async fn kill(&mut self) {
        self.child.as_mut().expect("it lives").kill().await;
        self.gone();
    }

    pub async fn terminate(&self) {
        self.child.as_ref().expect("it lives").signal("TERM").await;
    }

    fn gone(&mut self) {
        self.child = None;
        self.address.send_replace(None);
    }

    /// Starts a second process with the same configuration, which has to be refused; returns its exit code and output.
    pub async fn second(&self) -> (i32, String) {
        let mut child = serve(&self.config, &[], &self.directory.path().join("second.log")).await;
        let served = child.wait_for(serving_at).await;
        assert!(served.is_none(), "a second process was admitted");
        (child.wait().await, child.output())
    }

    /// Returns the log of all its processes.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }
}

/// A failing test prints the end of the log, because the directory is deleted.
impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("the server's last lines:\n{}", last.join("\n"));
        }
    }
}

async fn serve(config: &Path, env: &[(String, String)], log: &Path) -> Child {
    run(config, &[], env, log).await
}

async fn run(config: &Path, more: &[&str], env: &[(String, String)], log: &Path) -> Child {
    let program = Path::new(env!("CARGO_BIN_EXE_copilotd"));
    let mut arguments = vec!["serve", "--config", config.to_str().unwrap()];
    arguments.extend(more);
    Child::start(program, &arguments, env, log).await
}

/// Finds the address in the log line that says that the server is ready.
fn serving_at(log: &str) -> Option<SocketAddr> {
    address_in(log, "copilotd is ready")
}

/// Finds the address in the line that contains `words`, in any log format.
fn address_in(log: &str, words: &str) -> Option<SocketAddr> {
    let (_, said) = log.split_once(words)?;
    let line = log
        .lines()
        .find(|line| line.contains(words))
        .filter(|_| said.contains('\n'))?;
    let (_, port) = line.split_once("127.0.0.1:")?;
    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
    Some(SocketAddr::from(([127, 0, 0, 1], digits.parse().ok()?)))
}

/// One tenant with four copilots: one for everything, one whose tickets need approval, one with a small memory, and one
/// whose conversations get titles. Tool
/// timeouts are short, because calls whose answers are delayed have to wait for them.
fn configuration(world: &World, settings: &Settings, data: &Path) -> String {
    let (kind, provider) = if settings.anthropic {
        ("anthropic", &world.anthropic)
    } else {
        ("openai", &world.openai)
    };
    let store = match &settings.store {
        Store::Sqlite => String::new(),
        Store::Mongo { url, database, lease_s } => format!(
            "[store]\nkind = \"mongodb\"\nurl = {{ value = \"{url}\" }}\ndatabase = \"{database}\"\nlease_s = {lease_s}\n"
        ),
    };
    let copilot = |name: &str, titles: bool, more: &str| {
        format!(
            r#"
  [[tenants.copilots]]
  name = "{name}"
  route = "default"
  small_route = "default"
  titles = {titles}
  tools = ["zendesk_search_tickets", "zendesk_get_ticket", "zendesk_create_ticket", "zendesk_add_comment",
    "slack_post_message"]
  tool_timeouts = {{ zendesk_create_ticket = 2, zendesk_add_comment = 2, slack_post_message = 2 }}
  deny_output = [{{ name = "secret", literal = "FORBIDDEN" }}]
  {more}"#
        )
    };
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = "{data}"
drain_s = {drain_s}
{store}
[telemetry]
log_level = "info"
[[providers]]
name = "main"
kind = "{kind}"
base_url = "{provider}/v1"
api_key = {{ value = "simulated" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "sim-large", context_tokens = 16000 }}]
[[tenants]]
id = "acme"
  [[tenants.api_keys]]
  name = "backend"
  hash = "{hash}"
  scopes = ["chat", "gateway"]
  [tenants.limits]
  writes_per_minute = 0
  per_user = {{ writes_per_minute = 0 }}
{support}
{careful}
{brief}
{titled}
  [tenants.zendesk]
  base_url = "{zendesk}"
  email = "bot@acme.example"
  token = {{ value = "zendesk-token" }}
  [tenants.slack]
  base_url = "{slack}/api/"
  bot_token = {{ value = "xoxb-acme" }}
"#,
        data = data.display(),
        drain_s = settings.drain_s,
        zendesk = world.zendesk,
        slack = world.slack,
        hash = KeyHash::of(KEY),
        support = copilot("support", false, ""),
        careful = copilot("careful", false, "approval = [\"zendesk_create_ticket\"]"),
        brief = copilot(
            "brief",
            false,
            "memory = { trigger_tokens = 300, keep_tokens = 100, summary_tokens = 80 }"
        ),
        titled = copilot("titled", true, ""),
    )
}
