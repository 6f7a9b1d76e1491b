//! What is left of a deleted document in the server's files.

use std::path::Path;
use std::sync::Arc;

use copilotd::adapters::index::postgres::PostgresIndex;
use copilotd_actors::ports::Vector;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::fakes::turn_vectors::contract_vector;
use copilotd_knowledge::index::KnowledgeIndex;
use copilotd_knowledge::turn_vectors::{TurnVectors, to_bytes};
use tokio_postgres::Client;

use super::turn_vectors::{conversation, scope};
use super::{index_in, options};
use crate::index::library::{Library, at, embed, key, listed, readable_by};
use crate::support::postgres::Server;

/// Returns which files below a directory contain the bytes, without the write-ahead log.
fn files_with(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("pg_wal") {
                found.extend(files_with(&path, bytes));
            }
        } else {
            let content = std::fs::read(&path).unwrap_or_default();
            if memchr::memmem::find(&content, bytes).is_some() {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// Returns the names of the relations whose files contain the bytes.
async fn relations_with(admin: &Client, directory: &Path, bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for file in files_with(directory, bytes) {
        let name = Path::new(&file).file_name().unwrap().to_str().unwrap();
        let number = name.split(['.', '_']).next().unwrap();
        let sql = "SELECT coalesce(pg_filenode_relation(0, $1::text::oid)::text, 'no relation')";
        let relation: String = match number.parse::<u32>() {
            Ok(_) => admin.query_one(sql, &[&number]).await.unwrap().get(0),
            Err(_) => "no relation".to_owned(),
        };
        names.push(format!("{relation} in {file}"));
    }
    names
}

/// Runs the statement that docs/operate/postgres.md gives for each of our tables.
async fn rewrite(client: &Client, schema: &str) {
    let sql = "SELECT format('VACUUM (FULL, ANALYZE) %I.%I', $1::text, c.relname) FROM pg_class c
               WHERE c.relnamespace = $1::text::regnamespace AND c.relkind = 'r'";
    for row in client.query(sql, &[&schema]).await.unwrap() {
        client.batch_execute(row.get::<_, &str>(0)).await.unwrap();
    }
}

/// Keeps the server from deciding by itself when to vacuum.
async fn without_maintenance(admin: &Client) {
    // Whatever reads at that moment keeps deleted rows alive, and so does the server's own maintenance.
    for sql in ["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"] {
        admin.batch_execute(sql).await.unwrap();
    }
}

/// The first numbers of a vector as the server stores them.
fn start_of(vector: &Vector) -> Vec<u8> {
    let numbers = vector.values()[..6].iter();
    numbers.flat_map(|number| number.to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_document_leaves_the_files_when_its_tables_are_rewritten() {
    let Some(server) = Server::start().await else { return };
    let messages = Arc::new(PostgresIndex::open(&options(&server, "copilotd")).await.unwrap());
    let index: Arc<dyn KnowledgeIndex> = Arc::clone(&messages) as _;
    let admin = server.admin("knowledge").await;
    without_maintenance(&admin).await;
    let said = contract_vector("m", 7);
    let of_message = to_bytes(&said.after_previous)[..24].to_vec();
    for n in 0..3 {
        let put = messages.put(&scope("acme"), conversation(n), vec![said.clone()]).await;
        assert!(put.unwrap());
    }
    let (acme, globex) = (Library::new(&index, "acme"), Library::new(&index, "globex"));
    let attributes = Attributes {
        title: Some("secret-title".to_owned()),
        ..readable_by(listed(&["secret-user"], &[]))
    };
    let text = "secret-words alpha";
    for n in 0..20 {
        acme.put(&key(&format!("secret-{n}")), text, attributes.clone(), n)
            .await;
        globex
            .put(&key(&format!("kept-{n}")), "kept alpha", Attributes::default(), n)
            .await;
    }
    acme.submit(&key("secret-waits"), "secret-waiting", attributes, 30)
        .await;
    let vector = embed(&acme.space, text);
    let numbers = start_of(&vector);
    for sql in ["ANALYZE", "CHECKPOINT"] {
        admin.batch_execute(sql).await.unwrap();
    }
    assert!(
        !files_with(&server.data, &numbers).is_empty(),
        "the check finds what is there"
    );
    assert!(!files_with(&server.data, b"secret-words").is_empty());
    assert!(!files_with(&server.data, &of_message).is_empty());
    TurnVectors::erase(messages.as_ref(), &scope("acme"), conversation(0))
        .await
        .unwrap();
    TurnVectors::erase_tenant(messages.as_ref(), &scope("acme"))
        .await
        .unwrap();
    for n in 0..10 {
        let deleted = acme
            .index
            .delete(&acme.scope, &key(&format!("secret-{n}")), at(40))
            .await;
        assert!(deleted.unwrap().is_some());
    }
    acme.index.erase_tenant(&acme.scope).await.unwrap();
    let others = globex.search("kept alpha", &Reader::Administrator, 50).await;
    let owner = server.connect("knowledge").await;
    rewrite(&owner, "copilotd").await;
    // As a superuser: statistics of columns are in the catalogue, and those of emptied tables stay when they are analysed.
    let forget = "DELETE FROM pg_statistic USING pg_class c WHERE starelid = c.oid AND c.relnamespace = 'copilotd'::regnamespace";
    for sql in [forget, "VACUUM FULL pg_statistic", "ANALYZE", "CHECKPOINT"] {
        admin.batch_execute(sql).await.unwrap();
    }
    assert_eq!(relations_with(&admin, &server.data, &numbers).await, [""; 0]);
    assert_eq!(relations_with(&admin, &server.data, b"secret-").await, [""; 0]);
    assert_eq!(relations_with(&admin, &server.data, &of_message).await, [""; 0]);
    assert_eq!(globex.search("kept alpha", &Reader::Administrator, 50).await, others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_vacuum_clears_the_graph_and_not_the_pages_of_tables() {
    let Some(server) = Server::start().await else { return };
    let index = index_in(&options(&server, "copilotd")).await;
    let admin = server.admin("knowledge").await;
    without_maintenance(&admin).await;
    let acme = Library::new(&index, "acme");
    // What stays comes first in its pages, so that no row is moved over one that was deleted, and no page becomes empty.
    for name in ["kept", "secret"] {
        let text = format!("{name}-words alpha");
        for n in 0..10 {
            acme.put(&key(&format!("{name}-{n}")), &text, Attributes::default(), n)
                .await;
        }
    }
    let numbers = start_of(&embed(&acme.space, "secret-words alpha"));
    let found = async |bytes: &[u8]| {
        admin.batch_execute("CHECKPOINT").await.unwrap();
        let mut found = relations_with(&admin, &server.data, bytes).await;
        found.retain(|relation| relation.starts_with("copilotd."));
        let graphs = found.iter().filter(|relation| relation.contains("_embedding_idx"));
        (graphs.count(), found)
    };
    let (graphs, all) = found(&numbers).await;
    assert!(graphs == 1 && all.len() == 2, "in the table and in its graph: {all:?}");
    for n in 0..10 {
        let deleted = acme
            .index
            .delete(&acme.scope, &key(&format!("secret-{n}")), at(40))
            .await;
        assert!(deleted.unwrap().is_some());
    }
    let (graphs, all) = found(&numbers).await;
    assert!(graphs == 1 && all.len() == 2, "{all:?}");
    server.connect("knowledge").await.batch_execute("VACUUM").await.unwrap();
    let (graphs, all) = found(&numbers).await;
    assert!(graphs == 0 && all.len() == 1, "in the table alone: {all:?}");
    let (_, all) = found(b"secret-words").await;
    assert!(
        all.iter().any(|relation| relation.starts_with("copilotd.passages_p")),
        "{all:?}"
    );
    // Rewriting the tables is what clears them.
    rewrite(&server.connect("knowledge").await, "copilotd").await;
    let left = [found(&numbers).await.1, found(b"secret-words").await.1].concat();
    assert_eq!(left, [""; 0]);
    assert_eq!(acme.texts("kept-words", &Reader::Administrator).await.0.len(), 10);
}
