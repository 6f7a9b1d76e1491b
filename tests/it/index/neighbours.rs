//! Tenants beside each other.

use copilotd_actors::ports::ErasureReceipt;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::index::{Published, Totals};

use super::Fixture;
use super::library::{AMPLE, Library, at, chunks, embed, key};

const ADMIN: Reader = Reader::Administrator;

fn erased(receipt: &ErasureReceipt) -> Vec<u64> {
    receipt.stores.iter().map(|(_, count)| *count).collect()
}

pub async fn two_tenants_with_the_same_document(fixture: Fixture) {
    let (acme, globex) = (
        Library::new(&fixture.index, "acme"),
        Library::new(&fixture.index, "globex"),
    );
    let (a, text) = (key("a"), "alpha beta\n\ngamma");
    let first = acme.put(&a, text, Attributes::default(), 1).await;
    let alone = acme.search("alpha gamma", &ADMIN, 9).await;
    let second = globex.put(&a, text, Attributes::default(), 1).await;
    assert_ne!(first.id, second.id);
    assert_ne!(chunks(first.id, text)[0].0.id, chunks(second.id, text)[0].0.id);
    assert_eq!(acme.search("alpha gamma", &ADMIN, 9).await, alone);
    globex.put(&a, "alpha", Attributes::default(), 2).await;
    assert_eq!(acme.search("alpha gamma", &ADMIN, 9).await, alone);
    globex.index.delete(&globex.scope, &a, at(3)).await.unwrap();
    assert_eq!(acme.search("alpha gamma", &ADMIN, 9).await, alone);
    assert_eq!(acme.document(&a).await, Some(first));
    assert_eq!(globex.document(&a).await, None);
}

pub async fn ids_of_another_tenant_are_unknown(fixture: Fixture) {
    let (acme, globex) = (
        Library::new(&fixture.index, "acme"),
        Library::new(&fixture.index, "globex"),
    );
    let (a, text) = (key("a"), "alpha");
    let document = acme.put(&a, text, Attributes::default(), 1).await;
    globex.put(&key("g"), "alpha", Attributes::default(), 1).await;
    acme.submit(&a, "beta", Attributes::default(), 2).await;
    let before = acme.search("alpha", &ADMIN, 9).await;
    let cut = chunks(document.id, text);
    let id = cut[0].0.id;
    let (index, other) = (&globex.index, &globex.scope);
    assert!(index.read(other, &ADMIN, &[id]).await.unwrap().is_empty());
    assert_eq!(index.known_chunks(other, document.id, &[id], None).await.unwrap(), []);
    assert_eq!(
        index.job(other, document.job).await.unwrap().map(|job| job.key),
        Some(key("g"))
    );
    assert_eq!(index.document(other, &a).await.unwrap(), None);
    assert!(!index.start(other, document.id, 2, 1).await.unwrap());
    let new = vec![cut[0].0.clone()];
    assert!(!index.stage(other, document.id, 2, new, Vec::new()).await.unwrap());
    let places = vec![(id, cut[0].1)].into();
    let publish = index.publish(other, document.id, 2, places, &AMPLE, at(3));
    assert_eq!(publish.await.unwrap(), Published::Superseded);
    index.cite(other, &[id]).await.unwrap();
    index
        .put_vectors(other, vec![(id, embed(&globex.space, "omega"))])
        .await
        .unwrap();
    assert_eq!(index.delete(other, &a, at(4)).await.unwrap(), None);
    assert_eq!(acme.search("alpha", &ADMIN, 9).await, before);
    // Nor was it cited: an update removes it.
    acme.stage(&a, "beta").await;
    acme.publish(&a, "beta", 5).await;
    assert!(acme.index.read(&acme.scope, &ADMIN, &[id]).await.unwrap().is_empty());
}

pub async fn deleting_and_erasing_leave_nothing(fixture: Fixture) {
    let (acme, globex) = (
        Library::new(&fixture.index, "acme"),
        Library::new(&fixture.index, "globex"),
    );
    for (second, name) in (1..).zip(["a", "b", "c"]) {
        acme.put(&key(name), "alpha beta\n\ngamma", Attributes::default(), second)
            .await;
        globex.put(&key(name), "alpha", Attributes::default(), second).await;
    }
    acme.submit(&key("d"), "waits", Attributes::default(), 9).await;
    let others = globex.search("alpha", &ADMIN, 9).await;
    let deleted = acme
        .index
        .delete(&acme.scope, &key("a"), at(10))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(erased(&deleted), [1, 2, 2]);
    assert_eq!(acme.index.delete(&acme.scope, &key("a"), at(10)).await.unwrap(), None);
    assert_eq!(acme.texts("gamma", &ADMIN).await.0.len(), 2);
    // The key is free: what comes next starts from the beginning.
    let again = acme
        .put(&key("a"), "alpha beta\n\ndelta", Attributes::default(), 11)
        .await;
    assert_eq!((again.version, again.created_at), (1, at(11)));
    let receipt = acme.index.erase_tenant(&acme.scope).await.unwrap();
    assert_eq!(erased(&receipt), [4, 6, 6]);
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap(), Totals::default());
    assert_eq!(acme.index.job(&acme.scope, again.job).await.unwrap(), None);
    assert!(acme.index.pending(&[], 9).await.unwrap().is_empty());
    assert_eq!(acme.search("alpha", &ADMIN, 9).await, Default::default());
    assert_eq!(erased(&acme.index.erase_tenant(&acme.scope).await.unwrap()), [0, 0, 0]);
    assert_eq!(globex.search("alpha", &ADMIN, 9).await, others);
    acme.put(&key("a"), "alpha", Attributes::default(), 12).await;
    assert_eq!(acme.texts("alpha", &ADMIN).await.0, ["alpha"]);
}
