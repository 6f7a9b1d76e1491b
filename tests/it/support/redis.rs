//! Starts `redis-server` as a child process.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use super::secantus::free_port;

/// Stops the server when standard input is closed, so that it does not outlive the test process.
const WATCHDOG: &str = r#"
trap "" INT TERM HUP
"$0" --port "$1" --bind 127.0.0.1 --save "" --appendonly no --dir "$2" </dev/null >"$2/server.log" 2>&1 &
echo $!
cat >/dev/null
kill -9 $!
wait $! 2>/dev/null
"#;

/// A running server, stopped on drop.
pub struct Redis {
    watchdog: Option<Child>,
    pid: String,
    port: u16,
    data: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let mut server = Self {
            watchdog: None,
            pid: String::new(),
            port: free_port(),
            data: TempDir::new().unwrap(),
        };
        server.restart().await;
        server
    }

    /// Starts it (again), empty, at the same address.
    pub async fn restart(&mut self) {
        self.kill();
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(binary())
            .arg(self.port.to_string())
            .arg(self.data.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        self.pid.clear();
        let output = watchdog.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut self.pid).unwrap();
        self.watchdog = Some(watchdog);
        while self.try_connection().await.is_err() {
            let log = std::fs::read_to_string(self.data.path().join("server.log")).unwrap_or_default();
            let exe = format!("/proc/{}/exe", self.pid.trim());
            assert!(std::path::Path::new(&exe).exists(), "redis-server did not start: {log}");
            // No event to wait for: it is another program.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it, like a power failure.
    pub fn kill(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            watchdog.wait().unwrap();
        }
    }

    /// Makes it hang: connections stay open without answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, self.pid.trim()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    }

    /// Opens a connection for the test.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("REDIS_SERVER").map(PathBuf::from).into_iter();
    named
        .chain(std::env::split_paths(&path).map(|directory| directory.join("redis-server")))
        .find(|candidate| candidate.is_file())
        .expect("redis-server is not installed: run scripts/setup, or name it in REDIS_SERVER")
}
