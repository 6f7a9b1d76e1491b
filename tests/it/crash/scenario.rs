//! One run: lives that end at a named point each, then one that goes on to the end.

use crate::support::live::child::ABORTED;
use crate::support::live::client::Client;
use crate::support::live::orders;
use crate::support::live::server::{Server, Store};
use crate::support::live::stage::perform;
use crate::support::live::verdict::{Summary, verdict};
use crate::support::live::world::World;

/// A point may lie behind the last thing that a client sees.
const AFTERMATH: std::time::Duration = std::time::Duration::from_secs(20);

/// Runs the mixed workload; each of `points` (`NAME#N`) ends one life. Panics if one was not reached.
pub async fn run(points: &[&str], store: &Store) -> Summary {
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, store, 5);
    let client = Client::new(server.address(), "ada");
    let armed = |point: Option<&&str>| -> Vec<(String, String)> {
        point
            .map(|point| ("COPILOTD_CRASH_AT".to_owned(), (*point).to_owned()))
            .into_iter()
            .collect()
    };
    let mut lives = points.iter();
    let mut present = lives.next();
    // A life may end while it starts: it takes up what is open before it serves.
    let begin = async |server: &mut Server, env: &[(String, String)]| server.try_start(env).await;
    begin(&mut server, &armed(present))
        .await
        .expect("the first life serves");
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
        while let Err(status) = begin(&mut server, &armed(present)).await {
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

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
