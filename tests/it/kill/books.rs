//! Model calls of a killed process are in the ledger exactly once.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use rusqlite::OpenFlags;
use serde_json::{Value, json};

use crate::support::live::client::Client;
use crate::support::live::reader::Reader;
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::transcript::Transcript;
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
    let told = client.turn(&turn).await;
    server.terminate().await;
    assert_eq!(server.ended().await, 0);
    assert_eq!(
        used(&told),
        of_turn(&server.data, &turn),
        "the turn tells of all its calls"
    );

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

/// Prompt and completion tokens of a turn, as the turn reports them.
fn used(turn: &Value) -> (u64, u64) {
    let tokens = |name: &str| turn["usage"][name].as_u64().unwrap();
    (tokens("prompt_tokens"), tokens("completion_tokens"))
}

/// The same, from the ledger.
fn of_turn(data: &Path, turn: &str) -> (u64, u64) {
    let sum = |column: &str| -> u64 { read(data, &format!("SELECT sum({column}) FROM usage WHERE turn = '{turn}'")) };
    (sum("prompt_tokens"), sum("completion_tokens"))
}

/// A server that is stopped aborts calls that do not end in time. It records them itself; they must not also be
/// recorded as lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_stop_cut_is_booked_once() {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let settings = Settings {
        drain_s: 1,
        ..Store::Sqlite.into()
    };
    let mut server = Server::new(&world, settings);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversation = client.conversation("support", "stop").await;
    let body = json!({ "input": "[[sim tokens=200 pace_ms=20]]" });
    let turn = client.submit(&conversation, "stop-0", &body).await;
    let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
    reader.until("text", |seen| seen.open_bytes() > 0).await;
    server.terminate().await;
    assert_eq!(server.ended().await, 0);
    server.start(&[]).await;
    reader.until("the end", |seen| seen.ended(&turn)).await;
    let told = client.turn(&turn).await;
    server.terminate().await;
    assert_eq!(server.ended().await, 0);
    let outcomes: String = read(
        &server.data,
        &format!(
            "SELECT group_concat(outcome, ' ') FROM (SELECT outcome FROM usage WHERE turn = '{turn}' ORDER BY at)"
        ),
    );
    assert_eq!(outcomes, "left ok");
    assert_eq!(
        used(&told),
        of_turn(&server.data, &turn),
        "the turn tells of all its calls"
    );
}

/// Queries the database of a server that may be running.
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
    let open = || read::<u32>(&server.data, "SELECT count(*) FROM open_calls WHERE id <> x''");
    // A slow call that ends has one record and is no longer open.
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
    assert_eq!(
        read::<u32>(&server.data, "SELECT count(*) FROM open_calls WHERE id <> x''"),
        0
    );
    server.terminate().await;
    assert_eq!(server.ended().await, 0);
    let lost = "SELECT group_concat(outcome || ' ' || purpose || ' ' || estimated || ' ' || (prompt_tokens > 0) || ' ' || \
                (completion_tokens > 0) || ' ' || user, ', ') FROM (SELECT * FROM usage ORDER BY at)";
    let rows: String = read(&server.data, lost);
    assert_eq!(rows, "ok endpoint 0 1 1 ada, lost endpoint 1 1 1 ada");
}

/// The lost calls in the ledger: their number, and their prompt and completion tokens.
fn lost(data: &Path, purpose: &str) -> (u64, u64, u64) {
    let column = |what: &str| {
        let query = format!("SELECT {what} FROM usage WHERE outcome = 'lost' AND purpose = '{purpose}'");
        read::<u64>(data, &query)
    };
    let (prompt, completion) = ("coalesce(sum(prompt_tokens), 0)", "coalesce(sum(completion_tokens), 0)");
    (column("count(*)"), column(prompt), column(completion))
}

/// Number of tokens of an answer that arrived before its server was killed; the simulator counts four characters as
/// one.
async fn received(mut answer: reqwest::Response) -> u64 {
    let mut text = String::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    let content = |line: &str| -> Option<usize> {
        let chunk: Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
        Some(chunk["choices"][0]["delta"]["content"].as_str()?.chars().count())
    };
    text.lines().filter_map(content).sum::<usize>().div_ceil(4) as u64
}

/// Many calls of every length are killed together: their recorded usage is close to what they really used.
#[tokio::test(flavor = "multi_thread")]
async fn killed_calls_are_booked_for_about_what_they_used() {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, Store::Sqlite);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let conversations = {
        let mut made = Vec::new();
        for n in 0..8 {
            made.push(client.conversation("support", &format!("many-{n}")).await);
        }
        made
    };
    let mut real = Used::default();
    // New and old calls: each process is killed at a different moment.
    for (life, wait_ms) in [(0, 900), (1, 2_300), (2, 4_100)] {
        let mut calls = tokio::task::JoinSet::new();
        let mut turns = Vec::new();
        for n in 0..8_u64 {
            // The slowest streams 16 words a second, the fastest 125.
            let pace = 8 + 7 * n;
            let prompt = format!(
                "{} [[sim tokens=4000 pace_ms={pace}]]",
                "Please count. ".repeat(10 * n as usize)
            );
            let messages = json!([{ "role": "user", "content": &prompt }]);
            let body = json!({ "model": "default", "stream": true, "messages": messages });
            let asked = client.request(Method::POST, "/v1/chat/completions").await.json(&body);
            calls.spawn(received(asked.send().await.unwrap()));
            let (conversation, key) = (&conversations[n as usize], format!("many-{life}-{n}"));
            let turn = client.submit(conversation, &key, &json!({ "input": prompt })).await;
            let reader = Reader::open(&client, format!("/v1/turns/{turn}/events"));
            turns.push((turn, reader));
        }
        for (_, reader) in &turns {
            reader.until("text", |seen| seen.open_bytes() > 0).await;
        }
        // This does not wait for an event: the moment of the kill is what is tested.
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let prompts = prompts(&world).await;
        server.kill().await;
        for (_, reader) in &turns {
            real.turns += (reader.look(Transcript::open_bytes) as u64).div_ceil(4);
        }
        for tokens in calls.join_all().await {
            real.calls += tokens;
        }
        real.prompts += prompts;
        server.start(&[]).await;
        for (turn, _) in &turns {
            let (status, _) = client
                .post(&format!("/v1/turns/{turn}/cancel"), "cancel", &json!({}))
                .await;
            assert_eq!(status, 202);
            let turn = client.turn(turn).await;
            // Lost usage also counts for the turn.
            assert!(turn["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{turn}");
        }
        world.post(&world.openai, "reset", &json!({})).await;
        world
            .post(&world.openai, "knobs", &json!({"first_ms": 30, "pace_ms": 10}))
            .await;
    }
    server.terminate().await;
    assert_eq!(server.ended().await, 0);
    let (calls, turns) = (lost(&server.data, "endpoint"), lost(&server.data, "turn"));
    assert_eq!((calls.0, turns.0), (24, 24), "every call that died is booked once");
    let close = |what: &str, booked: u64, real: u64| {
        let ratio = booked as f64 / real as f64;
        println!("{what}: {booked} booked, {real} used: {ratio:.2}");
        assert!(
            (0.7..=1.5).contains(&ratio),
            "{what}: {booked} booked, {real} used: {ratio:.2}"
        );
    };
    close("answers of calls", calls.2, real.calls);
    close("answers of turns", turns.2, real.turns);
    close("prompts", calls.1 + turns.1, real.prompts);
}

/// Tokens that were really used.
#[derive(Default)]
struct Used {
    calls: u64,
    turns: u64,
    prompts: u64,
}

/// Tokens of the prompts that the provider has received.
async fn prompts(world: &World) -> u64 {
    let state = world.state(&world.openai).await;
    let requests = state["last_requests"].as_array().unwrap();
    requests
        .iter()
        .map(|request| request["prompt_tokens"].as_u64().unwrap())
        .sum()
}
