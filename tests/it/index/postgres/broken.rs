//! Connections that break in the middle of a call, and a server that ends and starts while it is used.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::index::postgres::{PostgresIndex, PostgresOptions, Timeouts};
use copilotd_actors::ports::LogError;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::fakes::MemoryIndex;
use copilotd_knowledge::index::{KnowledgeIndex, Submitted};

use super::{index_in, options};
use crate::index::library::{AMPLE, Library, at, key, submission};
use crate::support::postgres::{ROLE, Server, shared};
use crate::support::proxy::{Mode, Proxy};

const ADMIN: Reader = Reader::Administrator;

fn through(proxy: &Proxy, options: PostgresOptions) -> PostgresOptions {
    PostgresOptions {
        url: format!("postgres://{ROLE}@{}/knowledge", proxy.address).into(),
        ..options
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cut_off_is_done_or_not() {
    let Some((server, schema)) = shared().await else { return };
    let proxy = Proxy::to(server.address()).await;
    let index = index_in(&through(&proxy, options(server, &schema))).await;
    let acme = Library::new(&index, "acme");
    acme.put(&key("other"), "alpha", Attributes::default(), 1).await;
    let before = acme.search("alpha", &ADMIN, 9).await;
    // New connections prepare all statements again, so that their texts pass the proxy.
    for (n, statement) in (0..).zip([
        "INSERT INTO tenants",
        "UPDATE documents",
        "INSERT INTO waiting",
        "INSERT INTO work_waiting",
    ]) {
        let name = key(&format!("cut{n}"));
        proxy.set(Mode::Cut);
        assert!(index.ready().await.is_err());
        proxy.set(Mode::AnswersLostTo(statement));
        let cut = index
            .submit(
                &acme.scope,
                submission(&name, "gamma", Attributes::default(), 2),
                &AMPLE,
            )
            .await;
        assert!(matches!(cut, Err(LogError::Unavailable(_))), "{statement}: {cut:?}");
        proxy.set(Mode::Open);
        // The connection broke before the commit: nothing was stored.
        assert_eq!(acme.document(&name).await, None, "{statement}");
        assert_eq!(acme.index.totals(&acme.scope).await.unwrap().documents, 1);
    }
    // The answer to the commit is lost: it is done, and repeating it is no work.
    // With the byte that ends the message: BEGIN names the level READ COMMITTED.
    proxy.set(Mode::AnswersLostTo("COMMIT\0"));
    let name = key("committed");
    let repeated = || submission(&name, "gamma", Attributes::default(), 3);
    let lost = index.submit(&acme.scope, repeated(), &AMPLE).await;
    assert!(matches!(lost, Err(LogError::Unavailable(_))), "{lost:?}");
    proxy.set(Mode::Open);
    let again = index.submit(&acme.scope, repeated(), &AMPLE).await.unwrap();
    assert!(matches!(again, Submitted::Unchanged(_)), "{again:?}");
    assert_eq!(acme.search("alpha", &ADMIN, 9).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_no_call() {
    let Some((server, schema)) = shared().await else { return };
    let proxy = Proxy::to(server.address()).await;
    let short = Duration::from_millis(300);
    let options = PostgresOptions {
        timeouts: Timeouts {
            connect: short,
            read: short,
            write: short,
        },
        ..options(server, &schema)
    };
    // Tables are created in more time than that.
    index_in(&super::options(server, &schema)).await;
    let index = index_in(&through(&proxy, options)).await;
    let acme = Library::new(&index, "acme");
    proxy.set(Mode::Paused);
    let hung = acme.index.totals(&acme.scope).await;
    assert!(matches!(hung, Err(LogError::Unavailable(_))), "{hung:?}");
    proxy.set(Mode::Open);
    acme.index.totals(&acme.scope).await.unwrap();
    // A statement that waits for a lock is ended by the server.
    let mut holder = server.connect("knowledge").await;
    let held = holder.transaction().await.unwrap();
    held.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
        &[&format!("{schema}/acme")],
    )
    .await
    .unwrap();
    let name = key("a");
    let waits = index
        .submit(
            &acme.scope,
            submission(&name, "gamma", Attributes::default(), 2),
            &AMPLE,
        )
        .await;
    assert!(
        matches!(&waits, Err(LogError::Unavailable(text)) if text.contains("57014")),
        "{waits:?}"
    );
    // Other tenants do not wait for it.
    Library::new(&index, "globex")
        .submit(&name, "gamma", Attributes::default(), 2)
        .await;
    held.rollback().await.unwrap();
    acme.submit(&name, "gamma", Attributes::default(), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_and_restarts_leave_what_was_acknowledged() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let options = options(&server, "copilotd");
    let index = index_in(&options).await;
    let model: Arc<dyn KnowledgeIndex> = Arc::new(MemoryIndex::new());
    let (acme, expected) = (Library::new(&index, "acme"), Library::new(&model, "acme"));
    for round in 0..4_i64 {
        for n in 0..3 {
            let (name, text) = (key(&n.to_string()), format!("alpha {n} {round}\n\nbeta"));
            acme.put(&name, &text, Attributes::default(), round).await;
            expected.put(&name, &text, Attributes::default(), round).await;
        }
        if round % 2 == 0 {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
            server.admin("knowledge").await.execute(kill, &[&ROLE]).await.unwrap();
        } else {
            server.stop();
            let down = acme.index.totals(&acme.scope).await;
            assert!(matches!(down, Err(LogError::Unavailable(_))), "{down:?}");
            assert!(PostgresIndex::open(&options).await.is_err());
            server.restart().await;
        }
        // The same index goes on, without being opened again.
        assert_eq!(
            acme.search("alpha beta", &ADMIN, 9).await,
            expected.search("alpha beta", &ADMIN, 9).await
        );
        let totals = expected.index.totals(&expected.scope).await.unwrap();
        assert_eq!(acme.index.totals(&acme.scope).await.unwrap(), totals);
    }
    acme.index.delete(&acme.scope, &key("1"), at(9)).await.unwrap().unwrap();
}
