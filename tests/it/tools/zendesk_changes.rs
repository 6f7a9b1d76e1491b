use copilotd::adapters::systems::zendesk::{ZendeskAuth, ZendeskConfig};
use copilotd_actors::ports::{LookUp, ToolBox, ToolErrorKind};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::specs::check_zendesk;
use super::stub::{Say, Seen, Stub, json as say};
use super::{ZENDESK, call_id, request, zendesk};

fn ticket() -> Value {
    json!({
        "id": 12, "subject": "Printer", "status": "open", "requester_id": 5, "updated_at": "2026-03-04T05:06:07Z",
    })
}

fn audit(id: u64, call: &str) -> Value {
    json!({
        "id": id, "created_at": "2026-03-04T05:06:07Z", "metadata": { "custom": { "copilotd_call": call }, "system": {} },
        "events": [{ "id": 500 + id, "type": "Change" }, { "id": 600 + id, "type": "Comment", "public": true }],
    })
}

fn done(seen: &Seen) -> Say {
    let status = if seen.method == "POST" { 201 } else { 200 };
    let call = seen.body["ticket"]["metadata"]["copilotd_call"]
        .as_str()
        .unwrap_or_default();
    say(status, json!({ "ticket": ticket(), "audit": audit(1, call) }))
}

#[tokio::test]
async fn creating_a_ticket_sends_the_calls_id_as_its_key() {
    let stub = Stub::start(done).await;
    let config = ZendeskConfig {
        base_url: format!("{}/", stub.url),
        auth: ZendeskAuth::OAuth(SecretString::from("oauth-token")),
    };
    let desk = ZENDESK.account("zendesk", &config, super::client()).unwrap();
    let arguments = json!({
        "subject": "Printer", "body": "It burns", "priority": "urgent", "tags": ["fire"], "requester_email": "jo@x.test",
    });
    let reply = desk.call(&request("zendesk_create_ticket", arguments)).await.unwrap();
    assert_eq!(reply.result["ticket"]["id"], 12);
    let seen = &stub.seen()[0];
    assert_eq!(seen.line(), "POST /api/v2/tickets.json");
    assert_eq!(seen.header("idempotency-key"), Some(call_id(7).to_string().as_str()));
    assert_eq!(seen.header("authorization"), Some("Bearer oauth-token"));
    assert_eq!(
        seen.body,
        json!({ "ticket": {
            "external_id": call_id(7).to_string(), "subject": "Printer", "comment": { "body": "It burns" }, "priority": "urgent", "tags": ["fire"],
            "requester": { "name": "jo", "email": "jo@x.test" },
        } })
    );
    check_zendesk(&stub.seen());
}

#[tokio::test]
async fn a_refused_key_leaves_doubt_about_the_first_request() {
    for answer in [
        say(409, json!({ "error": "Conflict" })),
        say(
            400,
            json!({ "error": "IdempotentRequestError", "description": "Request parameters don't match" }),
        ),
    ] {
        let stub = Stub::start(move |_| answer.clone()).await;
        let create = request("zendesk_create_ticket", json!({ "subject": "a", "body": "b" }));
        let error = zendesk(&stub).call(&create).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");
    }
}

#[tokio::test]
async fn a_comment_carries_our_mark_and_the_expected_version() {
    let stub = Stub::start(done).await;
    let arguments = json!({
        "ticket_id": 12, "body": "On it", "public": true, "expected_updated_at": "2026-03-04T05:06:07Z",
    });
    let reply = zendesk(&stub)
        .call(&request("zendesk_add_comment", arguments))
        .await
        .unwrap();
    assert_eq!(reply.result["comment_id"], 601);
    let seen = &stub.seen()[0];
    assert_eq!(seen.line(), "PUT /api/v2/tickets/12.json");
    assert_eq!(
        seen.body,
        json!({ "ticket": {
            "comment": { "body": "On it", "public": true }, "metadata": { "copilotd_call": call_id(7).to_string() },
            "safe_update": true, "updated_stamp": "2026-03-04T05:06:07Z",
        } })
    );
    check_zendesk(&stub.seen());
}

#[tokio::test]
async fn an_update_changes_only_what_is_given() {
    let stub = Stub::start(done).await;
    let desk = zendesk(&stub);
    let arguments = json!({ "ticket_id": 12, "status": "solved", "tags": [], "assignee_id": 3 });
    desk.call(&request("zendesk_update_ticket", arguments)).await.unwrap();
    let sent = &stub.seen()[0].body["ticket"];
    assert_eq!(sent["status"], "solved");
    assert_eq!(sent["tags"], json!([]));
    assert!(sent.get("priority").is_none() && sent.get("safe_update").is_none());
    let error = desk
        .call(&request("zendesk_update_ticket", json!({ "ticket_id": 12 })))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused);
    assert_eq!(stub.seen().len(), 1, "nothing was sent");
    check_zendesk(&stub.seen());
}

fn conflicting(mark: &'static str) -> impl Fn(&Seen) -> Say + Send + Sync + 'static {
    move |seen| match seen.line().as_str() {
        "PUT /api/v2/tickets/12.json" => say(409, json!({ "error": "UpdateConflict", "description": "outdated" })),
        "GET /api/v2/tickets/12/audits.json" => say(
            200,
            json!({ "audits": [audit(1, "other"), audit(2, mark)], "meta": { "has_more": false } }),
        ),
        _ => say(200, json!({ "ticket": ticket() })),
    }
}

#[tokio::test]
async fn a_conflict_names_the_current_version() {
    let stub = Stub::start(conflicting("another")).await;
    let arguments = json!({ "ticket_id": 12, "status": "solved", "expected_updated_at": "2026-01-01T00:00:00Z" });
    let error = zendesk(&stub)
        .call(&request("zendesk_update_ticket", arguments))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused);
    assert!(error.message.contains("2026-03-04T05:06:07Z"), "{}", error.message);
    check_zendesk(&stub.seen());
}

#[tokio::test]
async fn a_conflict_with_an_earlier_try_of_the_same_call_is_its_success() {
    let mark: &'static str = call_id(7).to_string().leak();
    let stub = Stub::start(conflicting(mark)).await;
    let arguments = json!({
        "ticket_id": 12, "body": "Hello", "public": false, "expected_updated_at": "2026-01-01T00:00:00Z",
    });
    let reply = zendesk(&stub)
        .call(&request("zendesk_add_comment", arguments))
        .await
        .unwrap();
    assert_eq!(reply.result["comment_id"], 602);
}

#[tokio::test]
async fn a_change_of_unknown_outcome_is_found_by_its_mark() {
    let comment = request(
        "zendesk_add_comment",
        json!({ "ticket_id": 12, "body": "Hello", "public": true }),
    );
    let update = request("zendesk_update_ticket", json!({ "ticket_id": 12, "status": "open" }));
    let mark: &'static str = call_id(7).to_string().leak();
    let stub = Stub::start(conflicting(mark)).await;
    let desk = zendesk(&stub);
    let LookUp::Found(found) = desk.look_up(&comment).await.unwrap() else {
        panic!()
    };
    assert_eq!(found["comment_id"], 602);
    let LookUp::Found(found) = desk.look_up(&update).await.unwrap() else {
        panic!()
    };
    assert_eq!(found["ticket"]["id"], 12);
    assert!(
        stub.lines().iter().all(|line| line.starts_with("GET ")),
        "a look-up changes nothing"
    );
    check_zendesk(&stub.seen());

    let stub = Stub::start(conflicting("another")).await;
    let desk = zendesk(&stub);
    assert!(matches!(desk.look_up(&comment).await.unwrap(), LookUp::NotFound));
    assert!(matches!(desk.look_up(&update).await.unwrap(), LookUp::NotFound));
}

#[tokio::test]
async fn an_outcome_that_cannot_be_determined_is_not_reported_as_absent() {
    let stub = Stub::start(|_| {
        let audits: Vec<Value> = (0..100).map(|id| audit(id, "other")).collect();
        say(
            200,
            json!({ "audits": audits, "meta": { "has_more": true, "after_cursor": "c" } }),
        )
    })
    .await;
    let desk = zendesk(&stub);
    let update = request("zendesk_update_ticket", json!({ "ticket_id": 12, "status": "open" }));
    assert_eq!(desk.look_up(&update).await.unwrap_err().kind, ToolErrorKind::Refused);
    assert_eq!(stub.seen().len(), 2, "the same cursor again is no further page");
}

/// However long ago it was created; other tickets in the answer are not taken for ours.
#[tokio::test]
async fn a_created_ticket_is_found_by_its_external_id() {
    let create = request("zendesk_create_ticket", json!({ "subject": "a", "body": "b" }));
    let bearing = |mark: Value| {
        let mut ticket = ticket();
        ticket["external_id"] = mark;
        ticket
    };
    let ours = bearing(json!(call_id(7).to_string()));
    let others = [bearing(json!(call_id(8).to_string())), bearing(Value::Null)];
    for (tickets, expected) in [
        (vec![], false),
        (others.to_vec(), false),
        (vec![ours.clone()], true),
        ([others.to_vec(), vec![ours]].concat(), true),
    ] {
        let stub = Stub::start(move |seen: &Seen| {
            assert_eq!(seen.param("external_id"), Some(call_id(7).to_string().as_str()));
            say(200, json!({ "tickets": tickets, "meta": { "has_more": false } }))
        })
        .await;
        match zendesk(&stub).look_up(&create).await.unwrap() {
            LookUp::Found(found) => assert_eq!((found["ticket"]["id"].as_u64(), expected), (Some(12), true)),
            told => assert!(!expected, "{told:?}"),
        }
        assert_eq!(stub.lines(), ["GET /api/v2/tickets.json"]);
        check_zendesk(&stub.seen());
    }
    let stub = Stub::start(|_| say(200, json!({ "tickets": ["odd", null] }))).await;
    let error = zendesk(&stub).look_up(&create).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused, "{error}");
}
