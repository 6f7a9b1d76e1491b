//! Vectors that follow after their chunks, and models that come and go.

use std::collections::HashSet;

use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::index::Published;

use super::Fixture;
use super::library::{AMPLE, Library, at, chunks, embed, key, space};

const ADMIN: Reader = Reader::Administrator;

impl Library {
    /// Makes a document searchable without vectors.
    async fn put_without_vectors(&self, name: &str, text: &str, attributes: Attributes, second: i64) {
        let key = key(name);
        self.submit(&key, text, attributes, second).await;
        let document = self.document(&key).await.unwrap();
        let cut = chunks(document.id, text);
        let places: Vec<_> = cut.iter().map(|(chunk, place)| (chunk.id, *place)).collect();
        let new = cut.into_iter().map(|(chunk, _)| chunk).collect();
        let (index, scope, version) = (&self.index, &self.scope, document.version);
        assert!(index.stage(scope, document.id, version, new, Vec::new()).await.unwrap());
        let published = index.publish(scope, document.id, version, places.into(), &AMPLE, at(second));
        assert_eq!(published.await.unwrap(), Published::Done);
    }

    /// Embeds until nothing is left; returns the number of vectors.
    async fn embed_all(&self, at_once: usize) -> usize {
        let mut count = 0;
        loop {
            let some = self.index.unembedded(&self.space, &[], at_once).await.unwrap();
            if some.is_empty() {
                return count;
            }
            assert!(some.len() <= at_once);
            for one in some {
                let vector = embed(&self.space, &one.text);
                self.index
                    .put_vectors(&one.scope, vec![(one.chunk, vector)])
                    .await
                    .unwrap();
                count += 1;
            }
        }
    }
}

pub async fn vectors_follow_for_each_space(fixture: Fixture) {
    let mut acme = Library::new(&fixture.index, "acme");
    let titled = Attributes {
        title: Some("Title".to_owned()),
        ..Attributes::default()
    };
    acme.put_without_vectors("a", "# Heading\n\nalpha\n\nbeta", titled, 1)
        .await;
    acme.put_without_vectors("b", "gamma", Attributes::default(), 2).await;
    acme.submit(&key("c"), "staged", Attributes::default(), 3).await;
    acme.stage(&key("c"), "staged").await;
    let found = acme.search("alpha", &ADMIN, 9).await;
    assert_eq!(
        (found.semantic, found.unembedded),
        (vec![], vec![found.lexical[0].chunk])
    );
    let missing = acme.index.unembedded(&acme.space, &[], 9).await.unwrap();
    let mut texts: Vec<&str> = missing.iter().map(|one| one.text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["Title\nHeading\nalpha", "Title\nHeading\nbeta", "gamma"]);
    let missing = async |library: &Library, most: u64| {
        let (index, space) = (&library.index, &library.space);
        let other = Library::new(index, "globex").scope;
        assert_eq!(index.missing_vectors(Some(&other), space, most).await.unwrap(), 0);
        let of_tenant = index.missing_vectors(Some(&library.scope), space, most).await.unwrap();
        assert_eq!(index.missing_vectors(None, space, most).await.unwrap(), of_tenant);
        of_tenant
    };
    assert_eq!((missing(&acme, u64::MAX).await, missing(&acme, 2).await), (3, 2));
    assert_eq!(acme.embed_all(2).await, 3);
    assert_eq!(missing(&acme, 1).await, 0);
    let first = acme.search("alpha", &ADMIN, 9).await;
    assert_eq!(
        (first.semantic.len(), first.lexical.len(), &*first.unembedded),
        (3, 1, &[][..])
    );
    // A second model: both can be searched until the first one's vectors are dropped.
    let old = acme.space.clone();
    acme.space = space("model-b");
    assert_eq!(acme.search("alpha", &ADMIN, 9).await.semantic, []);
    assert_eq!(missing(&acme, 9).await, 3);
    assert_eq!(acme.embed_all(5).await, 3);
    assert_eq!(missing(&acme, 9).await, 0);
    assert_eq!(acme.search("alpha", &ADMIN, 9).await.semantic.len(), 3);
    let of_old = Library {
        space: old,
        ..acme.clone()
    };
    assert_eq!(of_old.search("alpha", &ADMIN, 9).await, first);
    assert!(of_old.index.unembedded(&of_old.space, &[], 9).await.unwrap().is_empty());
    let both = [of_old.space.clone(), acme.space.clone()];
    assert_eq!(acme.index.spaces().await.unwrap(), both);
    acme.index.drop_spaces(&[acme.space.clone()]).await.unwrap();
    assert_eq!(acme.index.spaces().await.unwrap(), both[1..]);
    assert_eq!(of_old.search("alpha", &ADMIN, 9).await.semantic, []);
    assert_eq!(acme.search("alpha", &ADMIN, 9).await.semantic.len(), 3);
    assert_eq!(missing(&of_old, 9).await, 3);
    assert_eq!(of_old.embed_all(9).await, 3, "they can come back");
    // Chunks that are gone are skipped, and of a staged one nothing shows.
    let document = acme.document(&key("b")).await.unwrap();
    let gone = chunks(document.id, "gamma")[0].0.id;
    acme.index.delete(&acme.scope, &key("b"), at(9)).await.unwrap();
    let vectors = vec![(gone, embed(&acme.space, "gamma"))];
    acme.index.put_vectors(&acme.scope, vectors).await.unwrap();
    assert_eq!(acme.search("gamma", &ADMIN, 9).await.semantic.len(), 2);
}

pub async fn every_tenant_gets_a_share_of_the_vectors(fixture: Fixture) {
    let many: Vec<String> = (0..60).map(|n| format!("alpha {n}")).collect();
    let big = Library::new(&fixture.index, "aaa-big");
    big.put_without_vectors("a", &many.join("\n\n"), Attributes::default(), 1)
        .await;
    for tenant in ["small", "tiny"] {
        let library = Library::new(&fixture.index, tenant);
        library
            .put_without_vectors("a", "alpha", Attributes::default(), 2)
            .await;
    }
    let some = big.index.unembedded(&big.space, &[], 12).await.unwrap();
    let tenants: HashSet<String> = some.iter().map(|one| one.scope.tenant().to_string()).collect();
    assert_eq!(tenants.len(), 3, "{tenants:?}");
    // Those that are skipped leave their share to the others.
    let skip = ["small", "nobody", "aaa-big"].map(|tenant| Library::new(&fixture.index, tenant).scope);
    let some = big.index.unembedded(&big.space, &skip, 12).await.unwrap();
    let tenants: Vec<String> = some.iter().map(|one| one.scope.tenant().to_string()).collect();
    assert_eq!(tenants, ["tiny"]);
    let some = big.index.unembedded(&big.space, &skip[..2], 12).await.unwrap();
    assert!(
        some.len() > 1 && some.iter().all(|one| one.scope != skip[0]),
        "{some:?}"
    );
    assert_eq!(big.embed_all(16).await, 62);
}

pub async fn spaces_are_never_mixed(fixture: Fixture) {
    let mut acme = Library::new(&fixture.index, "acme");
    acme.put(&key("a"), "alpha", Attributes::default(), 1).await;
    acme.space = space("model-b");
    acme.put(&key("b"), "alpha", Attributes::default(), 2).await;
    // The same words, and of each model one vector.
    for (name, expected) in [("model-a", "a"), ("model-b", "b")] {
        acme.space = space(name);
        let found = acme.search("alpha", &ADMIN, 9).await;
        assert_eq!((found.lexical.len(), found.semantic.len()), (2, 1));
        let read = acme
            .index
            .read(&acme.scope, &ADMIN, &[found.semantic[0].chunk])
            .await
            .unwrap();
        assert_eq!(read[0].key.external_id.as_str(), expected);
    }
}
