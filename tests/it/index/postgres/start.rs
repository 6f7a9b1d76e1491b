//! What a server must be like, and several processes that start at once.

use copilotd::adapters::index::postgres::{OpenError, PostgresIndex, PostgresOptions};
use copilotd_knowledge::document::{Attributes, Reader};

use super::{index_in, options};
use crate::index::library::{Library, key};
use crate::support::postgres::{ROLE, Server, shared};

async fn refusal(options: &PostgresOptions) -> OpenError {
    PostgresIndex::open(options).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_row_level_security_does_not_bind_are_refused() {
    let Some((server, schema)) = shared().await else { return };
    let admin = server.admin("knowledge").await;
    admin
        .batch_execute(
            "CREATE ROLE passes LOGIN BYPASSRLS; CREATE ROLE member LOGIN; GRANT passes TO member;
             CREATE ROLE group_of_member; GRANT member TO group_of_member;
             CREATE ROLE nested LOGIN; GRANT group_of_member TO nested",
        )
        .await
        .unwrap();
    for (role, power) in [
        ("postgres", "postgres"),
        ("passes", "passes"),
        ("member", "passes"),
        ("nested", "passes"),
    ] {
        let options = PostgresOptions {
            url: server.url(role, "knowledge").into(),
            ..options(server, &schema)
        };
        let error = refusal(&options).await;
        let OpenError::PowerfulRole { role: found, power_of } = &error else {
            panic!("{role}: {error}");
        };
        assert_eq!((found.as_str(), power_of.as_str()), (role, power));
        assert!(error.to_string().contains("without SUPERUSER and BYPASSRLS"), "{error}");
    }
    // Nothing was created.
    let created = admin
        .query("SELECT FROM pg_namespace WHERE nspname = $1", &[&schema])
        .await
        .unwrap();
    assert!(created.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lacks_something_is_refused() {
    let Some((server, schema)) = shared().await else { return };
    let in_database = |name: &str| PostgresOptions {
        url: server.url(ROLE, name).into(),
        ..options(server, &schema)
    };
    server.create_database("bare", false).await;
    let error = refusal(&in_database("bare")).await;
    assert!(matches!(error, OpenError::NoExtension), "{error}");
    assert!(error.to_string().contains("CREATE EXTENSION vector"), "{error}");

    server.create_database("old", true).await;
    let old = server.admin("old").await;
    old.batch_execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
        .await
        .unwrap();
    let error = refusal(&in_database("old")).await;
    assert!(
        matches!(&error, OpenError::OldExtension { found } if found == "0.7.4"),
        "{error}"
    );

    server.create_database("closed", true).await;
    let revoke = format!("REVOKE CREATE ON DATABASE closed FROM {ROLE}");
    server.admin("closed").await.batch_execute(&revoke).await.unwrap();
    let error = refusal(&in_database("closed")).await;
    assert!(matches!(error, OpenError::NoSchema { .. }), "{error}");
    let expected = format!("CREATE SCHEMA {schema} AUTHORIZATION {ROLE}");
    assert!(error.to_string().contains(&expected), "{error}");
    // What it says helps.
    server.admin("closed").await.batch_execute(&expected).await.unwrap();
    index_in(&in_database("closed")).await.ready().await.unwrap();

    let error = refusal(&in_database("missing")).await;
    assert!(matches!(error, OpenError::Server(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_lost_their_protection_are_refused() {
    let Some((server, schema)) = shared().await else { return };
    let options = options(server, &schema);
    let index = index_in(&options).await;
    Library::new(&index, "acme")
        .put(&key("a"), "alpha", Attributes::default(), 1)
        .await;
    let client = server.connect("knowledge").await;
    for (spoil, mend, spoilt) in [
        (
            "ALTER TABLE s.terms_p3 NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE s.terms_p3 FORCE ROW LEVEL SECURITY",
            "terms_p3",
        ),
        (
            "ALTER TABLE s.documents DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE s.documents ENABLE ROW LEVEL SECURITY",
            "documents",
        ),
        (
            "CREATE POLICY open ON s.vectors_1 USING (true)",
            "DROP POLICY open ON s.vectors_1",
            "vectors_1",
        ),
    ] {
        let run = |sql: &str| sql.replace("s.", &format!("{schema}."));
        client.batch_execute(&run(spoil)).await.unwrap();
        let error = refusal(&options).await;
        assert!(
            matches!(&error, OpenError::Unprotected { table, .. } if table == spoilt),
            "{error}"
        );
        client.batch_execute(&run(mend)).await.unwrap();
        index_in(&options).await;
    }
    client
        .batch_execute(&format!("INSERT INTO {schema}.versions VALUES (99)"))
        .await
        .unwrap();
    let error = refusal(&options).await;
    assert!(matches!(error, OpenError::Newer { found: 99 }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_may_start_at_once_and_share_what_they_store() {
    let Some((server, schema)) = shared().await else { return };
    let options = options(server, &schema);
    let opening = (0..4).map(|_| index_in(&options));
    let indexes = futures::future::join_all(opening).await;
    // A model's first vectors come from all of them at once too.
    let stored = indexes.iter().enumerate().map(|(n, index)| async move {
        let acme = Library::new(index, "acme");
        acme.put(
            &key(&n.to_string()),
            "alpha beta",
            Attributes::default(),
            i64::try_from(n).unwrap(),
        )
        .await;
    });
    futures::future::join_all(stored).await;
    for index in &indexes {
        let found = Library::new(index, "acme").texts("alpha", &Reader::Administrator).await;
        assert_eq!((found.0.len(), found.1.len()), (4, 4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_named() {
    let Some((server, schema)) = shared().await else { return };
    let closed = crate::support::secantus::free_port();
    let options = PostgresOptions {
        url: format!("postgres://{ROLE}:hunter2@127.0.0.1:{closed}/knowledge").into(),
        ..options(server, &schema)
    };
    let error = refusal(&options).await.to_string();
    assert!(error.contains("PostgreSQL") && !error.contains("hunter2"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_its_own_is_stopped() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    server.stop();
    let refused = tokio::net::TcpStream::connect(server.address()).await;
    assert!(refused.is_err());
}
