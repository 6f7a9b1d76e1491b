//! A process that is killed while it writes: what it had acknowledged is stored, and nothing by half.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, Seq};
use copilotd_actors::ports::EventLog;
use tempfile::TempDir;

use crate::support::talk::{Talk, scope};

const DIRECTORY: &str = "COPILOTD_TEST_VICTIM";

/// The process that is killed: the same test binary, running only this test.
#[test]
#[ignore = "started by sqlite_keeps_what_it_acknowledged_when_killed"]
fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let log = Arc::new(SqliteLog::open(directory.as_ref()).unwrap());
        let writers = (0..16).map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut talk = Talk::new("acme", "ann");
                talk.open(log.as_ref()).await;
                loop {
                    talk.turn(log.as_ref(), &format!("prompt of {n}")).await;
                    println!("\nacknowledged {} {}", talk.id, talk.next() - 1);
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

#[tokio::test]
async fn sqlite_keeps_what_it_acknowledged_when_killed() {
    let directory = TempDir::new().unwrap();
    for lines in [30, 200, 75] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::killed::victim", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let mut acknowledged: Vec<(ConversationId, Seq)> = Vec::new();
        for line in output.lines() {
            // The last line may be truncated; what precedes it counts.
            let Ok(line) = line else { break };
            let mut words = line.split(' ').skip_while(|word| *word != "acknowledged").skip(1);
            if let (Some(id), Some(seq)) = (words.next(), words.next())
                && let (Ok(id), Ok(seq)) = (id.parse(), seq.parse())
            {
                acknowledged.push((id, seq));
            }
            if acknowledged.len() == lines {
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        assert!(acknowledged.len() >= lines, "the victim ended before it was killed");

        let log = SqliteLog::open(directory.path()).unwrap();
        let scope = scope("acme");
        for (id, seq) in acknowledged {
            let records = log.read(&scope, id, 0, usize::MAX).await.unwrap();
            assert!(
                records.iter().map(|record| record.seq).eq(1..=records.len() as Seq),
                "no gaps"
            );
            assert!(records.len() as Seq >= seq, "{id} lost records up to {seq}");
            let mut header = Header::open(id, &records[0]).unwrap();
            records[1..].iter().for_each(|record| header.apply(record));
            assert_eq!(log.header(&scope, id).await.unwrap(), Some(header));
        }
        log.close().await;
    }
}
