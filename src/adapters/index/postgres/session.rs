//! Transactions: on whose behalf, how long, and what their errors mean.
//!
//! Invariant: [`Tx::begin`] is the only place that sets the tenant, from a scope, for this transaction alone.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use copilotd_actors::ports::{DISK_FULL, LogError};
use copilotd_actors::tenancy::TenantScope;
use deadpool_postgres::{Client, Pool, PoolError, TimeoutType, Transaction};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{IsolationLevel, Row};

/// A parameter of a statement.
pub(super) type Parameter<'a> = &'a (dyn ToSql + Sync);

/// What a transaction does, which decides how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Reads, all as of one moment.
    Read,
    /// Changes rows of one tenant. Those of the same tenant run one after the other.
    Write,
    /// Changes what belongs to no tenant, or needs no order among the changes of one.
    Work,
}

/// How long calls may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To get a connection, new or used before.
    pub connect: Duration,
    /// A statement of a call that only reads.
    pub read: Duration,
    /// A statement of any other call; publishing or deleting a document of many thousand chunks takes seconds.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(10),
            write: Duration::from_secs(120),
        }
    }
}

/// The connections.
pub(super) struct Database {
    pub(super) pool: Pool,
    /// Schema of the tables, which also keeps locks of several indexes in one database apart.
    pub(super) schema: String,
    /// The schema and that of the extension, quoted.
    pub(super) search_path: String,
    pub(super) timeouts: Timeouts,
}

impl Database {
    /// Returns a connection.
    pub(super) async fn client(&self) -> Result<Client, LogError> {
        self.pool.get().await.map_err(|error| no_connection(&error))
    }

    /// Bounds a call. The server ends a slow statement itself; this is for servers that do not answer.
    pub(super) async fn within<T>(
        &self,
        mode: Mode,
        call: impl Future<Output = Result<T, LogError>> + Send,
    ) -> Result<T, LogError> {
        let longest = self.timeouts.connect + self.longest(mode) + Duration::from_secs(2);
        match tokio::time::timeout(longest, call).await {
            Ok(done) => done,
            // The connection is checked before it is used again, and closed if it does not answer.
            Err(_elapsed) => Err(LogError::Unavailable("PostgreSQL did not answer in time".to_owned())),
        }
    }

    /// Returns how long a statement may take.
    pub(super) fn longest(&self, mode: Mode) -> Duration {
        match mode {
            Mode::Read => self.timeouts.read,
            Mode::Write | Mode::Work => self.timeouts.write,
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// A transaction; rolled back when dropped.
pub(super) struct Tx<'a> {
    inner: Transaction<'a>,
}

impl<'a> Tx<'a> {
    /// Begins a transaction that sees and changes rows of the scope's tenant only, or of none.
    pub(super) async fn begin(
        client: &'a mut Client,
        database: &Database,
        scope: Option<&TenantScope>,
        mode: Mode,
    ) -> Result<Self, LogError> {
        let builder = match mode {
            Mode::Read => client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true),
            Mode::Write | Mode::Work => client
                .build_transaction()
                .isolation_level(IsolationLevel::ReadCommitted),
        };
        let inner = builder.start().await.map_err(|error| failure(&error))?;
        let tx = Self { inner };
        let tenant = scope.map_or("", |scope| scope.tenant().as_str());
        let longest = database.longest(mode).as_millis().to_string();
        let sql = "SELECT set_config('copilotd.tenant', $1, true), set_config('search_path', $2, true),
                       set_config('statement_timeout', $3, true),
                       set_config('idle_in_transaction_session_timeout', $3, true), set_config('row_security', 'on', true)";
        tx.query(sql, &[&tenant, &database.search_path, &longest]).await?;
        if mode == Mode::Write {
            let lock = format!("{}/{tenant}", database.schema);
            tx.query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&lock])
                .await?;
        }
        Ok(tx)
    }

    /// Runs a statement.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, LogError> {
        let statement = self.inner.prepare_cached(sql).await.map_err(|error| failure(&error))?;
        let rows = self.inner.query(&statement, parameters).await;
        rows.map_err(|error| failure(&error))
    }

    /// Runs a statement; returns the number of rows it changed.
    pub(super) async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, LogError> {
        let statement = self.inner.prepare_cached(sql).await.map_err(|error| failure(&error))?;
        let count = self.inner.execute(&statement, parameters).await;
        count.map_err(|error| failure(&error))
    }

    /// Returns the first column of the first row, if there is one.
    pub(super) async fn optional<T: FromSqlOwned>(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<T>, LogError> {
        self.query(sql, parameters)
            .await?
            .first()
            .map(|row| get(row, 0))
            .transpose()
    }

    /// Returns the first column of the first row.
    pub(super) async fn one<T: FromSqlOwned>(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<T, LogError> {
        let found = self.optional(sql, parameters).await?;
        found.ok_or_else(|| LogError::Corrupt("a row of the index is missing".to_owned()))
    }

    /// Returns the first column of all rows.
    pub(super) async fn column<T: FromSqlOwned>(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<T>, LogError> {
        self.query(sql, parameters)
            .await?
            .iter()
            .map(|row| get(row, 0))
            .collect()
    }

    /// Runs statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), LogError> {
        self.inner.batch_execute(sql).await.map_err(|error| failure(&error))
    }

    /// Makes everything durable.
    pub(super) async fn commit(self) -> Result<(), LogError> {
        self.inner.commit().await.map_err(|error| failure(&error))
    }
}

/// Returns a column of a row.
pub(super) fn get<T: FromSqlOwned>(row: &Row, column: usize) -> Result<T, LogError> {
    row.try_get(column).map_err(|_| {
        LogError::Corrupt(format!(
            "column {column} of a row of the index has an unexpected type or value"
        ))
    })
}

/// Returns what it means that there is no connection.
pub(super) fn no_connection(error: &PoolError) -> LogError {
    match error {
        PoolError::Backend(error) => failure(error),
        PoolError::Timeout(TimeoutType::Wait) => LogError::Unavailable(
            "all connections to PostgreSQL are in use, and none became free in time (knowledge.connections)".to_owned(),
        ),
        PoolError::Timeout(_) => LogError::Unavailable("PostgreSQL did not accept a connection in time".to_owned()),
        other => LogError::Unavailable(format!("no connection to PostgreSQL: {other}")),
    }
}

/// Returns what an error means for the caller. Texts of the server may quote values, which may be content; they are left
/// out where they can.
pub(super) fn failure(error: &tokio_postgres::Error) -> LogError {
    let Some(from_server) = error.as_db_error() else {
        // Of the connection, or of the driver.
        return LogError::Unavailable(describe(error));
    };
    let code = from_server.code();
    if *code == SqlState::DISK_FULL {
        return LogError::Refused(DISK_FULL.to_owned());
    }
    let text = format!("PostgreSQL error {}: {}", code.code(), from_server.message());
    match code.code() {
        // Classes: connection, operator intervention, resources, transaction rollback, object state, authorisation; a read-only
        // server is one that waits to take over; a missing table is that of a model which another process dropped.
        "25006" | "42P01" => LogError::Unavailable(text),
        code if ["08", "57", "53", "40", "55", "28"].contains(&code.get(..2).unwrap_or_default()) => {
            LogError::Unavailable(text)
        }
        code if ["22", "23"].contains(&code.get(..2).unwrap_or_default()) => {
            LogError::Refused(format!("PostgreSQL error {code}"))
        }
        "XX001" | "XX002" => LogError::Corrupt(text),
        _ => LogError::Refused(text),
    }
}

/// Returns an error with its causes, without the address and the password.
fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = format!("PostgreSQL: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
