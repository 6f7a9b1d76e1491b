//! The tables of the index.

use crate::adapters::sqlite::schema::Schema;

/// What the file contains. Pages hold five vectors of 384 numbers.
pub(super) const SCHEMA: Schema = Schema {
    // "cpkn"
    application_id: 0x6370_6b6e,
    migrations: &[VERSION_1, VERSION_2, VERSION_3, VERSION_4],
    label: "knowledge",
    page_bytes: 8192,
};

/// Keys are made by `keys`. Times are nanoseconds since 1970.
const VERSION_1: &str = "
-- Numbers of tenants, what each has stored, and what BM25 needs of all its searchable chunks together.
CREATE TABLE tenants (
    n             INTEGER NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    documents     INTEGER NOT NULL DEFAULT 0,
    bytes         INTEGER NOT NULL DEFAULT 0,
    chunks        INTEGER NOT NULL DEFAULT 0,
    terms         INTEGER NOT NULL DEFAULT 0,
    next_document INTEGER NOT NULL DEFAULT 1,
    next_chunk    INTEGER NOT NULL DEFAULT 1,
    next_term     INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE documents (
    id          INTEGER NOT NULL PRIMARY KEY,
    tenant      INTEGER NOT NULL,
    uuid        BLOB    NOT NULL,
    collection  TEXT    NOT NULL,
    external_id TEXT    NOT NULL,
    everyone    INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    hash        BLOB    NOT NULL,
    format      TEXT    NOT NULL,
    bytes       INTEGER NOT NULL,
    stage       INTEGER NOT NULL,
    failure     TEXT,
    job         BLOB    NOT NULL,
    chunks      INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    attributes  TEXT    NOT NULL
) STRICT;
CREATE UNIQUE INDEX documents_by_key ON documents (tenant, collection, external_id);
CREATE UNIQUE INDEX documents_by_uuid ON documents (tenant, uuid);
CREATE INDEX documents_for_everyone ON documents (tenant, collection, everyone);
-- Who may read documents that are not for everyone: users (kind 0) and roles (kind 1).
CREATE TABLE grants (
    tenant   INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    document INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, name, document)
) STRICT, WITHOUT ROWID;
-- Metadata; values are JSON.
CREATE TABLE labels (
    tenant   INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    document INTEGER NOT NULL,
    PRIMARY KEY (tenant, name, value, document)
) STRICT, WITHOUT ROWID;

-- Versions that wait to be ingested, in the order in which they were submitted.
CREATE TABLE waiting (
    n        INTEGER NOT NULL PRIMARY KEY,
    tenant   INTEGER NOT NULL,
    document INTEGER NOT NULL UNIQUE,
    content  BLOB    NOT NULL
) STRICT;
CREATE INDEX waiting_by_tenant ON waiting (tenant, n);
CREATE TABLE jobs (
    tenant      INTEGER NOT NULL,
    id          BLOB    NOT NULL,
    collection  TEXT    NOT NULL,
    external_id TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    failure     TEXT,
    done        INTEGER NOT NULL,
    total       INTEGER,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_by_end ON jobs (finished_at);

-- A chunk is staged (never published), current, or retired: cited, and removed by an update. `indexed`: it has postings
-- and vectors. `doomed`: not there for any call any more, and its postings and vectors (1) or all of it (2) are deleted
-- soon. `space`: the space of the vector it got last, 0 if none.
CREATE TABLE chunks (
    id         INTEGER NOT NULL PRIMARY KEY,
    tenant     INTEGER NOT NULL,
    uuid       BLOB    NOT NULL,
    document   INTEGER NOT NULL,
    since      INTEGER NOT NULL,
    published  INTEGER NOT NULL DEFAULT 0,
    current    INTEGER NOT NULL DEFAULT 0,
    indexed    INTEGER NOT NULL DEFAULT 0,
    doomed     INTEGER NOT NULL DEFAULT 0,
    cited      INTEGER NOT NULL DEFAULT 0,
    staged_for INTEGER NOT NULL DEFAULT 0,
    space      INTEGER NOT NULL DEFAULT 0,
    ordinal    INTEGER NOT NULL DEFAULT 0,
    page       INTEGER,
    start      INTEGER NOT NULL,
    end        INTEGER NOT NULL,
    length     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX chunks_by_uuid ON chunks (tenant, uuid);
CREATE INDEX chunks_by_document ON chunks (document, current, ordinal);
CREATE INDEX chunks_hidden ON chunks (tenant) WHERE indexed = 1 AND current = 0;
CREATE INDEX chunks_doomed ON chunks (tenant) WHERE doomed > 0;
CREATE INDEX chunks_by_space ON chunks (space, tenant) WHERE current = 1;
-- What is long of a chunk. `terms` is JSON: its terms with their numbers of occurrences.
CREATE TABLE passages (
    chunk   INTEGER NOT NULL PRIMARY KEY,
    heading TEXT    NOT NULL,
    text    TEXT    NOT NULL,
    terms   TEXT    NOT NULL
) STRICT;

-- The lexical search. `uses`: postings of the term; `current`: those of current chunks.
CREATE TABLE terms (
    tenant  INTEGER NOT NULL,
    term    TEXT    NOT NULL,
    n       INTEGER NOT NULL,
    uses    INTEGER NOT NULL,
    current INTEGER NOT NULL,
    PRIMARY KEY (tenant, term)
) STRICT, WITHOUT ROWID;
-- Chunks and documents by their numbers within the tenant.
CREATE TABLE postings (
    tenant      INTEGER NOT NULL,
    term        INTEGER NOT NULL,
    chunk       INTEGER NOT NULL,
    document    INTEGER NOT NULL,
    occurrences INTEGER NOT NULL,
    length      INTEGER NOT NULL,
    PRIMARY KEY (tenant, term, chunk)
) STRICT, WITHOUT ROWID;

-- The semantic search. Models by number; vectors as 32-bit floats, little-endian.
CREATE TABLE spaces (
    n    INTEGER NOT NULL PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
) STRICT;
CREATE TABLE vectors (
    id        INTEGER NOT NULL PRIMARY KEY,
    document  INTEGER NOT NULL,
    chunk     BLOB    NOT NULL,
    embedding BLOB    NOT NULL
) STRICT;
";

/// Attempts to ingest the version that waits, since a new chunk of it was staged.
const VERSION_2: &str = "ALTER TABLE waiting ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;";

/// How far the documents of each source have come.
const VERSION_3: &str = "
CREATE TABLE source_positions (
    tenant   INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    position TEXT    NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
";

/// Vectors of conversations' messages, with a byte for each component, and the conversations of which none may be stored
/// again. By the tenant's name: most tenants have conversations and no documents.
const VERSION_4: &str = "
CREATE TABLE turn_vectors (
    tenant         TEXT    NOT NULL,
    conversation   BLOB    NOT NULL,
    seq            INTEGER NOT NULL,
    space          TEXT    NOT NULL,
    alone          BLOB    NOT NULL,
    after_previous BLOB    NOT NULL,
    PRIMARY KEY (tenant, conversation, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE erased_conversations (
    tenant       TEXT NOT NULL,
    conversation BLOB NOT NULL,
    PRIMARY KEY (tenant, conversation)
) STRICT, WITHOUT ROWID;
";
