//! Whether commits are missing that were acknowledged: a write-ahead log that was cut off or deleted, or an older copy of the
//! database, cannot be told from a sound one by SQLite.
//!
//! Every transaction counts itself in the table `meta`, and after it the count is written to a file beside the database. A count in
//! the file beyond that of the database says how many commits are missing. The file is written after the commit and is flushed seldom, so that
//! a power cut leaves it behind the database and never before it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::private_files;

/// Name of the file inside the data directory.
const FILE: &str = "copilotd.state";
/// What the file says: a word, and the count in twenty digits.
const WORD: &str = "commits ";

/// Counts beyond these are damage: counting begins again.
const PLAUSIBLE: std::ops::Range<i64> = 0..1 << 53;

/// The count of commits.
#[derive(Debug)]
pub(super) struct History {
    file: Option<File>,
    commits: i64,
}

impl History {
    /// Compares the two counts; returns how many commits are missing.
    pub(super) fn open(directory: &Path, connection: &Connection) -> rusqlite::Result<(Self, u64)> {
        let commits: i64 = connection
            .query_row("SELECT value FROM meta WHERE name = 'commits'", [], |row| row.get(0))
            .optional()?
            .filter(|commits| PLAUSIBLE.contains(commits))
            .unwrap_or(0);
        let path = directory.join(FILE);
        let (file, noted) = match private_files::open(&path).and_then(|file| read(&file).map(|noted| (file, noted))) {
            Ok((file, noted)) => (Some(file), noted),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the count of commits is not kept; missing ones will not be noticed");
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
                "commits are missing from the database that were acknowledged: its write-ahead log was cut off or deleted, or an older \
                 copy was put in its place; serving what is there. Revocations may be among the missing ones: check them"
            );
        }
        let history = Self { file, commits };
        history.note();
        Ok((history, missing))
    }

    /// Counts a transaction, inside of it.
    pub(super) fn count(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('commits', ?1)")?
            .execute([self.commits + 1])?;
        Ok(())
    }

    /// Notes that the transaction was committed.
    pub(super) fn committed(&mut self) {
        self.commits += 1;
        self.note();
    }

    /// Writes the count over the older one: that needs no space on a full disk.
    fn note(&self) {
        let Some(file) = &self.file else { return };
        let text = format!("{WORD}{:020}\n", self.commits);
        if let Err(error) = file.write_all_at(text.as_bytes(), 0) {
            tracing::debug!(%error, "the count of commits was not noted");
        }
    }
}

/// Reads the count; none from a file that is new or does not hold one.
fn read(file: &File) -> io::Result<Option<i64>> {
    let mut bytes = vec![0; WORD.len() + 20];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.strip_prefix(WORD)?.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
