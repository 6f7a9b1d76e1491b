//! The ledger's contract, on every store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::domain::usage::Usage;
use copilotd_gateway::ledger::{
    GroupBy, TenantsGroupBy, TenantsUsageQuery, TenantsUsageRow, UsageEntries, UsageQuery, UsageRecord, UsageRow,
    UsageStore,
};
use copilotd_gateway::limit::StoredStatistics;
use copilotd_gateway::meter::UnreportedAttempts;
use futures::FutureExt as _;
use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, scope};
use crate::support::usage::{MemoryUsage, record};

async fn contract(store: &dyn UsageStore) {
    let mut by_key = record("2026-11-02T10:00:00Z", "bob", "large", 30);
    by_key.api_key = Some("backend".to_owned());
    by_key.copilot = None;
    // Of another tenant, so that it is in nobody else's sums.
    let mut hit = record("2026-11-02T11:00:00Z", "ada", "large", 0);
    hit.tenant = "hooli".parse().unwrap();
    hit.cache = "hit".to_owned();
    let mut other = record("2026-11-02T10:00:00Z", "ada", "large", 1_000);
    other.tenant = "globex".parse().unwrap();
    let records = vec![
        record("2026-10-31T23:59:59.999Z", "ada", "large", 7),
        record("2026-11-01T00:00:00Z", "ada", "small", 10),
        record("2026-11-01T12:00:00Z", "bob", "large", 20),
        record("2026-11-02T09:00:00Z", "ada", "large", 0),
        by_key,
        other,
        hit,
    ];
    store.add_usage(&Arc::new(records.clone().into())).await.unwrap();
    // Sent twice, with a new one among them.
    let mut again = records[..3].to_vec();
    again.push(record("2026-11-02T23:59:59Z", "eve", "small", 5));
    store.add_usage(&Arc::new(again.into())).await.unwrap();

    let sums = async |tenant: &str, group_by, from: &str, to: &str, limit| {
        let query = UsageQuery {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            group_by,
            limit,
        };
        let rows: Vec<UsageRow> = store.sum_usage(&scope(tenant), &query).await.unwrap();
        rows.into_iter()
            .map(|row| (row.group, row.calls, row.usage.cost))
            .collect::<Vec<_>>()
    };
    let (begin, end) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
    let row = |group: &str, calls, cost| (group.to_owned(), calls, cost);
    for (group_by, expected) in [
        (GroupBy::Day, vec![row("2026-11-01", 2, 30), row("2026-11-02", 3, 35)]),
        (
            GroupBy::User,
            vec![row("ada", 2, 10), row("bob", 2, 50), row("eve", 1, 5)],
        ),
        (GroupBy::Copilot, vec![row("", 1, 30), row("support", 4, 35)]),
        (GroupBy::Model, vec![row("large", 3, 50), row("small", 2, 15)]),
        (GroupBy::Key, vec![row("", 4, 35), row("backend", 1, 30)]),
        (GroupBy::Route, vec![row("default", 5, 65)]),
    ] {
        assert_eq!(sums("acme", group_by, begin, end, 100).await, expected);
    }
    let query = UsageQuery {
        from: begin.parse().unwrap(),
        to: end.parse().unwrap(),
        group_by: GroupBy::User,
        limit: 10,
    };
    let all = async |group_by, tenant: Option<&str>, limit| {
        let query = TenantsUsageQuery {
            from: begin.parse().unwrap(),
            to: end.parse().unwrap(),
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
            group_by,
            limit,
        };
        let rows = store.sum_tenants_usage(&query).await.unwrap();
        let told = |TenantsUsageRow { tenant, row }: TenantsUsageRow| {
            format!(
                "{} {} {}+{} {}",
                tenant.unwrap_or_default(),
                row.group,
                row.calls,
                row.cache_hits,
                row.usage.cost
            )
        };
        rows.into_iter().map(told).collect::<Vec<_>>()
    };
    for (group_by, expected) in [
        (
            TenantsGroupBy::Tenant,
            vec!["acme acme 5+0 65", "globex globex 1+0 1000", "hooli hooli 0+1 0"],
        ),
        (
            TenantsGroupBy::Key,
            vec![
                "acme  4+0 35",
                "acme backend 1+0 30",
                "globex  1+0 1000",
                "hooli  0+1 0",
            ],
        ),
        (TenantsGroupBy::Route, vec![" default 6+1 1065"]),
        (TenantsGroupBy::Day, vec![" 2026-11-01 2+0 30", " 2026-11-02 4+1 1035"]),
    ] {
        assert_eq!(all(group_by, None, 100).await, expected, "{group_by:?}");
        assert_eq!(all(group_by, None, 1).await, expected[..1], "{group_by:?}");
    }
    assert_eq!(
        all(TenantsGroupBy::Route, Some("globex"), 100).await,
        [" default 1+0 1000"]
    );
    assert_eq!(all(TenantsGroupBy::Key, Some("nobody"), 100).await, [""; 0]);
    let hits = store.sum_usage(&scope("hooli"), &query).await.unwrap();
    assert_eq!((hits.len(), hits[0].calls, hits[0].cache_hits), (1, 0, 1));
    assert_eq!(sums("acme", GroupBy::User, begin, end, 1).await, [row("ada", 2, 10)]);
    assert_eq!(sums("acme", GroupBy::User, begin, begin, 100).await, []);
    assert_eq!(
        sums("globex", GroupBy::User, begin, end, 100).await,
        [row("ada", 1, 1_000)]
    );
    assert_eq!(sums("initech", GroupBy::User, begin, end, 100).await, []);
    let query = UsageQuery {
        from: begin.parse().unwrap(),
        to: "2026-11-01T06:00:00Z".parse().unwrap(),
        group_by: GroupBy::Day,
        limit: 10,
    };
    let whole = store.sum_usage(&scope("acme"), &query).await.unwrap();
    let expected = Usage {
        prompt_tokens: 100,
        completion_tokens: 10,
        cached_tokens: 40,
        cache_write_tokens: 5,
        reasoning_tokens: 3,
        cost: 10,
        estimated: false,
    };
    assert_eq!((whole[0].usage, whole[0].estimated_calls), (expected, 0));

    let day = "2026-11-02T00:00:00Z".parse().unwrap();
    let mut spent: Vec<_> = store
        .spendings(day, begin.parse().unwrap())
        .await
        .unwrap()
        .into_iter()
        .map(|s| (s.tenant.to_string(), s.user, s.api_key, s.day, s.month))
        .collect();
    spent.sort();
    let line = |tenant: &str, user: &str, key: Option<&str>, day, month| {
        (tenant.to_owned(), user.to_owned(), key.map(str::to_owned), day, month)
    };
    assert_eq!(
        spent,
        [
            line("acme", "ada", None, 0, 10),
            line("acme", "bob", None, 0, 20),
            line("acme", "bob", Some("backend"), 30, 30),
            line("acme", "eve", None, 5, 5),
            line("globex", "ada", None, 1_000, 1_000),
        ]
    );
    store.prune_usage(day).await.unwrap();
    let left = sums("acme", GroupBy::Day, "2026-01-01T00:00:00Z", end, 100).await;
    assert_eq!(left, [row("2026-11-02", 3, 35)]);
}

/// Calls in flight when their process died become records, once; calls that ended leave none.
async fn open_calls(store: &dyn UsageStore) {
    let at = "2026-12-01T10:00:00Z";
    let lost = |user: &str| UsageRecord {
        outcome: "lost".to_owned(),
        is_estimated: true,
        ..record(at, user, "large", 7)
    };
    let (ends, dies) = (lost("ada"), lost("bob"));
    let begun = UsageEntries {
        begun: vec![ends.clone(), dies.clone()],
        ..UsageEntries::default()
    };
    // A later state of a call in flight replaces the earlier one.
    let mut grown = dies.clone();
    (grown.usage.completion_tokens, grown.turn) = (77, Some(TurnId::new(Uuid::from_u128(1)).to_string()));
    let later = UsageEntries {
        begun: vec![grown],
        ..UsageEntries::default()
    };
    let mut end = ends;
    (end.at, end.outcome) = ("2026-12-01T10:00:05Z".parse().unwrap(), "ok".to_owned());
    let ended = UsageEntries {
        closed: vec![end.id],
        ended: vec![end],
        ..UsageEntries::default()
    };
    // Each is sent again, as after an error that hid a success.
    for entries in [&begun, &begun, &later, &later, &ended, &ended] {
        store.add_usage(&Arc::new(entries.clone())).await.unwrap();
    }
    let users = async || {
        let query = UsageQuery {
            from: at.parse().unwrap(),
            to: "2026-12-02T00:00:00Z".parse().unwrap(),
            group_by: GroupBy::User,
            limit: 10,
        };
        let rows = store.sum_usage(&scope("acme"), &query).await.unwrap();
        for row in &rows {
            assert_eq!((row.estimated_calls, row.usage.estimated), (row.calls, true), "{row:?}");
        }
        rows.into_iter().map(|row| (row.group, row.calls)).collect::<Vec<_>>()
    };
    assert_eq!(
        users().await,
        [("ada".to_owned(), 1)],
        "a call in flight is not a record yet"
    );
    assert_eq!(store.record_lost_usage().await.unwrap(), 1);
    assert_eq!(store.record_lost_usage().await.unwrap(), 0);
    assert_eq!(users().await, [("ada".to_owned(), 1), ("bob".to_owned(), 1)]);
    // For a turn whose log may not know all of it: what was lost, and what ended since its last prompt.
    let turn = TurnId::new(Uuid::from_u128(1));
    let mut answered = record("2026-12-01T10:00:09Z", "bob", "small", 7);
    (answered.turn, answered.usage.completion_tokens) = (Some(turn.to_string()), 5);
    let mut refused = answered.clone();
    (refused.id, refused.usage) = (Uuid::now_v7(), Usage::default());
    store
        .add_usage(&Arc::new(vec![answered, refused].into()))
        .await
        .unwrap();
    let found = async |tenant: &str, turn: u128, began_at: &str, asked_at: Option<&str>| {
        let of = UnreportedAttempts {
            turn: TurnId::new(Uuid::from_u128(turn)),
            began_at: began_at.parse().unwrap(),
            asked_at: asked_at.map(|at| at.parse().unwrap()),
        };
        let unreported = store.unreported_usage(&scope(tenant), &of).await.unwrap();
        let used = unreported
            .iter()
            .map(|lost| (lost.model.clone(), lost.usage.completion_tokens));
        used.collect::<Vec<_>>()
    };
    let (lost, answered) = (("large".to_owned(), 77), ("small".to_owned(), 5));
    let asked = Some("2026-12-01T10:00:09Z");
    assert_eq!(found("acme", 1, at, None).await, std::slice::from_ref(&lost));
    assert_eq!(found("acme", 1, at, asked).await, [lost.clone(), answered.clone()]);
    assert_eq!(found("acme", 1, at, Some("2026-12-01T10:00:09.001Z")).await, [lost]);
    assert_eq!(found("acme", 1, "2026-12-01T10:00:00.001Z", asked).await, [answered]);
    assert_eq!(found("acme", 2, at, asked).await, []);
    assert_eq!(found("globex", 1, at, asked).await, []);
}

/// What was learned is stored by tenant and model, the newest first, for as long as records are.
async fn learned(store: &dyn UsageStore) {
    let row = |tenant: &str, model: &str, known: &str| StoredStatistics {
        tenant: tenant.parse().unwrap(),
        model: model.to_owned(),
        known: known.to_owned(),
    };
    let at = |day: u8| format!("2026-12-{day:02}T00:00:00Z").parse().unwrap();
    let (old, new) = (row("acme", "a/b", "{}"), row("acme", "a/b", r#"{"answers":1.0}"#));
    let (small, other) = (row("acme", "small", "{}"), row("globex", "a/b", "{}"));
    store.save_learned(&[old, small.clone()], at(1)).await.unwrap();
    store.save_learned(std::slice::from_ref(&new), at(3)).await.unwrap();
    store.save_learned(std::slice::from_ref(&other), at(2)).await.unwrap();
    let all = async |limit| store.learned(limit).await.unwrap();
    assert_eq!(all(10).await, [new.clone(), other.clone(), small]);
    assert_eq!(all(1).await, std::slice::from_ref(&new));
    store.prune_usage(at(2)).await.unwrap();
    assert_eq!(all(10).await, [new, other]);
}

#[tokio::test]
async fn in_memory() {
    open_calls(&MemoryUsage::default()).await;
    learned(&MemoryUsage::default()).await;
    contract(&MemoryUsage::default()).await;
}

#[tokio::test]
async fn on_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = SqliteLog::open(directory.path()).unwrap();
    contract(&store).await;
    store.close().await;
    // It is there after a restart.
    let store = SqliteLog::open(directory.path()).unwrap();
    let spent = store
        .spendings(
            "2026-11-02T00:00:00Z".parse().unwrap(),
            "2026-11-01T00:00:00Z".parse().unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(spent.len(), 3);
    open_calls(&store).await;
    learned(&store).await;
}

/// Returns the number of commits, from the file beside the database.
fn commits(directory: &Path) -> u64 {
    let text = std::fs::read_to_string(directory.join("copilotd.state")).unwrap();
    text.trim_start_matches("commits ").trim_end().parse().unwrap()
}

#[tokio::test]
async fn sqlite_stores_usage_together_with_what_comes_next_and_at_the_latest_by_its_deadline() {
    let directory = TempDir::new().unwrap();
    let store = SqliteLog::open(directory.path()).unwrap();
    let entries = |id: u128| {
        let mut record = record("2026-12-01T10:00:00Z", "ada", "large", 7);
        record.id = Uuid::from_u128(id);
        Arc::new(UsageEntries::from(vec![record]))
    };
    let later = Instant::now() + Duration::from_secs(3600);
    let before = commits(directory.path());
    let mut talk = Talk::new("acme", "ann");
    let first = entries(1);
    let (stored, _) = tokio::join!(store.add_usage_by(&first, later), talk.open(&store));
    stored.unwrap();
    assert_eq!(commits(directory.path()), before + 1, "one commit for both");
    store.add_usage_by(&entries(2), Instant::now()).await.unwrap();
    assert_eq!(commits(directory.path()), before + 2, "nothing else came");
    // Nobody waits for it any more, and the store is closed.
    let waiting = store.add_usage_by(&entries(3), later).now_or_never();
    assert!(waiting.is_none(), "it waits for other work");
    store.close().await;
    let store = SqliteLog::open(directory.path()).unwrap();
    let query = UsageQuery {
        from: "2026-12-01T00:00:00Z".parse().unwrap(),
        to: "2026-12-02T00:00:00Z".parse().unwrap(),
        group_by: GroupBy::User,
        limit: 10,
    };
    assert_eq!(store.sum_usage(&scope("acme"), &query).await.unwrap()[0].calls, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    if let Some(database) = TestDatabase::new().await {
        let store = Arc::new(database.connect().await.unwrap());
        contract(&*store).await;
        open_calls(&*store).await;
        learned(&*store).await;
        // Killed between a record and the end of its open call.
        let open = record("2026-12-03T10:00:00Z", "eve", "large", 7);
        let both = UsageEntries {
            begun: vec![open.clone()],
            ended: vec![open],
            ..UsageEntries::default()
        };
        store.add_usage(&Arc::new(both)).await.unwrap();
        store.record_lost_usage().await.unwrap();
        let query = UsageQuery {
            from: "2026-12-03T00:00:00Z".parse().unwrap(),
            to: "2026-12-04T00:00:00Z".parse().unwrap(),
            group_by: GroupBy::User,
            limit: 10,
        };
        assert_eq!(store.sum_usage(&scope("acme"), &query).await.unwrap()[0].calls, 1);
    }
}
