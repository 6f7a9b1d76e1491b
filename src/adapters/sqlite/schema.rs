//! Opening a file, and the migration of older ones.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::OpenError;
use super::reserve::{Priority, Reserve};
use super::writer::MaxPages;

/// What a file contains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    /// Marks the file's header as a database of copilotd of this kind.
    pub(crate) application_id: i64,
    /// One step per version: the first creates version 1. A released step is never edited.
    pub(crate) migrations: &'static [&'static str],
    /// What metrics call the database.
    pub(crate) label: &'static str,
    /// Bytes per page of a new file.
    pub(crate) page_bytes: u32,
}

/// Most bytes of a limited file that are reserved for protective work.
const RESERVED_BYTES: i64 = 4 * 1024 * 1024;

/// How long a statement waits for another program that has the database locked.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the only connection that writes, with the file migrated to the newest version. On a full disk the reserve is
/// used.
pub(crate) fn open_writer(path: &Path, schema: &Schema, reserve: &Reserve) -> Result<Connection, OpenError> {
    let is_full = |error: &OpenError| matches!(error, OpenError::Sqlite(error) if reserve.is_full(error));
    let opened = reserve.make_room(Priority::Protective, || connect(path, schema), is_full);
    let mut connection = opened.map_err(|error| match error {
        error if is_full(&error) => OpenError::Full { path: path.to_owned() },
        error => error,
    })?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    // Half of the reserve is enough for one more table. A larger change is refused: revocations need the other half.
    let migrated = reserve.make_room(Priority::Erasing, || migrate(&mut connection, schema, path), is_full);
    migrated.map_err(|error| match error {
        error if is_full(&error) => OpenError::FullMigration {
            path: path.to_owned(),
            found,
            known: schema.migrations.len() as i64,
        },
        error => error,
    })?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn connect(path: &Path, schema: &Schema) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    keep_plans(&connection)?;
    // FULL: each commit is on the disk before it is acknowledged, also in WAL mode. secure_delete: erased data is
    // overwritten and not only unlinked. recursive_triggers: a replaced header updates the counters like a deleted one.
    connection.pragma_update(None, "page_size", schema.page_bytes)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA recursive_triggers = ON;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    // Reads the file, which recovers the write-ahead log of a killed process.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Returns how many pages a database of `bytes` may have; the last part is for protective work only.
pub(crate) fn max_pages(connection: &Connection, bytes: u64) -> rusqlite::Result<MaxPages> {
    let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let protective = i64::try_from(bytes).unwrap_or(i64::MAX) / page;
    Ok(MaxPages {
        ordinary: protective - (protective / 8).min(RESERVED_BYTES / page),
        protective,
    })
}

/// Opens a read-only connection.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 5000;")?;
    keep_plans(&connection)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Plans statements once, whatever their parameters. Otherwise SQLite parses and plans a statement again for each new
/// value that is compared with an indexed column, in case its statistics suggest another plan; there are none.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn migrate(connection: &mut Connection, schema: &Schema, path: &Path) -> Result<(), OpenError> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != schema.application_id && tables > 0 {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let known = schema.migrations.len() as i64;
    if found > known {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    if found == known {
        return Ok(());
    }
    // All steps and the version number in one transaction: a crash or a full disk leaves the older version intact.
    let transaction = connection.transaction()?;
    for (_, step) in (1..).zip(schema.migrations).filter(|(version, _)| *version > found) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", schema.application_id)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
