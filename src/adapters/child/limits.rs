//! Limits that a worker process sets on itself.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, nice, setrlimit};

/// How much less processor time it gets than the threads that answer requests.
const NICE: i32 = 10;

/// Limits the memory to `memory` bytes more than the process has now, writes no files, and lets everything else run first.
/// Returns the memory that the process has.
pub fn apply(memory: u64) -> Result<u64, Errno> {
    let own = mapped().unwrap_or(0);
    let limited = set(Resource::As, own.saturating_add(memory));
    // Systems other than Linux may have no memory limit: there only the deadline is left.
    if cfg!(target_os = "linux") {
        limited?;
    }
    // Not essential: without these the process is no less bounded. No core dump of a killed process: it would contain
    // a tenant's data.
    let _ = set(Resource::Core, 0);
    let _ = set(Resource::Fsize, 0);
    let _ = nice(NICE);
    // If the machine runs out of memory all the same, this process shall be killed first.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    Ok(own)
}

/// Closes all files but the three standard ones: whoever started the server may have left it files that are inherited.
/// Only as the first thing that a process does.
#[expect(
    unsafe_code,
    reason = "files are closed by number; nothing in this process has opened any yet"
)]
pub fn close_inherited() {
    let Ok(files) = std::fs::read_dir("/dev/fd") else {
        return;
    };
    let numbers = files
        .flatten()
        .filter_map(|file| file.file_name().to_str()?.parse().ok());
    // All are known before the first is closed, which may be the directory's own.
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // SAFETY: this process has no owner of a file yet, but the standard streams. The directory's own number is
        // closed already, so it is asked first.
        unsafe {
            if rustix::io::fcntl_getfd(BorrowedFd::borrow_raw(number)).is_ok() {
                rustix::io::close(number);
            }
        }
    }
}

/// Sets a limit that the process itself cannot raise again.
pub fn set(resource: Resource, most: u64) -> Result<(), Errno> {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(resource, limit)
}

/// Limits the processor time. The process gets SIGXCPU, and SIGKILL a second later if that did not end it. With equal
/// limits Linux only kills, which cannot be told from a lack of memory.
pub fn set_processor_seconds(most: u64) -> Result<(), Errno> {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most.saturating_add(1)),
    };
    setrlimit(Resource::Cpu, limit)
}

/// Bytes of address space in use, if the system tells.
pub fn mapped() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
