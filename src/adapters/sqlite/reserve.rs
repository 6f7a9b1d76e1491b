//! Space for what has to work on a full disk: revoking, suspending, erasing, auditing, starting again.
//!
//! A file in the data directory holds some MiB. Where nothing else is left it is deleted, and what it held is for protective
//! writes ([`Priority::Protective`]) alone, until there is room to allocate it again.
//! Invariants: ordinary writes happen only while the reserve is whole and some space is left beside it; while it is not, no
//! checkpoint runs unless a second copy of the whole write-ahead log would fit, since extending the database could use up what
//! was released.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::private_files;

/// Name of the file inside the data directory.
const FILE: &str = "copilotd.reserve";
/// Size of the reserve, unless the file system is small.
const SIZE: u64 = 16 * MIB;
/// Smallest size of the reserve.
const LEAST: u64 = MIB;
/// Part of a small file system that the reserve may take.
const PART: u64 = 8;
/// Space that ordinary writes leave free beside the reserve.
const MARGIN: u64 = MIB;
/// Pages of the write-ahead log after which it is folded back.
const CHECKPOINT_PAGES: u64 = 1_000;
/// Length of the write-ahead log from which it is folded back while the reserve is released.
const WORTH_FOLDING: u64 = MIB / 4;
/// Size of a page and its header in the write-ahead log, roughly.
const PAGE: u64 = 4_200;
const MIB: u64 = 1024 * 1024;

/// How much a write matters when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// It is refused.
    Ordinary,
    /// It may use the reserve: it protects somebody, gives space free, or lets the process start.
    Protective,
}

impl Priority {
    /// Protective if so, else ordinary.
    pub(super) fn protective_if(is_protective: bool) -> Self {
        if is_protective {
            Self::Protective
        } else {
            Self::Ordinary
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    write_ahead_log: PathBuf,
    size: u64,
    whole: AtomicBool,
    /// Ordinary writes that found the disk full since the last look.
    refused: AtomicU64,
}

impl Reserve {
    /// Allocates the reserve, or gives it free where the disk is full: a start needs some space too.
    pub(super) fn open(directory: &Path, database: &Path) -> Self {
        let size = match rustix::fs::statvfs(directory) {
            Ok(about) => (about.f_blocks * about.f_frsize / PART).clamp(LEAST, SIZE),
            Err(_) => SIZE,
        };
        let mut write_ahead_log = database.as_os_str().to_owned();
        write_ahead_log.push("-wal");
        let reserve = Self {
            path: directory.join(FILE),
            write_ahead_log: write_ahead_log.into(),
            size,
            whole: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        };
        if reserve.available() < MARGIN {
            reserve.delete();
            tracing::error!(
                directory = %directory.display(),
                "the disk is full: only revocations, suspensions and erasures are stored until there is space"
            );
        } else if let Err(error) = reserve.allocate() {
            tracing::error!(
                directory = %directory.display(), bytes = size, %error,
                "no space for the reserve: only revocations, suspensions and erasures are stored until there is"
            );
        }
        reserve
    }

    /// Whether ordinary writes are taken.
    pub(super) fn admits_ordinary(&self) -> bool {
        self.is_whole() && self.available() >= MARGIN
    }

    fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    /// Whether the file system has nothing left, or next to it.
    pub(super) fn is_disk_full(&self) -> bool {
        self.available() < MARGIN
    }

    /// Notes that an ordinary write found the disk full.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many ordinary writes found the disk full since this was asked last.
    pub(super) fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// Prepares the writing connection for the state of the reserve.
    pub(super) fn prepare(&self, connection: &Connection) -> rusqlite::Result<()> {
        let whole = self.is_whole();
        let pages = if whole {
            CHECKPOINT_PAGES.min(self.size / 4 / PAGE)
        } else {
            0
        };
        connection.pragma_update(None, "wal_autocheckpoint", pages)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !whole)?;
        Ok(())
    }

    /// Gives the reserve free for protective writes. Returns false if it was free already: then nothing more can be done.
    pub(super) fn release(&self, connection: &Connection) -> bool {
        if !self.whole.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.delete();
        if let Err(error) = self.prepare(connection) {
            tracing::warn!(%error, "checkpoints could not be switched off");
        }
        tracing::error!(
            bytes = self.size,
            "the disk is full; the reserve was released: only revocations, suspensions and erasures are stored"
        );
        true
    }

    /// While the reserve is released: folds the write-ahead log back where that surely fits, so that protective writes use the same
    /// space again and again. Call it between transactions.
    pub(super) fn fold_back(&self, connection: &Connection) {
        let log = self.log_length();
        if self.is_whole() || log < WORTH_FOLDING || self.available() < log {
            return;
        }
        truncate_log(connection);
    }

    /// Whether there is room for work that writes much, as erasing does, and for folding back what it wrote.
    pub(super) fn has_room_to_erase(&self) -> bool {
        self.is_whole() || self.available() >= self.log_length() + self.size / 4
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.write_ahead_log).map_or(0, |about| about.len())
    }

    /// Allocates the reserve again when there is room for it. Call it between transactions.
    pub(super) fn mend(&self, connection: &Connection) {
        if self.is_whole() || self.available() < self.size + MARGIN + self.log_length() {
            return;
        }
        truncate_log(connection);
        match self.allocate() {
            Ok(()) => {
                if let Err(error) = self.prepare(connection) {
                    tracing::warn!(%error, "checkpoints could not be switched on");
                }
                tracing::info!(
                    bytes = self.size,
                    "there is space on the disk again; everything is stored again"
                );
            }
            Err(error) => tracing::warn!(%error, "the reserve could not be allocated again; trying later"),
        }
    }

    /// Space that this process may still use. Where it cannot be told, errors of writes tell.
    fn available(&self) -> u64 {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        rustix::fs::statvfs(directory).map_or(u64::MAX, |about| about.f_bavail * about.f_frsize)
    }

    fn allocate(&self) -> io::Result<()> {
        let allocated = private_files::open(&self.path).and_then(|file| self.fill(&file));
        match allocated {
            Ok(()) => self.whole.store(true, Ordering::Relaxed),
            Err(_) => self.delete(),
        }
        allocated
    }

    fn fill(&self, file: &File) -> io::Result<()> {
        let about = file.metadata()?;
        // A copy of the directory may have become a file with holes.
        if about.len() == self.size && about.blocks() * 512 >= self.size {
            return Ok(());
        }
        file.set_len(0)?;
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, self.size) {
            Ok(()) => return file.sync_all(),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        // Random bytes: a file system that compresses would keep no space for zeros.
        let mut file = file;
        let mut left = self.size;
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

    fn delete(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %self.path.display(), %error, "the reserve could not be released");
        }
    }
}

/// Folds the write-ahead log back and cuts it off. Readers may keep it from that; then it is done another time.
fn truncate_log(connection: &Connection) {
    let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    if let Err(error) = folded {
        tracing::warn!(%error, "the write-ahead log could not be folded back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_released_once_and_allocated_again() {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open_in_memory().unwrap();
        let reserve = Reserve::open(directory.path(), &directory.path().join("copilotd.db"));
        let file = directory.path().join(FILE);
        let length = || fs::metadata(&file).map(|about| about.len()).ok();
        assert!(reserve.admits_ordinary());
        assert_eq!(length(), Some(reserve.size));
        assert!(reserve.release(&connection));
        assert_eq!((length(), reserve.admits_ordinary()), (None, false));
        assert!(!reserve.release(&connection));
        reserve.mend(&connection);
        assert_eq!((length(), reserve.admits_ordinary()), (Some(reserve.size), true));
        // With holes, as a copy may have them.
        File::options()
            .write(true)
            .truncate(true)
            .open(&file)
            .unwrap()
            .set_len(reserve.size)
            .unwrap();
        let again = Reserve::open(directory.path(), &directory.path().join("copilotd.db"));
        assert_eq!((length(), again.admits_ordinary()), (Some(reserve.size), true));
        assert!(
            fs::metadata(&file).unwrap().blocks() * 512 >= reserve.size,
            "a file with holes keeps no space"
        );
    }
}
