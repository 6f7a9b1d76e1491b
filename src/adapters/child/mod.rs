//! Child processes of this program: for computations that no thread may do, because they can take any time or memory, or
//! crash.
//!
//! `main` starts a worker before anything else, by the first argument. A worker limits itself before it reads its first
//! byte of input, and does nothing but compute: whatever happens to it, its parent reads either a reply or the end of
//! the pipe.

pub(super) mod limits;
pub(super) mod permits;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// First byte of a worker: its limits are set.
pub(super) const READY: u8 = b'r';
/// First byte of a worker that cannot limit its memory; it exits.
pub(super) const UNLIMITED: u8 = b'u';

/// Longest time until a new process has sent its first byte. Not part of the computation's own time.
const START: Duration = Duration::from_secs(20);

/// Returns the running program, even if its file has been replaced by an update meanwhile.
pub fn own_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        PathBuf::from("/proc/self/exe")
    } else {
        std::env::current_exe().unwrap_or_else(|_| PathBuf::from("copilotd"))
    }
}

/// A worker process with its pipes. Killed when dropped.
pub(super) struct Process {
    pub child: Child,
    pub to: ChildStdin,
    pub from: ChildStdout,
    /// Its first byte.
    pub first: u8,
}

/// Starts a worker process and waits for its first byte.
pub(super) async fn start(
    program: &Path,
    arguments: impl IntoIterator<Item = std::ffi::OsString> + Send,
) -> std::io::Result<Process> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        // It needs none of our secrets, and one heap for all its threads keeps its memory countable.
        .env_clear()
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C in a terminal is for the server, which drains; its workers continue meanwhile.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let missing = || std::io::Error::other("the worker process has no pipes");
    let to = child.stdin.take().ok_or_else(missing)?;
    let mut from = child.stdout.take().ok_or_else(missing)?;
    let first = match timeout(START, from.read_u8()).await {
        Ok(Ok(UNLIMITED)) => Err(std::io::Error::other(
            "the worker process cannot limit its memory; allow setrlimit",
        )),
        Ok(first) => first,
        Err(_elapsed) => Err(std::io::Error::other("the worker process did not become ready in time")),
    }?;
    Ok(Process { child, to, from, first })
}
