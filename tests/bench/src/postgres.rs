//! A PostgreSQL server of its own for a measurement.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::bail;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::process;
use crate::world::free_address;

/// Longest wait for it to start.
const START: Duration = Duration::from_secs(60);
/// The role that the index connects as.
const ROLE: &str = "app";

/// What the server is given, beside its defaults. Nothing here outlives a crash; what is measured only reads.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=1GB",
    "max_wal_size=4GB",
    "fsync=off",
    "max_locks_per_transaction=256",
];

/// A running server with pgvector, stopped on drop.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    binaries: PathBuf,
    port: u16,
    _directory: TempDir,
}

impl Postgres {
    /// Starts the server that is installed in `root`, with its files in `scratch`.
    pub async fn start(root: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let binaries = root.join("bin");
        let directory = TempDir::with_prefix_in("copilotd-bench-", scratch)?;
        let data = directory.path().join("data");
        let log = directory.path().join("log");
        let made = as_somebody(&binaries.join("initdb"))
            .args(["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()?;
        anyhow::ensure!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = free_address()?.port();
        let mut command = as_somebody(&binaries.join("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let output = std::fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut server = Self {
            child,
            binaries,
            port,
            _directory: directory,
        };
        let deadline = Instant::now() + START;
        while server.run("postgres", "SELECT 1").is_err() {
            if server.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("PostgreSQL did not start: {}", std::fs::read_to_string(&log)?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.run("postgres", &format!("CREATE ROLE {ROLE} LOGIN"))?;
        server.run("postgres", &format!("CREATE DATABASE knowledge OWNER {ROLE}"))?;
        server.run("knowledge", "CREATE EXTENSION vector")?;
        Ok(server)
    }

    /// Returns the URL for the index.
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/knowledge", self.port)
    }

    /// Does what autovacuum does in time, and returns the bytes that a schema takes.
    pub fn settle(&self, schema: &str) -> anyhow::Result<u64> {
        self.run("knowledge", "VACUUM (ANALYZE)")?;
        self.run("knowledge", "CHECKPOINT")?;
        let size = format!(
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
             WHERE relkind = 'r' AND relnamespace = '{schema}'::regnamespace"
        );
        Ok(self.run("knowledge", &size)?.trim().parse()?)
    }

    /// Runs a statement as a superuser.
    fn run(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let port = self.port.to_string();
        let place = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", database];
        let arguments = [&place[..], &["-qtAX", "-v", "ON_ERROR_STOP=1", "-c", sql]].concat();
        Ok(process::output(&self.binaries.join("psql"), &arguments)?.0)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(Some(pid)) = i32::try_from(self.child.id()).map(rustix::process::Pid::from_raw) {
            // At once: its files are removed.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

/// Runs a program in a user namespace if this process is root, which PostgreSQL refuses to be.
fn as_somebody(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-user=1000", "--map-group=1000"])
        .arg(program);
    command
}
