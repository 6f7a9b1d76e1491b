//! Processes that the benchmark started, and ends.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::machine::{Used, used};

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program with its errors in a file. `core` pins it to one processor, where `taskset` is available.
    pub fn start(
        program: &Path,
        arguments: &[&OsStr],
        errors: &Path,
        core: Option<usize>,
    ) -> anyhow::Result<(Self, BufReader<std::process::ChildStdout>)> {
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
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
        let output = child.stdout.take().context("the program's output")?;
        Ok((Self(child), BufReader::new(output)))
    }

    /// What it has used so far.
    pub fn used(&self) -> anyhow::Result<Used> {
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

/// Runs a program to its end and returns what it printed.
pub fn output(program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program).args(arguments).output();
    let done = done.with_context(|| format!("running {}", program.display()))?;
    anyhow::ensure!(
        done.status.success(),
        "{} failed: {}",
        program.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8(done.stdout)?)
}

/// Reads one line of a program's output.
pub fn line(output: &mut impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    BufReader::new(output).read_line(&mut text)?;
    Ok(text)
}
