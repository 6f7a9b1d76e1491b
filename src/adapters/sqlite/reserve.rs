//! Disk space kept for what must work on a full disk: revoking, suspending, erasing, auditing, starting again.
//!
//! A file in the data directory occupies a few MiB. It is truncated in pieces, which returns the space to the file
//! system, and only when a protective write ([`Priority`]) found the disk full: whatever fills the disk again gets at
//! most the rest of the last piece. The file grows back to its full size when there is space.
//!
//! Invariants: ordinary writes are refused unless the file has its full size and [`MARGIN`] is free beside it, so they
//! never get released space; recording the usage of model calls may take a quarter of the file; erasing and migrating
//! leave half of it for revocations.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::failure::is_full_or_io;
use super::schema::BUSY_TIMEOUT;
use crate::private_files;

/// Size of the reserve, unless the file system is small.
const SIZE: u64 = 16 * MIB;
/// Smallest size of the reserve.
const LEAST: u64 = MIB;
/// The reserve takes at most this fraction (one eighth) of a small file system.
const PART: u64 = 8;
/// Bytes released at once. A revocation with its audit entry writes about ten pages.
pub(crate) const PIECE: u64 = 64 * 1024;
/// Most bytes released before the next try, so that a write gets about what it needs.
const LARGEST_PIECE: u64 = 4 * PIECE;
/// Space that ordinary writes leave free beside the reserve.
const MARGIN: u64 = MIB;
/// Bytes of the write-ahead log after which it is checkpointed.
const CHECKPOINT_BYTES: u64 = 4 * MIB;
/// How long truncating the write-ahead log waits for readers; the caller tries again later.
const WAIT_FOR_READERS: Duration = Duration::from_millis(50);
const MIB: u64 = 1024 * 1024;

/// How much a write matters when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Refused.
    Ordinary,
    /// Records usage that has to be billed: may use a quarter of the reserve.
    Booking,
    /// Deletes erased data, which can be much: may use half of the reserve.
    Erasing,
    /// Protects somebody, or lets the process start: may use all of the reserve.
    Protective,
}

impl Priority {
    /// Returns `Protective` if so, else `Ordinary`.
    pub(crate) fn protective_if(is_protective: bool) -> Self {
        if is_protective {
            Self::Protective
        } else {
            Self::Ordinary
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    write_ahead_log: PathBuf,
    size: u64,
    /// Length of the file.
    held: AtomicU64,
    /// Ordinary writes that found the disk full since the last check.
    refused: AtomicU64,
}

impl Reserve {
    /// Adopts an existing file and grows it to its full size if there is space.
    pub(crate) fn open(directory: &Path, database: &Path) -> Self {
        let size = match rustix::fs::statvfs(directory) {
            Ok(about) => (about.f_blocks * about.f_frsize / PART).clamp(LEAST, SIZE),
            Err(_) => SIZE,
        };
        let mut write_ahead_log = database.as_os_str().to_owned();
        write_ahead_log.push("-wal");
        let reserve = Self {
            path: database.with_extension("reserve"),
            write_ahead_log: write_ahead_log.into(),
            size,
            held: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        let held = reserve.take_over().and_then(|()| reserve.grow());
        if !reserve.admits_ordinary() {
            let error = held.err().map(|error| error.to_string());
            tracing::error!(
                directory = %directory.display(), held = reserve.held(), size, error,
                "disk full at start; refusing all writes but revocations, suspensions and erasures until there is space"
            );
        }
        reserve
    }

    /// Returns whether ordinary writes are accepted.
    pub(crate) fn admits_ordinary(&self) -> bool {
        self.is_whole() && self.available() >= MARGIN
    }

    /// Returns whether the reserve has its full size.
    pub(crate) fn is_whole(&self) -> bool {
        self.held() >= self.size
    }

    fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns whether the file system has no space left, or next to none.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.available() < MARGIN
    }

    /// Records that an ordinary write found the disk full.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many ordinary writes found the disk full since the last call.
    pub(crate) fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// Bytes of the write-ahead log after which it is checkpointed. On a full disk that is after every protective write,
    /// so that each reuses the log's space instead of more of the reserve.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        if self.is_whole() {
            CHECKPOINT_BYTES.min(self.size / 4)
        } else {
            1
        }
    }

    /// Prepares the writing connection for closing, which must not write on a full disk.
    pub(crate) fn prepare_close(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !self.is_whole())?;
        Ok(())
    }

    /// Releases `bytes` to the file system. Returns false if `priority` may use no more of the reserve.
    pub(crate) fn release_space(&self, bytes: u64, priority: Priority) -> bool {
        let held = self.held();
        let floor = match priority {
            Priority::Ordinary => return false,
            Priority::Booking => self.size - self.size / 4,
            Priority::Erasing => self.size / 2,
            Priority::Protective => 0,
        };
        let left = held.saturating_sub(bytes).max(floor);
        if left >= held {
            return false;
        }
        let cut = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(left));
        match cut {
            Ok(()) => {}
            // Somebody deleted it: its space is free or in use already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.held.store(0, Ordering::Relaxed);
                return false;
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot release space from the disk reserve");
                return false;
            }
        }
        self.held.store(left, Ordering::Relaxed);
        if held >= self.size {
            tracing::error!(
                bytes = held - left,
                left,
                "disk full; using the disk reserve and refusing all writes but revocations, suspensions and erasures"
            );
        } else {
            tracing::debug!(
                bytes = held - left,
                left,
                "disk still full; used more of the disk reserve"
            );
        }
        true
    }

    /// Repeats `attempt` with more of the reserve while the disk is too full for it. Returns the last outcome.
    pub(crate) fn make_room<T, E>(
        &self,
        priority: Priority,
        mut attempt: impl FnMut() -> Result<T, E>,
        is_full: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let mut bytes = PIECE;
        loop {
            match attempt() {
                Err(error) if is_full(&error) && self.release_space(bytes, priority) => {
                    bytes = (2 * bytes).min(LARGEST_PIECE);
                }
                outcome => return outcome,
            }
        }
    }

    /// Copies the write-ahead log into the database without waiting for readers, so that the next write may reuse the
    /// log's space. Call it between transactions.
    pub(crate) fn checkpoint(&self, connection: &Connection) {
        let attempt = || {
            connection
                .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
                .query_row([], |_| Ok(()))
        };
        let done = self.make_room(Priority::Erasing, attempt, |error| self.is_full(error));
        if let Err(error) = done {
            tracing::warn!(%error, "checkpoint of the write-ahead log failed; trying again later");
        }
    }

    /// Checkpoints and truncates the write-ahead log. Returns false if readers prevented that: try again later.
    pub(crate) fn truncate_log(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let attempt = || connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        connection.busy_timeout(WAIT_FOR_READERS)?;
        let busy = self.make_room(Priority::Erasing, attempt, |error| self.is_full(error));
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(!busy?)
    }

    /// Returns whether an error means that the disk is full.
    pub(crate) fn is_full(&self, error: &rusqlite::Error) -> bool {
        is_full_or_io(error.sqlite_error_code(), || self.is_disk_full())
    }

    /// Grows the reserve back to its full size when there is space. Call it between transactions.
    pub(crate) fn restore(&self, connection: &Connection) {
        if self.is_whole() || self.available() < MARGIN + self.log_length() {
            return;
        }
        let grown = self
            .truncate_log(connection)
            .map_err(io::Error::other)
            .and_then(|_| self.grow());
        if let Err(error) = grown {
            tracing::warn!(%error, "cannot restore the disk reserve; trying again later");
        }
        if self.is_whole() {
            tracing::info!(
                bytes = self.size,
                "disk has space again; disk reserve restored, accepting all writes"
            );
        }
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.write_ahead_log).map_or(0, |about| about.len())
    }

    /// Space that this process may still use. Where the system does not tell, failing writes do.
    fn available(&self) -> u64 {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        rustix::fs::statvfs(directory).map_or(u64::MAX, |about| about.f_bavail * about.f_frsize)
    }

    /// Reads how much the file occupies. A sparse file, as a copy may be, occupies nothing.
    fn take_over(&self) -> io::Result<()> {
        let file = private_files::open(&self.path)?;
        let about = file.metadata()?;
        let mut held = about.len();
        if held > self.size || about.blocks() * 512 < held {
            held = if held > self.size && about.blocks() * 512 >= held {
                self.size
            } else {
                0
            };
            file.set_len(held)?;
        }
        self.held.store(held, Ordering::Relaxed);
        Ok(())
    }

    /// Grows the file as far as there is space. A step smaller than 1 MiB is only taken to reach the full size.
    fn grow(&self) -> io::Result<()> {
        let held = self.held();
        let missing = self.size.saturating_sub(held);
        let room = self.available().saturating_sub(MARGIN + self.log_length());
        let more = missing.min(room);
        if more == 0 || (more < missing && more < MIB) {
            return Ok(());
        }
        let file = private_files::open(&self.path)?;
        // Somebody else may have deleted or truncated it.
        if file.metadata()?.len() != held {
            file.set_len(0)?;
            self.held.store(0, Ordering::Relaxed);
            return Ok(());
        }
        match extend(&file, held, more) {
            Ok(()) => self.held.store(held + more, Ordering::Relaxed),
            Err(error) => {
                file.set_len(held)?;
                return Err(error);
            }
        }
        Ok(())
    }
}

fn extend(file: &File, from: u64, more: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, more) {
        Ok(()) => return file.sync_all(),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    // Random bytes: a file system that compresses would allocate no space for zeros.
    let mut file = file;
    io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
    let mut left = more;
    while left > 0 {
        let piece: Vec<u8> = std::iter::repeat_with(rand::random::<u64>)
            .take(8 * 1024)
            .flat_map(u64::to_ne_bytes)
            .collect();
        let length = piece.len().min(usize::try_from(left).unwrap_or(piece.len()));
        file.write_all(&piece[..length])?;
        left -= length as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_released_in_pieces_and_restored() {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open_in_memory().unwrap();
        let open = || Reserve::open(directory.path(), &directory.path().join("copilotd.db"));
        let reserve = open();
        let file = directory.path().join("copilotd.reserve");
        let length = || fs::metadata(&file).unwrap().len();
        assert!(reserve.admits_ordinary());
        assert_eq!(length(), reserve.size);
        assert!(!reserve.release_space(PIECE, Priority::Ordinary));
        assert!(reserve.release_space(PIECE, Priority::Protective));
        assert_eq!((length(), reserve.admits_ordinary()), (reserve.size - PIECE, false));
        // Erasing leaves half of it.
        assert!(reserve.release_space(SIZE, Priority::Erasing));
        assert_eq!(length(), reserve.size / 2);
        assert!(!reserve.release_space(PIECE, Priority::Erasing));
        let mut given = 0;
        while reserve.release_space(PIECE, Priority::Protective) {
            given += PIECE;
        }
        assert_eq!((length(), given), (0, reserve.size / 2));
        reserve.restore(&connection);
        assert_eq!((length(), reserve.admits_ordinary()), (reserve.size, true));
        // With holes, as a copy may have them, truncated, or deleted.
        let holes = |length: u64| {
            let file = File::options().write(true).truncate(true).open(&file).unwrap();
            file.set_len(length).unwrap();
        };
        let damage: [&dyn Fn(); 4] = [&|| holes(reserve.size), &|| holes(0), &|| holes(3 * SIZE), &|| {
            fs::remove_file(&file).unwrap()
        }];
        for damage in damage {
            damage();
            let again = open();
            assert_eq!((length(), again.admits_ordinary()), (reserve.size, true));
            assert!(
                fs::metadata(&file).unwrap().blocks() * 512 >= reserve.size,
                "a sparse file reserves no space"
            );
        }
    }

    #[test]
    fn an_attempt_gets_as_much_as_it_needs_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(directory.path(), &directory.path().join("copilotd.db"));
        for (needed, priority, outcome) in [
            (3 * PIECE, Priority::Protective, Ok(())),
            (2 * SIZE, Priority::Erasing, Err("full")),
            (2 * SIZE, Priority::Protective, Err("full")),
        ] {
            let before = reserve.held();
            let attempt = || {
                if before - reserve.held() >= needed {
                    Ok(())
                } else {
                    Err("full")
                }
            };
            let made = reserve.make_room(priority, attempt, |error| *error == "full");
            assert_eq!(made, outcome);
            assert!(before - reserve.held() <= needed + LARGEST_PIECE);
        }
        let other = reserve.make_room(Priority::Protective, || Err::<(), _>("other"), |error| *error == "full");
        assert_eq!(other, Err("other"));
    }
}
