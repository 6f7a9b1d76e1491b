//! Processes that the benchmark starts and stops.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::machine::{ResourceUsage, used};

/// A running program, killed on drop.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program with its stderr in a file. `cores` pins it, such as to `0` or `1-3`.
    pub fn start(
        program: &Path,
        arguments: &[&OsStr],
        errors: &Path,
        cores: Option<&str>,
    ) -> anyhow::Result<(Self, BufReader<std::process::ChildStdout>)> {
        let mut command = match cores {
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(cores).arg(program);
                command
            }
            None => Command::new(program),
        };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(errors)?;
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let output = child.stdout.take().context("stdout is not piped")?;
        Ok((Self(child), BufReader::new(output)))
    }

    /// Returns what it has used so far.
    pub fn used(&self) -> anyhow::Result<ResourceUsage> {
        used(self.0.id())
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps this process off the first processor, which is the server's, until dropped.
#[derive(Debug)]
pub struct CoreGuard;

impl CoreGuard {
    /// Moves all threads of this process.
    pub fn step() -> anyhow::Result<Self> {
        pin_itself(&rest())?;
        Ok(Self)
    }
}

impl Drop for CoreGuard {
    fn drop(&mut self) {
        if let Err(error) = pin_itself(&format!("0-{}", last_core())) {
            eprintln!("{error:#}");
        }
    }
}

/// Returns the processors other than the first, or the first if there is no other.
pub fn rest() -> String {
    let last = last_core();
    format!("{}-{last}", last.min(1))
}

fn last_core() -> usize {
    // Not the ones that this process may use: it may have been moved already.
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = online
        .trim()
        .rsplit(['-', ','])
        .next()
        .and_then(|last| last.parse().ok());
    last.unwrap_or(0)
}

fn pin_itself(cores: &str) -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    output(Path::new("taskset"), &["-a", "-p", "-c", cores, &own]).map(drop)
}

/// Runs a program to its end and returns its stdout and stderr.
pub fn output(program: &Path, arguments: &[&str]) -> anyhow::Result<(String, String)> {
    let done = Command::new(program).args(arguments).output();
    let done = done.with_context(|| format!("running {}", program.display()))?;
    anyhow::ensure!(
        done.status.success(),
        "{} failed: {}",
        program.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok((String::from_utf8(done.stdout)?, String::from_utf8(done.stderr)?))
}

/// Reads one line of a program's output.
pub fn line(output: &mut impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    BufReader::new(output).read_line(&mut text)?;
    Ok(text)
}
