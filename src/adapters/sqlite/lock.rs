//! One process per data directory, held by the operating system: a lock that a killed process cannot leave behind.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::OpenError;
use crate::private_files;

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
        let mut file = private_files::open(&path).map_err(cannot)?;
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
        // The number is for the message of another process alone; a full disk must not keep this one from starting.
        let noted = file
            .rewind()
            .and_then(|()| write!(file, "{:<10}", std::process::id()))
            .and_then(|()| file.set_len(10));
        if let Err(error) = noted {
            tracing::warn!(%error, "the process's number could not be written to the lock file");
        }
        Ok(Self { _file: file })
    }
}
