//! Connections that are cut, slow or silent, and a server that is killed: nothing acknowledged is lost, nothing is
//! stored twice. The stand-in has no elections; a cut is what a step-down looks like from here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::store::mongo::{MongoLog, MongoOptions};
use copilotd_actors::ports::{EventLog, LogError};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::mongo::TestDatabase;
use crate::support::proxy::{Mode, Proxy};
use crate::support::secantus::{self, Server};
use crate::support::talk::{Talk, answered, queued, turn, updated};

/// A log behind a proxy. `None` if there is no server of our own.
async fn behind_proxy(options: MongoOptions) -> Option<(Arc<MongoLog>, Proxy, TestDatabase)> {
    let database = TestDatabase::new().await?;
    let address = database.url.strip_prefix("mongodb://")?.split('/').next()?;
    let Ok(server) = address.parse::<SocketAddr>() else {
        eprintln!("MONGODB_URI is not a single address: skipping tests behind a proxy");
        return None;
    };
    let proxy = Proxy::to(server).await;
    let url = secantus::url(proxy.address);
    let log = MongoLog::connect(&url, &database.name, options).await.unwrap();
    Some((Arc::new(log), proxy, database))
}

/// Writers that append continuously without ever seeing a failure, as long as `going`.
fn load(log: &Arc<MongoLog>, writers: usize, going: &watch::Sender<bool>, done: &watch::Sender<u64>) -> JoinSet<Talk> {
    let mut tasks = JoinSet::new();
    for n in 0..writers {
        let (log, going, done) = (Arc::clone(log), going.subscribe(), done.clone());
        tasks.spawn(async move {
            let mut talk = Talk::new("acme", "ann");
            let mut next = vec![talk.created()];
            let mut round = 0;
            while *going.borrow() {
                let append = talk.draft(next);
                // It retries by itself for 30 s, which is longer than any fault here lasts.
                log.append(&talk.scope, &append).await.unwrap();
                talk.written(&append);
                done.send_modify(|done| *done += 1);
                round += 1;
                let turn = turn();
                next = vec![
                    queued(turn, &format!("{n}/{round}")),
                    answered(turn, &"text ".repeat(40)),
                ];
            }
            talk
        });
    }
    tasks
}

/// Waits for further appends; a writer that ends meanwhile has failed.
async fn more(tasks: &mut JoinSet<Talk>, done: &watch::Sender<u64>, by: u64) {
    let target = *done.borrow() + by;
    let mut done = done.subscribe();
    tokio::select! {
        reached = done.wait_for(|done| *done >= target) => drop(reached.unwrap()),
        ended = tasks.join_next() => panic!("a writer ended: {ended:?}"),
    }
}

async fn assert_exact(log: &MongoLog, tasks: JoinSet<Talk>) {
    for talk in tasks.join_all().await {
        let records = log.read(&talk.scope, talk.id, 0, usize::MAX).await.unwrap();
        assert_eq!(records, talk.records);
        assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
        assert!(
            log.list(&talk.scope, &super::mongo::all())
                .await
                .unwrap()
                .iter()
                .any(|h| Some(h) == talk.header.as_ref())
        );
    }
}

#[tokio::test]
async fn a_lost_answer_is_found_again() {
    let Some((log, proxy, _database)) = behind_proxy(MongoOptions::default()).await else {
        return;
    };
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    // Only commits lose their answers: the connection works, and each attempt may well have been written.
    proxy.set(Mode::AnswersLostTo("commitTransaction\0"));
    for n in 1..=5 {
        talk.write(log.as_ref(), vec![updated(&n.to_string())]).await;
        assert!(proxy.lost() >= n, "answers were lost");
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_delays_and_timeouts_under_load_lose_nothing() {
    let options = MongoOptions {
        call_timeout: Duration::from_millis(500),
        ..MongoOptions::default()
    };
    let Some((log, proxy, _database)) = behind_proxy(options).await else {
        return;
    };
    let (going, done) = (watch::Sender::new(true), watch::Sender::new(0));
    let mut tasks = load(&log, 8, &going, &done);
    for round in 0..12 {
        more(&mut tasks, &done, 20).await;
        let mode = [
            Mode::Cut,
            Mode::AnswersLost,
            Mode::Paused,
            Mode::Delayed(Duration::from_millis(30)),
        ][round % 4];
        proxy.set(mode);
        if matches!(mode, Mode::Delayed(_)) {
            more(&mut tasks, &done, 20).await;
        } else {
            // How long the fault lasts is what is tested here, longer and shorter than a call may take.
            tokio::time::sleep(Duration::from_millis([30, 700, 250][round % 3])).await;
        }
        proxy.set(Mode::Open);
    }
    more(&mut tasks, &done, 20).await;
    going.send_replace(false);
    assert_exact(&log, tasks).await;
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_reported_as_unknown() {
    let options = MongoOptions {
        call_timeout: Duration::from_millis(100),
        append_deadline: Duration::from_millis(600),
        ..MongoOptions::default()
    };
    let Some((log, proxy, _database)) = behind_proxy(options).await else {
        return;
    };
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    for mode in [Mode::Paused, Mode::Cut, Mode::AnswersLost] {
        proxy.set(mode);
        let append = talk.draft(vec![updated("x")]);
        let begun = tokio::time::Instant::now();
        let outcome = log.append(&talk.scope, &append).await;
        assert!(
            matches!(outcome, Err(LogError::Unavailable(_))),
            "{mode:?}: {outcome:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(3), "the deadline holds");
        assert!(matches!(
            log.read(&talk.scope, talk.id, 0, 1).await,
            Err(LogError::Unavailable(_))
        ));
        assert!(log.ready().await.is_err());
        proxy.set(Mode::Open);
        // The same append, tried again when the store is back.
        while let Err(error) = log.append(&talk.scope, &append).await {
            assert!(matches!(error, LogError::Unavailable(_)), "{error}");
        }
        talk.written(&append);
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    assert_eq!(
        log.list(&talk.scope, &super::mongo::all()).await.unwrap(),
        Vec::from_iter(talk.header.clone())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_was_acknowledged() {
    let Some(binary) = secantus::binary() else { return };
    let data = TempDir::new().unwrap();
    let port = secantus::free_port();
    let mut server = Server::start(&binary, data.path(), port, true).await;
    let log = Arc::new(
        MongoLog::connect(&server.url(), "killed", MongoOptions::default())
            .await
            .unwrap(),
    );
    let (going, done) = (watch::Sender::new(true), watch::Sender::new(0));
    let mut tasks = load(&log, 16, &going, &done);
    for _ in 0..3 {
        more(&mut tasks, &done, 150).await;
        server.kill();
        server = Server::start(&binary, data.path(), port, true).await;
    }
    more(&mut tasks, &done, 50).await;
    going.send_replace(false);
    assert_exact(&log, tasks).await;
    // And for a process that knows nothing of all this.
    let log = Arc::into_inner(log).unwrap();
    log.close().await;
    let client = Client::with_uri_str(server.url()).await.unwrap();
    let appends = client.database("killed").collection::<Document>("appends");
    let count = appends.count_documents(doc! {}).await.unwrap();
    assert_eq!(count, *done.borrow(), "each append is stored exactly once");
}
