//! The tables, and the migration of older files.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::OpenError;
use super::reserve::{Priority, Reserve};
use super::writer::MaxPages;

/// Marks the file's header as a database of copilotd ("cpld").
const APPLICATION_ID: i64 = 0x6370_6c64;

/// One step per version: the first creates version 1. A released step is never edited.
const MIGRATIONS: &[&str] = &[
    VERSION_1,
    VERSION_2,
    VERSION_3,
    VERSION_4,
    VERSION_5,
    super::quota::SCHEMA,
    REVOCATIONS,
    LEARNED,
    super::jobs::SCHEMA,
    USAGE_BY_KEY,
];

const VERSION_1: &str = "
-- The log. Rows are added at the end of the table; `records` is the JSON array as serde wrote it.
CREATE TABLE appends (
    tenant       TEXT    NOT NULL,
    conversation BLOB    NOT NULL,
    first_seq    INTEGER NOT NULL,
    last_seq     INTEGER NOT NULL,
    append_id    BLOB    NOT NULL,
    messages     INTEGER NOT NULL,
    tombstone    INTEGER,
    header       TEXT,
    records      BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX appends_by_number ON appends (tenant, conversation, first_seq);
CREATE INDEX appends_with_messages ON appends (tenant, conversation, first_seq) WHERE messages > 0;

-- Projections: all of it can be made again from the log.
CREATE TABLE append_turns (
    tenant       TEXT    NOT NULL,
    turn         BLOB    NOT NULL,
    first_seq    INTEGER NOT NULL,
    conversation BLOB    NOT NULL,
    PRIMARY KEY (tenant, turn, first_seq)
) STRICT, WITHOUT ROWID;

-- What changes with every append stands first; what can be long and seldom changes stands last.
CREATE TABLE conversations (
    tenant       TEXT    NOT NULL,
    conversation BLOB    NOT NULL,
    last_seq     INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    turn_count   INTEGER NOT NULL,
    open_turns   INTEGER NOT NULL,
    due          INTEGER NOT NULL,
    tombstone    INTEGER,
    erased       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    user         TEXT    NOT NULL,
    copilot      TEXT    NOT NULL,
    channel      TEXT    NOT NULL,
    usage        TEXT    NOT NULL,
    idempotency  TEXT,
    title        TEXT,
    metadata     TEXT    NOT NULL,
    PRIMARY KEY (tenant, conversation)
) STRICT;
CREATE INDEX conversations_by_user ON conversations (tenant, user, created_at, conversation);
CREATE INDEX conversations_by_age ON conversations (tenant, created_at, conversation);
CREATE INDEX conversations_due ON conversations (tenant, conversation) WHERE due = 1;

-- A cache of folded logs.
CREATE TABLE snapshots (
    tenant       TEXT    NOT NULL,
    conversation BLOB    NOT NULL,
    seq          INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    state        BLOB    NOT NULL,
    PRIMARY KEY (tenant, conversation)
) STRICT;
";

const VERSION_2: &str = "
-- The ledger: what each attempt of a model call used and cost (nano-dollars). Times are milliseconds since 1970.
CREATE TABLE usage (
    tenant             TEXT    NOT NULL,
    at                 INTEGER NOT NULL,
    id                 BLOB    NOT NULL,
    user               TEXT    NOT NULL,
    api_key            TEXT,
    copilot            TEXT,
    conversation       TEXT,
    turn               TEXT,
    purpose            TEXT    NOT NULL,
    route              TEXT    NOT NULL,
    provider           TEXT    NOT NULL,
    model              TEXT    NOT NULL,
    key                TEXT    NOT NULL,
    attempt            INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens   INTEGER NOT NULL,
    cost               INTEGER NOT NULL,
    estimated          INTEGER NOT NULL,
    outcome            TEXT    NOT NULL,
    first_content_ms   INTEGER,
    took_ms            INTEGER NOT NULL,
    PRIMARY KEY (tenant, at, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_time ON usage (at);
";

const VERSION_3: &str = "
-- What the cache did with the request.
ALTER TABLE usage ADD COLUMN cache TEXT NOT NULL DEFAULT 'bypass';
-- Tenants and API keys that were made or changed at run time. Settings are sealed.
CREATE TABLE tenants (
    id         TEXT    NOT NULL PRIMARY KEY,
    suspended  INTEGER NOT NULL,
    sealed     BLOB,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE api_keys (
    hash       BLOB    NOT NULL PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    scopes     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE key_uses (
    hash BLOB    NOT NULL PRIMARY KEY,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const VERSION_4: &str = "
-- Calls of models that are under way: what the ledger says of them if the process dies.
CREATE TABLE open_calls (
    id     BLOB NOT NULL PRIMARY KEY,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

const VERSION_5: &str = "
-- The audit log: `body` is the entry as JSON, the very bytes that `hash` covers; `mac` is keyed outside of this file.
CREATE TABLE audit (
    tenant TEXT    NOT NULL,
    n      INTEGER NOT NULL,
    body   BLOB    NOT NULL,
    hash   BLOB    NOT NULL,
    mac    BLOB    NOT NULL,
    PRIMARY KEY (tenant, n)
) STRICT, WITHOUT ROWID;
-- Number and hash of each tenant's newest entry, so that entries missing from the end are noticed.
CREATE TABLE audit_heads (
    tenant TEXT    NOT NULL PRIMARY KEY,
    n      INTEGER NOT NULL,
    hash   BLOB    NOT NULL,
    mac    BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
-- Single numbers by name.
CREATE TABLE meta (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const REVOCATIONS: &str = "
-- Revocations of user tokens: of all tokens of a user up to a moment, or of one token. Times are milliseconds since 1970.
CREATE TABLE revocations (
    tenant     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    revoked_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_by TEXT    NOT NULL,
    reason     TEXT,
    PRIMARY KEY (tenant, kind, subject)
) STRICT;
CREATE INDEX revocations_by_end ON revocations (expires_at);
";

const LEARNED: &str = "
-- What was learned of the answers of each tenant's models, as JSON, and when (milliseconds since 1970).
CREATE TABLE learned (
    tenant TEXT    NOT NULL,
    model  TEXT    NOT NULL,
    known  TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (tenant, model)
) STRICT, WITHOUT ROWID;
";

const USAGE_BY_KEY: &str = "
-- What has to be found by time is found in the key of each tenant.
DROP INDEX usage_by_time;
";

/// Bytes per page of a new file; an older file keeps the size that it has. A commit writes every page that it touches as
/// a whole, for a few bytes in most of them, so small pages halve what is written. Smaller ones would not hold a row of
/// the ledger.
const PAGE_BYTES: i64 = 2_048;

/// Most bytes of a limited file that are reserved for protective work.
const RESERVED_BYTES: i64 = 4 * 1024 * 1024;

/// How long a statement waits for another program that has the database locked.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the only connection that writes, with the file migrated to the newest version. On a full disk the reserve is
/// used.
pub(super) fn open_writer(path: &Path, reserve: &Reserve) -> Result<Connection, OpenError> {
    let is_full = |error: &OpenError| matches!(error, OpenError::Sqlite(error) if reserve.is_full(error));
    let opened = reserve.make_room(Priority::Protective, || connect(path), is_full);
    let mut connection = opened.map_err(|error| match error {
        error if is_full(&error) => OpenError::Full { path: path.to_owned() },
        error => error,
    })?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    // Half of the reserve is enough for one more table. A larger change is refused: revocations need the other half.
    let migrated = reserve.make_room(Priority::Erasing, || migrate(&mut connection, path), is_full);
    migrated.map_err(|error| match error {
        error if is_full(&error) => OpenError::FullMigration {
            path: path.to_owned(),
            found,
            known: MIGRATIONS.len() as i64,
        },
        error => error,
    })?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    keep_plans(&connection)?;
    // FULL: each commit is on the disk before it is acknowledged, also in WAL mode. secure_delete: erased data is
    // overwritten and not only unlinked. recursive_triggers: a replaced header updates the counters like a deleted one.
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
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
pub(super) fn max_pages(connection: &Connection, bytes: u64) -> rusqlite::Result<MaxPages> {
    let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let protective = i64::try_from(bytes).unwrap_or(i64::MAX) / page;
    Ok(MaxPages {
        ordinary: protective - (protective / 8).min(RESERVED_BYTES / page),
        protective,
    })
}

/// Opens a read-only connection.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
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

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let known = MIGRATIONS.len() as i64;
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
    for (_, step) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    /// One of the options in `.cargo/config.toml` that SQLite tells of; the others stand beside it.
    #[test]
    fn sqlite_is_built_with_our_options() {
        let connection = Connection::open_in_memory().unwrap();
        let mut options = connection.prepare("PRAGMA compile_options").unwrap();
        let options = options.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let options: Vec<_> = options.map(Result::unwrap).collect();
        assert!(options.contains(&"DEFAULT_MEMSTATUS=0".to_owned()), "{options:?}");
    }

    #[test]
    fn statements_are_planned_once_whatever_their_parameters() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copilotd.db");
        let reserve = Reserve::open(directory.path(), &path);
        for connection in [open_writer(&path, &reserve).unwrap(), open_reader(&path).unwrap()] {
            let sql =
                "SELECT last_seq FROM appends WHERE tenant = ?1 AND conversation = ?2 AND first_seq BETWEEN 1 AND ?3";
            let mut statement = connection.prepare(sql).unwrap();
            for tenant in ["acme", "globex", "initech"] {
                let found = statement.exists(rusqlite::params![tenant, tenant.as_bytes(), tenant.len()]);
                assert!(!found.unwrap());
            }
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
        }
    }
}
