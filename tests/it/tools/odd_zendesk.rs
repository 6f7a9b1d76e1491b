//! Answers of Zendesk that are not as documented: readable parts are returned, unreadable ones are counted, and nothing
//! is guessed.

use copilotd_actors::ports::{ToolBox, ToolErrorKind};
use serde_json::{Value, json};

use super::stub::{Say, Seen, Stub, json as say, raw};
use super::{request, zendesk};

fn ticket(id: u64) -> Value {
    json!({ "id": id, "result_type": "ticket", "subject": format!("Ticket {id}"), "status": "open", "requester_id": 100 + id,
            "tags": ["a"], "created_at": "2026-01-01T00:00:00Z" })
}

fn comment(id: u64, author: Value) -> Value {
    json!({ "id": id, "author_id": author, "public": true, "body": "hello", "created_at": "2026-01-01T00:00:00Z" })
}

fn found(tickets: Value) -> Say {
    say(200, json!({ "results": tickets, "count": 9, "next_page": null }))
}

fn comments(comments: Value) -> Say {
    say(200, json!({ "comments": comments, "meta": { "has_more": false } }))
}

fn users(seen: &Seen) -> Say {
    let ids = seen.param("ids").unwrap_or_default().split(',');
    let ids = ids.filter_map(|id| id.parse::<u64>().ok());
    let role = |id| if id < 100 { "agent" } else { "end-user" };
    let users: Vec<Value> = ids
        .map(|id| json!({ "id": id, "name": "N", "role": role(id) }))
        .collect();
    say(200, json!({ "users": users }))
}

/// Answers one path with `odd` and the others as usual.
async fn desk(path: &'static str, odd: Say) -> Stub {
    Stub::start(move |seen: &Seen| match seen.path.strip_prefix("/api/v2/").unwrap() {
        asked if asked == path => odd.clone(),
        "search.json" => found(json!([ticket(1), ticket(2), ticket(3)])),
        "users/show_many.json" => users(seen),
        "tickets/1.json" => say(200, json!({ "ticket": ticket(1) })),
        path if path.ends_with("/comments.json") => {
            let id = path.split('/').nth(1).unwrap().parse::<u64>().unwrap();
            comments(json!([comment(1, json!(100 + id))]))
        }
        _ => say(404, json!({ "error": "RecordNotFound" })),
    })
    .await
}

async fn ask(tool: &str, arguments: Value, path: &'static str, odd: Say) -> Value {
    let stub = desk(path, odd).await;
    zendesk(&stub).call(&request(tool, arguments)).await.unwrap().result
}

fn ids(list: &Value) -> Vec<u64> {
    let ids = list.as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap());
    ids.collect()
}

#[tokio::test]
async fn a_malformed_comment_is_listed_without_its_author() {
    for odd in [
        json!(-1),
        json!(null),
        json!(0),
        json!(1.5),
        json!("x"),
        json!([]),
        json!({}),
        json!(1e300),
        json!(true),
    ] {
        let all = json!([comment(3, json!(101)), comment(2, odd.clone()), comment(1, json!("7"))]);
        let told = ask(
            "zendesk_list_comments",
            json!({ "ticket_id": 1 }),
            "tickets/1/comments.json",
            comments(all),
        )
        .await;
        assert_eq!(ids(&told["comments"]), [1, 2, 3], "{odd}");
        assert_eq!(told["comments"][1]["author"], Value::Null, "{odd}");
        assert_eq!(told["comments"][0]["author"]["id"], 7, "an id as a text");
        assert_eq!(told["comments"][0]["role"], "agent");
        assert_eq!(told.get("comments_unreadable"), None);
    }
}

#[tokio::test]
async fn unreadable_items_are_left_out_and_counted() {
    let odd = [json!(null), json!(7), json!("x"), json!([]), json!(true)];
    let with = |good: Value| -> Value { odd.iter().cloned().chain([good]).collect() };
    for (tool, arguments, path, answer, list) in [
        (
            "zendesk_list_comments",
            json!({ "ticket_id": 1 }),
            "tickets/1/comments.json",
            comments(with(comment(1, json!(101)))),
            "comments",
        ),
        (
            "zendesk_get_ticket",
            json!({ "ticket_id": 1, "comments": true }),
            "tickets/1/comments.json",
            comments(with(comment(1, json!(101)))),
            "comments",
        ),
        (
            "zendesk_search_tickets",
            json!({}),
            "search.json",
            found(with(ticket(1))),
            "tickets",
        ),
        (
            "zendesk_search_tickets",
            json!({ "unread": true }),
            "search.json",
            found(with(ticket(1))),
            "tickets",
        ),
        (
            "zendesk_search_tickets",
            json!({ "view_id": 9 }),
            "views/9/tickets.json",
            say(
                200,
                json!({ "tickets": with(ticket(1)), "meta": { "has_more": false } }),
            ),
            "tickets",
        ),
        (
            "zendesk_find_users",
            json!({ "query": "nn" }),
            "users/search.json",
            say(200, json!({ "users": with(json!({ "id": 5 })), "count": 6 })),
            "users",
        ),
        (
            "zendesk_list_views",
            json!({}),
            "views.json",
            say(
                200,
                json!({ "views": with(json!({ "id": 5, "title": "V" })), "meta": { "has_more": false } }),
            ),
            "views",
        ),
    ] {
        let told = ask(tool, arguments, path, answer).await;
        assert_eq!(told[list].as_array().unwrap().len(), 1, "{tool}: {told}");
        assert_eq!(told[format!("{list}_unreadable")], "5 could not be read", "{tool}");
    }
    let unread = ask(
        "zendesk_search_tickets",
        json!({ "unread": true }),
        "search.json",
        found(with(ticket(1))),
    )
    .await;
    assert_eq!(unread["total"], Value::Null, "a part is not the whole");
}

/// Z02: the product's main job must not fail because of one ticket.
#[tokio::test]
async fn a_ticket_that_was_deleted_meanwhile_is_left_out_of_the_unread_ones() {
    for gone in [
        say(404, json!({ "error": "RecordNotFound" })),
        raw(404, ""),
        raw(410, "gone"),
    ] {
        let told = ask(
            "zendesk_search_tickets",
            json!({ "unread": true }),
            "tickets/2/comments.json",
            gone,
        )
        .await;
        assert_eq!(ids(&told["tickets"]), [1, 3]);
        assert_eq!(told["deleted_meanwhile"], 1);
        assert_eq!(told["total"], 2);
        assert_eq!(told.get("not_examined"), None);
    }
}

#[tokio::test]
async fn a_ticket_whose_comments_cannot_be_read_is_counted_as_not_examined() {
    for odd in [
        raw(200, "<html>"),
        raw(500, ""),
        raw(403, ""),
        raw(200, ""),
        say(200, json!({ "comments": null })),
        raw(429, ""),
    ] {
        let told = ask(
            "zendesk_search_tickets",
            json!({ "unread": true }),
            "tickets/2/comments.json",
            odd,
        )
        .await;
        assert_eq!(ids(&told["tickets"]), [1, 3]);
        assert_eq!(told["not_examined"], 1);
        assert_eq!(told["total"], Value::Null);
    }
}

#[tokio::test]
async fn all_tickets_gone_is_an_answer_and_all_failing_is_an_error() {
    let all = |answer: Say| {
        Stub::start(move |seen: &Seen| match seen.path.as_str() {
            "/api/v2/search.json" => found(json!([ticket(1), ticket(2)])),
            path if path.ends_with("/comments.json") => answer.clone(),
            _ => users(seen),
        })
    };
    let unread = request("zendesk_search_tickets", json!({ "unread": true }));
    let stub = all(raw(404, "")).await;
    let told = zendesk(&stub).call(&unread).await.unwrap().result;
    assert_eq!((&told["tickets"], &told["deleted_meanwhile"]), (&json!([]), &json!(2)));
    let stub = all(raw(503, "")).await;
    assert_eq!(
        zendesk(&stub).call(&unread).await.unwrap_err().kind,
        ToolErrorKind::OutcomeUnknown
    );
}

#[tokio::test]
async fn a_malformed_optional_member_fails_no_ticket() {
    let names = [
        "subject",
        "description",
        "status",
        "priority",
        "requester_id",
        "assignee_id",
        "tags",
        "created_at",
        "updated_at",
        "url",
    ];
    let odd = [
        json!(null),
        json!(-1),
        json!(1.5),
        json!("12"),
        json!(true),
        json!([]),
        json!({}),
        json!([null, 1, {}]),
        json!(u64::MAX),
    ];
    for name in names {
        for value in &odd {
            let mut one = ticket(2);
            one[name] = value.clone();
            let told = ask(
                "zendesk_search_tickets",
                json!({}),
                "search.json",
                found(json!([ticket(1), one.clone()])),
            )
            .await;
            assert_eq!(ids(&told["tickets"]), [1, 2], "{name}: {value}");
            assert_eq!(told.get("tickets_unreadable"), None, "{name}: {value}");
            let told = ask(
                "zendesk_get_ticket",
                json!({ "ticket_id": 1 }),
                "tickets/1.json",
                say(200, json!({ "ticket": one })),
            )
            .await;
            assert_eq!(told["ticket"]["id"], 2, "{name}: {value}");
        }
    }
    let mut tags = ticket(1);
    tags["tags"] = json!(["a", null, 7, {}]);
    let told = ask(
        "zendesk_get_ticket",
        json!({ "ticket_id": 1 }),
        "tickets/1.json",
        say(200, json!({ "ticket": tags })),
    )
    .await;
    assert_eq!(told["ticket"]["tags"], json!(["a", "7"]));
    assert_eq!(told["ticket"]["tags_unreadable"], "2 could not be read");
}

#[tokio::test]
async fn an_id_that_was_rounded_is_no_id() {
    for (id, read) in [
        (json!(9_007_199_254_740_993_u64), Some(9_007_199_254_740_993_u64)),
        (json!("9007199254740993"), Some(9_007_199_254_740_993)),
        (json!(7.0), Some(7)),
        (json!(1e19), None),
        (json!(-3), None),
        (json!("x"), None),
    ] {
        let mut one = ticket(1);
        one["id"] = id.clone();
        let told = ask(
            "zendesk_search_tickets",
            json!({}),
            "search.json",
            found(json!([one, ticket(2)])),
        )
        .await;
        let expected: Vec<u64> = read.into_iter().chain([2]).collect();
        assert_eq!(ids(&told["tickets"]), expected, "{id}");
        assert_eq!(told.get("tickets_unreadable").is_some(), read.is_none(), "{id}");
    }
}

/// An unreadable status may be "open": such a ticket does not count as answered.
#[tokio::test]
async fn a_ticket_without_a_readable_status_is_not_examined() {
    let mut odd = ticket(2);
    odd["status"] = json!({});
    let told = ask(
        "zendesk_search_tickets",
        json!({ "unread": true }),
        "search.json",
        found(json!([ticket(1), odd])),
    )
    .await;
    assert_eq!((&told["not_examined"], &told["total"]), (&json!(1), &Value::Null));
}

#[tokio::test]
async fn a_malformed_list_is_a_clear_error() {
    for list in [json!(null), json!({}), json!("x"), json!(7)] {
        for (tool, arguments, path, answer) in [
            (
                "zendesk_search_tickets",
                json!({}),
                "search.json",
                json!({ "results": list }),
            ),
            (
                "zendesk_list_comments",
                json!({ "ticket_id": 1 }),
                "tickets/1/comments.json",
                json!({ "comments": list }),
            ),
            ("zendesk_list_views", json!({}), "views.json", json!({ "views": list })),
            (
                "zendesk_find_users",
                json!({ "query": "nn" }),
                "users/search.json",
                json!({ "users": list }),
            ),
        ] {
            let stub = desk(path, say(200, answer)).await;
            let error = zendesk(&stub).call(&request(tool, arguments)).await.unwrap_err();
            assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");
            assert!(error.message.contains("without a list of"), "{error}");
            assert!(error.answered, "the system is reachable");
        }
    }
}

/// Our credentials are sent to the configured address only.
#[tokio::test]
async fn an_address_in_an_answer_is_never_followed() {
    let elsewhere = Stub::start(|_| raw(200, "{}")).await;
    let link = format!("{}/api/v2/views.json?page=2", elsewhere.url);
    let stub = Stub::start(move |_| {
        say(
            200,
            json!({ "views": [{ "id": 1 }], "next_page": link, "links": { "next": link },
                         "meta": { "has_more": true, "after_cursor": link } }),
        )
    })
    .await;
    let told = zendesk(&stub)
        .call(&request("zendesk_list_views", json!({})))
        .await
        .unwrap();
    assert!(elsewhere.seen().is_empty());
    assert_eq!(told.result["more"], true);
    assert_eq!(stub.seen().len(), 2, "the same cursor again is the end");
}

#[tokio::test]
async fn pages_without_end_are_bounded() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let stub = Stub::start(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        say(
            200,
            json!({ "views": [{ "id": 1 }], "meta": { "has_more": "true", "after_cursor": n } }),
        )
    })
    .await;
    let told = zendesk(&stub)
        .call(&request("zendesk_list_views", json!({})))
        .await
        .unwrap();
    assert_eq!(told.result["more"], true);
    assert!(stub.seen().len() <= 200, "{}", stub.seen().len());
}

#[tokio::test]
async fn an_update_that_was_made_is_reported_whatever_the_answer() {
    for answer in [
        json!({}),
        json!({ "ticket": null }),
        json!({ "ticket": 7 }),
        json!({ "ticket": { "id": "x" } }),
    ] {
        let stub = Stub::start(move |seen: &Seen| match seen.method.as_str() {
            "PUT" => say(200, answer.clone()),
            _ => say(200, json!({ "ticket": ticket(1) })),
        })
        .await;
        let update = request("zendesk_update_ticket", json!({ "ticket_id": 1, "status": "solved" }));
        let told = zendesk(&stub).call(&update).await.unwrap();
        assert_eq!(told.result["ticket"]["id"], 1);
    }
}
