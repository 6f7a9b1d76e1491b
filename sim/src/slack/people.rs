//! `auth.test` and `users.*`.

use serde_json::json;

use super::arguments::Arguments;
use super::conversations::page;
use super::model::{BOT_ID, BOT_USER, TEAM_ID, User};
use super::{Answer, Slack, unchanged};

pub(crate) fn auth_test() -> Answer {
    unchanged(json!({
        "url": "https://simulated.slack.com/",
        "team": "Simulated",
        "user": "copilot",
        "team_id": TEAM_ID,
        "user_id": BOT_USER,
        "bot_id": BOT_ID,
        "is_enterprise_install": false,
    }))
}

impl Slack {
    pub(crate) fn list_users(&self, arguments: &Arguments) -> Answer {
        let users = self.users.iter().map(User::to_json).collect();
        let (users, next_cursor) = page(arguments, users)?;
        unchanged(json!({
            "members": users,
            "cache_ts": self.last_ts / 1_000_000,
            "response_metadata": {"next_cursor": next_cursor},
        }))
    }

    pub(crate) fn user_info(&self, arguments: &Arguments) -> Answer {
        let id = arguments.text("user").unwrap_or_default();
        match self.users.iter().find(|user| user.id == id) {
            Some(user) => unchanged(json!({"user": user.to_json()})),
            None => Err("user_not_found"),
        }
    }

    pub(crate) fn lookup_by_email(&self, arguments: &Arguments) -> Answer {
        let email = arguments.text("email").unwrap_or_default().to_lowercase();
        match self.users.iter().find(|user| user.email.as_deref() == Some(&email)) {
            Some(user) => unchanged(json!({"user": user.to_json()})),
            None => Err("users_not_found"),
        }
    }
}
