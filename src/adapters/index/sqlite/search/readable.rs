//! Which documents a search may look at.

use std::collections::{BTreeSet, HashSet};

use copilotd_knowledge::document::Reader;
use copilotd_knowledge::index::Search;
use rusqlite::{Connection, params};

use super::super::submit::{ROLE, USER};
use super::super::{keys, rows};
use crate::adapters::sqlite::failure::Failure;

/// Documents and hidden chunks, by their numbers within the tenant.
pub(super) struct Readable {
    documents: HashSet<i64>,
    /// Chunks that have postings or vectors and are not current: staged, or to be deleted soon.
    hidden: HashSet<i64>,
}

impl Readable {
    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Returns the documents by their numbers within the tenant.
    pub(super) fn documents(&self) -> &HashSet<i64> {
        &self.documents
    }

    /// Returns whether a search may find the chunk.
    pub(super) fn has(&self, document: i64, chunk: i64) -> bool {
        self.documents.contains(&document) && !self.hidden.contains(&chunk)
    }
}

/// Finds what passes the filters for collection, access and metadata.
pub(super) fn find(connection: &Connection, tenant: i64, search: &Search) -> Result<Readable, Failure> {
    let collections: BTreeSet<&str> = search.collections.iter().map(|name| name.as_str()).collect();
    let mut documents = HashSet::new();
    for collection in collections {
        match &search.reader {
            Reader::Administrator => {
                let sql = "SELECT id FROM documents INDEXED BY documents_for_everyone
                           WHERE tenant = ?1 AND collection = ?2";
                collect(connection, sql, params![tenant, collection], &mut documents)?;
            }
            Reader::Caller { user, roles } => {
                let sql = "SELECT id FROM documents INDEXED BY documents_for_everyone
                           WHERE tenant = ?1 AND collection = ?2 AND everyone = 1";
                collect(connection, sql, params![tenant, collection], &mut documents)?;
                let Some(user) = user else { continue };
                let roles = roles.iter().map(|role| (ROLE, role.as_str()));
                for (kind, name) in roles.chain([(USER, user.as_str())]) {
                    let sql = "SELECT d.id FROM grants g CROSS JOIN documents d ON d.id = g.document
                               WHERE g.tenant = ?1 AND g.kind = ?3 AND g.name = ?4 AND d.collection = ?2";
                    let granted = params![tenant, collection, kind, name];
                    collect(connection, sql, granted, &mut documents)?;
                }
            }
        }
    }
    for (name, value) in &search.filter {
        let sql = "SELECT document FROM labels WHERE tenant = ?1 AND name = ?2 AND value = ?3";
        let mut labelled = HashSet::new();
        collect(
            connection,
            sql,
            params![tenant, name, rows::encode(value)?],
            &mut labelled,
        )?;
        documents.retain(|document| labelled.contains(document));
    }
    let mut hidden = HashSet::new();
    if !documents.is_empty() {
        let sql = "SELECT id FROM chunks INDEXED BY chunks_hidden WHERE tenant = ?1 AND indexed = 1 AND current = 0";
        collect(connection, sql, params![tenant], &mut hidden)?;
    }
    Ok(Readable { documents, hidden })
}

fn collect(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    into: &mut HashSet<i64>,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(parameters)?;
    while let Some(row) = found.next()? {
        into.insert(keys::within(row.get(0)?));
    }
    Ok(())
}
