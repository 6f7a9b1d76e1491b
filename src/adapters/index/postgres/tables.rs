//! The tables of the index, and how they come to be.
//!
//! Every table with data of tenants has row-level security that also binds its owner, and so has each of its partitions: a
//! partition that is named in a query is checked by its own policies only. The three tables `work_...` have none: they
//! hold names of tenants and numbers, from which the few calls that look over all tenants learn whose transaction to
//! open next.
//!
//! Large tables are divided into [`PARTITIONS`] by a hash of the tenant: a query reads one of them, and the graph that
//! finds near vectors holds a share of the tenants instead of all. Not a partition per tenant: it would take a table
//! definition to store a customer's first document, and planning slows down with thousands of them.

use std::fmt::Write as _;

use copilotd_actors::ports::LogError;

use super::session::Tx;

/// Partitions of each large table. Cannot be changed later without copying the rows.
const PARTITIONS: u32 = 16;
/// The newest version of the tables that this program knows.
pub(super) const VERSION: i32 = 2;
/// Most dimensions of vectors that pgvector can build a graph of; longer ones are always compared one by one.
pub(super) const MAX_GRAPH_DIMENSIONS: usize = 2_000;

/// Keys begin with the tenant. Names are compared by their bytes. Texts are bytes, since PostgreSQL's own text cannot
/// hold the character 0. Times are nanoseconds since 1970; format, failure and attributes are JSON.
const VERSION_1: &str = r#"
CREATE SEQUENCE numbers AS bigint;

-- What each tenant has stored, and what BM25 needs of all its searchable chunks together.
CREATE TABLE tenants (
    tenant    text COLLATE "C" PRIMARY KEY,
    documents bigint NOT NULL DEFAULT 0,
    bytes     bigint NOT NULL DEFAULT 0,
    chunks    bigint NOT NULL DEFAULT 0,
    terms     bigint NOT NULL DEFAULT 0
);
-- `readers` and `labels`: who may read a document that is not for everyone, and its metadata; see `rows`.
CREATE TABLE documents (
    tenant      text COLLATE "C" NOT NULL,
    n           bigint   NOT NULL DEFAULT nextval('numbers'),
    id          uuid     NOT NULL,
    collection  text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    version     bigint   NOT NULL,
    hash        bytea    NOT NULL,
    format      text     NOT NULL,
    bytes       bigint   NOT NULL,
    stage       smallint NOT NULL,
    failure     text,
    job         uuid     NOT NULL,
    chunks      bigint   NOT NULL,
    created_at  bigint   NOT NULL,
    updated_at  bigint   NOT NULL,
    attributes  text     NOT NULL,
    everyone    boolean  NOT NULL,
    readers     text[] COLLATE "C" NOT NULL,
    labels      text[] COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, n),
    UNIQUE (tenant, collection, external_id),
    UNIQUE (tenant, id)
);
CREATE TABLE waiting (
    tenant   text COLLATE "C" NOT NULL,
    document bigint NOT NULL,
    content  bytea  NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, document)
);
-- How far the documents of each source have come.
CREATE TABLE source_positions (
    tenant   text COLLATE "C" NOT NULL,
    name     text COLLATE "C" NOT NULL,
    position text NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE TABLE jobs (
    tenant      text COLLATE "C" NOT NULL,
    id          uuid     NOT NULL,
    collection  text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    status      smallint NOT NULL,
    failure     text,
    done        bigint   NOT NULL DEFAULT 0,
    total       bigint,
    created_at  bigint   NOT NULL,
    finished_at bigint,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX jobs_by_end ON jobs (tenant, finished_at);

-- A chunk is staged, current, or retired: cited, and removed by an update. `live`: staged or current.
CREATE TABLE chunks (
    tenant     text COLLATE "C" NOT NULL,
    n          bigint  NOT NULL DEFAULT nextval('numbers'),
    id         uuid    NOT NULL,
    document   bigint  NOT NULL,
    since      bigint  NOT NULL DEFAULT 0,
    live       boolean NOT NULL DEFAULT true,
    published  boolean NOT NULL DEFAULT false,
    current    boolean NOT NULL DEFAULT false,
    cited      boolean NOT NULL DEFAULT false,
    staged_for bigint  NOT NULL DEFAULT 0,
    ordinal    bigint  NOT NULL DEFAULT 0,
    page       bigint,
    first      bigint  NOT NULL,
    after      bigint  NOT NULL,
    length     bigint  NOT NULL,
    PRIMARY KEY (tenant, n),
    UNIQUE (tenant, id)
) PARTITION BY HASH (tenant);
CREATE INDEX chunks_by_document ON chunks (tenant, document, ordinal);
-- What is long of a chunk. `terms` and `counts` of a retired one are empty.
CREATE TABLE passages (
    tenant  text COLLATE "C" NOT NULL,
    chunk   bigint   NOT NULL,
    heading bytea    NOT NULL,
    text    bytea    NOT NULL,
    terms   text[] COLLATE "C" NOT NULL,
    counts  bigint[] NOT NULL,
    PRIMARY KEY (tenant, chunk)
) PARTITION BY HASH (tenant);
-- The lexical search: terms with the number of current chunks that contain them, and the occurrences in each.
CREATE TABLE terms (
    tenant  text COLLATE "C" NOT NULL,
    term    text COLLATE "C" NOT NULL,
    current bigint NOT NULL,
    PRIMARY KEY (tenant, term)
) PARTITION BY HASH (tenant);
CREATE TABLE postings (
    tenant      text COLLATE "C" NOT NULL,
    term        text COLLATE "C" NOT NULL,
    chunk       bigint NOT NULL,
    occurrences bigint NOT NULL,
    PRIMARY KEY (tenant, term, chunk) INCLUDE (occurrences)
) PARTITION BY HASH (tenant);

-- Models, each with a table of vectors of its own.
CREATE TABLE spaces (
    n          integer PRIMARY KEY,
    name       text COLLATE "C" NOT NULL UNIQUE,
    dimensions integer NOT NULL
);
CREATE SEQUENCE space_numbers AS integer;

-- Versions that wait to be ingested, in the order in which they were submitted.
CREATE TABLE work_waiting (
    n        bigint PRIMARY KEY DEFAULT nextval('numbers'),
    tenant   text COLLATE "C" NOT NULL,
    document bigint NOT NULL,
    UNIQUE (tenant, document)
);
CREATE INDEX work_waiting_by_tenant ON work_waiting (tenant, n);
-- `published`: counts publications. `ended`: not later than the end of any job that is kept.
CREATE TABLE work_tenants (
    tenant    text COLLATE "C" PRIMARY KEY,
    published bigint NOT NULL DEFAULT 0,
    ended     bigint
);
CREATE INDEX work_tenants_by_end ON work_tenants (ended);
-- Every chunk that a tenant's first so many publications made current has a vector of the space.
CREATE TABLE work_embedded (
    tenant    text COLLATE "C" NOT NULL,
    space     integer NOT NULL,
    published bigint  NOT NULL,
    PRIMARY KEY (tenant, space)
);
"#;

/// Vectors of conversations' messages, with a byte for each component, and the conversations of which none may be stored
/// again. The bytes do not compress.
const VERSION_2: &str = r#"
CREATE TABLE turn_vectors (
    tenant         text COLLATE "C" NOT NULL,
    conversation   uuid   NOT NULL,
    seq            bigint NOT NULL,
    space          text COLLATE "C" NOT NULL,
    alone          bytea  NOT NULL,
    after_previous bytea  NOT NULL,
    PRIMARY KEY (tenant, conversation, seq)
) PARTITION BY HASH (tenant);
ALTER TABLE turn_vectors ALTER COLUMN alone SET STORAGE EXTERNAL, ALTER COLUMN after_previous SET STORAGE EXTERNAL;
CREATE TABLE erased_conversations (
    tenant       text COLLATE "C" NOT NULL,
    conversation uuid NOT NULL,
    PRIMARY KEY (tenant, conversation)
);
"#;

/// Columns whose values plans do not depend on.
const CONTENT: [(&str, &[&str]); 4] = [
    ("documents", &["failure", "attributes", "readers", "labels"]),
    ("waiting", &["content"]),
    ("source_positions", &["position"]),
    ("passages", &["heading", "text", "terms", "counts"]),
];

/// Creates the tables, or brings them up to date. Returns the version that was found if it is newer than [`VERSION`].
pub(super) async fn migrate(tx: &Tx<'_>) -> Result<Option<i32>, LogError> {
    tx.batch("CREATE TABLE IF NOT EXISTS versions (version integer PRIMARY KEY)")
        .await?;
    let version: i32 = tx.one("SELECT coalesce(max(version), 0) FROM versions", &[]).await?;
    if version > VERSION {
        return Ok(Some(version));
    }
    if version < 1 {
        tx.batch(VERSION_1).await?;
        let mut sql = String::new();
        for table in ["tenants", "documents", "waiting", "source_positions", "jobs"] {
            protect(&mut sql, table);
        }
        for table in ["chunks", "passages", "terms", "postings"] {
            partition(&mut sql, table);
        }
        for (table, columns) in CONTENT {
            for column in columns {
                unsampled(&mut sql, table, column);
            }
        }
        tx.batch(&sql).await?;
        tx.execute("INSERT INTO versions (version) VALUES (1)", &[]).await?;
    }
    if version < 2 {
        tx.batch(VERSION_2).await?;
        let mut sql = String::new();
        partition(&mut sql, "turn_vectors");
        protect(&mut sql, "erased_conversations");
        for column in ["alone", "after_previous"] {
            unsampled(&mut sql, "turn_vectors", column);
        }
        tx.batch(&sql).await?;
        tx.execute("INSERT INTO versions (version) VALUES (2)", &[]).await?;
    }
    Ok(None)
}

/// Returns the name of a space's table.
pub(super) fn vectors(space: i32) -> String {
    format!("vectors_{space}")
}

/// Candidates that the graph keeps while a vector is added to it. With pgvector's default of 64, clusters of vectors were
/// now and then out of a search's reach: 20 of 400 hits were missed in one of several measurements.
const CONSTRUCTION: u32 = 200;

/// Returns the definition of a space's table. Numbers are kept as they are, not halved: scores are computed from them.
pub(super) fn vectors_definition(space: i32, dimensions: usize) -> String {
    let table = vectors(space);
    let mut sql = format!(
        r#"CREATE TABLE {table} (
    tenant    text COLLATE "C" NOT NULL,
    chunk     bigint NOT NULL,
    embedding vector({dimensions}) NOT NULL,
    PRIMARY KEY (tenant, chunk)
) PARTITION BY HASH (tenant);
"#
    );
    partition(&mut sql, &table);
    unsampled(&mut sql, &table, "embedding");
    if dimensions <= MAX_GRAPH_DIMENSIONS {
        let _ = writeln!(
            sql,
            "CREATE INDEX ON {table} USING hnsw (embedding vector_ip_ops) WITH (ef_construction = {CONSTRUCTION});"
        );
    }
    sql
}

fn partition(sql: &mut String, table: &str) {
    for remainder in 0..PARTITIONS {
        let part = format!("{table}_p{remainder}");
        let _ = writeln!(
            sql,
            "CREATE TABLE {part} PARTITION OF {table} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {remainder});"
        );
        protect(sql, &part);
    }
    protect(sql, table);
}

/// Keeps values of a column out of the server's statistics, in which they would outlive their rows.
fn unsampled(sql: &mut String, table: &str, column: &str) {
    let _ = writeln!(sql, "ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0;");
}

fn protect(sql: &mut String, table: &str) {
    let _ = writeln!(
        sql,
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON {table} USING (tenant = current_setting('copilotd.tenant', true));"
    );
}

/// Returns a table with tenants' data that is not protected as it was created, if there is one.
pub(super) async fn unprotected(tx: &Tx<'_>) -> Result<Option<String>, LogError> {
    let sql = "SELECT c.relname::text FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
               WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
                 AND c.relname NOT LIKE 'work\\_%'
                 AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND
                          (SELECT array_agg(p.polname::text) = '{own_tenant}' FROM pg_policy p WHERE p.polrelid = c.oid))
               ORDER BY c.relname LIMIT 1";
    tx.optional(sql, &[]).await
}
