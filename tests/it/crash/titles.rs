//! Crashes the server while the title of a conversation is written: it has one in the end, and only one.

use serde_json::json;

use super::scenario::ABORTED;
use crate::support::live::client::Client;
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Store};
use crate::support::live::world::World;

/// The points, and whether the title is stored when the process ends there.
const POINTS: [(&str, bool); 4] = [
    ("effect.before:title_request", false),
    ("effect.after:title_request", false),
    ("append.before:conversation.titled", false),
    ("append.after:conversation.titled", true),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_title_is_written_once_whatever_a_crash_interrupts() {
    for (point, is_stored) in POINTS {
        let scratch = tempfile::TempDir::new().unwrap();
        let world = World::start(scratch.path()).await;
        let mut server = Server::new(&world, Store::Sqlite);
        server
            .start(&[("COPILOTD_CRASH_AT".to_owned(), point.to_owned())])
            .await;
        let client = Client::new(server.address(), "ada");
        let id = client.conversation("titled", "talk").await;
        let reader = Reader::open(&client, format!("/v1/conversations/{id}/events?after=0"));
        let prompt = |text: &str| json!({ "input": text });
        let first = client.submit(&id, "first", &prompt("Where is my invoice?")).await;
        assert_eq!(server.ended().await, ABORTED, "{point}:\n{}", server.log());

        server.start(&[]).await;
        reader.until("the first answer", |seen| seen.ended(&first)).await;
        if !is_stored {
            // An attempt that died with its process is made again after the next turn.
            client.submit(&id, "second", &prompt("And the one before?")).await;
        }
        reader.until("a title", |seen| seen.has("conversation.titled")).await;
        let third = client.submit(&id, "third", &prompt("Thank you.")).await;
        reader.until("the last answer", |seen| seen.ended(&third)).await;
        let titles = |name: &str| reader.look(|seen| seen.durable.iter().filter(|event| event.name == name).count());
        assert_eq!(titles("conversation.titled"), 1, "{point}");
        let (status, conversation) = client.get(&format!("/v1/conversations/{id}")).await;
        assert_eq!(status, 200, "{point}");
        assert!(
            conversation["title"].as_str().is_some_and(|title| !title.is_empty()),
            "{point}: {conversation}"
        );
    }
}
