//! The index on PostgreSQL, on a real server.

mod broken;
mod erased;
mod isolation;
mod recall;
mod start;
mod tls;
mod turn_vectors;

use std::sync::Arc;

use copilotd::adapters::index::postgres::{PostgresIndex, PostgresOptions};
use copilotd_knowledge::index::KnowledgeIndex;

use super::{Fixture, index_suite};
use crate::support::postgres::{ROLE, Server, shared};

/// Options for a schema of a server's database.
fn options(server: &Server, schema: &str) -> PostgresOptions {
    PostgresOptions {
        schema: schema.to_owned(),
        connections: 4,
        ..PostgresOptions::new(server.url(ROLE, "knowledge").into())
    }
}

async fn index_in(options: &PostgresOptions) -> Arc<dyn KnowledgeIndex> {
    Arc::new(PostgresIndex::open(options).await.unwrap())
}

async fn open() -> Option<Fixture> {
    let (server, schema) = shared().await?;
    let options = options(server, &schema);
    Some(Fixture {
        index: index_in(&options).await,
        reopen: Box::new(move |index| {
            assert_eq!(Arc::strong_count(&index), 1, "somebody still uses the index");
            drop(index);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(index_in(&options)))
        }),
        _guard: Box::new(()),
    })
}

index_suite!(open);
