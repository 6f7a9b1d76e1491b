//! Articles of the help centre.

use serde_json::json;

use super::{World, Zendesk, source};

const HELP: &str = "help";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn articles_come_change_and_leave() {
    let (zendesk, world) = (Zendesk::start(false).await, World::start().await);
    // Three pages at the first run.
    zendesk.knobs(json!({ "export_page": 2 })).await;
    let refunds = zendesk
        .publish(json!({ "title": "Refunds", "body": "<p>A refund takes five days.</p>", "label_names": ["shop"] }))
        .await;
    zendesk
        .publish(json!({ "title": "Hours", "body": "<p>Open at nine.</p>" }))
        .await;
    let draft = zendesk
        .publish(json!({ "title": "Plans", "body": "<p>A secret plan.</p>", "draft": true }))
        .await;
    let staff = zendesk
        .publish(json!({ "title": "Staff", "body": "<p>Canteen menu.</p>", "user_segment_id": 1 }))
        .await;
    let unknown = zendesk
        .publish(json!({ "title": "Board", "body": "<p>Merger talks.</p>", "user_segment_id": 2 }))
        .await;
    // The page with it is stored all the same.
    zendesk.publish(json!({ "title": "Broken", "body": 7 })).await;
    let settings = json!({ "articles": { "collection": HELP, "segments": { "1": ["agents"] } } });
    world.apply(vec![source("acme", &zendesk, settings.clone())]);

    let id = |article: u64| format!("article-{article}");
    world.until_found("acme", HELP, &[], "refund", &[&id(refunds)]).await;
    world
        .until_found("acme", HELP, &["agents"], "canteen", &[&id(staff)])
        .await;
    let status = world.settled("acme", &zendesk).await;
    assert_eq!(
        (status.kind, status.documents, status.skipped),
        ("zendesk", 3, 2),
        "{status:?}"
    );
    assert_eq!(
        (status.last_error.as_deref(), status.last_run_at.is_some()),
        (None, true)
    );
    assert!(world.find("acme", HELP, &[], "canteen").await.is_empty(), "restricted");
    for nobody in ["plan", "merger"] {
        assert!(
            world.find("acme", HELP, &["agents"], nobody).await.is_empty(),
            "{nobody}"
        );
    }
    let documents = world.documents("acme", HELP).await;
    let first = documents
        .iter()
        .find(|document| document.key.external_id.as_str() == id(refunds))
        .unwrap();
    let attributes = &first.attributes;
    assert_eq!(attributes.title.as_deref(), Some("Refunds"));
    assert!(
        attributes
            .uri
            .as_deref()
            .unwrap()
            .ends_with(&format!("/hc/en-us/articles/{refunds}"))
    );
    for (name, value) in [
        ("locale", json!("en-us")),
        ("section", json!("7")),
        ("label.shop", json!(true)),
        ("sync_source", json!("help")),
    ] {
        assert_eq!(attributes.metadata.get(name), Some(&value), "{name}");
    }

    // Changes of text, of drafts and of segments, and the archive.
    zendesk
        .translation(refunds, json!({ "body": "<p>A refund takes two weeks.</p>" }))
        .await;
    zendesk.translation(draft, json!({ "draft": false })).await;
    zendesk.article(unknown, json!({ "user_segment_id": 1 })).await;
    zendesk.article(staff, json!({ "user_segment_id": null })).await;
    world.until_found("acme", HELP, &[], "weeks", &[&id(refunds)]).await;
    world.until_found("acme", HELP, &[], "plan", &[&id(draft)]).await;
    world
        .until_found("acme", HELP, &["agents"], "merger", &[&id(unknown)])
        .await;
    world.until_found("acme", HELP, &[], "canteen", &[&id(staff)]).await;
    zendesk.article(staff, json!({ "user_segment_id": 3 })).await;
    zendesk.translation(draft, json!({ "draft": true })).await;
    zendesk
        .call(
            "DELETE",
            &format!("/api/v2/help_center/articles/{refunds}.json"),
            json!(null),
        )
        .await;
    for gone in ["canteen", "plan", "refund"] {
        world.until_found("acme", HELP, &["agents"], gone, &[]).await;
    }
    let status = world.settled("acme", &zendesk).await;
    assert_eq!((status.documents, status.skipped), (2, 2), "{status:?}");

    // A change of the mapping is in force without a change there; a source that is removed leaves its documents.
    let mapped = json!({ "articles": { "collection": HELP, "segments": { "1": ["partners"] } } });
    world.apply(vec![source("acme", &zendesk, mapped)]);
    world
        .until_found("acme", HELP, &["partners"], "merger", &[&id(unknown)])
        .await;
    assert!(world.find("acme", HELP, &["agents"], "merger").await.is_empty());
    world.apply(Vec::new());
    while world.status("acme").is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.documents("acme", HELP).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn translations_are_documents_of_their_own() {
    let (zendesk, world) = (Zendesk::start(false).await, World::start().await);
    let article = zendesk
        .publish(json!({ "title": "Refunds", "body": "<p>Five days.</p>" }))
        .await;
    let path = format!("/api/v2/help_center/articles/{article}/translations.json");
    for (locale, body) in [("de", "<p>Fuenf Tage.</p>"), ("fr", "<p>Cinq jours.</p>")] {
        let translation = json!({ "translation": { "locale": locale, "title": locale, "body": body } });
        zendesk.call("POST", &path, translation).await;
    }
    let settings = |locales: &[&str]| json!({ "articles": { "collection": HELP, "locales": locales } });
    world.apply(vec![source("acme", &zendesk, settings(&["en-us", "DE"]))]);
    let (english, german) = (format!("article-{article}-en-us"), format!("article-{article}-de"));
    world.until_found("acme", HELP, &[], "tage", &[&german]).await;
    world.until_found("acme", HELP, &[], "days", &[&english]).await;
    assert!(world.find("acme", HELP, &[], "jours").await.is_empty());
    // What is not wanted any more leaves.
    world.apply(vec![source("acme", &zendesk, settings(&["en-us"]))]);
    world.until_found("acme", HELP, &[], "tage", &[]).await;
    assert_eq!(world.settled("acme", &zendesk).await.documents, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_with_the_same_ids_keep_their_own() {
    let (acme, globex) = (Zendesk::start(false).await, Zendesk::start(false).await);
    let world = World::start().await;
    let of = async |zendesk: &Zendesk, body: &str| zendesk.publish(json!({ "title": "T", "body": body })).await;
    let (first, second) = (of(&acme, "<p>Alpha.</p>").await, of(&globex, "<p>Beta.</p>").await);
    assert_eq!(first, second);
    let settings = json!({ "articles": { "collection": HELP } });
    world.apply(vec![
        source("acme", &acme, settings.clone()),
        source("globex", &globex, settings.clone()),
    ]);
    let id = format!("article-{first}");
    world.until_found("acme", HELP, &[], "alpha", &[&id]).await;
    world.until_found("globex", HELP, &[], "beta", &[&id]).await;
    assert!(world.find("acme", HELP, &[], "beta").await.is_empty());
    acme.call(
        "DELETE",
        &format!("/api/v2/help_center/articles/{first}.json"),
        json!(null),
    )
    .await;
    world.until_found("acme", HELP, &[], "alpha", &[]).await;
    assert_eq!(world.find("globex", HELP, &[], "beta").await, [id]);
    // Without its configuration, only the one that is left is asked.
    world.apply(vec![source("globex", &globex, settings)]);
    while world.status("acme").is_some() {
        tokio::task::yield_now().await;
    }
    assert!(!world.book.is_active(super::scope("acme").tenant()));
    assert_eq!(world.settled("globex", &globex).await.documents, 1);
}
