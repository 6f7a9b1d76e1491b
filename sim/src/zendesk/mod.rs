//! A Zendesk with tickets, comments, people, views and a help centre.
//!
//! The API is under `{base_url}/api/v2`, each path with or without `.json`. `Authorization` is `Basic` with
//! `EMAIL/token:TOKEN`, or `Bearer`; any token is accepted unless the knob `require_token` names one. Times have whole
//! seconds, as in Zendesk; a ticket's `updated_at` grows with each change, so that `safe_update` detects even two
//! changes within one second.

mod export;
mod fixtures;
mod help_center;
mod model;
mod paging;
mod search;
mod views;
mod write;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::Method;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::accounts::{self, Account, MultiAccount};
use crate::http::{Content, Reply, Request};
use crate::knobs::Knobs;
use crate::service::{self, Vendor};
use crate::{Running, kept};
use model::{Ticket, User};

/// Starts Zendesk; with `fixtures` it has some people and tickets.
pub async fn start(listen: SocketAddr, fixtures: bool) -> io::Result<Running> {
    service::start(listen, Zendesk::new(fixtures), None).await
}

/// Starts Zendesk with the state stored in `file`, or with fixtures; from then on the file is kept up to date.
pub async fn start_with_file(listen: SocketAddr, file: PathBuf) -> io::Result<Running> {
    let zendesk = kept::read(&file)?.unwrap_or_else(|| Zendesk::new(true));
    service::start(listen, zendesk, Some(file)).await
}

/// Starts Zendesk with one account for each of `accounts`, stored in `file`.
pub async fn start_accounts(listen: SocketAddr, file: PathBuf, accounts: Vec<Account>) -> io::Result<Running> {
    accounts::start::<Zendesk>(listen, file, accounts).await
}

/// Tickets in the compact view.
const SHOWN_CHANGES: usize = 200;

/// The state of one Zendesk account.
#[derive(Serialize, Deserialize)]
struct Zendesk {
    fixtures: bool,
    tickets: Vec<Ticket>,
    /// Deleted tickets, which only the incremental export shows.
    #[serde(default)]
    deleted: Vec<Ticket>,
    #[serde(default)]
    articles: Vec<help_center::Article>,
    users: Vec<User>,
    next_id: u64,
    version: u64,
    /// What was created with which `Idempotency-Key`.
    idempotency: HashMap<String, write::FirstUse>,
}

impl Zendesk {
    fn new(fixtures: bool) -> Self {
        let mut zendesk = Self {
            fixtures,
            tickets: Vec::new(),
            deleted: Vec::new(),
            articles: Vec::new(),
            users: fixtures::staff(),
            next_id: 1000,
            version: 1,
            idempotency: HashMap::new(),
        };
        if fixtures {
            fixtures::fill(&mut zendesk);
        }
        zendesk
    }

    fn ticket(&self, id: u64) -> Option<&Ticket> {
        self.tickets.iter().find(|ticket| ticket.id == id)
    }

    fn user(&self, id: u64) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Returns the caller, by the address in the credentials; a bearer token is the admin's.
    fn authenticate(&self, request: &Request, knobs: &Knobs) -> Result<u64, Reply> {
        let (email, token) = credentials(request).ok_or_else(Self::unknown_token)?;
        if knobs.require_token.as_ref().is_some_and(|wanted| *wanted != token) {
            return Err(Self::unknown_token());
        }
        let known = email.and_then(|email| self.users.iter().find(|user| user.email == email));
        Ok(known.map_or(fixtures::ADMIN, |user| user.id))
    }
}

/// Returns the address, if any, and the token of a request.
fn credentials(request: &Request) -> Option<(Option<String>, String)> {
    let header = request.header("authorization")?;
    let (email, token) = if let Some(token) = header.strip_prefix("Bearer ") {
        (None, token.trim().to_owned())
    } else {
        let encoded = header.strip_prefix("Basic ")?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (name, token) = text.split_once(':')?;
        // Passwords are no longer accepted, only API tokens.
        (Some(name.strip_suffix("/token")?.to_owned()), token.to_owned())
    };
    (!token.is_empty()).then_some((email, token))
}

impl MultiAccount for Zendesk {
    fn filled() -> Self {
        Self::new(true)
    }

    fn token(request: &Request) -> Option<String> {
        Some(credentials(request)?.1)
    }

    fn unknown_token() -> Reply {
        Reply::json(401, json!({"error": "Couldn't authenticate you"}))
    }
}

impl Vendor for Zendesk {
    const NAME: &'static str = "Zendesk";

    fn handle(&mut self, request: &Request, knobs: &Knobs) -> Reply {
        let caller = match self.authenticate(request, knobs) {
            Ok(caller) => caller,
            Err(refusal) => return refusal,
        };
        let Some(path) = request.path.strip_prefix("/api/v2/") else {
            return not_found();
        };
        let path = path.strip_suffix(".json").unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let id = |text: &str| text.parse::<u64>().ok();
        let get = request.method == Method::GET;
        match (parts.as_slice(), &request.method) {
            (["tickets"], &Method::GET) => paging::tickets(self, request, self.tickets.iter().collect()),
            (["tickets"], &Method::POST) => self.create(request, caller),
            (["tickets", "count"], &Method::GET) => {
                json_ok(json!({"count": {"value": self.tickets.len(), "refreshed_at": model::now().to_string()}}))
            }
            (["tickets", "show_many"], &Method::GET) => self.show_many(request),
            (["tickets", ticket], &Method::GET) => self.show(request, id(ticket)),
            (["tickets", ticket], &Method::PUT) => self.update(request, id(ticket), caller),
            (["tickets", ticket], &Method::DELETE) => export::delete(self, id(ticket)),
            (["incremental", "tickets", "cursor"], &Method::GET) => export::tickets(self, request, knobs),
            (["help_center", rest @ ..], _) => help_center::route(self, request, rest, caller, knobs),
            (["tickets", ticket, "comments"], &Method::GET) => self.comments(request, id(ticket)),
            (["tickets", ticket, "audits"], &Method::GET) => self.audits(request, id(ticket)),
            (["search"], &Method::GET) => search::search(self, request),
            (["search", "count"], &Method::GET) => search::count(self, request),
            (["search", "export"], &Method::GET) => search::export(self, request),
            (["views", ..], &Method::GET) => views::route(self, request, &parts[1..], caller),
            (["users"], &Method::GET) => paging::users(request, self.users.iter().collect()),
            (["users", "me"], &Method::GET) => match self.user(caller) {
                Some(user) => json_ok(json!({"user": user.to_json(&request.origin())})),
                None => not_found(),
            },
            (["users", "search" | "autocomplete"], &Method::GET) => self.search_users(request),
            (["users", "show_many"], &Method::GET) => {
                let wanted = many(request);
                let users = self.users.iter().filter(|user| wanted.contains(&user.id));
                paging::users(request, users.collect())
            }
            (["users", user], &Method::GET) => match id(user).and_then(|id| self.user(id)) {
                Some(user) => json_ok(json!({"user": user.to_json(&request.origin())})),
                None => not_found(),
            },
            _ if get => not_found(),
            _ => Reply::json(
                405,
                json!({"error": "MethodNotAllowed", "description": "The simulated Zendesk does not do this."}),
            ),
        }
    }

    fn failure(status: u16, retry_after: Option<u64>) -> Reply {
        let reply = match status {
            429 => Reply::text(429, "Number of allowed API requests per minute exceeded"),
            401 => Reply::json(401, json!({"error": "Couldn't authenticate you"})),
            403 => Reply::json(
                403,
                json!({"error": {"title": "Forbidden", "message": "You do not have access to this page. Please contact the account owner of this help desk for further help."}}),
            ),
            404 => not_found(),
            409 => Reply::json(
                409,
                json!({"error": "UpdateConflict", "description": "The request conflicted with another."}),
            ),
            503 => Reply::text(503, "Service Unavailable"),
            status => Reply::json(
                status,
                json!({"error": "InternalError", "description": "The simulated Zendesk was told to fail."}),
            ),
        };
        match retry_after {
            Some(seconds) => reply.with_header("retry-after", seconds.to_string()),
            None => reply,
        }
    }

    fn own_limit(path: &str, knobs: &Knobs) -> Option<u64> {
        export::is_export(path).then(|| knobs.exports_per_minute.unwrap_or(export::PER_MINUTE))
    }

    fn rate_headers(reply: Reply, path: &str, limit: u64, remaining: u64, reset: u64) -> Reply {
        let reply = reply
            .with_header("x-rate-limit", limit.to_string())
            .with_header("x-rate-limit-remaining", remaining.to_string())
            .with_header("ratelimit-limit", limit.to_string())
            .with_header("ratelimit-remaining", remaining.to_string())
            .with_header("ratelimit-reset", reset.to_string());
        if path.trim_end_matches(".json") == "/api/v2/tickets" {
            let value = format!("total=100; remaining=99; resets={reset}");
            return reply.with_header("zendesk-ratelimit-tickets-index", value);
        }
        reply
    }

    fn state(&self) -> Value {
        let tickets: Vec<_> = self
            .tickets
            .iter()
            .map(|ticket| {
                let mut shown = ticket.to_json("");
                let comments: Vec<_> = ticket.comments.iter().map(model::Comment::to_json).collect();
                shown["comments"] = json!(comments);
                shown["unread"] = json!(ticket.is_unread());
                shown
            })
            .collect();
        let users: Vec<_> = self.users.iter().map(|user| user.to_json("")).collect();
        json!({"tickets": tickets, "users": users})
    }

    fn kept(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn changes(&self) -> Value {
        let mut tickets: Vec<_> = self.tickets.iter().collect();
        tickets.sort_by_key(|ticket| std::cmp::Reverse((ticket.updated_at, ticket.id)));
        let shown: Vec<_> = tickets
            .into_iter()
            .take(SHOWN_CHANGES)
            .map(|ticket| {
                json!({
                    "id": ticket.id,
                    "subject": ticket.subject,
                    "status": ticket.status,
                    "priority": ticket.priority,
                    "updated_at": ticket.updated_at.to_string(),
                    "unread": ticket.is_unread(),
                    "requester": self.user(ticket.requester_id).map(|user| &user.name),
                    "comments": ticket.comments.iter().map(|comment| json!({
                        "author": self.user(comment.author_id).map(|user| &user.name),
                        "by_agent": comment.author_is_agent,
                        "body": comment.body,
                        "public": comment.public,
                        "created_at": comment.created_at.to_string(),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({"tickets": shown})
    }

    fn reset(&mut self) {
        let version = self.version;
        *self = Self::new(self.fixtures);
        // A polling page must notice.
        self.version = version + 1;
    }
}

impl Zendesk {
    fn show(&self, request: &Request, id: Option<u64>) -> Reply {
        let Some(ticket) = id.and_then(|id| self.ticket(id)) else {
            return not_found();
        };
        let mut body = json!({"ticket": ticket.to_json(&request.origin())});
        self.sideload(request, &mut body, &[ticket]);
        json_ok(body)
    }

    fn show_many(&self, request: &Request) -> Reply {
        let wanted = many(request);
        let tickets = self.tickets.iter().filter(|ticket| wanted.contains(&ticket.id));
        paging::tickets(self, request, tickets.collect())
    }

    fn comments(&self, request: &Request, id: Option<u64>) -> Reply {
        let Some(ticket) = id.and_then(|id| self.ticket(id)) else {
            return not_found();
        };
        let mut comments: Vec<_> = ticket.comments.iter().map(model::Comment::to_json).collect();
        // Cursor paging uses `sort`, numbered paging `sort_order`.
        if request.param("sort") == Some("-created_at") || request.param("sort_order") == Some("desc") {
            comments.reverse();
        }
        let mut reply = paging::page(request, "comments", comments);
        if let Content::Json(body) = &mut reply.body
            && request.param("include") == Some("users")
        {
            let authors = ticket.comments.iter().map(|comment| comment.author_id);
            body["users"] = self.users_json(request, &authors.collect::<Vec<_>>());
        }
        reply
    }

    /// Returns what was changed, by whom, and with which metadata of the request.
    fn audits(&self, request: &Request, id: Option<u64>) -> Reply {
        match id.and_then(|id| self.ticket(id)) {
            Some(ticket) => paging::page(request, "audits", ticket.audits.clone()),
            None => not_found(),
        }
    }

    fn search_users(&self, request: &Request) -> Reply {
        let query = request.param("query").or(request.param("name")).unwrap_or_default();
        let wanted = query.trim().trim_matches('"').to_lowercase();
        let wanted = wanted
            .strip_prefix("email:")
            .unwrap_or(&wanted)
            .trim_matches('"')
            .to_owned();
        let external = request.param("external_id");
        let fits = |user: &&User| match external {
            Some(external) => user.external_id.as_deref() == Some(external),
            None => !wanted.is_empty() && (user.email == wanted || user.name.to_lowercase().contains(&wanted)),
        };
        paging::users(request, self.users.iter().filter(fits).collect())
    }

    /// Adds the people of the tickets if `include=users` asks for them.
    fn sideload(&self, request: &Request, body: &mut Value, tickets: &[&Ticket]) {
        let wanted = request.param("include").unwrap_or_default();
        if wanted.split(',').any(|name| name == "users") {
            let people = tickets
                .iter()
                .flat_map(|ticket| [Some(ticket.requester_id), Some(ticket.submitter_id), ticket.assignee_id]);
            body["users"] = self.users_json(request, &people.flatten().collect::<Vec<_>>());
        }
    }

    fn users_json(&self, request: &Request, ids: &[u64]) -> Value {
        let users = self.users.iter().filter(|user| ids.contains(&user.id));
        users.map(|user| user.to_json(&request.origin())).collect()
    }
}

/// Parses `ids=1,2,3`.
fn many(request: &Request) -> Vec<u64> {
    let ids = request.param("ids").unwrap_or_default().split(',');
    ids.filter_map(|id| id.trim().parse().ok()).collect()
}

fn json_ok(body: Value) -> Reply {
    Reply::json(200, body)
}

fn not_found() -> Reply {
    Reply::json(404, json!({"error": "RecordNotFound", "description": "Not found"}))
}
