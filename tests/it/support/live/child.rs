//! A program under test as a child process, which can be killed and which no test leaves behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// Runs a program and prints its process id, then its exit code. Kills it when standard input is closed, so that a test
/// process that is itself killed leaves nothing behind.
const WATCHDOG: &str = r#"
log=$1
shift
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
echo "$child"
(cat <&3 >/dev/null; kill -9 "$child") >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait "$child" 2>/dev/null
status=$?
kill "$guard" 2>/dev/null
echo "$status"
"#;

/// Longest time for a killed process to be gone.
const END: Duration = Duration::from_secs(20);
/// Interval at which a file written by another process is read.
const LOOK: Duration = Duration::from_millis(10);

/// Exit code of a killed process, as a shell reports it.
const KILLED: i32 = 128 + 9;

/// A running process.
pub struct Child {
    pid: u32,
    log: PathBuf,
    /// Length of the log when it started.
    skip: usize,
    status: Option<i32>,
    said: Lines<BufReader<ChildStdout>>,
    // Closing it kills the process.
    stdin: Option<ChildStdin>,
}

impl Child {
    /// Starts `program`; its output is appended to `log`.
    pub async fn start(program: &Path, arguments: &[&str], env: &[(String, String)], log: &Path) -> Self {
        let skip = std::fs::metadata(log).map_or(0, |about| usize::try_from(about.len()).unwrap());
        let mut shell = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(log)
            .arg(program)
            .args(arguments)
            .envs(env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = shell.stdin.take();
        let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pid = said.next_line().await.unwrap().unwrap().parse().unwrap();
        Self {
            pid,
            log: log.to_owned(),
            skip,
            status: None,
            said,
            stdin,
        }
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns its output since its start.
    pub fn output(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.skip..).unwrap_or_default()).into_owned()
    }

    /// Waits until `find` returns a value for its output; none if it ends before that.
    pub async fn wait_for<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        loop {
            // Checked before the output is read, so that its last output is seen.
            let ended = tokio::time::timeout(LOOK, self.wait()).await.is_ok();
            if let Some(found) = find(&self.output()) {
                return Some(found);
            }
            if ended {
                return None;
            }
        }
    }

    /// Waits for its end; returns its exit code, or 128 plus the signal number. May be dropped and called again.
    pub async fn wait(&mut self) -> i32 {
        if let Some(status) = self.status {
            return status;
        }
        let line = self.said.next_line().await.unwrap();
        let status = line.unwrap_or_default().parse().unwrap_or(KILLED);
        self.status = Some(status);
        status
    }

    /// Kills it immediately with SIGKILL, like a power failure.
    pub async fn kill(&mut self) {
        self.signal("KILL").await;
        tokio::time::timeout(END, self.wait())
            .await
            .expect("a killed process ends");
    }

    /// Sends a signal, if it still runs.
    pub async fn signal(&self, name: &str) {
        if self.status.is_none() {
            let pid = self.pid.to_string();
            let sent = Command::new("kill").args(["-s", name, &pid]).output().await;
            sent.unwrap();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.stdin.take());
    }
}
