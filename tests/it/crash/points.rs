//! The points, in groups that fit a test runner's limit of time.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};

use super::scenario::run;
use crate::support::live::server::Store;
use crate::support::live::verdict::Summary;

/// Runs that go on at one time: they wait more than they compute.
const AT_ONCE: usize = 3;

/// Runs the workload once for each of `plans`; a plan's points end one life each. Names everything that failed.
async fn all(plans: &[&[&str]]) {
    let begun = tokio::time::Instant::now();
    let runs = stream::iter(plans).map(|points| async move {
        let summary = AssertUnwindSafe(Box::pin(run(points, &Store::Sqlite)))
            .catch_unwind()
            .await;
        (points, summary)
    });
    let results: Vec<_> = runs.buffer_unordered(AT_ONCE).collect().await;
    let mut total = Summary::default();
    let mut failed = Vec::new();
    for (points, summary) in results {
        match summary {
            Ok(summary) => total += summary,
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or(panic.downcast_ref::<&str>().copied());
                failed.push(format!("{points:?}: {}", said.unwrap_or("a panic without words")));
            }
        }
    }
    println!("{} runs in {:.0?}: {total:?}", plans.len(), begun.elapsed());
    assert!(
        failed.is_empty(),
        "{} of {} runs failed:\n{}",
        failed.len(),
        plans.len(),
        failed.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting() {
    all(&[
        &["append.before:turn.queued#10"],
        &["append.after:turn.queued#10"],
        &["append.before:turn.started#12"],
        &["append.after:turn.started#12"],
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools() {
    all(&[
        &["effect.before:request:slack_post_message"],
        &["effect.after:request:slack_post_message"],
        &["effect.before:request:zendesk_create_ticket"],
        &["effect.after:request:zendesk_create_ticket#2"],
    ])
    .await;
}
