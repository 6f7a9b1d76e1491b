//! The tables of the store.

use crate::adapters::sqlite::schema::Schema;

/// Marks the file's header as a database of copilotd ("cpld").
const APPLICATION_ID: i64 = 0x6370_6c64;

/// What the file contains.
pub(super) const SCHEMA: Schema = Schema {
    application_id: APPLICATION_ID,
    migrations: MIGRATIONS,
    label: "sqlite",
    page_bytes: PAGE_BYTES,
};

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
    super::facts::SCHEMA,
    ONE_INDEX_OF_APPENDS,
    super::files::SCHEMA,
    super::files::TOTALS,
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

/// Bytes per page of a new file; an older file keeps the size that it has. A commit writes every page that it touches as
/// a whole, for a few bytes in most of them, so small pages halve what is written. Smaller ones would not hold a row of
/// the ledger.
const PAGE_BYTES: u32 = 2_048;

const USAGE_BY_KEY: &str = "
-- What has to be found by time is found in the key of each tenant.
DROP INDEX usage_by_time;
";

const ONE_INDEX_OF_APPENDS: &str = "
-- The index that finds an append also says whether it has messages: a second one was a page more in most commits. That no
-- number is used twice is checked by the append, in its own transaction.
DROP INDEX appends_with_messages;
DROP INDEX appends_by_number;
CREATE UNIQUE INDEX appends_in_order ON appends (tenant, conversation, first_seq, messages);
";

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, StatementStatus};

    use super::*;
    use crate::adapters::sqlite::history::{CountTable, History};
    use crate::adapters::sqlite::reserve::Reserve;
    use crate::adapters::sqlite::schema::{open_reader, open_writer};

    #[test]
    fn the_largest_plausible_count_of_three_tables_is_the_databases() {
        use CountTable::{Meta, OpenCalls, Stored};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copilotd.db");
        let reserve = Reserve::open(directory.path(), &path);
        let connection = open_writer(&path, &SCHEMA, &reserve).unwrap();
        let found = || History::open(directory.path(), &connection).unwrap();
        let mut history = found().0;
        for (commits, table) in (1..).zip([Meta, Stored, OpenCalls, Stored, Stored, Meta, OpenCalls]) {
            history.count(&connection, table).unwrap();
            history.committed();
            let (again, missing) = found();
            assert_eq!((again.commits(), missing), (commits, 0), "{table:?}");
        }
        // Without its newest count, the database looks like one that lost commits.
        connection.execute("DELETE FROM open_calls", []).unwrap();
        let (older, missing) = found();
        assert_eq!((older.commits(), missing), (6, 1));
        // Damage in one of them hides none of the others.
        for damaged in ["-1", "9007199254740992", "9223372036854775807"] {
            let sql = format!("UPDATE stored SET bytes = {damaged}; UPDATE open_calls SET record = '{damaged}'");
            connection.execute_batch(&sql).unwrap();
            assert_eq!(found().0.commits(), 6, "{damaged}");
        }
    }

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
        for connection in [
            open_writer(&path, &SCHEMA, &reserve).unwrap(),
            open_reader(&path).unwrap(),
        ] {
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
