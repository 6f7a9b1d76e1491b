//! Starts `secantusd-rs`, a stand-in for MongoDB, as a child process.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

const VERSION: &str = "secantus-0.5.3-beta.196";

/// Watchdog that stops the server when standard input is closed, so that a killed test process leaves no server behind.
/// It ignores signals to the whole process group (Ctrl-C), because it must outlive the test process.
const WATCHDOG: &str = r#"
trap "" INT TERM HUP
"$0" --port "$1" --storage-path "$2" --sync-on-commit --log-level WARNING --cache-size 256M --log-file-max 32MB \
    </dev/null >"$2/server.log" 2>&1 &
echo $!
cat >/dev/null
kill -9 $!
wait $! 2>/dev/null
[ "$3" = keep ] || rm -rf "$2"
"#;

/// A running server.
pub struct Server {
    watchdog: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server on `data`; returns when it accepts connections.
    pub async fn start(binary: &Path, data: &Path, port: u16, keep: bool) -> Self {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(binary)
            .arg(port.to_string())
            .arg(data)
            .arg(if keep { "keep" } else { "remove" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(watchdog.stdout.take().unwrap())
            .read_line(&mut pid)
            .unwrap();
        let pid: u32 = pid.trim().parse().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect(address).await.is_err() {
            let log = std::fs::read_to_string(data.join("server.log")).unwrap_or_default();
            assert!(
                Path::new(&format!("/proc/{pid}/exe")).exists(),
                "the server did not start: {log}"
            );
            // No event to wait for: it is another program.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { watchdog, address }
    }

    /// Kills it immediately with SIGKILL, like a power failure.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }

    pub fn url(&self) -> String {
        url(self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns a URL that does not discover the replica set, because the server may be behind a proxy.
pub fn url(address: SocketAddr) -> String {
    format!("mongodb://{address}/?directConnection=true")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Returns the program, or `None` if it is not installed; then prints that tests are skipped, and fails in CI.
pub fn binary() -> Option<PathBuf> {
    let name = "secantusd-rs";
    let cache = std::env::var_os("COPILOTD_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        Some(base.or_else(home)?.join("copilotd"))
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::var_os("SECANTUSD")
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path).map(|directory| directory.join(name)))
        .chain(cache.map(|cache| cache.join(VERSION).join("bin").join(name)));
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    if found.is_none() {
        let missing = "secantusd-rs is not installed: nothing that needs MongoDB was tested";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("{missing}");
    }
    found
}

/// URL of the database server that tests of this process share: `MONGODB_URI`, or one started here.
pub async fn shared() -> Option<&'static str> {
    static SHARED: OnceCell<Option<(String, Option<Server>)>> = OnceCell::const_new();
    let shared = SHARED.get_or_init(|| async {
        if let Ok(url) = std::env::var("MONGODB_URI") {
            return Some((url, None));
        }
        let binary = binary()?;
        // The watchdog removes it when this process ends.
        let data = TempDir::new().unwrap().keep();
        let server = Server::start(&binary, &data, free_port(), false).await;
        Some((server.url(), Some(server)))
    });
    shared.await.as_ref().map(|(url, _)| url.as_str())
}
