//! Submissions, attributes, quotas, jobs and durability.

use copilotd_actors::domain::ids::ExternalId;
use copilotd_knowledge::document::{AttributeChanges, Attributes, IngestFailure, Reader, Stage};
use copilotd_knowledge::index::{Contents, IngestStatus, Published, Quota, QuotaKind, Submitted, Totals};

use super::Fixture;
use super::library::{
    AMPLE, Library, at, caller, changes_to, collection, job, key, listed, readable_by, space, submission,
};

pub async fn an_empty_index_answers(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    acme.index.ready().await.unwrap();
    assert_eq!(acme.document(&key("a")).await, None);
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap(), Totals::default());
    assert!(acme.index.pending(&[], 5).await.unwrap().is_empty());
    assert!(acme.index.unembedded(&acme.space, &[], 5).await.unwrap().is_empty());
    assert_eq!(acme.index.job(&acme.scope, job(1)).await.unwrap(), None);
    assert_eq!(acme.index.chunks(&acme.scope, &key("a"), 0, 5).await.unwrap(), None);
    assert_eq!(acme.index.delete(&acme.scope, &key("a"), at(0)).await.unwrap(), None);
    let changes = AttributeChanges::default();
    let a = key("a");
    let changed = acme.index.change_attributes(&acme.scope, &a, &changes, at(0));
    assert_eq!(changed.await.unwrap(), None);
    let (lexical, semantic) = acme.texts("alpha", &Reader::Administrator).await;
    assert!(lexical.is_empty() && semantic.is_empty());
    acme.index.erase_tenant(&acme.scope).await.unwrap();
    acme.index.drop_spaces(&[]).await.unwrap();
}

pub async fn content_waits_until_it_is_published(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let (a, text) = (key("a"), "alpha beta\n\ngamma");
    let submitted = acme.submit(&a, text, Attributes::default(), 1).await;
    let Submitted::Accepted(document) = submitted else {
        panic!("{submitted:?}")
    };
    assert_eq!(
        (document.version, document.stage, document.chunks),
        (1, Stage::Pending, 0)
    );
    assert_eq!(document.id, a.id(acme.scope.tenant()));
    let waiting = acme.index.pending(&[], 5).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].scope, acme.scope);
    assert_eq!(waiting[0].document, document);
    assert_eq!(waiting[0].content, text.as_bytes());
    let progress = async || acme.index.job(&acme.scope, document.job).await.unwrap().unwrap();
    assert_eq!(progress().await.status, IngestStatus::Queued);
    let start = acme.index.start(&acme.scope, document.id, 1, 2);
    assert!(start.await.unwrap());
    assert!(acme.stage(&a, text).await);
    let running = progress().await;
    assert_eq!(
        (running.status, running.done, running.total),
        (IngestStatus::Running, 2, Some(2))
    );
    assert_eq!(acme.publish(&a, text, 9).await, Published::Done);
    let done = progress().await;
    assert_eq!((done.status, done.done), (IngestStatus::Completed, 2));
    assert_eq!((done.created_at, done.finished_at), (at(1), Some(at(9))));
    assert!(acme.index.pending(&[], 5).await.unwrap().is_empty());
    let published = acme.document(&a).await.unwrap();
    assert_eq!((published.stage, published.chunks), (Stage::Searchable, 2));
    let totals = Totals {
        documents: 1,
        bytes: text.len() as u64,
        chunks: 2,
    };
    assert_eq!(acme.index.totals(&acme.scope).await.unwrap(), totals);
    let (lexical, semantic) = acme.texts("beta", &Reader::Administrator).await;
    assert_eq!(lexical, ["alpha beta"]);
    assert_eq!(semantic.len(), 2);
    let chunks = acme.index.chunks(&acme.scope, &a, 1, 5).await.unwrap().unwrap();
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].ordinal, chunks[0].draft.text.as_str()), (1, "gamma"));
    assert_eq!((chunks[0].draft.page, chunks[0].draft.start), (Some(7), 12));
}

pub async fn the_same_content_is_no_work(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    acme.submit(&a, "alpha", Attributes::default(), 1).await;
    let again = acme.submit(&a, "alpha", Attributes::default(), 2).await;
    assert!(
        matches!(&again, Submitted::Unchanged(document) if document.updated_at == at(1)),
        "{again:?}"
    );
    acme.stage(&a, "alpha").await;
    acme.publish(&a, "alpha", 3).await;
    let titled = Attributes {
        title: Some("Title".to_owned()),
        ..Attributes::default()
    };
    let again = acme.submit(&a, "alpha", titled.clone(), 4).await;
    let Submitted::Unchanged(document) = again else {
        panic!("{again:?}")
    };
    assert_eq!(
        (document.version, &document.attributes, document.updated_at),
        (1, &titled, at(4))
    );
    assert!(acme.index.pending(&[], 5).await.unwrap().is_empty());
    assert_eq!(acme.document(&a).await, Some(document));
    assert_eq!(acme.index.job(&acme.scope, job(1_002)).await.unwrap(), None);
}

pub async fn the_title_that_a_content_states_stands_in_for_the_tenants(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    let put = async |text: &str, title: Option<&str>, second: i64| {
        acme.submit(&a, text, Attributes::default(), second).await;
        acme.stage(&a, text).await;
        let document = acme.document(&a).await.unwrap();
        let chunks = super::library::chunks(document.id, text).into_iter();
        let contents = Contents {
            title: title.map(str::to_owned),
            chunks: chunks.map(|(chunk, place)| (chunk.id, place)).collect(),
        };
        let (version, at) = (document.version, at(second));
        let publish = acme
            .index
            .publish(&acme.scope, document.id, version, contents, &AMPLE, at);
        assert_eq!(publish.await.unwrap(), Published::Done);
    };
    let change = async |title: Option<&str>| {
        let changes = AttributeChanges {
            title: Some(title.map(str::to_owned)),
            ..AttributeChanges::default()
        };
        let changed = acme.index.change_attributes(&acme.scope, &a, &changes, at(9)).await;
        assert!(changed.unwrap().is_some());
    };
    // As the document, its chunks, and the texts to embed later show it.
    let expect = async |title: Option<&str>| {
        let document = acme.document(&a).await.unwrap();
        assert_eq!(document.attributes.shown_title(), title);
        let chunks = acme.index.chunks(&acme.scope, &a, 0, 9).await.unwrap().unwrap();
        assert_eq!(chunks[0].title.as_deref(), title);
        let missing = acme.index.unembedded(&space("other"), &[], 9).await.unwrap();
        assert_eq!(missing[0].text, chunks[0].draft.context_text(title));
    };
    put("alpha", Some("Stated"), 1).await;
    expect(Some("Stated")).await;
    change(Some("Given")).await;
    expect(Some("Given")).await;
    change(None).await;
    expect(Some("Stated")).await;
    // A version that waits or fails leaves the title of the one that is searched.
    acme.submit(&a, "beta", Attributes::default(), 2).await;
    expect(Some("Stated")).await;
    let document = acme.document(&a).await.unwrap();
    let failure = IngestFailure {
        code: "broken".to_owned(),
        message: "It is broken.".to_owned(),
    };
    let fail = acme
        .index
        .fail(&acme.scope, document.id, document.version, failure, at(3));
    assert!(fail.await.unwrap());
    expect(Some("Stated")).await;
    put("gamma", None, 4).await;
    expect(None).await;
}

pub async fn content_that_failed_is_accepted_again(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    let submitted = acme.submit(&a, "alpha", Attributes::default(), 1).await;
    let Submitted::Accepted(document) = submitted else {
        panic!("{submitted:?}")
    };
    let failure = IngestFailure {
        code: "no_text".to_owned(),
        message: "No text.".to_owned(),
    };
    let fail = acme.index.fail(&acme.scope, document.id, 1, failure.clone(), at(2));
    assert!(fail.await.unwrap());
    let failed = acme.document(&a).await.unwrap();
    assert_eq!((failed.stage, failed.failure), (Stage::Failed, Some(failure.clone())));
    let ended = acme.index.job(&acme.scope, document.job).await.unwrap().unwrap();
    assert_eq!(ended.status, IngestStatus::Failed(failure));
    let again = acme.submit(&a, "alpha", Attributes::default(), 3).await;
    assert!(
        matches!(&again, Submitted::Accepted(document) if document.version == 2 && document.failure.is_none()),
        "{again:?}"
    );
    assert_eq!(acme.index.pending(&[], 5).await.unwrap().len(), 1);
}

pub async fn quotas_refuse_what_is_too_much(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    acme.put(&key("a"), "alpha\n\nbeta", Attributes::default(), 1).await;
    let submit = async |key_: &str, text: &str, quota: Quota| {
        let submission = submission(&key(key_), text, Attributes::default(), 2);
        acme.index.submit(&acme.scope, submission, &quota).await.unwrap()
    };
    let documents = Quota { documents: 1, ..AMPLE };
    let bytes = Quota { bytes: 20, ..AMPLE };
    let chunks = Quota { chunks: 2, ..AMPLE };
    for (key_, text, quota, kind) in [
        ("b", "x", documents, QuotaKind::Documents),
        ("b", "0123456789", bytes, QuotaKind::Bytes),
        ("a", "0123456789 0123456789", bytes, QuotaKind::Bytes),
        ("b", "x", chunks, QuotaKind::Chunks),
    ] {
        let refused = submit(key_, text, quota).await;
        assert_eq!(refused, Submitted::QuotaExceeded(kind));
    }
    assert_eq!(acme.document(&key("b")).await, None);
    // An update replaces what counts, and another tenant has its own.
    assert!(matches!(
        submit("a", "0123456789 012345678", bytes).await,
        Submitted::Accepted(_)
    ));
    let globex = Library::new(&fixture.index, "globex");
    let other = submission(&key("b"), "x", Attributes::default(), 2);
    let submitted = globex.index.submit(&globex.scope, other, &documents).await.unwrap();
    assert!(matches!(submitted, Submitted::Accepted(_)), "{submitted:?}");
    // How many chunks there are shows at the end; nothing is changed then.
    let text = "0123456789 012345678";
    assert!(acme.stage(&key("a"), text).await);
    let document = acme.document(&key("a")).await.unwrap();
    let places: Vec<_> = super::library::chunks(document.id, text)
        .into_iter()
        .map(|(chunk, place)| (chunk.id, place))
        .collect();
    let none = Quota { chunks: 0, ..AMPLE };
    let publish = acme
        .index
        .publish(&acme.scope, document.id, 2, places.into(), &none, at(3));
    assert_eq!(publish.await.unwrap(), Published::QuotaExceeded);
    assert_eq!(acme.texts("alpha", &Reader::Administrator).await.0, ["alpha"]);
    assert_eq!(acme.document(&key("a")).await, Some(document));
}

pub async fn attributes_are_in_force_from_the_next_search(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let a = key("a");
    acme.put(&a, "alpha", Attributes::default(), 1).await;
    let ann = caller(Some("ann"), &[]);
    let found = async || !acme.texts("alpha", &ann).await.0.is_empty();
    assert!(found().await);
    for (access, expected) in [
        (listed(&["bob"], &[]), false),
        (listed(&["bob", "ann"], &["staff"]), true),
        (listed(&[], &["staff"]), false),
        (listed(&[], &[]), false),
    ] {
        let changes = changes_to(readable_by(access.clone()));
        let changed = acme.index.change_attributes(&acme.scope, &a, &changes, at(2));
        let document = changed.await.unwrap().unwrap();
        assert_eq!((&document.attributes.access, document.updated_at), (&access, at(2)));
        assert_eq!(found().await, expected);
        // Also while a newer version waits.
        acme.submit(&a, "alpha", document.attributes.clone(), 2).await;
        assert_eq!(found().await, expected);
    }
    // A submission replaces them too, before its content is searchable.
    acme.submit(&a, "beta", Attributes::default(), 3).await;
    assert!(found().await);
}

pub async fn documents_page_by_external_id(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    for id in ["b", "a", "ä", "B", "a1"] {
        acme.submit(&key(id), id, Attributes::default(), 1).await;
    }
    let mut elsewhere = key("c");
    elsewhere.collection = collection("other");
    acme.submit(&elsewhere, "c", Attributes::default(), 1).await;
    let handbook = collection("handbook");
    let mut after: Option<ExternalId> = None;
    let mut listed = Vec::new();
    loop {
        let page = acme.index.documents(&acme.scope, &handbook, after.as_ref(), 2);
        let page = page.await.unwrap();
        assert!(page.len() <= 2);
        listed.extend(page.iter().map(|document| document.key.external_id.to_string()));
        let Some(last) = page.last() else { break };
        after = Some(last.key.external_id.clone());
    }
    assert_eq!(listed, ["B", "a", "a1", "b", "ä"]);
}

pub async fn everything_is_there_after_a_reopen(mut fixture: Fixture) {
    let seen = async |fixture: &Fixture| {
        let acme = Library::new(&fixture.index, "acme");
        let mut documents = Vec::new();
        for id in ["a", "b", "c"] {
            documents.push(acme.document(&key(id)).await);
        }
        let found = acme.search("alpha beta", &Reader::Administrator, 10).await;
        let waiting = acme.index.pending(&[], 5).await.unwrap();
        let contents: Vec<_> = waiting.into_iter().map(|pending| pending.content).collect();
        let totals = acme.index.totals(&acme.scope).await.unwrap();
        (documents, found, contents, totals)
    };
    {
        let acme = Library::new(&fixture.index, "acme");
        acme.put(&key("a"), "alpha\n\nbeta", Attributes::default(), 1).await;
        acme.put(&key("b"), "alpha alpha", readable_by(listed(&["ann"], &[])), 2)
            .await;
        acme.submit(&key("c"), "gamma", Attributes::default(), 3).await;
    }
    let before = seen(&fixture).await;
    fixture.reopen();
    assert_eq!(seen(&fixture).await, before);
}

pub async fn jobs_are_forgotten_when_they_ended(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    acme.put(&key("a"), "alpha", Attributes::default(), 10).await;
    acme.submit(&key("b"), "beta", Attributes::default(), 11).await;
    acme.submit(&key("b"), "gamma", Attributes::default(), 20).await;
    acme.submit(&key("c"), "gamma", Attributes::default(), 12).await;
    acme.index.delete(&acme.scope, &key("c"), at(30)).await.unwrap();
    let status = async |n: u128| {
        let found = acme.index.job(&acme.scope, job(1_000 + n)).await.unwrap();
        found.map(|job| (job.status, job.finished_at))
    };
    assert_eq!(status(11).await, Some((IngestStatus::Superseded, Some(at(20)))));
    assert_eq!(status(12).await, Some((IngestStatus::Superseded, Some(at(30)))));
    assert_eq!(acme.index.forget_jobs(at(10)).await.unwrap(), 0);
    assert_eq!(acme.index.forget_jobs(at(21)).await.unwrap(), 2);
    assert_eq!((status(10).await, status(11).await), (None, None));
    assert_eq!(status(20).await, Some((IngestStatus::Queued, None)));
    assert!(status(12).await.is_some());
}

pub async fn positions_of_sources_are_kept_and_erased(mut fixture: Fixture) {
    let stored = async |fixture: &Fixture, tenant: &str, name: &str| {
        let library = Library::new(&fixture.index, tenant);
        library.index.source_position(&library.scope, name).await.unwrap()
    };
    assert_eq!(stored(&fixture, "acme", "help/articles").await, None);
    // The first of them is all that is known of its tenant.
    for (tenant, name, position) in [
        ("acme", "help/articles", "7"),
        ("globex", "help/articles", "8"),
        ("acme", "help/tickets", "ü"),
        ("acme", "help/articles", "9"),
    ] {
        let library = Library::new(&fixture.index, tenant);
        let put = library.index.put_source_position(&library.scope, name, position);
        put.await.unwrap();
    }
    fixture.reopen();
    assert_eq!(stored(&fixture, "acme", "help/articles").await.as_deref(), Some("9"));
    assert_eq!(stored(&fixture, "acme", "help/tickets").await.as_deref(), Some("ü"));
    {
        let acme = Library::new(&fixture.index, "acme");
        acme.index.erase_tenant(&acme.scope).await.unwrap();
    }
    assert_eq!(stored(&fixture, "acme", "help/articles").await, None);
    assert_eq!(stored(&fixture, "globex", "help/articles").await.as_deref(), Some("8"));
}
