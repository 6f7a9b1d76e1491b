//! What `/proc` says about a process, and how long the disk takes for a flush.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::stats::Samples;

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResourceUsage {
    /// CPU time in user and system mode.
    pub cpu: Duration,
    /// Bytes that it caused to be written to the disk.
    pub disk: u64,
    /// Current resident memory in bytes.
    pub resident: u64,
    /// Most resident memory so far in bytes.
    pub peak: u64,
}

/// Reads what the process `pid` has used.
pub fn used(pid: u32) -> anyhow::Result<ResourceUsage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // The name in parentheses may contain spaces; the fields after it do not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let per_second = rustix::param::clock_ticks_per_second();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(ResourceUsage {
        cpu: Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64),
        disk: number(&io, "write_bytes:"),
        resident: number(&status, "VmRSS:") * 1024,
        peak: number(&status, "VmHWM:") * 1024,
    })
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Raises the limit of open files to the maximum allowed, and returns it.
pub fn raise_open_files() -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Measures appends of one page with a flush, in `directory`.
pub fn flush_time(directory: &Path, times: usize) -> anyhow::Result<Samples> {
    let mut file = File::create(directory.join("flush"))?;
    let page = [7_u8; 4096];
    let mut samples = Samples::default();
    file.seek(SeekFrom::Start(0))?;
    for _ in 0..times {
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        samples.add(begun.elapsed());
    }
    Ok(samples)
}

/// Describes the machine in one line.
pub fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = number(&memory, "MemTotal:") / 1024 / 1024;
    format!("{cpus} cores ({model}), {memory} GiB memory, load average at the start {load}")
}
