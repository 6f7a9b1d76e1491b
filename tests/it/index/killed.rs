//! A process that is killed while it ingests, updates and deletes: every document is as some call left it, and the
//! statistics are those of what can be found.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use copilotd::adapters::index::sqlite::SqliteIndex;
use copilotd_knowledge::document::{Attributes, Reader, Stage};
use copilotd_knowledge::fakes::MemoryIndex;
use copilotd_knowledge::index::KnowledgeIndex;
use tempfile::TempDir;

use super::library::{Library, at, key};

const DIRECTORY: &str = "COPILOTD_TEST_INDEX_VICTIM";
const ADMIN: Reader = Reader::Administrator;
/// Documents that are written in turn.
const DOCUMENTS: i64 = 6;

/// The content of a document at a time: unlike the one before in half of its passages.
fn text(document: i64, time: i64) -> String {
    let passages: Vec<String> = (0..10)
        .map(|n| {
            format!(
                "alpha passage {n} of {document} since {}",
                if n % 2 == 0 { 0 } else { time }
            )
        })
        .collect();
    passages.join("\n\n")
}

/// The process that is killed: the same test binary, running only this test.
#[test]
#[ignore = "started by what_was_acknowledged_is_there_after_a_kill"]
fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.as_ref()).unwrap());
        let acme = Library::new(&index, "acme");
        for time in 0_i64.. {
            let document = time % DOCUMENTS;
            let name = key(&document.to_string());
            if time % 7 == 6 {
                acme.index.delete(&acme.scope, &name, at(time)).await.unwrap();
                println!("\nacknowledged {document} deleted {time}");
            } else {
                acme.put(&name, &text(document, time), Attributes::default(), time)
                    .await;
                println!("\nacknowledged {document} put {time}");
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_kill() {
    for lines in [5, 23, 40] {
        let directory = TempDir::new().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index::killed::victim", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let mut last = 0;
        let mut seen = 0;
        for line in output.lines() {
            // The last line may be truncated; what precedes it counts.
            let Ok(line) = line else { break };
            let words: Vec<&str> = line.split(' ').collect();
            if let ["acknowledged", _, _, time] = words.as_slice()
                && let Ok(time) = time.parse::<i64>()
            {
                (last, seen) = (time, seen + 1);
                if seen == lines {
                    victim.kill().unwrap();
                }
            }
        }
        victim.wait().unwrap();
        assert!(seen >= lines, "the victim ended before it was killed");
        let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
        let acme = Library::new(&index, "acme");
        // The call after the last acknowledged one may have happened, or half of its steps.
        let pending = acme.index.pending(&[], 9).await.unwrap();
        for waiting in pending {
            assert_eq!(
                waiting.document.version,
                acme.document(&waiting.document.key).await.unwrap().version
            );
            let content = String::from_utf8(waiting.content).unwrap();
            assert!(acme.stage(&waiting.document.key, &content).await);
            acme.publish(&waiting.document.key, &content, last + 1).await;
        }
        // What can be found now is what an index finds that never saw anything else.
        let fresh: Arc<dyn KnowledgeIndex> = Arc::new(MemoryIndex::new());
        let expected = Library::new(&fresh, "acme");
        for document in 0..DOCUMENTS {
            let name = key(&document.to_string());
            let mut known = (0..=last + 1).rev().filter(|time| time % DOCUMENTS == document);
            let newest = known.clone().find(|time| *time <= last);
            let Some(stored) = acme.document(&name).await else {
                let was_deleted =
                    known.next().is_none_or(|time| time % 7 == 6) || newest.is_none_or(|time| time % 7 == 6);
                assert!(was_deleted, "{document} is missing after {last}");
                continue;
            };
            assert_eq!(stored.stage, Stage::Searchable);
            let chunks = acme.index.chunks(&acme.scope, &name, 0, 99).await.unwrap().unwrap();
            let texts: Vec<String> = chunks.into_iter().map(|chunk| chunk.draft.text).collect();
            let text = texts.join("\n\n");
            assert!(
                known.any(|time| text == self::text(document, time)),
                "{document} has {text}"
            );
            expected.put(&name, &text, Attributes::default(), document).await;
        }
        for words in ["alpha", "passage 3 since", "0 1 2 3 4 5"] {
            let found = acme.search(words, &ADMIN, 100).await;
            assert_eq!(found, expected.search(words, &ADMIN, 100).await, "{words} after {last}");
        }
        let totals = expected.index.totals(&expected.scope).await.unwrap();
        assert_eq!(acme.index.totals(&acme.scope).await.unwrap(), totals);
    }
}
