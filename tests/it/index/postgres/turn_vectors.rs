//! Vectors of conversations' messages.

use std::sync::Arc;

use copilotd::adapters::index::postgres::PostgresIndex;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::fakes::turn_vectors::{contract, contract_vector};
use copilotd_knowledge::turn_vectors::TurnVectors;
use uuid::Uuid;

use super::options;
use crate::support::postgres::shared;

#[expect(clippy::disallowed_methods, reason = "tests open scopes")]
pub fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

pub fn conversation(n: u128) -> ConversationId {
    ConversationId::new(Uuid::from_u128(n))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_keeps_the_contract() {
    let Some((server, schema)) = shared().await else { return };
    let index = PostgresIndex::open(&options(server, &schema)).await.unwrap();
    contract(&index, &scope("acme"), &scope("globex")).await;
    // A message twice in one call: the last one counts.
    let two = vec![contract_vector("m", 8), contract_vector("n", 8)];
    assert!(index.put(&scope("acme"), conversation(1), two).await.unwrap());
    let loaded = index.load(&scope("acme"), conversation(1), &"n".into(), 0, 9).await;
    assert_eq!(loaded.unwrap(), [contract_vector("n", 8)]);
    // More than one transaction deletes.
    let many = (0..10_000).map(|seq| contract_vector("m", seq)).collect();
    assert!(index.put(&scope("globex"), conversation(3), many).await.unwrap());
    assert_eq!(index.erase(&scope("globex"), conversation(3)).await.unwrap(), 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_stored_while_a_conversation_is_erased_is_gone() {
    let Some((server, schema)) = shared().await else { return };
    let open = async || Arc::new(PostgresIndex::open(&options(server, &schema)).await.unwrap());
    // Two processes: one whose turn ends, and one that erases.
    let (one, other) = (open().await, open().await);
    for n in 0..20 {
        let (conversation, writer) = (conversation(n), Arc::clone(&one));
        let first = one
            .put(&scope("acme"), conversation, vec![contract_vector("m", 0)])
            .await;
        assert!(first.unwrap());
        let writing = tokio::spawn(async move {
            let mut seq = 0;
            // Ends when the store refuses.
            while writer
                .put(&scope("acme"), conversation, vec![contract_vector("m", seq % 50)])
                .await
                .unwrap()
            {
                seq += 1;
            }
        });
        assert!(other.erase(&scope("acme"), conversation).await.unwrap() > 0);
        writing.await.unwrap();
        let left = one
            .load(&scope("acme"), conversation, &"m".into(), 0, 99)
            .await
            .unwrap();
        assert_eq!(left, []);
    }
}
