//! One run: server processes that each crash at a named point, then one that runs to the end.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::live::client::Client;
use crate::support::live::orders;
use crate::support::live::server::{Server, Store};
use crate::support::live::stage::perform;
use crate::support::live::verdict::{Summary, verdict};
use crate::support::live::world::World;

/// Exit code of a process that a crash point aborted, as a shell reports it.
pub const ABORTED: i32 = 128 + 6;
/// How long to wait for a point that comes after the last thing a client sees.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Runs the mixed workload; each of `points` (`NAME#N`) crashes the server once. Panics if one was not reached.
pub async fn run(points: &[String], store: Store) -> Summary {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, store);
    let client = Client::new(server.address(), "ada");
    let armed = |point: Option<&String>| -> Vec<(String, String)> {
        let variable = |point: &String| ("COPILOTD_CRASH_AT".to_owned(), point.clone());
        point.map(variable).into_iter().collect()
    };
    let mut lives = points.iter();
    let mut present = lives.next();
    server.start(&armed(present)).await;
    let work = perform(&client, &world, orders::mixed("a"));
    tokio::pin!(work);
    let mut done = None;
    while let Some(point) = present {
        let status = tokio::select! {
            status = server.ended() => status,
            talks = &mut work, if done.is_none() => {
                done = Some(talks);
                let end = tokio::time::timeout(AFTERMATH, server.ended()).await;
                end.unwrap_or_else(|_| panic!("{point} was not reached"))
            }
        };
        assert_eq!(
            status,
            ABORTED,
            "{point} was not what ended it:\n{}",
            tail(&server.log())
        );
        present = lives.next();
        // It may crash while it starts, because it resumes open work before it serves.
        while let Err(status) = server.try_start(&armed(present)).await {
            let point = present.expect("an unarmed life serves");
            assert_eq!(
                status,
                ABORTED,
                "{point} was not what ended it:\n{}",
                tail(&server.log())
            );
            present = lives.next();
        }
    }
    let talks = match done {
        Some(talks) => talks,
        None => tokio::select! {
            talks = &mut work => talks,
            status = server.ended() => panic!("it ended with {status}:\n{}", tail(&server.log())),
        },
    };
    verdict(&client, &world, &talks, points.len() < 2).await
}

/// Runs the mixed workload without crashes; returns the names of the points that it reaches.
pub async fn reached() -> BTreeSet<String> {
    let scratch = tempfile::TempDir::new().unwrap();
    let trace = scratch.path().join("points");
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, Store::Sqlite);
    let path = trace.to_str().unwrap().to_owned();
    server.start(&[("COPILOTD_CRASH_TRACE".to_owned(), path)]).await;
    let client = Client::new(server.address(), "ada");
    let talks = perform(&client, &world, orders::mixed("a")).await;
    verdict(&client, &world, &talks, true).await;
    let names = || -> BTreeSet<String> {
        let text = std::fs::read_to_string(&trace).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    // The reconciler's next round deletes erased data: the last thing that happens.
    let deadline = tokio::time::Instant::now() + AFTERMATH;
    while !names().contains("effect.after:erase") {
        assert!(tokio::time::Instant::now() < deadline, "nothing was erased");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    names()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
