//! A process that waits for the data directory while another one has it.
//!
//! While waiting it holds a shared lock on `copilotd.standby`, so that the serving process knows when it stops that a
//! standby takes over at once. Both locks are the operating system's: they end with their process, however it ends.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::{OpenError, make_directory};
use crate::adapters::sqlite::lock::DirectoryLock;
use crate::private_files;

const FILE: &str = "copilotd.standby";

/// How often a standby checks whether the directory is free.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The right to open the store in a directory.
#[derive(Debug)]
pub struct FreeDirectory(pub(super) DirectoryLock);

/// Waits until no other process has the directory.
///
/// # Errors
/// If the directory is unusable.
pub async fn wait(directory: &Path) -> Result<FreeDirectory, OpenError> {
    let mut announced: Option<File> = None;
    loop {
        let (own, known) = (directory.to_owned(), announced.take());
        let looked = tokio::task::spawn_blocking(move || try_take(&own, known)).await;
        match looked {
            Ok(Ok((Some(lock), _))) => return Ok(FreeDirectory(lock)),
            Ok(Ok((None, file))) => {
                announced = file;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Ok(Err(error)) => return Err(error),
            // The runtime is shutting down, and this wait with it.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Announces the standby unless that was done before, and tries to lock the directory.
fn try_take(directory: &Path, announced: Option<File>) -> Result<(Option<DirectoryLock>, Option<File>), OpenError> {
    let announced = match announced {
        Some(file) => Some(file),
        None => announce(directory)?,
    };
    match DirectoryLock::take(directory, super::NAME) {
        Ok(lock) => Ok((Some(lock), None)),
        Err(OpenError::Locked { pid, .. }) => {
            tracing::trace!(pid, "standing by: another process has the data directory");
            Ok((None, announced))
        }
        Err(error) => Err(error),
    }
}

fn announce(directory: &Path) -> Result<Option<File>, OpenError> {
    make_directory(directory)?;
    let path = directory.join(FILE);
    let cannot = |source| OpenError::Directory {
        path: path.clone(),
        source,
    };
    let file = private_files::open(&path).map_err(cannot)?;
    match file.try_lock_shared() {
        Ok(()) => {
            tracing::info!("standing by: another process uses the data directory; taking over when it exits");
            Ok(Some(file))
        }
        // The serving process is checking for a standby right now.
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(cannot(source)),
    }
}

/// Returns whether a standby waits for the directory.
pub fn is_waiting(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join(FILE)) else {
        return false;
    };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}
