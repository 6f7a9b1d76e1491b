//! What the adapters on SQLite share: one thread that writes, connections that read, and the files.
//!
//! Invariant: no database call runs on an async thread, and a write is acknowledged only after its commit has been
//! flushed (`synchronous = FULL`).

pub(crate) mod failure;
pub(crate) mod history;
pub(crate) mod lock;
pub(crate) mod page_slack;
pub(crate) mod readers;
pub(crate) mod reserve;
pub(crate) mod schema;
pub(crate) mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use copilotd_actors::ports::LogError;
use rusqlite::Connection;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::failure::Failure;
use self::history::History;
use self::lock::DirectoryLock;
use self::page_slack::PageSlack;
use self::readers::Readers;
use self::reserve::Reserve;
use self::schema::Schema;
use self::writer::{MaxPages, Writer, Writing};
use super::backoff::Backoff;
use crate::private_files;

/// Most rounds in which an erasure clears pages that changed during the previous round.
const MAX_ROUNDS: usize = 4;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be created, read or written.
    #[error("cannot read or write {path}", path = path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("{path} is in use by another copilotd{of}; one process may use a data directory at a time",
        path = path.display(), of = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        path: PathBuf,
        /// The process that uses it, if known.
        pid: Option<u32>,
    },
    /// A newer release wrote it.
    #[error("{path} has schema version {found}, and this release knows versions up to {known}; use a newer release",
        path = path.display())]
    Newer {
        path: PathBuf,
        found: i64,
        /// Newest version that this release knows.
        known: i64,
    },
    /// No space to open it.
    #[error("the disk of {path} is full and the disk reserve is used up; free some space and start again", path = path.display())]
    Full { path: PathBuf },
    /// No space to migrate it.
    #[error("the disk of {path} is full: migrating the database from schema version {found} to {known} needs more space than half of \
        the disk reserve; free some space and start again. Nothing was changed; the previous release still opens it",
        path = path.display())]
    FullMigration {
        path: PathBuf,
        found: i64,
        /// Newest version that this release knows.
        known: i64,
    },
    /// The database of another program.
    #[error("{path} is a SQLite database of another program, not of copilotd; use another data directory", path = path.display())]
    Foreign { path: PathBuf },
    #[error("cannot open the database")]
    Sqlite(#[from] rusqlite::Error),
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    // Dropped first: the last writer to close folds the write-ahead log back, which readers would prevent.
    pub(crate) readers: Readers,
    pub(crate) writer: Writer,
    pub(crate) reserve: Arc<Reserve>,
    pub(crate) max_pages: Option<MaxPages>,
    // Dropped last: it keeps the database file open, and closing that file would release SQLite's locks on it.
    pub(crate) slack: Arc<PageSlack>,
    clearing: Clearing,
}

/// Calls of [`Database::clear_slack`], numbered in the order in which they came.
#[derive(Debug, Default)]
struct Clearing {
    asked: AtomicU64,
    /// The last one of those that are served. Locked while copies are overwritten.
    served: Mutex<u64>,
}

/// A database whose writing connection is open, and whose threads are not started yet.
pub(crate) struct Opening {
    /// The connection that will write.
    pub(crate) connection: Connection,
    path: PathBuf,
    label: &'static str,
    reserve: Arc<Reserve>,
    max_pages: Option<MaxPages>,
    slack: Arc<PageSlack>,
}

impl Opening {
    /// Opens or creates the database `name` in a directory that the caller has locked, and migrates it. `max_bytes` is
    /// the largest size of the file; larger writes are refused as if the disk were full.
    pub(crate) fn new(
        directory: &Path,
        name: &str,
        schema: &Schema,
        max_bytes: Option<u64>,
    ) -> Result<Self, OpenError> {
        let path = directory.join(name).with_extension("db");
        private_files::tighten_directory(directory);
        // SQLite creates the files beside it (-wal, -shm) with the same mode.
        let file = private_files::open(&path).map_err(|source| OpenError::Directory {
            path: path.clone(),
            source,
        })?;
        let slack = Arc::new(PageSlack::new(file, &path));
        let reserve = Arc::new(Reserve::open(directory, &path));
        let mut connection = schema::open_writer(&path, schema, &reserve)?;
        slack.watch(&mut connection)?;
        let max_pages = match max_bytes {
            Some(bytes) => Some(schema::max_pages(&connection, bytes)?),
            None => None,
        };
        Ok(Self {
            connection,
            path,
            label: schema.label,
            reserve,
            max_pages,
            slack,
        })
    }

    /// Opens the connections that read, and starts the thread that writes. It holds `lock` until its last commit is
    /// done.
    pub(crate) fn start(
        self,
        readers: usize,
        history: Option<History>,
        lock: DirectoryLock,
    ) -> Result<Database, OpenError> {
        let readers = Readers::open(&self.path, readers.max(1))?;
        let writing = Writing {
            connection: self.connection,
            label: self.label,
            reserve: Arc::clone(&self.reserve),
            history,
            slack: Arc::clone(&self.slack),
            max_pages: self.max_pages,
        };
        let path = self.path;
        let writer = Writer::start(writing, lock).map_err(|source| OpenError::Directory { path, source })?;
        Ok(Database {
            readers,
            writer,
            reserve: self.reserve,
            max_pages: self.max_pages,
            slack: self.slack,
            clearing: Clearing::default(),
        })
    }
}

impl Database {
    /// Restores the reserve if there is space.
    pub(crate) async fn restore_reserve(&self) -> Result<(), Failure> {
        let (reserve, slack) = (Arc::clone(&self.reserve), Arc::clone(&self.slack));
        let restore = move |connection: &Connection| {
            if !reserve.is_whole() {
                slack.record_log_pages();
                reserve.restore(connection);
            }
            Ok(())
        };
        self.writer.outside_transaction(restore).await
    }

    /// Overwrites every copy of deleted rows that is left in the files, in slices, so that others write meanwhile.
    /// Readers that prevent the last step are waited for until `deadline` has passed. Those who ask while others are served
    /// are served together: each time the writer flushes the whole write-ahead log.
    pub(crate) async fn clear_slack(&self, deadline: Duration) -> Result<(), Failure> {
        let ticket = self.clearing.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let Ok(mut served) = timeout(deadline, self.clearing.served.lock()).await else {
            let busy = "copies of deleted data are still being overwritten for others";
            return Err(LogError::Unavailable(busy.to_owned()).into());
        };
        if *served >= ticket {
            return Ok(());
        }
        let asked = self.clearing.asked.load(Ordering::SeqCst);
        self.clear_now(deadline).await?;
        *served = asked;
        Ok(())
    }

    async fn clear_now(&self, deadline: Duration) -> Result<(), Failure> {
        for _ in 0..MAX_ROUNDS {
            let mut taken = self
                .slack
                .take()
                .map_err(|error| Failure::PageSlack(error.to_string()))?;
            for pages in std::mem::take(&mut taken.slices) {
                let slack = Arc::clone(&self.slack);
                self.writer.outside_transaction(move |c| slack.clear(c, &pages)).await?;
            }
            taken.done();
            if self.slack.is_nearly_clean() {
                break;
            }
        }
        // The write-ahead log still has older versions of pages: it is truncated in the same step that clears the last
        // pages.
        let mut backoff = Backoff::new(deadline);
        loop {
            let (slack, reserve) = (Arc::clone(&self.slack), Arc::clone(&self.reserve));
            if self
                .writer
                .outside_transaction(move |c| slack.finish(c, &reserve))
                .await?
            {
                return Ok(());
            }
            if !backoff.pause().await {
                let busy = "the write-ahead log cannot be truncated while readers use it";
                return Err(LogError::Unavailable(busy.to_owned()).into());
            }
        }
    }
}

/// Creates the data directory if it is missing.
pub(crate) fn make_directory(directory: &Path) -> Result<(), OpenError> {
    let cannot = |source| OpenError::Directory {
        path: directory.to_owned(),
        source,
    };
    private_files::create_directory(directory).map_err(cannot)?;
    // The directory entry must survive a power cut as well as its content.
    if let Some(parent) = directory.canonicalize().map_err(cannot)?.parent() {
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(cannot)?;
    }
    Ok(())
}
