//! Connections that break in the middle of a call, and a server that ends and starts while it is used.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::index::postgres::{PostgresIndex, PostgresOptions, Timeouts};
use copilotd_actors::ports::LogError;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::fakes::MemoryIndex;
use copilotd_knowledge::index::{KnowledgeIndex, Submitted, Totals};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_get_no_connection_say_so() {
    let Some((server, schema)) = shared().await else { return };
    let short = Duration::from_millis(300);
    // Tables are created in more time than that.
    index_in(&options(server, &schema)).await;
    let options = PostgresOptions {
        connections: 1,
        timeouts: Timeouts {
            connect: short,
            read: short,
            write: Duration::from_secs(20),
        },
        ..options(server, &schema)
    };
    let index = index_in(&options).await;
    let mut holder = server.connect("knowledge").await;
    let held = holder.transaction().await.unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
    held.execute(lock, &[&format!("{schema}/acme")]).await.unwrap();
    // Holds the only connection.
    let (acme, submitted) = (Library::new(&index, "acme"), key("a"));
    let waits = acme.index.submit(
        &acme.scope,
        submission(&submitted, "gamma", Attributes::default(), 2),
        &AMPLE,
    );
    let others = async {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        let admin = server.admin("knowledge").await;
        while admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        for tenant in ["globex", "initech"] {
            let library = Library::new(&index, tenant);
            let calls = (0..5).map(|_| library.index.totals(&library.scope));
            for refused in futures::future::join_all(calls).await {
                let clear = matches!(&refused, Err(LogError::Unavailable(text)) if text.contains("all connections"));
                assert!(clear, "{refused:?}");
            }
        }
        held.rollback().await.unwrap();
    };
    let (done, ()) = tokio::join!(waits, others);
    assert!(matches!(done, Ok(Submitted::Accepted(_))), "{done:?}");
    acme.index.totals(&acme.scope).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_erasure_goes_on() {
    let Some((server, schema)) = shared().await else { return };
    let proxy = Proxy::to(server.address()).await;
    let index = index_in(&through(&proxy, options(server, &schema))).await;
    let (acme, globex) = (Library::new(&index, "acme"), Library::new(&index, "globex"));
    for n in 0..40 {
        acme.put(&key(&n.to_string()), "alpha beta", Attributes::default(), n)
            .await;
    }
    globex.put(&key("a"), "alpha", Attributes::default(), 1).await;
    let others = globex.search("alpha", &ADMIN, 9).await;
    let mut left = 40;
    // In the middle of a transaction, and when one is done and nobody knows.
    for lost in ["DELETE FROM documents", "COMMIT\0"] {
        proxy.set(Mode::Cut);
        assert!(index.ready().await.is_err());
        proxy.set(Mode::AnswersLostTo(lost));
        let cut = acme.index.erase_tenant(&acme.scope).await;
        assert!(matches!(cut, Err(LogError::Unavailable(_))), "{cut:?}");
        proxy.set(Mode::Open);
        // Documents are there or not, and the searches know.
        let totals = acme.index.totals(&acme.scope).await.unwrap();
        assert!(totals.documents <= left && totals.documents > 0, "{totals:?}");
        left = totals.documents;
        assert_eq!(acme.search("beta", &ADMIN, 99).await.lexical.len() as u64, left);
    }
    let receipt = acme.index.erase_tenant(&acme.scope).await.unwrap();
    assert_eq!(receipt.stores[0], ("knowledge_documents".to_owned(), left));
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap(), Totals::default());
    assert_eq!(globex.search("alpha", &ADMIN, 9).await, others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_to_take_over_is_unavailable() {
    let Some(standby) = Server::start().await else { return };
    let Some((primary, schema)) = shared().await else {
        return;
    };
    let options = options(&standby, &schema);
    let index = index_in(&options).await;
    let acme = Library::new(&index, "acme");
    acme.put(&key("a"), "alpha", Attributes::default(), 1).await;
    let admin = standby.admin("knowledge").await;
    let set = async |value: &str| {
        // Not for this connection, which has to turn it off again.
        for sql in [
            "SET default_transaction_read_only = off",
            &format!("ALTER SYSTEM SET default_transaction_read_only = {value}"),
            "SELECT pg_reload_conf()",
        ] {
            admin.batch_execute(sql).await.unwrap();
        }
        let shown = async || {
            let other = standby.connect("knowledge").await;
            let row = other.query_one("SHOW default_transaction_read_only", &[]).await;
            row.unwrap().get::<_, String>(0)
        };
        // The server reads its file when it gets to it.
        while shown().await != value {
            tokio::task::yield_now().await;
        }
    };
    set("on").await;
    for _ in 0..3 {
        let submitted = submission(&key("b"), "beta", Attributes::default(), 2);
        let refused = index.submit(&acme.scope, submitted, &AMPLE).await;
        assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
        assert!(index.ready().await.is_err());
    }
    let error = PostgresIndex::open(&options).await.unwrap_err().to_string();
    assert!(error.contains("database does not allow writes"), "{error}");
    // Of several hosts the one that can be written to is used.
    let (first, second) = (standby.address(), primary.address());
    let both = PostgresOptions {
        url: format!("postgres://{ROLE}@{first},{second}/knowledge").into(),
        ..options.clone()
    };
    let elsewhere = index_in(&both).await;
    Library::new(&elsewhere, "acme")
        .put(&key("c"), "gamma", Attributes::default(), 1)
        .await;
    // The same index goes on once it can write again.
    set("off").await;
    acme.put(&key("b"), "beta", Attributes::default(), 3).await;
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap().documents, 2);
}
