//! A turn by the real server over Anthropic's protocol: tools are called, their results sent, and the answer streamed.

use serde_json::json;

use crate::support::live::client::Client;
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_with_tools_is_played_through_by_the_server() {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let settings = Settings {
        anthropic: true,
        ..Store::Sqlite.into()
    };
    let mut server = Server::new(&world, settings);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversation = client.conversation("support", "anthropic").await;
    let input = "Summarise the unread tickets and alert #support";
    let turn = client
        .submit(&conversation, "anthropic-0", &json!({ "input": input }))
        .await;
    let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
    reader.until("its end", |seen| seen.ended(&turn)).await;
    reader.look(|seen| {
        assert!(seen.has("turn.completed"), "{:#?}", seen.durable);
        assert!(seen.faults.is_empty(), "{:?}", seen.faults);
        let finished = seen
            .durable
            .iter()
            .filter(|event| event.name == "tool.finished")
            .count();
        assert!(finished >= 3, "searched, read and posted: {:#?}", seen.durable);
    });
    assert_eq!(world.effects("unread ticket").await, 1, "the channel is alerted once");
    let (asked, unasked) = (world.state(&world.anthropic).await, world.state(&world.openai).await);
    assert!(asked["requests"].as_u64() >= Some(4), "{asked}");
    assert_eq!(
        (&asked["errors"], &unasked["requests"]),
        (&json!(0), &json!(0)),
        "{asked}"
    );
    server.kill().await;
}
