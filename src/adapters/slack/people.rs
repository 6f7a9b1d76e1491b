//! People of a workspace.

use copilotd_actors::ports::ToolError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Call, is_code, unusable};
use crate::adapters::tools::member::take_member;
use crate::adapters::tools::refused;
use crate::adapters::tools::text::clip;

/// Bounds a search by name: 4,000 people. `users.list` allows some twenty requests a minute.
const PAGES: usize = 20;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Person {
    pub id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    pub deleted: bool,
    #[serde(default)]
    is_bot: bool,
    #[serde(default)]
    tz: Option<String>,
    #[serde(default)]
    profile: Profile,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Profile {
    real_name: Option<String>,
    display_name: Option<String>,
    email: Option<String>,
    title: Option<String>,
}

impl Person {
    /// Tells a person.
    pub fn tell(&self) -> Value {
        let short = |text: &Option<String>| text.as_deref().map(|text| clip(text, 120));
        json!({
            "id": self.id,
            "name": clip(&self.name, 120),
            "real_name": short(&self.profile.real_name),
            "display_name": short(&self.profile.display_name),
            "email": self.profile.email.as_deref().map(|email| clip(email, 260)),
            "title": short(&self.profile.title),
            "time_zone": short(&self.tz),
            "is_bot": self.is_bot,
        })
    }

    fn is_called(&self, part: &str) -> bool {
        [
            Some(&self.name),
            self.profile.real_name.as_ref(),
            self.profile.display_name.as_ref(),
        ]
        .into_iter()
        .flatten()
        .any(|name| name.to_lowercase().contains(part))
    }
}

/// Finds the one person with this address.
pub(super) async fn by_email(call: &Call, email: &str) -> Result<Option<Person>, ToolError> {
    let mut answer = match call.get("users.lookupByEmail", &[("email", email.to_owned())]).await {
        Ok(answer) => answer,
        Err(error) if is_code(&error, "users_not_found") => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_value(take_member(&mut answer, "user"))
        .map(Some)
        .map_err(|_| unusable(format_args!("an unusable user")))
}

/// Finds at most `max` people with `part` in one of their names; tells whether there may be more.
pub(super) async fn by_name(call: &Call, part: &str, max: usize) -> Result<(Vec<Person>, bool), ToolError> {
    let part = part.trim().trim_start_matches('@').to_lowercase();
    let mut found = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let page = call.page("users.list", "members", &[], cursor).await?;
        let people = page
            .items
            .into_iter()
            .filter_map(|item| serde_json::from_value::<Person>(item).ok());
        found.extend(people.filter(|person| !person.deleted && person.is_called(&part)));
        cursor = page.next;
        if cursor.is_none() || found.len() > max {
            break;
        }
    }
    let more = cursor.is_some() || found.len() > max;
    found.truncate(max);
    Ok((found, more))
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
        Some(person) if !person.deleted => Ok(person.id),
        _ => Err(refused("nobody in this workspace has that e-mail address")),
    }
}

fn is_id(text: &str) -> bool {
    text.starts_with(['U', 'W'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}
