//! Starts PostgreSQL with pgvector as a child process.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::secantus::free_port;

/// Stops the server when standard input is closed, so that it does not outlive the test process. It refuses to run as
/// root: there, it runs in a user namespace in which it is somebody else.
const WATCHDOG: &str = r#"
trap "" INT TERM HUP
as=
[ "$(id -u)" != 0 ] || as="unshare --user --map-user=1000 --map-group=1000"
[ -e "$2/PG_VERSION" ] || $as "$0/initdb" -D "$2" -U postgres --auth=trust --no-sync --no-instructions -E UTF8 --locale=C \
    </dev/null >"$2.log" 2>&1 || { echo failed; exit 1; }
$as "$0/postgres" -D "$2" -p "$1" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
    -c full_page_writes=off -c shared_buffers=32MB -c max_connections=60 -c max_locks_per_transaction=256 \
    </dev/null >>"$2.log" 2>&1 &
echo $!
cat >/dev/null
kill -QUIT $! 2>/dev/null
wait $! 2>/dev/null
[ "$3" = keep ] || rm -rf "$2" "$2.log"
"#;

/// The role that tests connect as: it owns nothing but what it creates, and has no power.
pub const ROLE: &str = "app";

/// A running server, stopped on drop: at once, so that it recovers at the next start.
pub struct Server {
    watchdog: Option<Child>,
    binaries: PathBuf,
    port: u16,
    /// Where its files are.
    pub data: PathBuf,
    kept: Option<TempDir>,
}

impl Server {
    /// Starts a server of its own for a test; none if it is not installed.
    pub async fn start() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("data");
        Self::start_in(data, Some(directory)).await
    }

    async fn start_in(data: PathBuf, kept: Option<TempDir>) -> Option<Self> {
        let mut server = Self {
            watchdog: None,
            binaries: binaries()?,
            port: free_port(),
            data,
            kept,
        };
        std::fs::create_dir_all(&server.data).unwrap();
        server.restart().await;
        let admin = server.admin("postgres").await;
        admin.batch_execute(&format!("CREATE ROLE {ROLE} LOGIN")).await.unwrap();
        server.create_database("knowledge", true).await;
        Some(server)
    }

    /// Creates a database in which the role may create schemas.
    pub async fn create_database(&self, name: &str, with_vectors: bool) {
        let admin = self.admin("postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let grant = format!("GRANT CREATE ON DATABASE {name} TO {ROLE}");
        admin.batch_execute(&grant).await.unwrap();
        if with_vectors {
            self.admin(name)
                .await
                .batch_execute("CREATE EXTENSION vector")
                .await
                .unwrap();
        }
    }

    /// Starts it (again) with the same files at the same address.
    pub async fn restart(&mut self) {
        self.stop();
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(&self.binaries)
            .arg(self.port.to_string())
            .arg(&self.data)
            .arg(if self.kept.is_some() { "keep" } else { "remove" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(watchdog.stdout.take().unwrap())
            .read_line(&mut pid)
            .unwrap();
        self.watchdog = Some(watchdog);
        let exe = format!("/proc/{}/exe", pid.trim());
        while self.try_connect("postgres", "postgres").await.is_err() {
            let log = std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
            assert!(Path::new(&exe).exists(), "PostgreSQL did not start: {log}");
            // No event to wait for: it is another program.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it without any farewell.
    pub fn stop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            watchdog.wait().unwrap();
        }
    }

    /// Kills it and all its processes with SIGKILL, like the system when memory runs out.
    #[cfg(feature = "crash-points")]
    pub fn kill(&mut self) {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        // The parent first: it would start others again.
        let killed = Command::new("kill")
            .args(["-9", &pid])
            .args(children.split_whitespace())
            .output();
        assert!(killed.unwrap().status.success());
        self.stop();
        // The next start refuses to use files that some process may still change.
        while children
            .split_whitespace()
            .any(|child| Path::new("/proc").join(child).exists())
        {
            std::thread::yield_now();
        }
    }

    /// The URL for a role and a database.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// Its address.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Connects as a superuser.
    pub async fn admin(&self, database: &str) -> Client {
        self.try_connect("postgres", database).await.unwrap()
    }

    /// Connects as the role, without the adapter.
    pub async fn connect(&self, database: &str) -> Client {
        self.try_connect(ROLE, database).await.unwrap()
    }

    async fn try_connect(&self, role: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(role, database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The directory of the programs, or `None` if they are not installed; then prints that tests are skipped, and fails
/// in CI.
fn binaries() -> Option<PathBuf> {
    let root = std::env::var_os("COPILOTD_POSTGRES").map(PathBuf::from);
    let found = root
        .map(|root| root.join("bin"))
        .filter(|bin| bin.join("postgres").is_file());
    if found.is_none() {
        let missing = "no PostgreSQL: scripts/setup fetches it and sets COPILOTD_POSTGRES; its index was not tested";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
    }
    let found = found?;
    if rustix::process::geteuid().is_root() && !may_be_somebody_else() {
        eprintln!(
            "skipped: PostgreSQL refuses to run as root, and this machine has no user namespaces; its index was not tested"
        );
        return None;
    }
    Some(found)
}

/// Whether root may create a user namespace, in which it is somebody else.
fn may_be_somebody_else() -> bool {
    let tried = Command::new("unshare")
        .args(["--user", "--map-user=1000", "--map-group=1000", "true"])
        .output();
    tried.is_ok_and(|done| done.status.success())
}

/// The server that the tests of this process share, and a schema name that no other test has.
pub async fn shared() -> Option<(&'static Server, String)> {
    static SHARED: OnceCell<Option<Server>> = OnceCell::const_new();
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let start = || async {
        // The watchdog removes it when this process ends.
        let data = TempDir::new().unwrap().keep();
        Server::start_in(data.join("data"), None).await
    };
    let server = SHARED.get_or_init(start).await.as_ref()?;
    Some((server, format!("schema_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed))))
}
