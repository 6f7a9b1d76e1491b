//! Turns that are submitted at once: whether each is accepted, and none is lost.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use crate::client::{Client, Pace};
use crate::report::Report;
use crate::stats::{Samples, ms};
use crate::world::{Programs, ServerOptions, Testbed};

/// Longest wait for the last turn.
const MAX_WAIT: Duration = Duration::from_secs(120);
const PACE: Pace = Pace {
    words: 20,
    first_ms: 50,
    pace_ms: 10,
};

/// One submission: its duration, and the turn or the error.
type Outcome = (Duration, anyhow::Result<(usize, String)>);

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let many = size.pick(1000, 200);
    let world = Testbed::start(programs, ServerOptions::default()).await?;
    let conversations = conversations(&world.client, many).await?;
    let barrier = Arc::new(Barrier::new(many));
    let mut tasks = JoinSet::new();
    for (user, conversation) in conversations.into_iter().enumerate() {
        let (client, barrier) = (Arc::clone(&world.client), Arc::clone(&barrier));
        tasks.spawn(async move {
            let connection = client.connect().await;
            barrier.wait().await;
            let begun = Instant::now();
            let submitted = async {
                let mut connection = connection?;
                client.submit(&mut connection, user, &conversation, PACE).await
            };
            let turn = submitted.await;
            (begun.elapsed(), turn.map(|turn| (user, turn)))
        });
    }
    let outcomes: Vec<Outcome> = tasks.join_all().await;
    let mut accepted = Samples::default();
    let mut turns = Vec::new();
    for (time, turn) in outcomes {
        match turn {
            Ok(turn) => {
                accepted.add(time);
                turns.push(turn);
            }
            Err(error) => eprintln!("not accepted: {error:#}"),
        }
    }
    let begun = Instant::now();
    let completed = completed(&world.client, turns).await?;
    let mut report = Report::new(
        &format!("submit: {many} turns submitted at once"),
        "As many connections as turns, opened beforehand; one turn per conversation, all sent at the same moment. Afterwards \
         every accepted turn is polled until it has ended.",
        &["figure", "measured"],
    );
    report.fact("answered 202", format!("{} of {many}", accepted.count()));
    report.fact("time to the 202, p50 / p99, ms", accepted.both());
    report.fact("last 202 after, ms", ms(accepted.percentile(1.0)));
    report.fact("completed", format!("{completed} of {}", accepted.count()));
    report.fact("lost", accepted.count() - completed);
    report.fact("all ended within, ms", ms(begun.elapsed() + accepted.percentile(1.0)));
    Ok(report)
}

/// Creates conversations, one user each, a few at a time.
pub async fn conversations(client: &Arc<Client>, many: usize) -> anyhow::Result<Vec<String>> {
    const AT_ONCE: usize = 32;
    let lanes = (0..AT_ONCE).map(|lane| async move {
        let mut connection = client.connect().await?;
        let mut made = Vec::new();
        for user in (lane..many).step_by(AT_ONCE) {
            made.push((user, client.create(&mut connection, user).await?));
        }
        anyhow::Ok(made)
    });
    let mut made = futures::future::try_join_all(lanes).await?.concat();
    made.sort_unstable();
    Ok(made.into_iter().map(|(_, id)| id).collect())
}

/// Counts the turns that complete.
async fn completed(client: &Arc<Client>, turns: Vec<(usize, String)>) -> anyhow::Result<usize> {
    let deadline = Instant::now() + MAX_WAIT;
    let asked = futures::stream::iter(turns).map(|(user, turn)| async move {
        let mut connection = client.connect().await?;
        loop {
            let status = client.status(&mut connection, user, &turn).await?;
            if matches!(status.as_str(), "completed" | "failed" | "cancelled") || Instant::now() > deadline {
                return anyhow::Ok(status == "completed");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let ended: Vec<anyhow::Result<bool>> = asked.buffer_unordered(16).collect().await;
    Ok(ended.into_iter().filter(|ended| matches!(ended, Ok(true))).count())
}
