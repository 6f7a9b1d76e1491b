//! Detects missing acknowledged commits: SQLite cannot tell a database with a truncated or deleted write-ahead log, or
//! an older copy, from an intact one.
//!
//! Every transaction increments a count in the table `meta`; afterwards the count is written to a file beside the
//! database. If the file's count is larger than the database's, the difference is the number of missing commits. The
//! file is written after the commit and flushed seldom, so a power cut leaves it behind the database and never ahead of
//! it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::private_files;

/// File name inside the data directory.
const FILE: &str = "copilotd.state";
/// The file contains this word and the count in twenty digits.
const PREFIX: &str = "commits ";

/// Counts outside this range are damage: counting starts over.
const PLAUSIBLE: std::ops::Range<i64> = 0..1 << 53;

/// The count of commits.
#[derive(Debug)]
pub(crate) struct History {
    file: Option<File>,
    commits: i64,
}

impl History {
    /// Compares the two counts; returns the number of missing commits.
    pub(crate) fn open(directory: &Path, connection: &Connection) -> rusqlite::Result<(Self, u64)> {
        let commits: i64 = connection
            .query_row("SELECT value FROM meta WHERE name = 'commits'", [], |row| row.get(0))
            .optional()?
            .filter(|commits| PLAUSIBLE.contains(commits))
            .unwrap_or(0);
        let path = directory.join(FILE);
        let (file, noted) = match private_files::open(&path).and_then(|file| read(&file).map(|noted| (file, noted))) {
            Ok((file, noted)) => (Some(file), noted),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "commit count file unusable; continuing without it, so lost commits would go unnoticed");
                (None, None)
            }
        };
        let missing = noted
            .map_or(0, |noted| noted.saturating_sub(commits))
            .max(0)
            .unsigned_abs();
        if missing > 0 {
            tracing::error!(
                commits,
                missing,
                "acknowledged commits are missing from the database: its write-ahead log was truncated or deleted, or the file was \
                 replaced by an older copy. Serving what is left; revocations may be missing: check them"
            );
        }
        let history = Self { file, commits };
        history.write_count();
        Ok((history, missing))
    }

    /// Counts a transaction, from inside it.
    pub(crate) fn count(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('commits', ?1)")?
            .execute([self.commits + 1])?;
        Ok(())
    }

    /// Records that the transaction was committed.
    pub(crate) fn committed(&mut self) {
        self.commits += 1;
        self.write_count();
    }

    /// Overwrites the previous count, which needs no space on a full disk.
    fn write_count(&self) {
        let Some(file) = &self.file else { return };
        let text = format!("{PREFIX}{:020}\n", self.commits);
        if let Err(error) = file.write_all_at(text.as_bytes(), 0) {
            tracing::debug!(%error, "commit count not written to its file");
        }
    }
}

/// Reads the count; `None` if the file is new or contains none.
fn read(file: &File) -> io::Result<Option<i64>> {
    let mut bytes = vec![0; PREFIX.len() + 20];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.strip_prefix(PREFIX)?.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
