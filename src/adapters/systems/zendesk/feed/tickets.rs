//! Tickets, each with its conversation.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::document::Format;
use copilotd_knowledge::library::Content;
use copilotd_knowledge::sync::{Documents, FeedError, Item, Page, SourceDocument};
use serde_json::Value;

use super::articles::labels;
use super::{ZendeskFeed, number};
use crate::adapters::systems::tools::member::{Readable, as_flag, as_number, as_text, at, take_member};
use crate::adapters::systems::zendesk::users::User;
use crate::adapters::systems::zendesk::wire::Comment;

/// Tickets on a page of the export; each needs a request for its comments, so more would only be repeated after a kill.
const EXPORT_PAGE: &str = "100";
/// Comments on a page: Zendesk's largest.
const PAGE: &str = "100";
/// Most pages of comments of a ticket. Zendesk closes a ticket at 5,000 comments.
const MAX_PAGES: usize = 50;
/// Longest conversation, in bytes; what follows is left out.
const MAX_BYTES: usize = 2 * 1024 * 1024;
const PREFIX: &str = "ticket-";

impl ZendeskFeed {
    /// The position is Zendesk's cursor.
    pub(super) async fn changed_tickets(&self, tenant: &TenantId, after: Option<&str>) -> Result<Page, FeedError> {
        let mut query = vec![("per_page", EXPORT_PAGE.to_owned())];
        query.push(match after {
            Some(cursor) => ("cursor", cursor.to_owned()),
            None => {
                let since = self.of_tickets()?.changed_since;
                let second = since.map_or(0, |since| since.as_second().max(0));
                ("start_time", second.to_string())
            }
        });
        let mut answer = self.export(tenant, "incremental/tickets/cursor", &query).await?;
        let Value::Array(tickets) = take_member(&mut answer, "tickets") else {
            return Err(FeedError::Failed("zendesk sent no list of tickets".to_owned()));
        };
        let (mut items, mut unreadable) = (Vec::new(), Vec::new());
        for ticket in tickets {
            match as_number(at(&ticket, &["id"])).filter(|id| *id > 0) {
                Some(id) => items.push(Item {
                    id: format!("{PREFIX}{id}"),
                    data: ticket,
                }),
                None => unreadable.push("a ticket without an id".to_owned()),
            }
        }
        let next = as_text(at(&answer, &["after_cursor"])).filter(|cursor| !cursor.is_empty());
        Ok(Page {
            items,
            unreadable,
            is_last: as_flag(at(&answer, &["end_of_stream"])) != Some(false),
            next,
        })
    }

    pub(super) async fn documents_of_ticket(&self, tenant: &TenantId, item: &Item) -> Result<Documents, FeedError> {
        let settings = self.of_tickets()?;
        let ticket = &item.data;
        let status = as_text(at(ticket, &["status"])).unwrap_or_default();
        if status == "deleted" {
            return Ok(Documents::default());
        }
        let Some(text) = self.conversation(tenant, item, settings.internal_comments).await? else {
            return Ok(Documents::default());
        };
        let Ok(external_id) = item.id.parse() else {
            return Ok(Documents::default());
        };
        let mut metadata = BTreeMap::from([("status".to_owned(), status.into())]);
        if let Some(priority) = as_text(at(ticket, &["priority"])) {
            metadata.insert("priority".to_owned(), priority.into());
        }
        metadata.extend(labels("tag", at(ticket, &["tags"])));
        Ok(Documents {
            documents: vec![SourceDocument {
                external_id,
                content: Content {
                    format: Format::Text,
                    bytes: text.into_bytes(),
                },
                title: as_text(at(ticket, &["subject"])),
                uri: Some(self.api.ticket_url(number(item, PREFIX))),
                metadata,
                roles: Some(settings.allowed_roles.clone()),
            }],
            left_out: None,
        })
    }

    /// Returns a ticket's comments as a text, oldest first; none if there are none to show.
    async fn conversation(&self, tenant: &TenantId, item: &Item, internal: bool) -> Result<Option<String>, FeedError> {
        let path = format!("tickets/{}/comments", number(item, PREFIX));
        let requester = as_number(at(&item.data, &["requester_id"]));
        let mut text = String::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = vec![
                ("page[size]", PAGE.to_owned()),
                ("sort", "created_at".to_owned()),
                ("include", "users".to_owned()),
            ];
            query.extend(after.clone().map(|cursor| ("page[after]", cursor)));
            let Some(mut answer) = self.get(tenant, &path, &query).await? else {
                // Deleted since it was listed.
                return Ok(None);
            };
            let (Value::Array(comments), users) =
                (take_member(&mut answer, "comments"), take_member(&mut answer, "users"))
            else {
                return Err(FeedError::Failed("zendesk sent no list of comments".to_owned()));
            };
            let people = match users {
                Value::Array(users) => Readable::<User>::read(users).items,
                _ => Vec::new(),
            };
            let people: HashMap<u64, User> = people.into_iter().map(|user| (user.id, user)).collect();
            for comment in Readable::<Comment>::read(comments).items {
                add(&mut text, &comment, requester, &people, internal);
                if text.len() > MAX_BYTES {
                    return Ok(Some(text));
                }
            }
            let next = as_text(at(&answer, &["meta", "after_cursor"])).filter(|cursor| !cursor.is_empty());
            let has_more = as_flag(at(&answer, &["meta", "has_more"])) == Some(true);
            if !has_more || next.is_none() || next == after {
                break;
            }
            after = next;
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// Adds a comment, unless it is internal and those are not asked for. One that does not say that it is public is
/// internal.
fn add(text: &mut String, comment: &Comment, requester: Option<u64>, people: &HashMap<u64, User>, internal: bool) {
    let is_public = comment.public == Some(true);
    if !is_public && !internal {
        return;
    }
    let said = comment
        .plain_body
        .as_deref()
        .or(comment.body.as_deref())
        .unwrap_or_default();
    if said.trim().is_empty() {
        return;
    }
    let is_agent = comment
        .author_id
        .and_then(|id| people.get(&id))
        .is_some_and(User::is_agent);
    let role = match comment.author_id {
        Some(author) if Some(author) == requester => "Customer",
        Some(_) if is_agent => "Agent",
        _ => "Customer",
    };
    let date = comment.created_at.as_deref().unwrap_or_default();
    let kind = if is_public { "" } else { ", internal" };
    // Writing to a text does not fail.
    let _ = write!(text, "{role}{kind}, {date}:\n{}\n\n", said.trim());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn internal_comments_are_added_only_if_asked_for() {
        let comment = |public: Value, author: u64| -> Comment {
            let body =
                json!({ "author_id": author, "public": public, "body": "Text.", "created_at": "2026-01-05T09:00:00Z" });
            serde_json::from_value(body).unwrap()
        };
        let agent: User = serde_json::from_value(json!({ "id": 2, "role": "agent" })).unwrap();
        let people = HashMap::from([(2, agent)]);
        for (public, author, internal, expected) in [
            (json!(true), 11, false, "Customer, 2026-01-05T09:00:00Z:\nText.\n\n"),
            (json!(true), 2, false, "Agent, 2026-01-05T09:00:00Z:\nText.\n\n"),
            (json!(true), 12, true, "Customer, 2026-01-05T09:00:00Z:\nText.\n\n"),
            (json!(false), 2, false, ""),
            (json!(null), 2, false, ""),
            (
                json!(false),
                2,
                true,
                "Agent, internal, 2026-01-05T09:00:00Z:\nText.\n\n",
            ),
        ] {
            let mut text = String::new();
            add(&mut text, &comment(public.clone(), author), Some(11), &people, internal);
            assert_eq!(text, expected, "{public} {author} {internal}");
        }
    }
}
