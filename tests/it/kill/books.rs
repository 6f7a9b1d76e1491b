//! What a killed process had asked of a model stands in the ledger, once.

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
