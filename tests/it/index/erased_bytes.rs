//! After a deletion its text, terms and vectors are in no byte of SQLite's files: not when others write meanwhile, and
//! not in parts of pages that SQLite does not use any more.

use std::path::Path;
use std::sync::Arc;

use copilotd::adapters::index::sqlite::SqliteIndex;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::index::KnowledgeIndex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use super::library::{Library, at, chunks, embed, key, listed, readable_by};

/// Returns which files of a directory contain the bytes.
fn files_with(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let found = paths.filter(|path| {
        let content = std::fs::read(path).unwrap_or_default();
        memchr::memmem::find(&content, bytes).is_some()
    });
    found.map(|path| path.display().to_string()).collect()
}

/// What must not be left of a document: its words and its vectors.
struct Traces(Vec<Vec<u8>>);

impl Traces {
    fn of(library: &Library, name: &str, text: &str, attributes: &Attributes) -> Self {
        let document = key(name).id(library.scope.tenant());
        let mut traces = vec![format!("secret-{name}").into_bytes()];
        for (chunk, _) in chunks(document, text) {
            let vector = embed(&library.space, &chunk.draft.context_text(None));
            // Half of a vector is enough to be told.
            let numbers = vector.values()[..6].iter().flat_map(|number| number.to_le_bytes());
            traces.push(numbers.collect());
        }
        traces.extend(attributes.title.as_ref().map(|title| title.clone().into_bytes()));
        Self(traces)
    }

    fn found(&self, directory: &Path) -> Vec<String> {
        self.0.iter().flat_map(|trace| files_with(directory, trace)).collect()
    }
}

fn secret_text(name: &str, random: &mut StdRng) -> String {
    let passages = (0..random.random_range(1..12)).map(|n| {
        let words = random.random_range(1..120);
        format!("secret-{name}-{n} ").repeat(words).trim_end().to_owned()
    });
    passages.collect::<Vec<_>>().join("\n\n")
}

fn secret_attributes(name: &str) -> Attributes {
    Attributes {
        title: Some(format!("secret-{name} title")),
        ..readable_by(listed(&[&format!("secret-{name}-user")], &[]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_document_is_in_no_file() {
    let directory = TempDir::new().unwrap();
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
    let (acme, globex) = (Library::new(&index, "acme"), Library::new(&index, "globex"));
    let mut random = StdRng::seed_from_u64(11);
    let mut traces = Vec::new();
    for n in 0..24_i64 {
        let name = format!("{n:02}x");
        let (text, attributes) = (secret_text(&name, &mut random), secret_attributes(&name));
        acme.put(&key(&name), &text, attributes.clone(), n).await;
        globex
            .put(&key(&name), &format!("kept words {n}"), Attributes::default(), n)
            .await;
        let mut of_document = Traces::of(&acme, &name, &text, &attributes);
        // Some have a second version, some a cited chunk of the first one, and some a version that waits.
        if n % 2 == 0 {
            let document = acme.document(&key(&name)).await.unwrap();
            let id = chunks(document.id, &text)[0].0.id;
            acme.index.cite(&acme.scope, &[id]).await.unwrap();
            let text = secret_text(&name, &mut random);
            acme.put(&key(&name), &text, attributes.clone(), n).await;
            of_document.0.extend(Traces::of(&acme, &name, &text, &attributes).0);
        }
        if n % 3 == 0 {
            let text = secret_text(&name, &mut random);
            acme.submit(&key(&name), &text, attributes.clone(), n).await;
            acme.stage(&key(&name), &text).await;
            of_document.0.extend(Traces::of(&acme, &name, &text, &attributes).0);
        }
        traces.push((name, of_document));
    }
    assert!(
        !traces[23].1.found(directory.path()).is_empty(),
        "the check finds what is there"
    );
    // Half one by one, in no order, with others' writes in between.
    for round in 0..12_i64 {
        let (name, of_document) = traces.swap_remove(random.random_range(0..traces.len()));
        let deleted = acme.index.delete(&acme.scope, &key(&name), at(100 + round)).await;
        assert!(deleted.unwrap().is_some());
        assert_eq!(of_document.found(directory.path()), [""; 0], "{name}");
        let other = key(&format!("later{round}"));
        globex
            .put(&other, "words that came later", Attributes::default(), 200 + round)
            .await;
    }
    let others = globex.search("kept words", &Reader::Administrator, 50).await;
    acme.index.erase_tenant(&acme.scope).await.unwrap();
    for (name, of_document) in &traces {
        assert_eq!(of_document.found(directory.path()), [""; 0], "{name}");
    }
    assert_eq!(globex.search("kept words", &Reader::Administrator, 50).await, others);
    // Nothing of it comes back when the files are closed and opened.
    drop((acme, globex, index));
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
    assert_eq!(files_with(directory.path(), b"secret-"), [""; 0]);
    let globex = Library::new(&index, "globex");
    assert_eq!(globex.search("kept words", &Reader::Administrator, 50).await, others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_interrupted_is_finished_at_the_next_start() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("knowledge.db");
    {
        let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
        let acme = Library::new(&index, "acme");
        acme.put(&key("a"), "alpha\n\nsecret-beta", Attributes::default(), 1)
            .await;
        acme.put(&key("b"), "alpha", Attributes::default(), 2).await;
    }
    // What the first transaction of a deletion leaves behind.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "UPDATE chunks SET current = 0, doomed = 2 WHERE id IN (SELECT chunk FROM passages WHERE text = 'secret-beta')",
        )
        .unwrap();
    connection.close().unwrap();
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
    let acme = Library::new(&index, "acme");
    let (_, semantic) = acme.texts("alpha", &Reader::Administrator).await;
    assert_eq!(semantic, ["alpha", "alpha"]);
    // The caller, who got no answer, tries again: the document of that name is gone, and so are its bytes now.
    let repeated = acme.index.delete(&acme.scope, &key("gone"), at(3)).await;
    assert_eq!(repeated.unwrap(), None);
    assert_eq!(files_with(directory.path(), b"secret-beta"), [""; 0]);
    drop((acme, index));
    let connection = rusqlite::Connection::open(&path).unwrap();
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM chunks"), 2);
    assert_eq!(count("SELECT count(*) FROM passages"), 2);
    assert_eq!(count("SELECT count(*) FROM vectors"), 2);
    assert_eq!(count("SELECT count(*) FROM postings"), 2);
}
