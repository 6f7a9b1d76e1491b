//! One process per data directory, by an operating system lock, which a killed process cannot leave behind.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::OpenError;
use crate::private_files;

/// The lock; released when dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of the database `name`, or returns which process has it.
    pub(crate) fn take(directory: &Path, name: &str) -> Result<Self, OpenError> {
        let path = directory.join(name).with_extension("lock");
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
                // The process id only serves the error message; the lock itself is what counts.
                let _ = file.read_to_string(&mut holder);
                return Err(OpenError::Locked {
                    path: directory.to_owned(),
                    pid: holder.trim().parse().ok(),
                });
            }
        }
        // The process id only serves another process's error message; a full disk must not prevent this start.
        let noted = file
            .rewind()
            .and_then(|()| write!(file, "{:<10}", std::process::id()))
            .and_then(|()| file.set_len(10));
        if let Err(error) = noted {
            tracing::warn!(path = %path.display(), %error, "process id not written to the lock file; another process that finds the directory locked cannot name this one");
        }
        Ok(Self { _file: file })
    }
}
