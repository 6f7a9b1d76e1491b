//! People of a workspace.

use std::time::Duration;

use copilotd_actors::ports::ToolError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Call, is_code, unusable};
use crate::adapters::systems::tools::member::{self, Readable, as_object, take_member};
use crate::adapters::systems::tools::refused;
use crate::adapters::systems::tools::text::clip;

/// Limits a search by name: 4,000 people. `users.list` allows some twenty requests a minute.
const PAGES: usize = 20;
/// How long an interrupted search is useful.
const KEEP: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Person {
    #[serde(deserialize_with = "member::own_name")]
    pub id: String,
    #[serde(default, deserialize_with = "member::text")]
    name: Option<String>,
    #[serde(default, deserialize_with = "member::flag")]
    deleted: Option<bool>,
    #[serde(default, deserialize_with = "member::flag")]
    is_bot: Option<bool>,
    #[serde(default, deserialize_with = "member::text")]
    tz: Option<String>,
    #[serde(default, deserialize_with = "member::object")]
    profile: Profile,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Profile {
    #[serde(default, deserialize_with = "member::text")]
    real_name: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    display_name: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    email: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    title: Option<String>,
}

impl Person {
    /// Describes a person for the model.
    pub fn describe(&self) -> Value {
        let short = |text: &Option<String>| text.as_deref().map(|text| clip(text, 120));
        json!({
            "id": clip(&self.id, 120),
            "name": clip(self.name.as_deref().unwrap_or_default(), 120),
            "real_name": short(&self.profile.real_name),
            "display_name": short(&self.profile.display_name),
            "email": self.profile.email.as_deref().map(|email| clip(email, 260)),
            "title": short(&self.profile.title),
            "time_zone": short(&self.tz),
            "is_bot": self.is_bot.unwrap_or_default(),
        })
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted == Some(true)
    }

    fn is_called(&self, part: &str) -> bool {
        [&self.name, &self.profile.real_name, &self.profile.display_name]
            .into_iter()
            .flatten()
            .any(|name| name.to_lowercase().contains(part))
    }
}

/// A search by name that was interrupted; the next one for the same name continues from there.
#[derive(Debug)]
pub(super) struct Search {
    part: String,
    found: Readable<Person>,
    pages: usize,
    cursor: Option<String>,
    at: Instant,
}

/// Finds the one person with this address.
pub(super) async fn by_email(call: &Call, email: &str) -> Result<Option<Person>, ToolError> {
    let mut answer = match call.get("users.lookupByEmail", &[("email", email.to_owned())]).await {
        Ok(answer) => answer,
        Err(error) if is_code(&error, "users_not_found") => return Ok(None),
        Err(error) => return Err(error),
    };
    let user = as_object(take_member(&mut answer, "user"));
    user.map(Some).ok_or_else(|| unusable(format_args!("an unusable user")))
}

/// Finds at most `max` people with `part` in one of their names; also returns whether there may be more.
pub(super) async fn by_name(call: &Call, part: &str, max: usize) -> Result<(Readable<Person>, bool), ToolError> {
    let part = part.trim().trim_start_matches('@').to_lowercase();
    let kept = || call.api.search.lock();
    let earlier = kept().take_if(|search| search.part == part && search.at.elapsed() < KEEP);
    let mut search = earlier.unwrap_or_else(|| Search {
        part: part.clone(),
        found: Readable::default(),
        pages: 0,
        cursor: None,
        at: Instant::now(),
    });
    let more = loop {
        let page = match call.page("users.list", "members", &[], search.cursor.clone()).await {
            Ok(page) => page,
            Err(error) if is_code(&error, "invalid_cursor") => return Err(error),
            Err(error) => {
                *kept() = Some(search);
                return Err(error);
            }
        };
        let people = Readable::<Person>::read(page.items);
        search.found.unreadable += people.unreadable;
        let wanted = |person: &Person| !person.is_deleted() && person.is_called(&part);
        search.found.items.extend(people.items.into_iter().filter(wanted));
        search.pages += 1;
        let is_last = page.next.is_none();
        // The same page again would repeat for ever.
        let is_stuck = page.next == search.cursor;
        search.cursor = page.next;
        if is_last || is_stuck || search.pages >= PAGES || search.found.items.len() > max {
            break !is_last || search.found.items.len() > max;
        }
    };
    search.found.items.truncate(max);
    Ok((search.found, more))
}

/// Returns a person's id for an id or an e-mail address.
pub(super) async fn resolve(call: &Call, user: &str) -> Result<String, ToolError> {
    if is_id(user) {
        return Ok(user.to_owned());
    }
    if !user.contains('@') {
        return Err(refused(
            "give the person's Slack id (U…) or e-mail address; slack_find_user finds both by name",
        ));
    }
    match by_email(call, user.trim()).await? {
        Some(person) if !person.is_deleted() => Ok(person.id),
        _ => Err(refused("nobody in this workspace has that e-mail address")),
    }
}

fn is_id(text: &str) -> bool {
    text.starts_with(['U', 'W'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}
