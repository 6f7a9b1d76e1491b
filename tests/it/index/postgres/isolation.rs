//! What the server itself shows of tenants, whatever a statement says.

use std::sync::Arc;

use copilotd::adapters::index::postgres::PostgresIndex;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::fakes::turn_vectors::contract_vector;
use copilotd_knowledge::index::KnowledgeIndex;
use copilotd_knowledge::turn_vectors::TurnVectors;
use tokio_postgres::Client;

use super::turn_vectors::{conversation, scope};
use super::{index_in, options};
use crate::index::library::{Library, key};
use crate::support::postgres::shared;

/// All tables and partitions with rows of tenants, with their schema.
async fn tables(client: &Client, schema: &str) -> Vec<String> {
    let sql = "SELECT quote_ident($1) || '.' || quote_ident(c.relname) FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'
               WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE 'work\\_%'";
    let rows = client.query(sql, &[&schema]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_sees_rows_of_its_tenant_alone() {
    let Some((server, schema)) = shared().await else { return };
    let vectors = Arc::new(PostgresIndex::open(&options(server, &schema)).await.unwrap());
    let index: Arc<dyn KnowledgeIndex> = Arc::clone(&vectors) as _;
    for tenant in ["acme", "globex"] {
        for n in 0..3 {
            let put = vectors
                .put(&scope(tenant), conversation(n), vec![contract_vector("m", 1)])
                .await;
            assert!(put.unwrap());
        }
        for n in 0..2 {
            TurnVectors::erase(vectors.as_ref(), &scope(tenant), conversation(n))
                .await
                .unwrap();
        }
        let put = vectors
            .put(&scope(tenant), conversation(2), vec![contract_vector("m", 2)])
            .await;
        assert!(put.unwrap());
        let library = Library::new(&index, tenant);
        for n in 0..3 {
            let text = format!("alpha {n}\n\nbeta {tenant}");
            library.put(&key(&n.to_string()), &text, Attributes::default(), n).await;
        }
        let position = index.put_source_position(&library.scope, "wiki", "7");
        position.await.unwrap();
        library.submit(&key("waits"), "gamma", Attributes::default(), 9).await;
    }
    let mut client = server.connect("knowledge").await;
    let tables = tables(&client, &schema).await;
    // Six small tables, and six large ones with sixteen partitions each.
    assert_eq!(tables.len(), 6 + 6 * 17, "{tables:?}");
    let admin = server.admin("knowledge").await;
    for table in &tables {
        // Not because there is nothing.
        let all = count(&admin, &format!("SELECT count(*) FROM {table}")).await;
        assert!(table.contains("_p") || all >= 2, "{table}");
        assert_eq!(
            count(&client, &format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    let before = Library::new(&index, "globex")
        .search("alpha beta", &Reader::Administrator, 9)
        .await;
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("SELECT set_config('copilotd.tenant', 'acme', true)", &[])
        .await
        .unwrap();
    let mut own = 0;
    for table in &tables {
        let seen = |condition: &str| format!("SELECT count(*) FROM {table} WHERE {condition}");
        let others: i64 = transaction
            .query_one(&seen("tenant <> 'acme'"), &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(others, 0, "{table}");
        own += transaction
            .query_one(&seen("true"), &[])
            .await
            .unwrap()
            .get::<_, i64>(0);
        // What is not seen is neither changed nor deleted.
        let change = format!("UPDATE {table} SET tenant = tenant WHERE tenant = 'globex'");
        assert_eq!(transaction.execute(&change, &[]).await.unwrap(), 0);
        let delete = format!("DELETE FROM {table} WHERE tenant = 'globex'");
        assert_eq!(transaction.execute(&delete, &[]).await.unwrap(), 0);
    }
    assert!(own > 20, "{own}");
    transaction.commit().await.unwrap();
    // The setting ended with its transaction.
    for table in &tables {
        assert_eq!(
            count(&client, &format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    for write in [
        format!("INSERT INTO {schema}.terms VALUES ('globex', 'planted', 1)"),
        format!("INSERT INTO {schema}.tenants (tenant) VALUES ('globex')"),
        format!("UPDATE {schema}.tenants SET tenant = 'globex' WHERE tenant = 'acme'"),
        format!("UPDATE {schema}.waiting SET tenant = 'globex'"),
        format!("UPDATE {schema}.turn_vectors SET tenant = 'globex'"),
        format!("INSERT INTO {schema}.erased_conversations SELECT 'globex', gen_random_uuid()"),
    ] {
        for tenant in ["acme", "", "globex' OR true --"] {
            let transaction = client.transaction().await.unwrap();
            transaction
                .execute("SELECT set_config('copilotd.tenant', $1, true)", &[&tenant])
                .await
                .unwrap();
            match transaction.execute(&write, &[]).await {
                Err(error) => assert_eq!(error.code().unwrap().code(), "42501", "{write} as {tenant:?}: {error}"),
                Ok(changed) => assert_eq!(changed, 0, "{write} as {tenant:?}"),
            }
        }
    }
    let after = Library::new(&index, "globex")
        .search("alpha beta", &Reader::Administrator, 9)
        .await;
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_work_holds_no_content() {
    let Some((server, schema)) = shared().await else { return };
    let index = index_in(&options(server, &schema)).await;
    let acme = Library::new(&index, "acme");
    acme.put(&key("secret-id"), "secret-text", Attributes::default(), 1)
        .await;
    acme.submit(&key("secret-id"), "secret-new", Attributes::default(), 2)
        .await;
    let client = server.connect("knowledge").await;
    for table in ["work_waiting", "work_tenants", "work_embedded", "spaces"] {
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {schema}.{table} t");
        let rows: String = client.query_one(&sql, &[]).await.unwrap().get(0);
        assert!(!rows.contains("secret"), "{table}: {rows}");
    }
    acme.index.erase_tenant(&acme.scope).await.unwrap();
    for table in ["work_waiting", "work_tenants", "work_embedded"] {
        assert_eq!(
            count(&client, &format!("SELECT count(*) FROM {schema}.{table}")).await,
            0
        );
    }
}
