//! The contract of the store for jobs and for erasing tenants, on every store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use copilotd_actors::domain::ids::JobId;
use copilotd_actors::ports::{
    EventLog, Job, JobStatus, JobStore, LogError, Piece, PieceOutcome, Progress, Snapshot, TenantData, TenantEraser,
    Work,
};
use copilotd_gateway::ledger::{GroupBy, UsageEntries, UsageQuery, UsageRecord};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::jobs::world::{Stores, on_both};
use crate::support::talk::{Talk, erased, scope};
use crate::support::usage::record;

fn now() -> Timestamp {
    "2026-11-01T10:00:00Z".parse().unwrap()
}

fn job(tenant: &str, hours: i64) -> Job {
    let work = Work::Export {
        from: Some(now()),
        to: None,
    };
    Job::new(
        JobId::new(Uuid::now_v7()),
        scope(tenant),
        work,
        now() + SignedDuration::from_hours(hours),
    )
}

fn piece(talk: &Talk, n: u64, lines: &str) -> Piece {
    Piece {
        n,
        conversation: talk.id,
        lines: lines.as_bytes().to_vec(),
    }
}

async fn pieces(stores: &Stores, job: &Job) -> Vec<Piece> {
    let (mut found, mut after) = (Vec::new(), 0);
    while let Some(piece) = stores.jobs.next_piece(&job.scope, job.id, after).await.unwrap() {
        after = piece.n;
        found.push(piece);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_stored_listed_and_deleted() {
    on_both(async |place| {
        let stores = place.open().await;
        let store: &dyn JobStore = stores.jobs.as_ref();
        let (mut first, second, other) = (job("acme", 0), job("acme", 1), job("globex", 2));
        for job in [&first, &second, &other] {
            store.put_job(job).await.unwrap();
        }
        let (acme, globex) = (scope("acme"), scope("globex"));
        assert_eq!(store.job(&acme, first.id).await.unwrap(), Some(first.clone()));
        assert_eq!(store.job(&globex, first.id).await.unwrap(), None, "another tenant's");
        assert_eq!(store.jobs_of(&acme, 10).await.unwrap(), [second.clone(), first.clone()]);
        assert_eq!(store.jobs_of(&acme, 1).await.unwrap(), std::slice::from_ref(&second));
        let open = [first.clone(), second.clone(), other.clone()];
        assert_eq!(store.open_jobs().await.unwrap(), open);

        first.state.status = JobStatus::Completed;
        first.state.progress = Progress { done: 3, total: 4 };
        first.state.finished_at = Some(now());
        store.put_job(&first).await.unwrap();
        assert_eq!(store.job(&acme, first.id).await.unwrap(), Some(first.clone()));
        assert_eq!(store.open_jobs().await.unwrap(), [second.clone(), other.clone()]);
        let day = now() + SignedDuration::from_hours(24);
        let before = day - SignedDuration::from_secs(1);
        assert_eq!(store.expired_jobs(before, 10).await.unwrap(), []);
        assert_eq!(store.expired_jobs(day, 10).await.unwrap(), [first.clone()]);
        store.delete_job(&globex, first.id).await.unwrap();
        assert!(
            store.job(&acme, first.id).await.unwrap().is_some(),
            "not another tenant's to delete"
        );
        for _ in 0..2 {
            store.delete_job(&acme, first.id).await.unwrap();
        }
        assert_eq!(store.jobs_of(&acme, 10).await.unwrap(), [second]);
        stores.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_go_with_their_conversation() {
    on_both(async |place| {
        let stores = place.open().await;
        let log: &dyn EventLog = stores.log.as_ref();
        let (one, two) = (job("acme", 0), job("acme", 1));
        let (mut kept, mut gone) = (Talk::new("acme", "ada"), Talk::new("acme", "ada"));
        kept.open(log).await;
        gone.open(log).await;
        let put = async |job: &Job, piece: &Piece| stores.jobs.put_piece(&job.scope, job.id, piece).await.unwrap();
        for n in 1..=20 {
            let talk = if n % 2 == 0 { &kept } else { &gone };
            let text = format!("pieces-of-{}-{n}", talk.id);
            assert_eq!(put(&one, &piece(talk, n, &text)).await, PieceOutcome::Stored);
        }
        assert_eq!(
            put(&two, &piece(&gone, 1, "pieces-of-another-job")).await,
            PieceOutcome::Stored
        );
        // The same number again replaces the piece.
        put(&one, &piece(&kept, 2, "pieces-again")).await;
        let numbers: Vec<u64> = pieces(&stores, &one).await.iter().map(|piece| piece.n).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());

        let nobody = Talk::new("acme", "ada");
        assert_eq!(put(&one, &piece(&nobody, 30, "x")).await, PieceOutcome::Erased);
        let mut foreign = Talk::new("globex", "ada");
        foreign.open(log).await;
        assert_eq!(
            put(&one, &piece(&foreign, 30, "x")).await,
            PieceOutcome::Erased,
            "another tenant's"
        );

        let tombstone = gone.write(log, vec![erased()]).await.last_seq();
        // After the tombstone nothing of it is stored.
        assert_eq!(put(&one, &piece(&gone, 31, "x")).await, PieceOutcome::Erased);
        log.erase(&gone.scope, gone.id, tombstone).await.unwrap();
        assert_eq!(put(&one, &piece(&gone, 32, "x")).await, PieceOutcome::Erased);
        let numbers: Vec<u64> = pieces(&stores, &one).await.iter().map(|piece| piece.n).collect();
        assert_eq!(numbers, (1..=10).map(|n| 2 * n).collect::<Vec<_>>());
        assert_eq!(pieces(&stores, &two).await, []);
        let texts = [format!("pieces-of-{}", gone.id), "pieces-of-another-job".to_owned()];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(place.found(&texts).await, Vec::<String>::new());
        assert_eq!(stores.jobs.delete_pieces(&one.scope, one.id).await.unwrap(), 10);
        assert_eq!(stores.jobs.delete_pieces(&one.scope, one.id).await.unwrap(), 0);
        stores.close().await;
    })
    .await;
}

/// An erasure and the writing of pieces at the same time: whichever comes first, nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_piece_is_left_of_a_conversation_that_is_erased_meanwhile() {
    on_both(async |place| {
        let stores = place.open().await;
        let log = &stores.log;
        let of = job("acme", 0);
        for round in 0..20_u64 {
            let mut talk = Talk::new("acme", "ada");
            talk.open(log.as_ref()).await;
            let (writing, own) = (stores.clone(), talk.clone());
            let export = of.clone();
            let writer = tokio::spawn(async move {
                for n in 0..10 {
                    let piece = piece(&own, round * 100 + n + 1, "a-piece-of-it");
                    writing.jobs.put_piece(&export.scope, export.id, &piece).await.unwrap();
                }
            });
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            let tombstone = talk.write(log.as_ref(), vec![erased()]).await.last_seq();
            log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
            writer.await.unwrap();
            assert_eq!(pieces(&stores, &of).await, [], "round {round}");
        }
        stores.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_tenant_takes_no_write_and_others_do() {
    on_both(async |place| {
        let stores = place.open().await;
        let eraser: &dyn TenantEraser = stores.eraser.as_ref();
        let log: &dyn EventLog = stores.log.as_ref();
        let acme = scope("acme");
        let mut talk = Talk::new("acme", "ada");
        talk.open(log).await;
        eraser.close_tenant(acme.tenant()).await.unwrap();
        let refused =
            |outcome: Result<(), LogError>| assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
        let mut late = Talk::new("acme", "ada");
        let created = late.created();
        refused(late.try_write(log, vec![created]).await.map(drop));
        refused(stores.jobs.put_job(&job("acme", 0)).await);
        refused(
            stores
                .jobs
                .put_piece(&acme, job("acme", 0).id, &piece(&talk, 1, "x"))
                .await
                .map(drop),
        );
        let mut other = Talk::new("globex", "bob");
        other.open(log).await;
        stores.jobs.put_job(&job("globex", 0)).await.unwrap();

        assert_eq!(
            eraser.erase_tenant(acme.tenant(), TenantData::Records).await.unwrap(),
            1
        );
        let headers = eraser.erase_tenant(acme.tenant(), TenantData::Projections).await;
        assert!(headers.unwrap() > 0);
        for data in TenantData::ALL {
            assert_eq!(eraser.erase_tenant(acme.tenant(), data).await.unwrap(), 0, "{data:?}");
        }
        assert_eq!(log.header(&acme, talk.id).await.unwrap(), None);
        assert_eq!(log.end(&acme, talk.id).await.unwrap(), 0);
        assert!(log.header(&other.scope, other.id).await.unwrap().is_some());

        // A conversation with the same id starts over.
        eraser.reopen_tenant(acme.tenant());
        let mut again = Talk {
            id: talk.id,
            ..Talk::new("acme", "eve")
        };
        again.open(log).await;
        assert_eq!(log.header(&acme, talk.id).await.unwrap().unwrap().user.as_str(), "eve");
        stores.close().await;
    })
    .await;
}

/// More than one step deletes, of every kind that can be long or many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_tenant_is_erased_in_steps_while_another_writes() {
    on_both(async |place| {
        let stores = place.open().await;
        let log = &stores.log;
        let text = "hidden-prompt ".repeat(3_000);
        for _ in 0..60 {
            let mut talk = Talk::new("acme", "ada");
            talk.open(log.as_ref()).await;
            talk.turn(log.as_ref(), &text).await;
            let snapshot = Snapshot {
                seq: 1,
                version: 1,
                state: b"hidden-state".repeat(100),
            };
            log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
        }
        let usage = |tenant: &str, n: usize| -> Vec<UsageRecord> {
            let one = || UsageRecord {
                tenant: tenant.parse().unwrap(),
                ..record("2026-11-01T00:00:00Z", "ada", &format!("model-of-{tenant}"), 1)
            };
            (0..n).map(|_| one()).collect()
        };
        stores
            .usage
            .add_usage(&Arc::new(UsageEntries::from(usage("acme", 1_500))))
            .await
            .unwrap();
        stores
            .usage
            .add_usage(&Arc::new(UsageEntries::from(usage("globex", 10))))
            .await
            .unwrap();
        let acme = scope("acme");
        stores.eraser.close_tenant(acme.tenant()).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (writing, stopped) = (stores.clone(), Arc::clone(&stop));
        let other = tokio::spawn(async move {
            let mut talk = Talk::new("globex", "bob");
            talk.open(writing.log.as_ref()).await;
            while !stopped.load(Ordering::Relaxed) {
                talk.turn(writing.log.as_ref(), "what stays").await;
            }
            talk
        });
        for data in TenantData::ALL {
            let erased = stores.eraser.erase_tenant(acme.tenant(), data).await.unwrap();
            let least = match data {
                TenantData::Records | TenantData::Snapshots | TenantData::Projections => 60,
                TenantData::Usage => 1_500,
                _ => 0,
            };
            assert!(erased >= least, "{data:?}: {erased}");
            assert_eq!(
                stores.eraser.erase_tenant(acme.tenant(), data).await.unwrap(),
                0,
                "{data:?}"
            );
        }
        stores.eraser.scrub().await.unwrap();
        assert_eq!(place.found(&["hidden-", "model-of-acme"]).await, Vec::<String>::new());
        stop.store(true, Ordering::Relaxed);
        let talk = other.await.unwrap();
        let records = log.read(&talk.scope, talk.id, 0, 100_000).await.unwrap();
        assert_eq!(records, talk.records, "the other tenant's log is intact");
        let month = UsageQuery {
            from: "2026-10-01T00:00:00Z".parse().unwrap(),
            to: "2026-12-01T00:00:00Z".parse().unwrap(),
            group_by: GroupBy::Model,
            limit: 10,
        };
        assert_eq!(stores.usage.sum_usage(&acme, &month).await.unwrap(), []);
        assert_eq!(
            stores.usage.sum_usage(&scope("globex"), &month).await.unwrap()[0].calls,
            10
        );
        stores.close().await;
    })
    .await;
}
