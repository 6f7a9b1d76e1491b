//! One process per data directory, held by the operating system: a lock that a killed process cannot leave behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::OpenError;

const FILE: &str = "copilotd.lock";

/// The lock; given back when it is dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock or says who holds it.
    pub(super) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join(FILE);
        let cannot = |source| OpenError::Directory {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(cannot(source)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The number is only for the reader of the message; the lock itself says enough.
                let _ = file.read_to_string(&mut holder);
                return Err(OpenError::Locked {
                    path: directory.to_owned(),
                    pid: holder.trim().parse().ok(),
                });
            }
        }
        file.set_len(0).map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        writeln!(file, "{}", std::process::id()).map_err(cannot)?;
        Ok(Self { _file: file })
    }
}
