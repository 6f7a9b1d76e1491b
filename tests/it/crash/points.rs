//! The crash points, in groups that fit a test runner's time limit.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};

use super::scenario::{reached, run};
use crate::store::mongo::TestDatabase;
use crate::support::live::server::Store;
use crate::support::live::verdict::Summary;

/// Concurrent runs: they wait more than they compute.
const AT_ONCE: usize = 4;

/// Events to crash before and after their append, with the occurrence to crash at: in the middle of the workload, where
/// many turns are open.
type Events = &'static [(&'static str, u32)];

const TURNS: Events = &[
    ("turn.queued", 14),
    ("turn.started", 16),
    ("turn.waiting", 1),
    ("context.assembled", 15),
    ("turn.completed", 9),
    ("turn.failed", 2),
    ("turn.cancelled", 2),
];
const MESSAGES: Events = &[
    ("message.completed", 14),
    ("message.reset", 2),
    ("output.rejected", 1),
    ("model.failed", 2),
    ("guardrail.triggered", 2),
    ("memory.compressed", 1),
];
const TOOLS: Events = &[
    ("approval.requested", 2),
    ("approval.decided", 1),
    ("client_tool.requested", 1),
    ("tool.called", 4),
    ("tool.finished", 5),
    ("tool.settled", 1),
];
const CONVERSATIONS: Events = &[
    ("conversation.created", 9),
    ("conversation.updated", 1),
    ("conversation.erased", 1),
    ("turn.feedback", 1),
];
const MODEL_EFFECTS: &[&str] = &[
    "effect.before:call_model#15",
    "effect.after:call_model#15",
    "effect.before:model_request#15",
    "effect.during:model_stream#300",
    "effect.after:model_stream#15",
    "effect.before:schema_check",
    "effect.before:summary_request",
    "effect.after:summary_request",
    "effect.before:erase",
    "effect.after:erase",
    // Between an entry of the audit log and its anchor.
    "audit.before:anchor",
];
const TOOL_EFFECTS: &[&str] = &[
    "effect.before:call_tool#5",
    "effect.after:call_tool#5",
    "effect.before:request:zendesk_search_tickets",
    "effect.after:request:zendesk_search_tickets",
    "effect.before:request:zendesk_get_ticket#2",
    "effect.after:request:zendesk_get_ticket#2",
    "effect.before:request:zendesk_create_ticket",
    "effect.after:request:zendesk_create_ticket",
    "effect.before:request:zendesk_add_comment",
    "effect.after:request:zendesk_add_comment",
    "effect.before:request:slack_post_message",
    "effect.after:request:slack_post_message",
];
/// Crashes while the server recovers from the crash before.
const TWICE: &[&[&str]] = &[
    &["effect.after:request:slack_post_message", "append.before:tool.retried"],
    &["effect.after:request:slack_post_message", "append.after:tool.retried"],
    &[
        "effect.after:request:slack_post_message",
        "effect.before:look_up:slack_post_message",
    ],
    &[
        "effect.after:request:zendesk_add_comment",
        "effect.after:look_up:zendesk_add_comment",
    ],
    // Calls that may have been sent are looked up, and only those with a key are sent again.
    &[
        "effect.before:request:slack_post_message",
        "effect.after:look_up:slack_post_message",
    ],
    &[
        "effect.after:request:zendesk_create_ticket",
        "effect.before:look_up:zendesk_create_ticket",
    ],
    &[
        "effect.before:request:zendesk_create_ticket",
        "effect.after:request:zendesk_create_ticket",
    ],
    &["effect.during:model_stream#200", "append.before:message.reset"],
    &["effect.during:model_stream#200", "append.after:message.reset"],
    &["append.after:turn.queued#20", "append.after:turn.started"],
    // The third crash uses up all attempts of the streaming turn.
    &[
        "effect.during:model_stream#100",
        "effect.during:model_stream#100",
        "effect.during:model_stream#100",
    ],
];
/// On MongoDB, one crash of each kind. The store's own contract is tested elsewhere; this tests restarts around it.
const MONGO: &[&[&str]] = &[
    &["append.before:turn.queued#14"],
    &["append.after:turn.queued#14"],
    &["append.after:message.completed#14"],
    &["append.after:tool.called#4"],
    &["append.before:tool.finished#5"],
    &["append.after:turn.completed#9"],
    &["effect.during:model_stream#300"],
    &["effect.after:request:slack_post_message", "append.after:tool.retried"],
    &["effect.after:request:zendesk_create_ticket"],
];

fn around(events: Events) -> Vec<Vec<String>> {
    let places = ["append.before", "append.after"];
    let points = events
        .iter()
        .flat_map(|(name, n)| places.map(|place| format!("{place}:{name}#{n}")));
    points.map(|point| vec![point]).collect()
}

fn each(points: &[&str]) -> Vec<Vec<String>> {
    points.iter().map(|point| vec![(*point).to_owned()]).collect()
}

fn several(plans: &[&[&str]]) -> Vec<Vec<String>> {
    let owned = |points: &&[&str]| points.iter().map(|point| (*point).to_owned()).collect();
    plans.iter().map(owned).collect()
}

/// Runs the workload once per plan; each point of a plan crashes the server once. Reports all failures.
async fn all(plans: Vec<Vec<String>>, mongodb: bool) {
    let begun = tokio::time::Instant::now();
    let runs = stream::iter(&plans).map(|points| async move {
        let work = async {
            if !mongodb {
                return run(points, Store::Sqlite).await;
            }
            let database = TestDatabase::new().await.expect("it was asked for before");
            let store = Store::Mongo {
                url: database.url.clone(),
                database: database.name.clone(),
                lease_s: 6,
            };
            run(points, store).await
        };
        (points, AssertUnwindSafe(Box::pin(work)).catch_unwind().await)
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
    let count = failed.len();
    assert!(
        failed.is_empty(),
        "{count} of {} runs failed:\n{}",
        plans.len(),
        failed.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn turns() {
    all(around(TURNS), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages() {
    all(around(MESSAGES), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools() {
    all(around(TOOLS), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations() {
    all(around(CONVERSATIONS), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_on_models() {
    all(each(MODEL_EFFECTS), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_on_vendors() {
    all(each(TOOL_EFFECTS), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_recovery() {
    all(several(TWICE), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mongodb() {
    if TestDatabase::new().await.is_some() {
        all(several(MONGO), true).await;
    }
}

/// A new event or effect that the workload reaches has to be added to the lists.
#[tokio::test(flavor = "multi_thread")]
async fn no_point_is_left_out() {
    let mut plans = Vec::new();
    for events in [TURNS, MESSAGES, TOOLS, CONVERSATIONS] {
        plans.extend(around(events));
    }
    plans.extend(each(MODEL_EFFECTS));
    plans.extend(each(TOOL_EFFECTS));
    let name = |point: &String| point.split('#').next().unwrap_or_default().to_owned();
    let tried: BTreeSet<String> = plans.iter().flatten().map(name).collect();
    assert_eq!(tried, reached().await);
    println!("{} points are tried alone", tried.len());
}
