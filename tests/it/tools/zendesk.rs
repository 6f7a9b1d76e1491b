use copilotd_actors::ports::ToolBox;
use serde_json::{Value, json};

use super::specs::check_zendesk;
use super::stub::{Say, Seen, Stub, json as say};
use super::{request, zendesk};

fn ticket(id: u64, status: &str) -> Value {
    json!({
        "id": id, "subject": format!("Ticket {id}"), "description": "d".repeat(20_000), "status": status,
        "priority": "high", "requester_id": 1000 + id, "assignee_id": 1, "tags": ["vip"],
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z", "custom_fields": [{ "id": 1 }],
    })
}

fn comment(id: u64, author: u64, public: bool) -> Value {
    json!({
        "id": id, "author_id": author, "public": public, "body": format!("comment {id}"),
        "created_at": format!("2026-01-01T00:00:{id:02}Z"), "attachments": [{ "file_name": "log.txt" }],
    })
}

fn users(seen: &Seen) -> Say {
    let ids = seen
        .param("ids")
        .unwrap()
        .split(',')
        .map(|id| id.parse::<u64>().unwrap());
    let users: Vec<Value> = ids
        .map(|id| {
            let role = if id < 1000 { "agent" } else { "end-user" };
            json!({ "id": id, "name": format!("User {id}"), "email": format!("u{id}@x.test"), "role": role })
        })
        .collect();
    say(200, json!({ "users": users }))
}

/// Tickets 1 to 5: 1 answered, 2 asked again, 3 only a note, 4 never read, 5 answered long ago with many notes since.
fn desk(seen: &Seen) -> Say {
    match seen.path.as_str() {
        "/api/v2/search.json" => {
            let tickets: Vec<Value> = (1..=5)
                .map(|id| {
                    let mut ticket = ticket(id, "open");
                    ticket["result_type"] = json!("ticket");
                    ticket
                })
                .chain([json!({ "id": 77, "result_type": "user", "name": "no ticket" })])
                .collect();
            say(200, json!({ "results": tickets, "count": 6, "next_page": null }))
        }
        "/api/v2/users/show_many.json" => users(seen),
        "/api/v2/tickets/1.json" => say(200, json!({ "ticket": ticket(1, "open") })),
        "/api/v2/views.json" => {
            let after = seen.param("page[after]");
            let views = match after {
                None => {
                    json!([{ "id": 1, "title": "Mine", "active": true }, { "id": 2, "title": "Old", "active": false }])
                }
                Some(_) => json!([{ "id": 3, "title": "All" }]),
            };
            say(
                200,
                json!({ "views": views, "meta": { "has_more": after.is_none(), "after_cursor": "c1" } }),
            )
        }
        "/api/v2/views/3/tickets.json" => say(
            200,
            json!({ "tickets": [ticket(1, "open"), ticket(2, "solved")], "meta": { "has_more": false } }),
        ),
        path => match path
            .strip_prefix("/api/v2/tickets/")
            .and_then(|rest| rest.strip_suffix("/comments.json"))
        {
            Some(id) => comments(id.parse().unwrap(), seen),
            None => say(404, json!({ "error": "RecordNotFound", "description": "Not found" })),
        },
    }
}

fn comments(ticket: u64, seen: &Seen) -> Say {
    assert_eq!(seen.param("sort"), Some("-created_at"));
    let requester = 1000 + ticket;
    let mut all = match ticket {
        1 => vec![comment(2, 1, true), comment(1, requester, true)],
        2 => vec![
            comment(3, requester, true),
            comment(2, 1, true),
            comment(1, requester, true),
        ],
        3 => vec![comment(2, 1, false), comment(1, requester, true)],
        4 => vec![comment(1, requester, true)],
        _ => (0..40).rev().map(|id| comment(id, 1, false)).collect(),
    };
    let size: usize = seen.param("page[size]").unwrap().parse().unwrap();
    let more = all.len() > size;
    all.truncate(size);
    say(
        200,
        json!({ "comments": all, "meta": { "has_more": more, "after_cursor": "c" } }),
    )
}

async fn ask(tool: &str, arguments: Value) -> (Value, Stub) {
    let stub = Stub::start(desk).await;
    let reply = zendesk(&stub).call(&request(tool, arguments)).await.unwrap();
    check_zendesk(&stub.seen());
    assert!(reply.result.to_string().len() <= 24 * 1024);
    (reply.result, stub)
}

#[tokio::test]
async fn searching_builds_a_query_and_tells_what_a_model_needs() {
    let (result, stub) = ask(
        "zendesk_search_tickets",
        json!({ "query": "printer", "status": "open", "priority": "high", "requester": "Jo \"or\" status:new", "limit": 5 }),
    )
    .await;
    let seen = &stub.seen()[0];
    assert_eq!(
        seen.param("query"),
        Some("type:ticket status:open priority:high requester:\"Jo  or  status:new\" printer")
    );
    assert_eq!(seen.param("per_page"), Some("5"));
    assert_eq!(
        seen.header("authorization"),
        Some("Basic Ym90QGFjbWUudGVzdC90b2tlbjp6ZC1zZWNyZXQ=")
    );
    let tickets = result["tickets"].as_array().unwrap();
    assert_eq!(tickets.len(), 5);
    assert_eq!(result["total"], 6);
    let first = &tickets[0];
    assert_eq!(
        first["requester"],
        json!({ "id": 1001, "name": "User 1001", "email": "u1001@x.test" })
    );
    assert_eq!(first["url"], format!("{}/agent/tickets/1", stub.url));
    assert!(first["description"].as_str().unwrap().contains("more characters]"));
    assert!(first.get("custom_fields").is_none());
}

#[tokio::test]
async fn unread_means_without_a_public_answer_since_the_requesters_last_word() {
    let (result, stub) = ask("zendesk_search_tickets", json!({ "unread": true })).await;
    assert_eq!(stub.seen()[0].param("query"), Some("type:ticket status<pending"));
    let ids: Vec<u64> = result["tickets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [2, 3, 4]);
    assert_eq!(result["total"], 3);
    assert_eq!(result["not_examined"], 1, "nobody read far enough back in ticket 5");
}

#[tokio::test]
async fn a_rate_limit_in_the_middle_still_gives_what_is_known() {
    let stub = Stub::start(|seen| match seen.path.as_str() {
        "/api/v2/tickets/4/comments.json" => super::stub::raw(429, "slow down").header("retry-after", "9"),
        _ => desk(seen),
    })
    .await;
    let reply = zendesk(&stub)
        .call(&request("zendesk_search_tickets", json!({ "unread": true })))
        .await
        .unwrap();
    assert_eq!(reply.result["tickets"].as_array().unwrap().len(), 2);
    assert_eq!(reply.result["not_examined"], 2);
}

#[tokio::test]
async fn views_are_paged_by_cursor_and_their_tickets_filtered() {
    let (result, stub) = ask("zendesk_list_views", json!({})).await;
    let titles: Vec<&Value> = result["views"]
        .as_array()
        .unwrap()
        .iter()
        .map(|view| &view["title"])
        .collect();
    assert_eq!(titles, ["Mine", "All"]);
    assert_eq!(stub.seen()[1].param("page[after]"), Some("c1"));
    let (result, _) = ask("zendesk_search_tickets", json!({ "view_id": 3, "status": "open" })).await;
    assert_eq!(result["tickets"].as_array().unwrap().len(), 1);
    let (result, _) = ask("zendesk_search_tickets", json!({ "view_id": 3, "unread": true })).await;
    assert_eq!(result["tickets"], json!([]));
}

#[tokio::test]
async fn a_ticket_comes_with_its_comments_in_the_order_people_read_them() {
    let (result, _) = ask("zendesk_get_ticket", json!({ "ticket_id": 1, "comments": true })).await;
    assert_eq!(result["ticket"]["assignee"]["name"], "User 1");
    assert!(result["ticket"]["description"].as_str().unwrap().len() > 3000);
    let comments = result["comments"].as_array().unwrap();
    assert_eq!(comments[0]["role"], "end-user");
    assert_eq!(comments[1]["role"], "agent");
    assert_eq!(comments[1]["body"], "comment 2");
    assert_eq!(comments[1]["attachments"], json!(["log.txt"]));
    assert_eq!(result["older_comments"], false);
    let (result, _) = ask("zendesk_get_ticket", json!({ "ticket_id": 1 })).await;
    assert!(result.get("comments").is_none());
    let (result, _) = ask("zendesk_list_comments", json!({ "ticket_id": 5, "limit": 3 })).await;
    assert_eq!(result["comments"][2]["body"], "comment 39");
    assert_eq!(result["older_comments"], true);
}

#[tokio::test]
async fn a_huge_conversation_is_bounded_and_its_newest_part_kept() {
    let stub = Stub::start(|seen| match seen.path.as_str() {
        "/api/v2/users/show_many.json" => users(seen),
        _ => {
            let comments: Vec<Value> = (0..50)
                .map(|id| {
                    let mut comment = comment(59 - id, 1, true);
                    comment["body"] = json!("\u{1}\"😀".repeat(2000));
                    comment
                })
                .collect();
            say(200, json!({ "comments": comments, "meta": { "has_more": false } }))
        }
    })
    .await;
    let reply = zendesk(&stub)
        .call(&request(
            "zendesk_list_comments",
            json!({ "ticket_id": 9, "limit": 50 }),
        ))
        .await
        .unwrap();
    let comments = reply.result["comments"].as_array().unwrap();
    assert!(reply.result.to_string().len() <= 24 * 1024);
    assert_eq!(comments.last().unwrap()["id"], 59);
    assert_eq!(
        comments.len() as u64 + reply.result["comments_left_out"].as_u64().unwrap(),
        50
    );
}

#[tokio::test]
async fn users_are_shown_and_found() {
    let stub = Stub::start(|seen| match seen.path.as_str() {
        "/api/v2/users/7.json" => say(
            200,
            json!({ "user": { "id": 7, "name": "Ann", "email": "a@x.test", "role": "admin", "notes": "likes tea" } }),
        ),
        "/api/v2/users/search.json" => say(200, json!({ "users": [{ "id": 7, "name": "Ann" }], "count": 1 })),
        _ => say(404, json!({})),
    })
    .await;
    let desk = zendesk(&stub);
    let user = desk
        .call(&request("zendesk_get_user", json!({ "user_id": 7 })))
        .await
        .unwrap();
    assert_eq!(user.result["user"]["notes"], "likes tea");
    let found = desk
        .call(&request("zendesk_find_users", json!({ "query": "ann" })))
        .await
        .unwrap();
    assert_eq!(found.result["users"][0]["id"], 7);
    check_zendesk(&stub.seen());
}
