//! A Slack workspace with channels, people and messages.
//!
//! Methods are under `{base_url}/api/{method}`, by GET or POST, with arguments in the query, in a form or in JSON. Any
//! token is accepted unless the knob `require_token` names one. Errors look as in Slack: HTTP 200 with `{"ok": false,
//! "error": …}`.

mod arguments;
mod chat;
mod conversations;
mod fixtures;
mod model;
mod people;
mod person;
mod streams;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::accounts::{self, Account, MultiAccount};
use crate::http::{Reply, Request};
use crate::knobs::Knobs;
use crate::service::{self, NotWritten, Vendor};
use crate::{Running, kept};
use arguments::Arguments;
use model::{Channel, Message, User};

/// Starts Slack; with `fixtures` it has some people and channels.
pub async fn start(listen: SocketAddr, fixtures: bool) -> io::Result<Running> {
    service::start(listen, Slack::new(fixtures), None).await
}

/// Starts Slack with the state stored in `file`, or with fixtures; from then on the file is kept up to date.
pub async fn start_with_file(listen: SocketAddr, file: PathBuf) -> io::Result<Running> {
    let slack = kept::read(&file)?.unwrap_or_else(|| Slack::new(true));
    service::start(listen, slack, Some(file)).await
}

/// Starts Slack with one workspace per account, stored in `file`.
pub async fn start_accounts(listen: SocketAddr, file: PathBuf, accounts: Vec<Account>) -> io::Result<Running> {
    accounts::start::<Slack>(listen, file, accounts).await
}

/// Messages per channel in the compact view.
const SHOWN_MESSAGES: usize = 100;

/// The state of one workspace.
#[derive(Serialize, Deserialize)]
struct Slack {
    fixtures: bool,
    channels: Vec<Channel>,
    users: Vec<User>,
    /// Statuses set on assistant threads: channel, thread and text.
    statuses: Vec<(String, String, String)>,
    /// Microseconds of the last timestamp issued; each is used once.
    last_ts: i64,
    next_dm: u64,
    version: u64,
}

/// Result of a method: its fields, or Slack's error code.
type Answer = Result<MethodResult, &'static str>;

/// The fields of an answer, and whether the method changed something.
struct MethodResult {
    fields: Value,
    changed: bool,
}

fn unchanged(fields: Value) -> Answer {
    Ok(MethodResult { fields, changed: false })
}

fn done(fields: Value) -> Answer {
    Ok(MethodResult { fields, changed: true })
}

impl Slack {
    fn new(fixtures: bool) -> Self {
        let mut slack = Self {
            fixtures,
            channels: Vec::new(),
            users: vec![fixtures::bot()],
            statuses: Vec::new(),
            last_ts: 0,
            next_dm: 1,
            version: 1,
        };
        if fixtures {
            fixtures::fill(&mut slack);
        }
        slack
    }

    fn new_ts(&mut self) -> String {
        let now = jiff::Timestamp::now().as_microsecond();
        self.last_ts = now.max(self.last_ts + 1);
        model::ts(self.last_ts)
    }

    fn call(&mut self, method: &str, arguments: &Arguments) -> Answer {
        match method {
            "api.test" => unchanged(json!({})),
            "auth.test" => people::auth_test(),
            "chat.postMessage" => self.post_message(arguments),
            "chat.update" => self.update_message(arguments),
            "chat.delete" => self.delete_message(arguments),
            "chat.getPermalink" => self.permalink(arguments),
            "chat.startStream" => self.start_stream(arguments),
            "chat.appendStream" => self.append_stream(arguments),
            "chat.stopStream" => self.stop_stream(arguments),
            "assistant.threads.setStatus" => self.set_status(arguments),
            "conversations.list" | "users.conversations" => self.list_conversations(arguments),
            "conversations.info" => self.conversation_info(arguments),
            "conversations.history" => self.history(arguments),
            "conversations.replies" => self.replies(arguments),
            "conversations.open" => self.open(arguments),
            "conversations.join" => self.join(arguments),
            "conversations.members" => self.members(arguments),
            "users.list" => self.list_users(arguments),
            "users.info" => self.user_info(arguments),
            "users.lookupByEmail" => self.lookup_by_email(arguments),
            "reactions.add" => self.add_reaction(arguments),
            _ => Err("unknown_method"),
        }
    }
}

fn refusal(error: &str) -> Reply {
    Reply::json(200, json!({"ok": false, "error": error}))
}

impl MultiAccount for Slack {
    fn filled() -> Self {
        Self::new(true)
    }

    fn token(request: &Request) -> Option<String> {
        Arguments::read(request).ok()?.token(request)
    }

    fn unknown_token() -> Reply {
        refusal("invalid_auth")
    }
}

impl Vendor for Slack {
    const NAME: &'static str = "Slack";

    fn handle(&mut self, request: &Request, knobs: &Knobs) -> Reply {
        let Some(method) = request.path.strip_prefix("/api/") else {
            return Reply::text(404, "Not found");
        };
        let arguments = match Arguments::read(request) {
            Ok(arguments) => arguments,
            Err(error) => return refusal(error),
        };
        if method != "api.test" {
            let token = arguments.token(request);
            match (token, &knobs.require_token) {
                (None, _) => return refusal("not_authed"),
                (Some(token), Some(wanted)) if token != *wanted => return refusal("invalid_auth"),
                _ => {}
            }
        }
        match self.call(method, &arguments) {
            Ok(MethodResult { fields, changed }) => {
                let mut body = json!({"ok": true});
                if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
                    body.extend(fields);
                }
                let reply = Reply::json(200, body);
                if changed {
                    self.version += 1;
                    reply.changed()
                } else {
                    reply
                }
            }
            Err(error) => refusal(error),
        }
    }

    fn failure(status: u16, retry_after: Option<u64>) -> Reply {
        let error = match status {
            429 => "ratelimited",
            503 => "service_unavailable",
            _ => "internal_error",
        };
        let reply = Reply::json(status, json!({"ok": false, "error": error}));
        match retry_after {
            Some(seconds) => reply.with_header("retry-after", seconds.to_string()),
            None if status == 429 => reply.with_header("retry-after", "1"),
            None => reply,
        }
    }

    fn rate_headers(reply: Reply, _: &str, _: u64, _: u64, _: u64) -> Reply {
        // Slack sends only `Retry-After`, and only with a 429.
        reply
    }

    fn state(&self) -> Value {
        let channels: Vec<_> = self
            .channels
            .iter()
            .map(|channel| {
                let mut shown = channel.to_json();
                let messages: Vec<_> = channel
                    .messages
                    .iter()
                    .map(|message| {
                        let mut shown = message.to_json(true);
                        shown["streaming"] = json!(message.streaming);
                        shown
                    })
                    .collect();
                shown["messages"] = json!(messages);
                shown
            })
            .collect();
        let users: Vec<_> = self.users.iter().map(User::to_json).collect();
        let statuses: Vec<_> = self
            .statuses
            .iter()
            .map(|(channel, thread, status)| json!({"channel": channel, "thread_ts": thread, "status": status}))
            .collect();
        json!({"channels": channels, "users": users, "statuses": statuses})
    }

    fn kept(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn changes(&self) -> Value {
        let channels: Vec<_> = self
            .channels
            .iter()
            .map(|channel| {
                let skipped = channel.messages.len().saturating_sub(SHOWN_MESSAGES);
                let messages = channel.messages.iter().skip(skipped);
                json!({
                    "id": channel.id,
                    "name": self.person_name(channel),
                    "can_write": !channel.is_archived,
                    "messages": messages.map(|message| self.compact(message)).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({"channels": channels})
    }

    fn write(&mut self, account: Option<&str>, message: &Value) -> Result<Value, NotWritten> {
        match account {
            None => self.write_as_person(message),
            Some(name) => Err(NotWritten::NotFound(format!(
                "no account {name:?} at the simulated Slack"
            ))),
        }
    }

    fn reset(&mut self) {
        let (version, last_ts) = (self.version, self.last_ts);
        *self = Self::new(self.fixtures);
        // A polling page must notice, and no message may get an earlier one's timestamp.
        self.version = version + 1;
        self.last_ts = self.last_ts.max(last_ts);
    }
}

impl Slack {
    /// Returns a channel's name as Slack's app shows it: a direct message has the person's.
    fn person_name(&self, channel: &Channel) -> String {
        let with = channel.with.as_ref();
        let person = with.and_then(|id| self.users.iter().find(|user| user.id == *id));
        person.map_or_else(|| channel.shown_name(), |user| format!("@{}", user.name))
    }

    fn compact(&self, message: &Message) -> Value {
        let author = self.users.iter().find(|user| user.id == message.user);
        json!({
            "ts": message.ts,
            "thread_ts": message.thread_ts,
            "user": author.map_or(&message.user, |user| &user.real_name),
            "is_bot": author.is_some_and(|user| user.is_bot),
            "text": message.text,
            "blocks": message.blocks,
            "streaming": message.streaming,
            "edited": message.edited,
            "reactions": message.reactions.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        })
    }
}
