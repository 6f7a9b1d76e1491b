//! Vectors of conversations' messages in SQLite.

use std::path::Path;

use copilotd::adapters::index::sqlite::SqliteIndex;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::fakes::turn_vectors::{contract, contract_vector};
use copilotd_knowledge::turn_vectors::{TurnVectors, to_bytes};
use tempfile::TempDir;
use uuid::Uuid;

#[expect(clippy::disallowed_methods, reason = "tests open scopes")]
fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

fn conversation(n: u128) -> ConversationId {
    ConversationId::new(Uuid::from_u128(n))
}

/// Returns which files of a directory contain the bytes.
fn files_with(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let found = paths.filter(|path| {
        let content = std::fs::read(path).unwrap_or_default();
        memchr::memmem::find(&content, bytes).is_some()
    });
    found.map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_keeps_the_contract() {
    let directory = TempDir::new().unwrap();
    let index = SqliteIndex::open(directory.path()).unwrap();
    contract(&index, &scope("acme"), &scope("globex")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_conversation_is_in_no_file_and_stays_erased() {
    let directory = TempDir::new().unwrap();
    let index = SqliteIndex::open(directory.path()).unwrap();
    let (acme, globex) = (scope("acme"), scope("globex"));
    // More than one transaction deletes.
    for n in 0..1_200 {
        let put = index.put(&acme, conversation(n % 2), vec![contract_vector("m", n as u64)]);
        assert!(put.await.unwrap());
    }
    assert!(
        index
            .put(&globex, conversation(0), vec![contract_vector("m", 5_000)])
            .await
            .unwrap()
    );
    let trace = |seq: u64| to_bytes(&contract_vector("m", seq).alone)[..24].to_vec();
    let found = |seq: u64| files_with(directory.path(), &trace(seq));
    assert!(
        !found(600).is_empty() && !found(601).is_empty(),
        "the check finds what is there"
    );
    assert_eq!(index.erase(&acme, conversation(0)).await.unwrap(), 600);
    assert!(
        !index
            .put(&acme, conversation(0), vec![contract_vector("m", 2)])
            .await
            .unwrap()
    );
    assert_eq!(index.erase_tenant(&acme).await.unwrap(), 600);
    let other = contract_vector("m", 5_000);
    let kept = [&other.alone, &other.after_previous].map(|vector| to_bytes(vector)[..24].to_vec());
    // Vectors repeat with a period of 101.
    let left: Vec<u64> = (0..101)
        .filter(|seq| !kept.contains(&trace(*seq)) && !found(*seq).is_empty())
        .collect();
    assert_eq!(left, [] as [u64; 0]);
    assert!(kept.iter().all(|kept| !files_with(directory.path(), kept).is_empty()));
    // Nothing comes back when the file is opened again.
    index.close().await;
    let index = SqliteIndex::open(directory.path()).unwrap();
    assert_eq!(
        index
            .load(&globex, conversation(0), &"m".into(), 0, 9_000)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(found(7).is_empty());
}
