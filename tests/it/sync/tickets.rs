//! Tickets with their conversations.

use serde_json::{Value, json};

use super::{World, Zendesk, source};

const TICKETS: &str = "tickets";

fn settings(internal: bool, roles: &[&str]) -> Value {
    json!({ "tickets": { "collection": TICKETS, "allowed_roles": roles, "internal_comments": internal } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_are_for_their_roles_without_internal_comments() {
    let (zendesk, world) = (Zendesk::start(true).await, World::start().await);
    let comment = |body: &str, public: bool| json!({ "ticket": { "comment": { "body": body, "public": public } } });
    let ticket = "/api/v2/tickets/101.json";
    zendesk
        .call("PUT", ticket, comment("Known fraudster, be careful.", false))
        .await;
    world.apply(vec![source("acme", &zendesk, settings(false, &["agents"]))]);
    world
        .until_found("acme", TICKETS, &["agents"], "invoice", &["ticket-101"])
        .await;
    let status = world.settled("acme", &zendesk).await;
    assert_eq!((status.documents, status.skipped), (8, 0), "{status:?}");
    assert!(world.find("acme", TICKETS, &[], "invoice").await.is_empty(), "no role");
    assert!(world.find("acme", TICKETS, &["agents"], "fraudster").await.is_empty());
    let documents = world.documents("acme", TICKETS).await;
    let attributes = &documents.first().unwrap().attributes;
    assert_eq!(attributes.title.as_deref(), Some("Invoice charged twice this month"));
    assert!(attributes.uri.as_deref().unwrap().ends_with("/agent/tickets/101"));
    assert_eq!(attributes.metadata.get("status"), Some(&json!("open")));
    assert_eq!(attributes.metadata.get("tag.billing"), Some(&json!(true)));

    // A public answer is found, and a deleted ticket is not.
    zendesk
        .call("PUT", ticket, comment("We have refunded the umbrella.", true))
        .await;
    zendesk.delete_ticket(108).await;
    world
        .until_found("acme", TICKETS, &["agents"], "umbrella", &["ticket-101"])
        .await;
    world.until_found("acme", TICKETS, &["agents"], "photo", &[]).await;
    assert_eq!(world.settled("acme", &zendesk).await.documents, 7);

    // Other roles apply at once, and internal comments only when they are asked for.
    world.apply(vec![source("acme", &zendesk, settings(true, &["leads"]))]);
    world
        .until_found("acme", TICKETS, &["leads"], "fraudster", &["ticket-101"])
        .await;
    assert!(world.find("acme", TICKETS, &["agents"], "invoice").await.is_empty());
}
