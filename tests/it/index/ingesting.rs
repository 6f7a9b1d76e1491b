//! Staging, publishing, failing, and the order in which versions are worked off.

use copilotd_actors::domain::ids::ChunkId;
use copilotd_knowledge::document::{Attributes, IngestFailure, Reader, Stage};
use copilotd_knowledge::index::Published;

use super::Fixture;
use super::library::{AMPLE, Library, at, chunks, key, space};

fn failure() -> IngestFailure {
    IngestFailure {
        code: "no_text".to_owned(),
        message: "No text.".to_owned(),
    }
}

const ADMIN: Reader = Reader::Administrator;

pub async fn calls_for_an_older_version_change_nothing(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    acme.put(&a, "alpha", Attributes::default(), 1).await;
    acme.submit(&a, "beta", Attributes::default(), 2).await;
    let document = acme.document(&a).await.unwrap();
    assert_eq!(document.version, 2);
    let try_all = async |version: u64| {
        let (index, scope) = (&acme.index, &acme.scope);
        let staged: Vec<_> = chunks(document.id, "beta");
        let new: Vec<_> = staged.iter().map(|(chunk, _)| chunk.clone()).collect();
        let places: Vec<_> = staged.iter().map(|(chunk, place)| (chunk.id, *place)).collect();
        (
            index.start(scope, document.id, version, 1).await.unwrap(),
            index.stage(scope, document.id, version, new, Vec::new()).await.unwrap(),
            index
                .publish(scope, document.id, version, places.into(), &AMPLE, at(5))
                .await
                .unwrap(),
            index.fail(scope, document.id, version, failure(), at(5)).await.unwrap(),
        )
    };
    let refused = (false, false, Published::Superseded, false);
    for version in [0, 1, 3] {
        assert_eq!(try_all(version).await, refused, "{version}");
    }
    assert_eq!(acme.document(&a).await, Some(document.clone()));
    assert_eq!(acme.texts("alpha beta", &ADMIN).await.0, ["alpha"]);
    // The newest one works, once: afterwards it does not wait any more.
    assert_eq!(try_all(2).await, (true, true, Published::Done, false));
    assert_eq!(try_all(2).await, refused);
    assert_eq!(acme.texts("alpha beta", &ADMIN).await.0, ["beta"]);
    acme.index.delete(&acme.scope, &a, at(6)).await.unwrap();
    assert_eq!(try_all(2).await, refused);
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap().chunks, 0);
}

pub async fn staged_chunks_are_hidden_and_survive(mut fixture: Fixture) {
    let (a, text) = (key("a"), "alpha beta\n\nalpha gamma");
    let ids: Vec<ChunkId> = {
        let acme = Library::new(&fixture.index, "acme");
        acme.put(&key("b"), "alpha", Attributes::default(), 1).await;
        let alone = acme.search("alpha", &ADMIN, 10).await;
        acme.submit(&a, text, Attributes::default(), 2).await;
        assert!(acme.stage(&a, text).await);
        let document = acme.document(&a).await.unwrap();
        let ids: Vec<_> = chunks(document.id, text).iter().map(|(chunk, _)| chunk.id).collect();
        assert_eq!(
            acme.search("alpha", &ADMIN, 10).await,
            alone,
            "they change not even a score"
        );
        assert!(acme.index.read(&acme.scope, &ADMIN, &ids).await.unwrap().is_empty());
        assert_eq!(
            acme.index.chunks(&acme.scope, &a, 0, 9).await.unwrap(),
            Some(Vec::new())
        );
        assert_eq!(acme.index.totals(&acme.scope).await.unwrap().chunks, 1);
        acme.index.cite(&acme.scope, &ids).await.unwrap();
        ids
    };
    fixture.reopen();
    let acme = Library::new(&fixture.index, "acme");
    let document = acme.document(&a).await.unwrap();
    let known = async |space: Option<_>| {
        let known = acme.index.known_chunks(&acme.scope, document.id, &ids, space.as_ref());
        known.await.unwrap()
    };
    assert_eq!(known(None).await, ids);
    assert_eq!(known(Some(acme.space.clone())).await, ids);
    assert_eq!(known(Some(space("model-b"))).await, []);
    assert_eq!(acme.publish(&a, text, 3).await, Published::Done);
    assert_eq!(acme.texts("gamma", &ADMIN).await.0, ["alpha gamma"]);
}

pub async fn an_update_keeps_what_did_not_change(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    let first = acme.put(&a, "alpha\n\nbeta\n\ngamma", Attributes::default(), 1).await;
    let second = "delta\n\ngamma\n\nalpha";
    acme.submit(&a, second, Attributes::default(), 2).await;
    let drafts = chunks(first.id, second);
    let ids: Vec<ChunkId> = drafts.iter().map(|(chunk, _)| chunk.id).collect();
    let known = acme.index.known_chunks(&acme.scope, first.id, &ids, Some(&acme.space));
    assert_eq!(known.await.unwrap(), ids[1..]);
    // Only what is new is staged; the vectors of the others are still there.
    let new = vec![drafts[0].0.clone()];
    let vector = super::library::embed(&acme.space, "delta");
    let staged = acme.index.stage(&acme.scope, first.id, 2, new, vec![vector]);
    assert!(staged.await.unwrap());
    assert_eq!(
        acme.texts("alpha beta", &ADMIN).await.0.len(),
        2,
        "the version before is searched"
    );
    assert_eq!(acme.publish(&a, second, 3).await, Published::Done);
    let (lexical, semantic) = acme.texts("alpha beta gamma delta", &ADMIN).await;
    assert_eq!((lexical.len(), semantic.len()), (3, 3));
    assert!(!lexical.contains(&"beta".to_owned()));
    let stored = acme.index.chunks(&acme.scope, &a, 0, 9).await.unwrap().unwrap();
    let described: Vec<_> = stored
        .iter()
        .map(|chunk| (chunk.draft.text.as_str(), chunk.since, chunk.draft.start))
        .collect();
    assert_eq!(described, [("delta", 2, 0), ("gamma", 1, 7), ("alpha", 1, 14)]);
    let gone = chunks(first.id, "beta")[0].0.id;
    assert!(acme.index.read(&acme.scope, &ADMIN, &[gone]).await.unwrap().is_empty());
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap().chunks, 3);
}

pub async fn cited_chunks_stay_readable(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    let document = acme.put(&a, "alpha\n\nbeta", Attributes::default(), 1).await;
    let ids: Vec<ChunkId> = chunks(document.id, "alpha\n\nbeta")
        .iter()
        .map(|(chunk, _)| chunk.id)
        .collect();
    acme.index.cite(&acme.scope, &ids[..1]).await.unwrap();
    acme.put(&a, "gamma", Attributes::default(), 2).await;
    let read = acme.index.read(&acme.scope, &ADMIN, &[ids[1], ids[0]]).await.unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(
        (read[0].id, read[0].is_current, read[0].draft.text.as_str()),
        (ids[0], false, "alpha")
    );
    let (lexical, semantic) = acme.texts("alpha", &ADMIN).await;
    assert_eq!(
        (lexical.len(), semantic.as_slice()),
        (0, ["gamma".to_owned()].as_slice())
    );
    let current = acme.index.chunks(&acme.scope, &a, 0, 9).await.unwrap().unwrap();
    assert_eq!(current.len(), 1);
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap().chunks, 1);
    // Access is that of the document, now.
    let nobody = super::library::readable_by(super::library::listed(&[], &[]));
    let changes = super::library::changes_to(nobody);
    let changed = acme.index.change_attributes(&acme.scope, &a, &changes, at(3));
    changed.await.unwrap();
    let ann = super::library::caller(Some("ann"), &[]);
    assert!(acme.index.read(&acme.scope, &ann, &ids).await.unwrap().is_empty());
    acme.index.delete(&acme.scope, &a, at(4)).await.unwrap();
    assert!(acme.index.read(&acme.scope, &ADMIN, &ids).await.unwrap().is_empty());
}

pub async fn a_cited_chunk_can_return(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    let document = acme.put(&a, "alpha", Attributes::default(), 1).await;
    let id = chunks(document.id, "alpha")[0].0.id;
    acme.index.cite(&acme.scope, &[id]).await.unwrap();
    acme.put(&a, "beta", Attributes::default(), 2).await;
    acme.submit(&a, "alpha", Attributes::default(), 3).await;
    let ids = [id];
    let known = acme.index.known_chunks(&acme.scope, document.id, &ids, None);
    assert_eq!(known.await.unwrap(), [], "it has to be staged again");
    assert!(acme.stage(&a, "alpha").await);
    assert_eq!(acme.texts("alpha", &ADMIN).await.0.len(), 0);
    // A failure takes it back to where it was.
    let fail = acme.index.fail(&acme.scope, document.id, 3, failure(), at(4));
    assert!(fail.await.unwrap());
    let read = acme.index.read(&acme.scope, &ADMIN, &[id]).await.unwrap();
    assert_eq!((read.len(), read[0].is_current, read[0].since), (1, false, 1));
    acme.put(&a, "alpha", Attributes::default(), 5).await;
    let (lexical, semantic) = acme.texts("alpha beta", &ADMIN).await;
    assert_eq!(
        (lexical, semantic),
        (vec!["alpha".to_owned()], vec!["alpha".to_owned()])
    );
    let read = acme.index.read(&acme.scope, &ADMIN, &[id]).await.unwrap();
    assert_eq!((read[0].is_current, read[0].since), (true, 1));
}

pub async fn what_is_not_stored_is_not_published(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    acme.put(&a, "alpha", Attributes::default(), 1).await;
    acme.put(&key("b"), "beta", Attributes::default(), 1).await;
    acme.submit(&a, "gamma\n\ndelta", Attributes::default(), 2).await;
    acme.stage(&a, "gamma").await;
    let document = acme.document(&a).await.unwrap();
    let places = |id, text| -> Vec<_> {
        chunks(id, text)
            .into_iter()
            .map(|(chunk, place)| (chunk.id, place))
            .collect()
    };
    let missing = places(document.id, "gamma\n\ndelta");
    let twice = [places(document.id, "gamma"), places(document.id, "gamma")].concat();
    let foreign = places(key("b").id(acme.scope.tenant()), "beta");
    for wrong in [missing, twice, foreign] {
        let publish = acme
            .index
            .publish(&acme.scope, document.id, 2, wrong.into(), &AMPLE, at(3));
        publish.await.unwrap_err();
        assert_eq!(acme.document(&a).await.unwrap().stage, Stage::Pending);
        let (lexical, _) = acme.texts("alpha beta gamma", &ADMIN).await;
        assert_eq!(lexical.len(), 2);
    }
}

pub async fn a_failure_keeps_the_version_before(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    let document = acme.put(&a, "alpha", Attributes::default(), 1).await;
    let before = acme.search("alpha beta", &ADMIN, 9).await;
    acme.submit(&a, "alpha\n\nbeta", Attributes::default(), 2).await;
    acme.stage(&a, "alpha\n\nbeta").await;
    let fail = acme.index.fail(&acme.scope, document.id, 2, failure(), at(3));
    assert!(fail.await.unwrap());
    assert_eq!(acme.search("alpha beta", &ADMIN, 9).await, before);
    let staged = [chunks(document.id, "beta")[0].0.id];
    let known = acme.index.known_chunks(&acme.scope, document.id, &staged, None);
    assert_eq!(known.await.unwrap(), []);
    assert!(acme.index.pending(&[], 5).await.unwrap().is_empty());
    let failed = acme.document(&a).await.unwrap();
    assert_eq!((failed.stage, failed.chunks), (Stage::Failed, 1));
}

pub async fn tenants_take_turns(fixture: Fixture) {
    let [acme, globex, initech] = ["acme", "globex", "initech"].map(|name| Library::new(&fixture.index, name));
    for n in 0..20 {
        acme.submit(&key(&format!("a{n}")), "alpha", Attributes::default(), n)
            .await;
    }
    globex.submit(&key("g"), "alpha", Attributes::default(), 21).await;
    initech.submit(&key("i"), "alpha", Attributes::default(), 22).await;
    let waiting = async |busy: &[&Library], limit: usize| -> Vec<String> {
        let busy: Vec<_> = busy.iter().map(|library| library.scope.clone()).collect();
        let pending = acme.index.pending(&busy, limit).await.unwrap();
        pending
            .iter()
            .map(|pending| format!("{} {}", pending.scope.tenant(), pending.document.key.external_id))
            .collect()
    };
    assert_eq!(waiting(&[], 9).await, ["acme a0", "globex g", "initech i"]);
    assert_eq!(waiting(&[], 2).await, ["acme a0", "globex g"]);
    assert_eq!(waiting(&[&acme], 9).await, ["globex g", "initech i"]);
    assert_eq!(waiting(&[&acme, &globex], 1).await, ["initech i"]);
    assert_eq!(waiting(&[], 0).await, [""; 0]);
    acme.stage(&key("a0"), "alpha").await;
    acme.publish(&key("a0"), "alpha", 30).await;
    assert_eq!(waiting(&[], 9).await, ["acme a1", "globex g", "initech i"]);
}

pub async fn a_newer_version_waits_in_the_same_place(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    acme.submit(&key("a"), "alpha", Attributes::default(), 1).await;
    acme.submit(&key("b"), "alpha", Attributes::default(), 2).await;
    acme.submit(&key("a"), "beta", Attributes::default(), 3).await;
    let pending = acme.index.pending(&[], 5).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(
        (pending[0].document.version, pending[0].content.as_slice()),
        (2, b"beta".as_slice())
    );
}

pub async fn attempts_count_until_there_is_progress(mut fixture: Fixture) {
    let a = key("a");
    let (id, scope) = {
        let acme = Library::new(&fixture.index, "acme");
        acme.submit(&a, "alpha\n\nbeta", Attributes::default(), 1).await;
        (acme.document(&a).await.unwrap().id, acme.scope)
    };
    let begin = async |fixture: &Fixture, version| fixture.index.begin(&scope, id, version).await.unwrap();
    assert_eq!(begin(&fixture, 1).await, Some(1));
    assert_eq!(begin(&fixture, 1).await, Some(2));
    fixture.reopen();
    assert_eq!(begin(&fixture, 1).await, Some(3), "it is durable");
    let other = Library::new(&fixture.index, "globex");
    assert_eq!(fixture.index.begin(&other.scope, id, 1).await.unwrap(), None);
    drop(other);
    let acme = Library::new(&fixture.index, "acme");
    assert!(acme.stage(&a, "alpha").await);
    assert_eq!(begin(&fixture, 1).await, Some(1), "a chunk was staged");
    assert!(acme.stage(&a, "alpha").await);
    assert_eq!(begin(&fixture, 1).await, Some(2), "the same chunk is no progress");
    acme.submit(&a, "gamma", Attributes::default(), 2).await;
    assert_eq!(begin(&fixture, 1).await, None, "it is superseded");
    assert_eq!(begin(&fixture, 2).await, Some(1), "each version counts alone");
    acme.stage(&a, "gamma").await;
    acme.publish(&a, "gamma", 3).await;
    assert_eq!(begin(&fixture, 2).await, None, "it no longer waits");
}
