//! Detects missing acknowledged commits: SQLite cannot tell a database with a truncated or deleted write-ahead log, or
//! an older copy, from an intact one.
//!
//! Every transaction increments a count in one of three tables, preferably one that it changes anyway: a page more per
//! commit would be a tenth of what a turn writes. Afterwards the count is written to a file beside the database. If the file's count is larger than the database's, the difference is the number of missing commits. The
//! file is written after the commit and flushed seldom, so a power cut leaves it behind the database and never ahead of
//! it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;

use crate::private_files;

/// File name inside the data directory.
const FILE: &str = "copilotd.state";
/// The file contains this word and the count in twenty digits.
const PREFIX: &str = "commits ";

/// Counts outside this range are damage: counting starts over.
const PLAUSIBLE: std::ops::Range<i64> = 0..1 << 53;

/// Where a transaction stores its count. The largest of the three counts is the database's. Of the work in one
/// transaction the last one in this order decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CountTable {
    /// The row `commits` of `meta`.
    Meta,
    /// The row of `open_calls` with an empty id, for the ledger's records.
    OpenCalls,
    /// The row of `stored` without a tenant, for appends.
    Stored,
}

impl CountTable {
    const fn statement(self) -> &'static str {
        match self {
            Self::Meta => "INSERT OR REPLACE INTO meta (name, value) VALUES ('commits', ?1)",
            Self::OpenCalls => "INSERT OR REPLACE INTO open_calls (id, record) VALUES (x'', ?1)",
            Self::Stored => "INSERT OR REPLACE INTO stored (tenant, user, conversations, bytes) VALUES ('', '', 0, ?1)",
        }
    }
}

/// Finds the largest plausible count.
const COUNTED: &str = "SELECT max(count) FROM (
        SELECT value AS count FROM meta WHERE name = 'commits'
        UNION ALL SELECT CAST(record AS INTEGER) FROM open_calls WHERE id = x''
        UNION ALL SELECT bytes FROM stored WHERE tenant = '' AND user = ''
    ) WHERE count >= ?1 AND count < ?2";

/// The count of commits.
#[derive(Debug)]
pub(crate) struct History {
    file: Option<File>,
    commits: i64,
}

impl History {
    /// Compares the two counts; returns the number of missing commits.
    pub(crate) fn open(directory: &Path, connection: &Connection) -> rusqlite::Result<(Self, u64)> {
        let commits: Option<i64> = connection.query_row(COUNTED, [PLAUSIBLE.start, PLAUSIBLE.end], |row| row.get(0))?;
        let commits = commits.unwrap_or(0);
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
    pub(crate) fn count(&self, connection: &Connection, table: CountTable) -> rusqlite::Result<()> {
        connection
            .prepare_cached(table.statement())?
            .execute([self.commits + 1])?;
        Ok(())
    }

    /// Records that the transaction was committed.
    pub(crate) fn committed(&mut self) {
        self.commits += 1;
        self.write_count();
    }

    /// Returns the number of commits.
    #[cfg(test)]
    pub(crate) fn commits(&self) -> i64 {
        self.commits
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
