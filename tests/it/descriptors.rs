//! The real program at its file descriptor limit: connections are refused, it logs that once, and keeps serving.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::live::child::Child;

const FILE: &str = r#"
[server]
listen = "127.0.0.1:0"
data_dir = "DATA"
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
[[routes]]
name = "default"
targets = [{ provider = "main", model = "large", context_tokens = 8000 }]
[[tenants]]
id = "acme"
"#;

/// Open file limit of the program; half of it is for connections.
const FILES: usize = 160;

struct Served {
    child: Child,
    address: String,
    _directory: TempDir,
}

impl Served {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("data");
        let config = directory.path().join("copilotd.toml");
        std::fs::write(&config, FILE.replace("DATA", data.to_str().unwrap())).unwrap();
        let limit = format!("--nofile={FILES}:{FILES}");
        let program = env!("CARGO_BIN_EXE_copilotd");
        let arguments = [&limit, program, "serve", "--config", config.to_str().unwrap()];
        let log = directory.path().join("log");
        let mut child = Child::start(Path::new("prlimit"), &arguments, &[], &log).await;
        let line = child.wait_for(|log| said(log, "copilotd is ready")).await.unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            address: line["address"].as_str().unwrap().to_owned(),
            _directory: directory,
        }
    }

    async fn healthy(&self) -> bool {
        let request = reqwest::get(format!("http://{}/healthz", self.address)).await;
        request.is_ok_and(|answer| answer.status() == 200)
    }

    /// Waits until it answers again.
    async fn recovers(&self) {
        let asks = async {
            while !self.healthy().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asks)
            .await
            .expect("it recovers");
    }

    async fn flood(&self, connections: usize) -> Vec<TcpStream> {
        let mut sockets = Vec::new();
        for _ in 0..connections {
            if let Ok(socket) = TcpStream::connect(&self.address).await {
                sockets.push(socket);
            }
        }
        sockets
    }
}

fn said(log: &str, what: &str) -> Option<String> {
    log.lines().find(|line| line.contains(what)).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_files_for_everything_else() {
    let mut served = Served::start().await;
    let limits = said(&served.child.output(), "open file limit applied: ").unwrap();
    let limits: serde_json::Value = serde_json::from_str(&limits).unwrap();
    assert_eq!(
        (&limits["open_files"], &limits["max_connections"]),
        (&FILES.into(), &(FILES / 2).into())
    );
    for _ in 0..2 {
        let sockets = served.flood(3 * FILES).await;
        served
            .child
            .wait_for(|log| said(log, "connections refused"))
            .await
            .unwrap();
        drop(sockets);
        served.recovers().await;
    }
    // Logged at most once a minute.
    assert_eq!(served.child.output().matches("connections refused").count(), 1);
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_runs_out_of_files_goes_on_when_there_are_some() {
    let mut served = Served::start().await;
    let limit = async |pid: u32, files: usize| {
        let arguments = [format!("--pid={pid}"), format!("--nofile={files}:{FILES}")];
        assert!(
            Command::new("prlimit")
                .args(arguments)
                .status()
                .await
                .unwrap()
                .success()
        );
    };
    let pid = served.child.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    limit(pid, open + 5).await;
    // No more than fit into the queue of a listener that accepts nothing.
    let sockets = served.flood(50).await;
    served
        .child
        .wait_for(|log| said(log, "accepting a connection failed"))
        .await
        .unwrap();
    limit(pid, FILES).await;
    drop(sockets);
    served.recovers().await;
    served.child.signal("TERM").await;
    assert_eq!(served.child.wait().await, 0);
}
