//! Opening: the connections, and what must be true of the server before anything is stored in it.

use std::path::PathBuf;
use std::time::Duration;

use copilotd_actors::ports::LogError;
use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::NoTls;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::session::{Database, Mode, Timeouts, Tx, get, no_connection};
use super::{spaces, tables, tls};
use crate::postgres_url::{self, PostgresUrl, UrlError};

/// The first release of PostgreSQL whose partitions, identities and privileges the tables rely on.
const OLDEST_SERVER: i32 = 150_000;
/// The first release of pgvector that goes on searching until enough vectors pass the filters.
const OLDEST_PGVECTOR: (u32, u32) = (0, 8);

/// A statement that fails, here by a division by zero, on a server that cannot be written to.
const IS_WRITABLE: &str = "SELECT 1 / (current_setting('transaction_read_only') = 'off')::integer";

/// How to reach the server.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// `postgres://USER:PASSWORD@HOST/DATABASE`, with several hosts separated by commas if the server fails over. Hosts
    /// other than this machine are asked for TLS unless `sslmode` is given.
    pub url: SecretString,
    /// Schema of the tables; created if the role may.
    pub schema: String,
    /// Most connections.
    pub connections: usize,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// A reader of at most so many chunks gets every vector compared; of more, near ones are found by graph.
    pub exact: u64,
}

impl PostgresOptions {
    /// Options with default values.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            schema: "copilotd".to_owned(),
            connections: 8,
            timeouts: Timeouts::default(),
            exact: 10_000,
        }
    }
}

/// Why the index cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not valid.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The file of `sslrootcert` is of no use.
    #[error("{} (sslrootcert in the PostgreSQL URL) contains no certificate in PEM format, or cannot be read", path.display())]
    Authorities {
        /// Its path.
        path: PathBuf,
    },
    /// The server's certificate is not trusted.
    #[error(
        "the certificate of PostgreSQL is not trusted: {cause}. Use the name that the certificate is for, and put the \
         certificate of its authority into the file that sslrootcert in the URL, or SSL_CERT_FILE, names"
    )]
    Distrusted {
        /// Why not.
        cause: String,
    },
    /// There are no certificates to check the server's with.
    #[error(
        "this machine has no certificates of authorities: install ca-certificates, or name a file in SSL_CERT_FILE"
    )]
    Certificates,
    /// The server does not answer, or refuses the credentials.
    #[error(transparent)]
    Server(#[from] LogError),
    /// The server is too old.
    #[error("PostgreSQL {found} is too old: use release 15 or newer")]
    OldServer {
        /// Its version.
        found: String,
    },
    /// The role is not bound by row-level security.
    #[error(
        "the role {role} is, or can become, {power_of}, whom row-level security does not bind: connect as a role without \
         SUPERUSER and BYPASSRLS that is no member of one that has them"
    )]
    PowerfulRole {
        /// The role of the connection.
        role: String,
        /// The role that has the attribute.
        power_of: String,
    },
    /// The extension is missing.
    #[error("pgvector is not installed in this database: run CREATE EXTENSION vector in it as a superuser")]
    NoExtension,
    /// The extension is too old.
    #[error("pgvector {found} is too old: install release 0.8.0 or newer, and run ALTER EXTENSION vector UPDATE")]
    OldExtension {
        /// Its version.
        found: String,
    },
    /// The schema is missing and the role may not create it.
    #[error("the role {role} may not create the schema {schema}: run CREATE SCHEMA {schema} AUTHORIZATION {role}")]
    NoSchema {
        /// The role of the connection.
        role: String,
        /// The schema.
        schema: String,
    },
    /// The tables are of a newer release.
    #[error(
        "the tables have version {found}, and this program knows versions up to {}: use a newer copilotd",
        tables::VERSION
    )]
    Newer {
        /// Their version.
        found: i32,
    },
    /// A table is not protected.
    #[error(
        "the table {schema}.{table} has lost its row-level security: run ALTER TABLE {schema}.{table} ENABLE ROW LEVEL \
         SECURITY, FORCE ROW LEVEL SECURITY, and restore its only policy, own_tenant"
    )]
    Unprotected {
        /// The schema.
        schema: String,
        /// The table.
        table: String,
    },
}

/// Connects, checks the server, and creates or updates the tables.
pub(super) async fn open(options: &PostgresOptions) -> Result<Database, OpenError> {
    let mut database = Database {
        pool: pool(options)?,
        schema: options.schema.clone(),
        search_path: format!("\"{}\"", options.schema),
        timeouts: options.timeouts,
    };
    check_server(&mut database).await?;
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, &database, None, Mode::Work).await?;
    spaces::lock(&tx, &database).await?;
    create_schema(&tx, &database.schema).await?;
    if let Some(found) = tables::migrate(&tx).await? {
        return Err(OpenError::Newer { found });
    }
    tx.commit().await?;
    let tx = Tx::begin(&mut client, &database, None, Mode::Read).await?;
    if let Some(table) = tables::unprotected(&tx).await? {
        return Err(OpenError::Unprotected {
            schema: database.schema.clone(),
            table,
        });
    }
    tx.commit().await?;
    Ok(database)
}

/// Checks that the server answers and can be used; changes nothing in it.
///
/// # Errors
/// See [`OpenError`].
pub async fn probe(options: &PostgresOptions) -> Result<(), OpenError> {
    let mut database = Database {
        pool: pool(options)?,
        schema: options.schema.clone(),
        search_path: format!("\"{}\"", options.schema),
        timeouts: options.timeouts,
    };
    check_server(&mut database).await
}

fn pool(options: &PostgresOptions) -> Result<Pool, OpenError> {
    let PostgresUrl {
        driver: mut config,
        names_mode,
        authorities,
    } = postgres_url::parse(options.url.expose_secret())?;
    if config.get_application_name().is_none() {
        config.application_name("copilotd");
    }
    config.connect_timeout(options.timeouts.connect);
    config.keepalives_idle(Duration::from_secs(30));
    config.keepalives_interval(Duration::from_secs(5));
    config.keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(30));
    // After a failover: of several hosts that one which can be written to, and none that only waits to take over.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    if !names_mode {
        let is_local = config.get_hosts().iter().all(is_local);
        config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
    }
    // Asks a connection for an answer before it is used again: one that broke, or hangs in an abandoned statement, is
    // replaced, and so is one whose server has become read-only.
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Custom(IS_WRITABLE.to_owned()),
    };
    let manager = if config.get_ssl_mode() == SslMode::Disable {
        Manager::from_config(config, NoTls, recycling)
    } else {
        Manager::from_config(config, tls::connector(authorities)?, recycling)
    };
    let wait = Some(options.timeouts.connect);
    let pool = Pool::builder(manager)
        .max_size(options.connections.max(1))
        .runtime(Runtime::Tokio1)
        .wait_timeout(wait)
        .create_timeout(wait)
        .recycle_timeout(wait)
        .build();
    pool.map_err(|error| OpenError::Server(LogError::Unavailable(error.to_string())))
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let address: Option<std::net::IpAddr> = name.parse().ok();
            name == "localhost" || address.is_some_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

/// Checks server, role and extension, and learns the extension's schema.
async fn check_server(database: &mut Database) -> Result<(), OpenError> {
    let mut client = database.pool.get().await.map_err(|error| match &error {
        PoolError::Backend(cause) => match tls::distrusted(cause) {
            Some(cause) => OpenError::Distrusted { cause },
            None => OpenError::Server(no_connection(&error)),
        },
        _ => OpenError::Server(no_connection(&error)),
    })?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let version: String = tx.one("SELECT current_setting('server_version_num')", &[]).await?;
    if version.parse::<i32>().unwrap_or(0) < OLDEST_SERVER {
        let found = tx.one("SELECT current_setting('server_version')", &[]).await?;
        return Err(OpenError::OldServer { found });
    }
    // Its own attributes, and those of roles that it can change to.
    let sql = "SELECT r.rolname::text FROM pg_roles r
               WHERE (r.rolsuper OR r.rolbypassrls) AND pg_has_role(session_user, r.oid, 'MEMBER')
               ORDER BY r.rolname = session_user DESC, r.rolname LIMIT 1";
    if let Some(power_of) = tx.optional(sql, &[]).await? {
        let role = tx.one("SELECT session_user::text", &[]).await?;
        return Err(OpenError::PowerfulRole { role, power_of });
    }
    let sql = "SELECT e.extversion, quote_ident(n.nspname) FROM pg_extension e
               JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'";
    let rows = tx.query(sql, &[]).await?;
    let Some(row) = rows.first() else {
        return Err(OpenError::NoExtension);
    };
    let (found, schema): (String, String) = (get(row, 0)?, get(row, 1)?);
    if release(&found) < OLDEST_PGVECTOR {
        return Err(OpenError::OldExtension { found });
    }
    tx.commit().await?;
    // Nobody's temporary tables hide ours.
    database.search_path = format!("\"{}\", {schema}, pg_temp", database.schema);
    Ok(())
}

fn release(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

async fn create_schema(tx: &Tx<'_>, schema: &str) -> Result<(), OpenError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), has_database_privilege(current_database(), 'CREATE'),
                   session_user::text, coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1), true)";
    let rows = tx.query(sql, &[&schema]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (exists, may_create, may_use): (bool, bool, bool) = (get(row, 0)?, get(row, 1)?, get(row, 3)?);
    if (!exists && !may_create) || !may_use {
        return Err(OpenError::NoSchema {
            role: get(row, 2)?,
            schema: schema.to_owned(),
        });
    }
    if !exists {
        tx.batch(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn releases_compare_by_number() {
        assert!(release("0.8.0") >= OLDEST_PGVECTOR);
        assert!(release("0.10.1") >= OLDEST_PGVECTOR);
        assert!(release("1.0") >= OLDEST_PGVECTOR);
        assert!(release("0.7.4") < OLDEST_PGVECTOR);
    }

    #[test]
    fn only_this_machine_is_reached_without_tls() {
        for (url, mode) in [
            ("postgres://a:b@127.0.0.1/c", true),
            ("postgres://a@localhost:1/c", true),
            ("postgres://a@%2Frun%2Fpostgresql/c", true),
            ("postgresql://a@[::1]/c", true),
            ("postgres://a@db.internal/c", false),
            ("postgres://a@localhost,db.internal/c", false),
        ] {
            let config = tokio_postgres::Config::from_str(url).unwrap();
            assert_eq!(config.get_hosts().iter().all(is_local), mode, "{url}");
        }
    }
}
