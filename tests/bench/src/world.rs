//! The two programs of a measurement: the server on a fresh data directory, and the provider.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::client::Client;
use crate::http::Connection;
use crate::machine::ResourceUsage;
use crate::process::{self, CoreGuard, Process};

/// Limits that are never reached.
const LIMITS: &str = r#"
[tenants.limits]
requests_per_minute = 100000000
tokens_per_minute = 100000000000
concurrent_calls = 100000
usd_per_month = 100000000.0
writes_per_minute = 0
conversations = 0
log_bytes = 0
per_user = { requests_per_minute = 100000000, tokens_per_minute = 100000000000, writes_per_minute = 0, conversations = 0, log_bytes = 0 }
per_key = { requests_per_minute = 100000000, usd_per_day = 100000000.0 }
[[prices]]
model = "sim-large"
input = 2.5
output = 10.0
"#;

/// No limits at all: the measured tenant writes more than the default rate.
const NO_LIMITS: &str = r#"
[tenants.limits]
writes_per_minute = 0
conversations = 0
log_bytes = 0
per_user = { writes_per_minute = 0, conversations = 0, log_bytes = 0 }
"#;

/// No limits of what a tenant with documents does.
const NO_DOCUMENT_LIMITS: &str = r#"
[tenants.limits]
writes_per_minute = 0
searches_per_minute = 0
per_user = { writes_per_minute = 0, searches_per_minute = 0 }
"#;

/// Deny rules that no text of the benchmark matches.
const RULES: &str = r#"
deny_input = [{ name = "sql", literal = "DROP TABLE" }]
deny_output = [{ name = "codename", literal = "Bluebird", action = "redact" }, { name = "key", literal = "sk-live" }]
"#;

/// An issuer whose tokens `copilotd token` can sign.
const ISSUER: &str = r#"
  [[tenants.issuers]]
  iss = "https://acme.example"
  alg = "HS256"
  secret = { value = "a-secret-of-at-least-thirty-two-bytes" }
  scopes = ["chat", "gateway"]
"#;

/// Longest wait for a program to start.
const START: Duration = Duration::from_secs(60);

/// Paths of the programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `copilotd`.
    pub server: PathBuf,
    /// `copilotd-sim`.
    pub sim: PathBuf,
    /// Directory for data directories.
    pub scratch: PathBuf,
}

/// What a scenario needs from its server.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Seconds after which an idle conversation is passivated.
    pub idle_s: Option<u64>,
    /// Context of the model in tokens.
    pub context_tokens: Option<u64>,
    /// Whether the server gets one processor to itself, and provider and client the rest.
    pub one_core: bool,
    /// Whether the tenant has limits, which are never reached, and the route an exact cache.
    pub limits: bool,
    /// Whether the tenant has deny rules, which never match, and an issuer of user tokens.
    pub rules: bool,
    /// Whether there are two more tenants: globex, and initech with a low token limit.
    pub tenants: bool,
    /// Directory of the embedding models, if documents or earlier messages are also found by their meaning.
    pub models: Option<PathBuf>,
    /// Number of more tenants, named `tenant-0` and so on.
    pub more: usize,
}

/// Both programs, running.
#[derive(Debug)]
pub struct Testbed {
    programs: Programs,
    server: Process,
    _sim: Process,
    _aside: Option<CoreGuard>,
    options: ServerOptions,
    directory: TempDir,
    /// Address of the provider.
    pub provider: SocketAddr,
    /// The API key.
    pub key: String,
    /// Client of the server.
    pub client: Arc<Client>,
    /// API keys of the other tenants.
    others: Vec<(String, String)>,
}

/// The other tenants and their limits.
const OTHERS: [(&str, &str); 2] = [
    ("globex", ""),
    ("initech", "[tenants.limits]\ntokens_per_minute = 200000\n"),
];

impl Testbed {
    /// Starts both programs.
    pub async fn start(programs: &Programs, options: ServerOptions) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix_in("copilotd-bench-", &programs.scratch)?;
        let (aside, rest) = if options.one_core {
            (Some(CoreGuard::step()?), Some(process::rest()))
        } else {
            (None, None)
        };
        let (sim, mut said) = Process::start(&programs.sim, &[], &directory.path().join("sim.log"), rest.as_deref())?;
        let said: serde_json::Value =
            serde_json::from_str(&process::line(&mut said)?).context("the simulator's first line is not JSON")?;
        let provider = said["openai"].as_str().and_then(|url| url.strip_prefix("http://"));
        let provider: SocketAddr = provider.context("the simulator printed no provider address")?.parse()?;
        let scopes = match &options.models {
            Some(_) => "chat,gateway,admin,knowledge",
            None => "chat,gateway,admin",
        };
        let (key, made) = new_key(programs, scopes)?;
        let listen = free_address()?;
        let mut config = configuration(directory.path(), listen, provider, &made, &options);
        let mut others = Vec::new();
        let named = OTHERS.iter().filter(|_| options.tenants);
        let named = named.map(|(name, limits)| ((*name).to_owned(), *limits));
        let numbered = (0..options.more).map(|number| (format!("tenant-{number}"), NO_DOCUMENT_LIMITS));
        for (name, limits) in named.chain(numbered) {
            let (key, made) = new_key(programs, scopes)?;
            config += &tenant(&name, &made, limits);
            others.push((name, key));
        }
        std::fs::write(directory.path().join("copilotd.toml"), config)?;
        let server = serve(programs, directory.path(), &options)?;
        let world = Self {
            programs: programs.clone(),
            server,
            _sim: sim,
            _aside: aside,
            options,
            directory,
            provider,
            client: Arc::new(Client::new(listen, &key)),
            key,
            others,
        };
        world.ready(listen).await?;
        Ok(world)
    }

    /// Returns a client for another tenant.
    pub fn client_of(&self, tenant: &str) -> anyhow::Result<Arc<Client>> {
        let other = self.others.iter().find(|(name, _)| *name == tenant);
        let (_, key) = other.with_context(|| format!("no tenant {tenant}"))?;
        Ok(Arc::new(Client::new(self.client.address(), key)))
    }

    /// Issues a token for a user of the measured tenant.
    pub fn user_token(&self, user: &str) -> anyhow::Result<String> {
        let config = self.directory.path().join("copilotd.toml");
        let config = config.to_str().context("the directory's name is not UTF-8")?;
        let arguments = [
            "token", "--config", config, "--tenant", "acme", "--user", user, "--scope", "gateway",
        ];
        let (token, _) = process::output(&self.programs.server, &arguments)?;
        Ok(token.trim().to_owned())
    }

    /// Kills the server. Until it is restarted its data may be written.
    pub fn stop(&mut self) {
        self.server.kill();
    }

    /// Kills the server and restarts it on the same data; returns the time until it serves.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.server.kill();
        let begun = Instant::now();
        self.server = serve(&self.programs, self.directory.path(), &self.options)?;
        self.ready(self.client.address()).await?;
        Ok(begun.elapsed())
    }

    /// Starts a bare relay to the provider on the server's processor. The server must be idle meanwhile.
    pub fn relay(&self) -> anyhow::Result<(Process, SocketAddr)> {
        let (provider, own) = (self.provider.to_string(), std::env::current_exe()?);
        let arguments = [OsStr::new("--relay"), OsStr::new(&provider)];
        let log = self.directory.path().join("relay.log");
        let (relay, mut said) = Process::start(&own, &arguments, &log, self.options.one_core.then_some("0"))?;
        let address = process::line(&mut said)?;
        Ok((relay, address.trim().parse().context("the relay printed no address")?))
    }

    /// Returns what the server has used so far.
    pub fn used(&self) -> anyhow::Result<ResourceUsage> {
        self.server.used()
    }

    /// Waits until the server is idle, so that work after an answer is counted too.
    pub async fn quiet(&self) -> anyhow::Result<()> {
        let mut before = self.used()?.cpu;
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = self.used()?.cpu;
            if now.saturating_sub(before) < Duration::from_millis(10) {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Directory of the server's data.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    async fn ready(&self, address: SocketAddr) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Ok(mut connection) = Connection::open(address).await
                && let Ok(response) = connection.send("GET", "/healthz", "", None).await
                && response.status == 200
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let log = std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default();
        bail!("the server did not start: {log}")
    }
}

fn serve(programs: &Programs, directory: &Path, options: &ServerOptions) -> anyhow::Result<Process> {
    let config = directory.join("copilotd.toml");
    let arguments = [OsStr::new("serve"), OsStr::new("--config"), config.as_os_str()];
    let log = directory.join("server.log");
    let cores = options.one_core.then_some("0");
    Ok(Process::start(&programs.server, &arguments, &log, cores)?.0)
}

/// Creates an API key: returns the key, and its section of the configuration.
fn new_key(programs: &Programs, scopes: &str) -> anyhow::Result<(String, String)> {
    let (table, said) = process::output(&programs.server, &["key", "create", "--scope", scopes])?;
    // Earlier versions print the key as a comment of its section.
    let key = said.lines().chain(table.lines()).find_map(|line| {
        let line = line.trim_start_matches("# ");
        line.starts_with("cpk_").then_some(line)
    });
    Ok((key.context("`copilotd key create` printed no key")?.to_owned(), table))
}

/// The configuration of one more tenant.
fn tenant(name: &str, key: &str, limits: &str) -> String {
    format!(
        r#"
[[tenants]]
id = "{name}"
  [[tenants.copilots]]
  name = "support"
  instructions = "You are measured."
  route = "default"
  small_route = "small"
  titles = false
{key}{limits}"#
    )
}

/// Returns a port that was free a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn configuration(
    directory: &Path,
    listen: SocketAddr,
    provider: SocketAddr,
    key: &str,
    options: &ServerOptions,
) -> String {
    let data = directory.join("data");
    let idle = options
        .idle_s
        .map(|seconds| format!("idle_s = {seconds}\n"))
        .unwrap_or_default();
    let limits = if options.limits { LIMITS } else { NO_LIMITS };
    let cache = if options.limits {
        "cache = { mode = \"exact\" }\n"
    } else {
        ""
    };
    let (rules, issuer) = if options.rules { (RULES, ISSUER) } else { ("", "") };
    let context = options.context_tokens.unwrap_or(128_000);
    let embeddings = options.models.as_ref().map(|models| {
        let models = models.display().to_string();
        format!("[embeddings]\nmodel = \"bge-small-en-v1.5\"\ndirectory = {models:?}\n")
    });
    let embeddings = embeddings.unwrap_or_default();
    format!(
        r#"[server]
listen = "{listen}"
data_dir = {data:?}
connections_per_caller = 100000
{idle}
{embeddings}[[providers]]
name = "main"
kind = "openai"
base_url = "http://{provider}/v1"
api_key = {{ value = "simulated" }}
[[routes]]
name = "default"
targets = [{{ provider = "main", model = "sim-large", context_tokens = {context} }}]
{cache}[[routes]]
name = "small"
targets = [{{ provider = "main", model = "sim-small", context_tokens = {context} }}]
[[tenants]]
id = "acme"
{rules}  [[tenants.copilots]]
  name = "support"
  instructions = "You are measured."
  route = "default"
  small_route = "small"
  titles = false
{key}{issuer}{limits}"#
    )
}
