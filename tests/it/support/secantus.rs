//! Starts `secantusd-rs`, which stands in for MongoDB, as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

const VERSION: &str = "secantus-0.5.3-beta.196";

/// Keeps the server alive for as long as somebody holds the other end of standard input: a test process that is
/// killed cannot leave a server behind. Signals to the whole group (Ctrl-C) are left to the test process: the watchdog must
/// outlive it.
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
    /// Starts a server on `data`; answers when it accepts connections.
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
            // There is no event to wait for: another program starts.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { watchdog, address }
    }

    /// Ends it as a power cut would: SIGKILL, at once.
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

/// The address of one server, without looking for others of its set: it may be behind a proxy.
pub fn url(address: SocketAddr) -> String {
    format!("mongodb://{address}/?directConnection=true")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The program, or `None` when it is not installed. Then says what is left out, and fails in CI.
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

/// Address of the database server that tests of this process share: `MONGODB_URI`, or a server of our own.
pub async fn shared() -> Option<&'static str> {
    static SHARED: OnceCell<Option<(String, Option<Server>)>> = OnceCell::const_new();
    let shared = SHARED.get_or_init(|| async {
        if let Ok(url) = std::env::var("MONGODB_URI") {
            return Some((url, None));
        }
        let binary = binary()?;
        // The watchdog removes it when this process has ended.
        let data = TempDir::new().unwrap().keep();
        let server = Server::start(&binary, &data, free_port(), false).await;
        Some((server.url(), Some(server)))
    });
    shared.await.as_ref().map(|(url, _)| url.as_str())
}
