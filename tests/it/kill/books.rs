//! What a killed process had asked of a model stands in the ledger, once.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use rusqlite::OpenFlags;
use serde_json::json;

use crate::support::live::client::Client;
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Store};
use crate::support::live::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_died_with_the_process_has_a_record() {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, Store::Sqlite);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversation = client.conversation("support", "books").await;
    let body = json!({ "input": "[[sim tokens=100 pace_ms=20]]" });
    let turn = client.submit(&conversation, "books-0", &body).await;
    let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
    reader.until("text", |seen| seen.open_bytes() > 0).await;
    server.kill().await;
    server.start(&[]).await;
    reader.until("the end", |seen| seen.ended(&turn)).await;
    server.terminate().await;
    assert_eq!(server.ended().await, 0);

    let database = rusqlite::Connection::open(server.data.join("copilotd.db")).unwrap();
    let mut query = database
        .prepare("SELECT outcome, attempt, estimated, prompt_tokens > 0, completion_tokens > 0 FROM usage WHERE turn = ?1 ORDER BY at")
        .unwrap();
    let rows = query.query_map([&turn], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
    });
    let rows: Vec<(String, u32, bool, bool, bool)> = rows.unwrap().map(Result::unwrap).collect();
    let lost: Vec<_> = rows.iter().filter(|row| row.0 == "lost").collect();
    assert_eq!(lost, [&("lost".to_owned(), 1, true, true, true)], "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row.0 == "ok").count(), 1, "{rows:?}");
}

/// Asks the database of a server that may be running.
fn read<T: rusqlite::types::FromSql>(data: &Path, query: &str) -> T {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(data.join("copilotd.db"), flags).unwrap();
    database.query_row(query, [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_endpoint_that_died_with_the_process_has_a_record() {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, Store::Sqlite);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let ask = async |directive: &str| {
        let messages = json!([{ "role": "user", "content": format!("Count. [[sim {directive}]]") }]);
        let body = json!({ "model": "default", "stream": true, "messages": messages });
        client.request(Method::POST, "/v1/chat/completions").await.json(&body)
    };
    let open = || read::<u32>(&server.data, "SELECT count(*) FROM open_calls");
    // One that takes its time and ends is one record and no longer open.
    let whole = ask("tokens=60 pace_ms=20").await.send().await.unwrap();
    assert!(whole.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let died = ask("tokens=1000 pace_ms=20").await.send().await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(30), async {
        while (open(), read::<u32>(&server.data, "SELECT count(*) FROM usage")) != (1, 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    seen.await
        .expect("the call that is under way is put down, the other is over");
    server.kill().await;
    drop(died);
    server.start(&[]).await;
    assert_eq!(read::<u32>(&server.data, "SELECT count(*) FROM open_calls"), 0);
    server.terminate().await;
    assert_eq!(server.ended().await, 0);
    let lost = "SELECT group_concat(outcome || ' ' || purpose || ' ' || estimated || ' ' || (prompt_tokens > 0) || ' ' || \
                (completion_tokens > 0) || ' ' || user, ', ') FROM (SELECT * FROM usage ORDER BY at)";
    let rows: String = read(&server.data, lost);
    assert_eq!(rows, "ok endpoint 0 1 1 ada, lost endpoint 1 1 1 ada");
}
